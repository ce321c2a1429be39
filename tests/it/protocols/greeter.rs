//! A gRPC service with a method of each shape, and what a caller must see of each through two sidecars.

use std::{
    convert::Infallible, future::Future, net::SocketAddr, pin::Pin, task::Poll, time::Duration,
};

use http::uri::PathAndQuery;
use tokio::{net::TcpListener, time::Instant};
use tokio_stream::{Stream, StreamExt as _, iter, wrappers::TcpListenerStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    client,
    metadata::MetadataValue,
    server::{
        self, ClientStreamingService, NamedService, ServerStreamingService, StreamingService,
        UnaryService,
    },
    transport::{Channel, Server},
};
use tonic_prost::ProstCodec;
use tower_service::Service;

const LATE: [Code; 2] = [Code::DeadlineExceeded, Code::Cancelled];

type Codec = ProstCodec<String, String>;
type Words = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;
type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

/// `test.Greeter`.
#[derive(Clone)]
struct Greeter;

impl NamedService for Greeter {
    const NAME: &'static str = "test.Greeter";
}

impl Service<http::Request<Body>> for Greeter {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = server::Grpc::new(Codec::default());
            Ok(match request.uri().path() {
                "/test.Greeter/Unary" => grpc.unary(Shape, request).await,
                "/test.Greeter/Up" => grpc.client_streaming(Shape, request).await,
                "/test.Greeter/Down" => grpc.server_streaming(Shape, request).await,
                "/test.Greeter/Both" => grpc.streaming(Shape, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

struct Shape;

impl UnaryService<String> for Shape {
    type Response = String;
    type Future = Answer<String>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        Box::pin(async move {
            match request.get_ref().as_str() {
                "fail" => Err(Status::failed_precondition("as asked")),
                "sleep" => {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    Err(Status::internal("it was waited for"))
                }
                "timeout" => {
                    let asked = request
                        .metadata()
                        .get("grpc-timeout")
                        .map(|v| format!("{v:?}"));
                    Ok(Response::new(asked.unwrap_or_default()))
                }
                name => Ok(Response::new(format!("hello {name}"))),
            }
        })
    }
}

impl ClientStreamingService<String> for Shape {
    type Response = String;
    type Future = Answer<String>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        Box::pin(async move {
            let words: Result<Vec<String>, Status> = request.into_inner().collect().await;
            Ok(Response::new(words?.join(" ")))
        })
    }
}

impl ServerStreamingService<String> for Shape {
    type Response = String;
    type ResponseStream = Words;
    type Future = Answer<Words>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        Box::pin(async move {
            let text = request.into_inner();
            let words: Vec<_> = text.split(' ').map(|word| Ok(word.to_owned())).collect();
            if text == "endless" {
                return Ok(Response::new(
                    Box::pin(iter(words).chain(tokio_stream::pending())) as Words,
                ));
            }
            let end = Err(Status::data_loss("the last word"));
            Ok(Response::new(
                Box::pin(iter(words).chain(iter([end]))) as Words
            ))
        })
    }
}

impl StreamingService<String> for Shape {
    type Response = String;
    type ResponseStream = Words;
    type Future = Answer<Words>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(Box::pin(request.into_inner()) as Words)) })
    }
}

/// Serves it at `at`.
pub(crate) async fn serve(at: SocketAddr) {
    let listener = TcpListener::bind(at).await.expect("the application's port");
    let server = Server::builder().add_service(Greeter);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
}

/// Calls one method through the sidecar at `to`, in the name of `origin`.
pub(crate) async fn call(to: SocketAddr, origin: &str, method: &str) -> Result<String, Status> {
    let endpoint = Channel::from_shared(format!("http://{to}")).expect("an address");
    let origin = origin.parse().expect("an origin");
    let channel = endpoint.connect().await.expect("the sidecar");
    let mut grpc = client::Grpc::with_origin(channel, origin);
    ready(&mut grpc).await;
    let path: PathAndQuery = format!("/test.Greeter/{method}").parse().expect("a path");
    let request = Request::new("Reeve".to_owned());
    let answer = grpc.unary(request, path, Codec::default()).await;
    answer.map(Response::into_inner)
}

