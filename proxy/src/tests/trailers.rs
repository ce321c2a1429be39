//! Trailers of requests and responses, through a pair of proxies.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use reeve_core::model::Protocol;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::mesh::{
    ALLOW_CLIENT, AnyBody, AppClient, HOST, Mesh, PORT, app, caller, caller_http2, pair,
};

fn with_trailers(text: &'static str, pairs: &[(&'static str, &'static str)]) -> AnyBody {
    let pairs = pairs.iter().map(|(name, value)| {
        let name = http::HeaderName::from_static(name);
        (name, HeaderValue::from_static(value))
    });
    let frames = [
        Ok(Frame::data(Bytes::from_static(text.as_bytes()))),
        Ok(Frame::trailers(HeaderMap::from_iter(pairs))),
    ];
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// Answers with the trailers that it got, as trailers and in the body.
async fn mirror(request: Request<Incoming>) -> Response<AnyBody> {
    let collected = request.into_body().collect().await.unwrap();
    let got = collected.trailers().cloned().unwrap_or_default();
    let names: Vec<_> = got.keys().map(|name| name.as_str().to_owned()).collect();
    let frames = [
        Ok(Frame::data(Bytes::from(names.join(",")))),
        Ok(Frame::trailers(got)),
    ];
    let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
    let mut response = Response::new(body);
    let declared = HeaderValue::from_static("x-sum");
    response.headers_mut().insert("trailer", declared);
    response
}

async fn exchange(mesh: &Mesh, caller: &AppClient) -> (String, HeaderMap) {
    let trailers = [
        ("x-sum", "7"),
        ("x-reeve-peer", "w=forged"),
        ("x-forwarded-client-cert", "Hash=1"),
        ("authorization", "Bearer x"),
    ];
    let request = Request::post(mesh.url("/"))
        .header("te", "trailers")
        .header(
            "trailer",
            "x-sum, x-reeve-peer, x-forwarded-client-cert, authorization",
        )
        .body(with_trailers("abc", &trailers))
        .unwrap();
    let response = caller.request(request).await.unwrap();
    let status = response.status();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(status, 200, "{collected:?}");
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let text = String::from_utf8(collected.to_bytes().to_vec()).unwrap();
    (text, trailers)
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_both_ways_in_both_versions_without_what_only_the_mesh_may_say() {
    for protocol in [Protocol::Http, Protocol::Http2] {
        let mesh = Mesh::new();
        app(mesh.at(2, PORT), mirror).await;
        let config = mesh.server(protocol, &[ALLOW_CLIENT]);
        let _sides = pair(&mesh, &config, &mesh.client(protocol)).await;
        for caller in [caller(), caller_http2()] {
            let exchanged = timeout(Duration::from_secs(10), exchange(&mesh, &caller));
            let (seen, back) = exchanged.await.expect("an answer in time");
            assert_eq!(seen, "x-sum", "{protocol:?}");
            assert_eq!(back["x-sum"], "7", "{protocol:?}");
            assert_eq!(back.len(), 1, "{back:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_that_http2_cannot_carry_hold_nothing_up() {
    let mesh = Mesh::new();
    app(mesh.at(2, PORT), mirror).await;
    let config = mesh.server(Protocol::Http2, &[ALLOW_CLIENT]);
    let _sides = pair(&mesh, &config, &mesh.client(Protocol::Http2)).await;
    let mut stream = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
    let request = format!(
        "POST / HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
         3\r\nabc\r\n0\r\nx-sum: 7\r\nConnection: x\r\nUpgrade: x\r\nTE: gzip\r\nHost: other\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let reading = timeout(Duration::from_secs(10), stream.read_to_string(&mut answer));
    reading.await.expect("an answer in time").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("\r\nx-sum\r\n"), "that one alone: {answer}");
}
