//! A small HTTP server (HTTP/1.1, and HTTP/2 by prior knowledge) with a JSON access log on stdout.

use std::{convert::Infallible, io::Write as _, net::SocketAddr, sync::Arc, time::Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::passed_on::trace_id;

/// Connections served at once; further ones wait in the backlog.
pub(crate) const MAX_CONNECTIONS: usize = 1024;

/// A request as it comes in.
pub(crate) type Call = Request<Incoming>;
/// A response body, whole or streamed.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;
/// A response.
pub(crate) type Reply = Response<Body>;

/// Serves `handler` at `address` for ever; `/health` is answered here and not logged.
pub(crate) async fn serve<H, F>(app: &'static str, address: SocketAddr, handler: H) -> Result<()>
where
    H: Fn(Call) -> F + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let handler = Arc::new(handler);
    accept(address, move |stream| {
        let handler = Arc::clone(&handler);
        async move {
            let service = service_fn(move |call: Call| {
                let handler = Arc::clone(&handler);
                async move { Ok::<_, Infallible>(answer(app, &*handler, call).await) }
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new());
            builder.http2().timer(TokioTimer::new());
            // A caller that breaks off is no matter of ours.
            drop(
                builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        }
    })
    .await
}

/// Accepts connections for ever and gives each a task of its own.
pub(crate) async fn accept<C, F>(address: SocketAddr, serve_one: C) -> Result<()>
where
    C: Fn(TcpStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&room).acquire_owned().await?;
        while connections.try_join_next().is_some() {}
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        stream.set_nodelay(true)?;
        let served = serve_one(stream);
        connections.spawn(async move {
            served.await;
            drop(place);
        });
    }
}

async fn answer<H, F>(app: &str, handler: &H, call: Call) -> Reply
where
    H: Fn(Call) -> F,
    F: Future<Output = Reply>,
{
    if call.uri().path() == "/health" {
        return json_reply(StatusCode::OK, &json!({"status": "healthy"}));
    }
    let began = Instant::now();
    let mut line = json!({
        "app": app,
        "method": call.method().as_str(),
        "path": call.uri().path(),
        "trace_id": trace_id(call.headers()),
        "request_id": call.headers().get("x-request-id").and_then(|v| v.to_str().ok()),
    });
    let reply = handler(call).await;
    if let Some(fields) = line.as_object_mut() {
        let duration_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        fields.insert("status".to_owned(), reply.status().as_u16().into());
        fields.insert("duration_us".to_owned(), duration_us.into());
    }
    log(&line);
    reply
}

/// Writes one line to stdout; a reader that went away is no reason to stop serving.
pub(crate) fn log(line: &Value) {
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

/// A JSON response.
pub(crate) fn json_reply(status: StatusCode, value: &Value) -> Reply {
    let mut reply = bytes_reply(status, Bytes::from(format!("{value}\n")));
    let json = http::HeaderValue::from_static("application/json");
    reply.headers_mut().insert(CONTENT_TYPE, json);
    reply
}

/// A response with this body.
pub(crate) fn bytes_reply(status: StatusCode, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body).boxed_unsync());
    *reply.status_mut() = status;
    reply
}

/// 404.
pub(crate) fn not_found() -> Reply {
    json_reply(StatusCode::NOT_FOUND, &json!({"error": "no such page"}))
}