/// Calls every method through the sidecar at `to`.
pub(super) async fn every_shape_passes(to: SocketAddr) {
    let endpoint = Channel::from_shared(format!("http://{to}")).expect("an address");
    let origin = "http://server:9082".parse().expect("an origin");
    let channel = endpoint.connect().await.expect("the sidecar");
    let grpc = &mut client::Grpc::with_origin(channel, origin);
    let path = |method: &str| -> PathAndQuery {
        format!("/test.Greeter/{method}").parse().expect("a path")
    };
    ready(grpc).await;
    let unary = grpc.unary(
        Request::new("Reeve".to_owned()),
        path("Unary"),
        Codec::default(),
    );
    assert_eq!(unary.await.expect("an answer").into_inner(), "hello Reeve");

    ready(grpc).await;
    let failed = grpc
        .unary(
            Request::new("fail".to_owned()),
            path("Unary"),
            Codec::default(),
        )
        .await;
    let failed = failed.expect_err("a trailers-only answer");
    assert_eq!(
        (failed.code(), failed.message()),
        (Code::FailedPrecondition, "as asked")
    );

    let words = iter(["one", "two", "three"].map(str::to_owned));
    ready(grpc).await;
    let up = grpc.client_streaming(Request::new(words), path("Up"), Codec::default());
    assert_eq!(up.await.expect("an answer").into_inner(), "one two three");

    ready(grpc).await;
    let down = grpc.server_streaming(
        Request::new("a b".to_owned()),
        path("Down"),
        Codec::default(),
    );
    let got: Vec<_> = down.await.expect("a stream").into_inner().collect().await;
    let shown: Vec<_> = got
        .iter()
        .map(|word| word.as_deref().map_err(Status::code))
        .collect();
    let shown: Vec<_> = shown.into_iter().map(|w| w.map(|w| w.to_owned())).collect();
    assert_eq!(
        shown,
        [Ok("a".to_owned()), Ok("b".to_owned()), Err(Code::DataLoss)]
    );

    both_ways(grpc, path("Both")).await;
    deadlines(grpc, &path).await;
}

/// Each word comes back before the next is sent.
async fn both_ways(grpc: &mut client::Grpc<Channel>, path: PathAndQuery) {
    let (send, words) = tokio::sync::mpsc::channel(1);
    let words = tokio_stream::wrappers::ReceiverStream::new(words);
    ready(grpc).await;
    let both = grpc
        .streaming(Request::new(words), path, Codec::default())
        .await;
    let mut both = both.expect("a stream").into_inner();
    for word in ["ping", "pong"] {
        send.send(word.to_owned()).await.expect("sent");
        assert_eq!(both.message().await.expect("a word").as_deref(), Some(word));
    }
    drop(send);
    assert_eq!(both.message().await.expect("trailers that say OK"), None);
}

/// A deadline reaches the application and is kept, by the sidecars (`DeadlineExceeded`) or, if it is quicker, by the
/// client library (`Cancelled`).
async fn deadlines(grpc: &mut client::Grpc<Channel>, path: &impl Fn(&str) -> PathAndQuery) {
    let with_timeout = |text: &str, timeout: &'static str| {
        let mut request = Request::new(text.to_owned());
        request
            .metadata_mut()
            .insert("grpc-timeout", MetadataValue::from_static(timeout));
        request
    };
    ready(grpc).await;
    let told = grpc
        .unary(
            with_timeout("timeout", "5S"),
            path("Unary"),
            Codec::default(),
        )
        .await;
    assert_eq!(told.expect("an answer").into_inner(), "\"5S\"");

    let began = Instant::now();
    ready(grpc).await;
    let late = grpc
        .unary(
            with_timeout("sleep", "300m"),
            path("Unary"),
            Codec::default(),
        )
        .await;
    assert!(LATE.contains(&late.expect_err("it is late").code()));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );

    let endless = with_timeout("endless", "300m");
    ready(grpc).await;
    let stream = grpc
        .server_streaming(endless, path("Down"), Codec::default())
        .await;
    let mut stream = stream.expect("a stream").into_inner();
    assert_eq!(
        stream.message().await.expect("a word").as_deref(),
        Some("endless")
    );
    let late = stream.message().await.expect_err("it is late");
    assert!(LATE.contains(&late.code()), "{late}");
}

async fn ready(grpc: &mut client::Grpc<Channel>) {
    grpc.ready().await.expect("a connection to the sidecar");
}
