//! Upgraded connections through a pair of proxies.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use reeve_core::model::{Generation, Protocol};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::mesh::{
    ALLOW_CLIENT, AnyBody, HOST, Mesh, PORT, app, eventually, full, pair, set_policies,
};
use super::token::token;

/// Switches to `protocol` whatever was asked for, and then sends back what it gets.
fn switch_to(
    protocol: &'static str,
    mut request: Request<Incoming>,
) -> impl Future<Output = Response<AnyBody>> {
    let asked = request.headers().get(header::UPGRADE).is_some();
    let upgrade = hyper::upgrade::on(&mut request);
    if asked {
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
            tokio::io::copy(&mut read, &mut write).await.ok();
            write.shutdown().await.ok();
        });
    }
    async move {
        let mut response = Response::new(full(if asked { "" } else { "plain" }));
        if asked {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
        }
        response
    }
}

/// Asks the client's sidecar for an upgrade to `protocol`; the connection, and the head of the answer.
async fn ask(mesh: &Mesh, protocol: &str) -> (TcpStream, String) {
    ask_with(mesh, protocol, "").await
}

async fn ask_with(mesh: &Mesh, protocol: &str, headers: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
    let request = format!(
        "GET /chat HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\
         {headers}sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(head).unwrap().to_lowercase())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_passes_bytes_and_ends_with_its_permit() {
    let mesh = Mesh::new();
    app(mesh.at(2, PORT), |request| switch_to("websocket", request)).await;
    let mut config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (server, client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let (mut stream, head) = ask(&mesh, "websocket").await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(
        head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n")
    );
    assert!(!head.contains("x-reeve-"), "{head}");
    let mut answer = [0; 5];
    for _ in 0..3 {
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");
    }
    assert_eq!(server.proxy.status().open, 1, "it can be judged again");
    config.generation = Generation(2);
    set_policies(&mut config, &[]);
    server.apply(&config);
    let ended = timeout(Duration::from_secs(1), stream.read(&mut answer)).await;
    assert!(matches!(ended.expect("within a second"), Ok(0) | Err(_)));
    for side in [server, client] {
        let line = side.log.wait(|line| line["response_code"] == 101).await;
        assert_eq!(
            (&line["bytes_received"], &line["bytes_sent"]),
            (&15.into(), &15.into())
        );
        eventually(|| (side.proxy.status().open == 0).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_upgraded_connection_still_answers() {
    let mesh = Mesh::new();
    app(mesh.at(2, PORT), |request| switch_to("echo", request)).await;
    let config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let _sides = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let (mut stream, _head) = ask(&mesh, "echo").await;
    let sent = vec![7; 1 << 20];
    let (mut read, mut write) = stream.split();
    let mut got = Vec::new();
    let sending = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    tokio::join!(sending, async { read.read_to_end(&mut got).await.unwrap() });
    assert!(got == sent, "{} bytes came back", got.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_upgrade_is_403_and_an_unasked_one_is_a_fault() {
    let mesh = Mesh::new();
    app(mesh.at(2, PORT), |request| switch_to("other", request)).await;
    let mut config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let (_stream, head) = ask(&mesh, "websocket").await;
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    server.log.wait(|line| line["flags"] == "UPE").await;
    let (_stream, head) = ask(&mesh, "h2c").await;
    assert!(
        head.starts_with("http/1.1 200 "),
        "served, not switched: {head}"
    );
    set_policies(&mut config, &[]);
    server.apply(&config);
    let (_stream, head) = ask(&mesh, "other").await;
    assert!(head.starts_with("http/1.1 403 "), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_ends_with_its_certificate() {
    let mesh = Mesh::with_svid_life(Duration::from_secs(3));
    app(mesh.at(2, PORT), |request| switch_to("websocket", request)).await;
    let config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let _sides = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let (mut stream, head) = ask(&mesh, "websocket").await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    let ended = timeout(Duration::from_secs(6), stream.read_u8()).await;
    assert!(ended.expect("the certificates have ended").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_ends_with_its_token() {
    let mesh = Mesh::new();
    app(mesh.at(2, PORT), |request| switch_to("websocket", request)).await;
    let (token, rule) = token(3);
    let mut config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut workload = (*config.workload).clone();
    workload.jwt_rules = vec![rule];
    config.workload = Arc::new(workload);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let authorization = format!("authorization: Bearer {token}\r\n");
    let (mut stream, head) = ask_with(&mesh, "websocket", &authorization).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    let (mut without, head) = ask(&mesh, "websocket").await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    let ended = timeout(Duration::from_secs(6), stream.read_u8()).await;
    assert!(ended.expect("the token has ended").is_err());
    let ended = r#"reeve_streams_ended_total{cause="token_expired"} 1"#;
    assert!(server.metrics().contains(ended));
    without.write_all(b"x").await.unwrap();
    assert_eq!(without.read_u8().await.unwrap(), b'x', "another goes on");
}
