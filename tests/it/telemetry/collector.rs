//! A collector of OTLP spans over gRPC (<https://opentelemetry.io/docs/specs/otlp/>), as much of it as is looked at.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::Value;
use tokio::net::TcpListener;

#[derive(Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<RawSpan>,
}

#[derive(Message)]
struct RawSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
}

#[derive(Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Message)]
struct AnyValue {
    #[prost(oneof = "Kind", tags = "1, 3")]
    kind: Option<Kind>,
}

#[derive(prost::Oneof)]
enum Kind {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// A span that arrived.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) trace_id: Vec<u8>,
    pub(super) span_id: Vec<u8>,
    pub(super) parent_span_id: Vec<u8>,
    pub(super) kind: i32,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) attributes: BTreeMap<String, Value>,
    /// The resource's `service.name`.
    pub(super) service: String,
}

/// It runs as long as the test.
pub(super) struct Collector {
    pub(super) address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
        let into = spans.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let into = into.clone();
                let service = service_fn(move |request| answer(request, into.clone()));
                let serving = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move { drop(serving.await) });
            }
        });
        Self { address, spans }
    }

    /// The spans of requests for this path.
    pub(super) fn spans(&self, path: &str) -> Vec<Span> {
        let spans = self.spans.lock().expect("the spans");
        let asked = |span: &&Span| span.attributes.get("url.path") == Some(&Value::from(path));
        spans.iter().filter(asked).cloned().collect()
    }
}

async fn answer(
    request: Request<Incoming>,
    into: Arc<Mutex<Vec<Span>>>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let method = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let known = request.uri().path() == method;
    let body = request.into_body().collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    // One message, not compressed.
    let export = body
        .get(5..)
        .and_then(|message| Export::decode(message).ok());
    let status = match export {
        Some(export) if known && body[0] == 0 => {
            into.lock().expect("the spans").extend(read(export));
            "0"
        }
        _ => "12",
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let empty = Frame::data(Bytes::from_static(&[0; 5]));
    let frames = [Ok(empty), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    Ok(response)
}

fn read(export: Export) -> Vec<Span> {
    let mut spans = Vec::new();
    for group in export.resource_spans {
        let about = attributes(group.resource.map(|r| r.attributes).unwrap_or_default());
        let service = about.get("service.name").and_then(Value::as_str);
        let service = service.unwrap_or_default().to_owned();
        for raw in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                trace_id: raw.trace_id,
                span_id: raw.span_id,
                parent_span_id: raw.parent_span_id,
                kind: raw.kind,
                start: raw.start,
                end: raw.end,
                attributes: attributes(raw.attributes),
                service: service.clone(),
            });
        }
    }
    spans
}

fn attributes(all: Vec<KeyValue>) -> BTreeMap<String, Value> {
    all.into_iter()
        .filter_map(|pair| {
            let value = match pair.value?.kind? {
                Kind::Text(text) => Value::from(text),
                Kind::Number(number) => Value::from(number),
            };
            Some((pair.key, value))
        })
        .collect()
}
