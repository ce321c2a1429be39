//! gRPC through a pair of proxies: how calls end.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use reeve_core::model::{Generation, Protocol};
use tokio::time::Instant;

use super::mesh::{
    ALLOW_CLIENT, AnyBody, Mesh, PORT, app, caller_http2, eventually, full, pair, set_policies,
};

const MESSAGE: &[u8] = b"\0\0\0\0\0";

/// `/t.S/Sleep` never answers, `/t.S/Endless` never ends, `/t.S/Fail` reads what it is told and answers by
/// trailers alone.
async fn service(mesh: &Mesh) {
    app(mesh.at(2, PORT), |request: Request<Incoming>| async move {
        let path = request.uri().path().to_owned();
        if path == "/t.S/Sleep" {
            std::future::pending::<()>().await;
        }
        let mut response = if path == "/t.S/Endless" {
            let first = stream::once(async { Ok(Frame::data(Bytes::from_static(MESSAGE))) });
            let endless = first.chain(stream::pending());
            Response::new(StreamBody::new(endless).boxed_unsync())
        } else {
            drop(request.into_body().collect().await);
            let mut response = Response::new(full(""));
            let status = HeaderValue::from_static("9");
            response.headers_mut().insert("grpc-status", status);
            response
        };
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", grpc);
        response
    })
    .await;
}

fn call(mesh: &Mesh, method: &str, timeout: &str) -> Request<AnyBody> {
    let request = Request::post(mesh.url(&format!("/t.S/{method}")));
    let request = request
        .header("te", "trailers")
        .header("content-type", "application/grpc");
    request
        .header("grpc-timeout", timeout)
        .body(full(MESSAGE))
        .unwrap()
}

/// Where the status stands: in the head, or after the body.
async fn status(response: Response<Incoming>) -> (HeaderMap, Option<HeaderMap>) {
    assert_eq!(response.status(), 200);
    let head = response.headers().clone();
    let collected = response
        .into_body()
        .collect()
        .await
        .expect("a stream with a good end");
    (head, collected.trailers().cloned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_with_its_deadline_and_in_grpcs_words() {
    let mesh = Mesh::new();
    service(&mesh).await;
    let mut config = mesh.server(Protocol::Grpc, &[ALLOW_CLIENT]);
    let (server, client) = pair(&mesh, &config, &mesh.client(Protocol::Grpc)).await;
    let caller = caller_http2();

    let failed = caller.request(call(&mesh, "Fail", "9S")).await.unwrap();
    assert_eq!(
        status(failed).await.0["grpc-status"],
        "9",
        "trailers-only passes as it is"
    );

    let began = Instant::now();
    let late = caller.request(call(&mesh, "Sleep", "200m")).await.unwrap();
    assert_eq!(status(late).await.0["grpc-status"], "4");
    let late = caller
        .request(call(&mesh, "Endless", "200m"))
        .await
        .unwrap();
    assert_eq!(status(late).await.1.unwrap()["grpc-status"], "4");
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    let line = client.log.wait(|line| line["flags"] == "UT").await;
    assert_eq!(line["grpc_status"], 4);

    let open = caller.request(call(&mesh, "Endless", "60S")).await.unwrap();
    config.generation = Generation(2);
    set_policies(&mut config, &[]);
    server.apply(&config);
    assert_eq!(
        status(open).await.1.unwrap()["grpc-status"],
        "7",
        "no longer permitted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_counted_while_a_call_is_open() {
    let mesh = Mesh::new();
    service(&mesh).await;
    let config = mesh.server(Protocol::Grpc, &[ALLOW_CLIENT]);
    let (server, client) = pair(&mesh, &config, &mesh.client(Protocol::Grpc)).await;
    let caller = caller_http2();
    let mut open = caller.request(call(&mesh, "Endless", "60S")).await.unwrap();
    open.body_mut().frame().await.unwrap().unwrap();
    for proxy in [&server, &client] {
        for name in [
            "istio_request_messages_total",
            "istio_response_messages_total",
        ] {
            eventually(|| (proxy.sum_of(name) == 1).then_some(())).await;
        }
        assert_eq!(proxy.sum_of("istio_requests_total"), 0);
    }
    drop(open);
    let failed = caller.request(call(&mesh, "Fail", "9S")).await.unwrap();
    status(failed).await;
    eventually(|| (server.sum_of("istio_requests_total") == 2).then_some(())).await;
    assert_eq!(server.sum_of("istio_request_messages_total"), 2);
    assert_eq!(server.sum_of("istio_response_messages_total"), 1);
    let page = server.metrics();
    let line = page
        .lines()
        .find(|line| line.starts_with("istio_request_messages_total{"))
        .unwrap();
    assert!(line.contains("source_principal=\"mesh.local/"), "{line}");
    // As Istio's proxy: counted before there is a code, so without one.
    assert!(
        !line.contains("response_code") && !line.contains("request_protocol"),
        "{line}"
    );
}
