//! CONNECT: extended (RFC 8441) is an upgrade, and plain CONNECT is not served.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http2, ext::Protocol as Extension, upgrade::Upgraded};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reeve_core::model::{Generation, Protocol, RouteAction};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::mesh::{
    ALLOW_CLIENT, AnyBody, HOST, Mesh, PORT, app, eventually, full, pair, set_policies, set_route,
};
use super::token::token;

const READ_ONLY: &str = r#"permit(principal, action == Action::"GET", resource);"#;

/// What the application does with a request for WebSocket.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// Switches, and sends back what it gets.
    Switch,
    /// Switches, with the answer to another key.
    WrongKey,
    /// Answers 200.
    Serve,
    /// Answers 404.
    Refuse,
}

fn answer(mut request: Request<Incoming>, then: Then) -> impl Future<Output = Response<AnyBody>> {
    let asked = request.headers().get(header::UPGRADE).cloned();
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned();
    let method = request.method().clone();
    let upgrade = hyper::upgrade::on(&mut request);
    async move {
        let mut response = Response::new(full(""));
        let status = match then {
            Then::Serve => StatusCode::OK,
            Then::Refuse => StatusCode::NOT_FOUND,
            Then::Switch | Then::WrongKey => StatusCode::SWITCHING_PROTOCOLS,
        };
        *response.status_mut() = status;
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return response;
        }
        assert_eq!(method, "GET");
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
            tokio::io::copy(&mut read, &mut write).await.ok();
            write.shutdown().await.ok();
        });
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(asked) = asked {
            headers.insert(header::UPGRADE, asked);
        }
        let key = key.map(|key| key.to_str().unwrap().to_owned());
        let accept = match (then, key) {
            (Then::WrongKey, _) => "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned(),
            (_, Some(key)) => crate::upgrade::websocket_accept(&key),
            (_, None) => return response,
        };
        headers.insert(
            header::SEC_WEBSOCKET_ACCEPT,
            HeaderValue::try_from(accept).unwrap(),
        );
        response
    }
}

/// A caller on HTTP/2.
async fn caller(mesh: &Mesh) -> http2::SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(
    mesh: &Mesh,
    protocol: Option<&'static str>,
    token: Option<&str>,
) -> Response<Incoming> {
    let mut request = Request::connect(match protocol {
        Some(_) => format!("http://{HOST}/chat?room=1"),
        None => format!("{HOST}:443"),
    });
    if let Some(protocol) = protocol {
        request = request.extension(Extension::from_static(protocol));
    }
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut sender = caller(mesh).await;
    let answered = sender.send_request(request.body(Empty::new()).unwrap());
    timeout(Duration::from_secs(5), answered)
        .await
        .expect("an answer")
        .unwrap()
}

async fn open(mesh: &Mesh, token: Option<&str>) -> TokioIo<Upgraded> {
    let mut response = ask(mesh, Some("websocket"), token).await;
    assert_eq!(response.status(), 200);
    for gone in [
        header::UPGRADE,
        header::CONNECTION,
        header::SEC_WEBSOCKET_ACCEPT,
    ] {
        assert!(!response.headers().contains_key(&gone), "{gone}");
    }
    TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap())
}

async fn echoes(stream: &mut TokioIo<Upgraded>) {
    let mut back = [0; 5];
    for _ in 0..3 {
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"hello");
    }
}

async fn ends(stream: &mut TokioIo<Upgraded>, within: Duration) {
    let ended = timeout(within, stream.read_u8()).await;
    assert!(ended.expect("it ends in time").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_over_http2_is_judged_as_get_and_ends_with_its_permit() {
    let mesh = Mesh::new();
    app(mesh.at(2, PORT), |request| answer(request, Then::Switch)).await;
    let mut config = mesh.server(Protocol::Http, &[READ_ONLY]);
    let (server, client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let mut stream = open(&mesh, None).await;
    echoes(&mut stream).await;
    assert_eq!(server.proxy.status().open, 1, "it can be judged again");
    config.generation = Generation(2);
    set_policies(&mut config, &[]);
    server.apply(&config);
    ends(&mut stream, Duration::from_secs(1)).await;
    let line = server.log.wait(|line| line["response_code"] == 101).await;
    assert_eq!(
        (&line["method"], &line["path"]),
        (&"GET".into(), &"/chat".into())
    );
    let line = client.log.wait(|line| line["response_code"] == 200).await;
    assert_eq!(
        (&line["bytes_received"], &line["bytes_sent"]),
        (&15.into(), &15.into())
    );
    let denied = ask(&mesh, Some("websocket"), None).await;
    assert_eq!(denied.status(), 403);
    let text = denied.into_body().collect().await.unwrap().to_bytes();
    assert!(text.starts_with(b"{"), "{text:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_tunnel_still_answers() {
    let mesh = Mesh::new();
    app(mesh.at(2, PORT), |request| answer(request, Then::Switch)).await;
    let config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let _sides = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let (mut read, mut write) = tokio::io::split(open(&mesh, None).await);
    let sent = vec![7; 1 << 20];
    let mut got = Vec::new();
    let sending = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    tokio::join!(sending, async { read.read_to_end(&mut got).await.unwrap() });
    assert!(got == sent, "{} bytes came back", got.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_ends_with_its_token_and_with_its_certificate() {
    let mesh = Mesh::with_svid_life(Duration::from_secs(6));
    app(mesh.at(2, PORT), |request| answer(request, Then::Switch)).await;
    let (token, rule) = token(3);
    let mut config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut workload = (*config.workload).clone();
    workload.jwt_rules = vec![rule];
    config.workload = Arc::new(workload);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let mut with_token = open(&mesh, Some(&token)).await;
    let mut without = open(&mesh, None).await;
    ends(&mut with_token, Duration::from_secs(5)).await;
    let ended = r#"reeve_streams_ended_total{cause="token_expired"} 1"#;
    assert!(server.metrics().contains(ended));
    echoes(&mut without).await;
    ends(&mut without, Duration::from_secs(6)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_upgrade_opens_no_tunnel() {
    for (then, status) in [
        (Then::WrongKey, 503),
        (Then::Serve, 503),
        (Then::Refuse, 404),
    ] {
        let mesh = Mesh::new();
        app(mesh.at(2, PORT), move |request| answer(request, then)).await;
        let config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
        let (_server, client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
        let answer = ask(&mesh, Some("websocket"), None).await;
        assert_eq!(answer.status(), status, "{then:?}");
        client
            .log
            .wait(|line| line["response_code"] == status)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_and_protocols_that_carry_requests_are_not_served() {
    let mesh = Mesh::new();
    app(mesh.at(2, PORT), |request| answer(request, Then::Serve)).await;
    let config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (server, client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let refused = [None, Some("h2c"), Some("websocket, h2c"), Some("TLS/1.0")];
    for protocol in refused {
        let answer = ask(&mesh, protocol, None).await;
        assert_eq!(answer.status(), 501, "{protocol:?}");
    }
    let mut old = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
    let connect =
        format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\nconnection: close\r\n\r\n");
    old.write_all(connect.as_bytes()).await.unwrap();
    let mut text = String::new();
    old.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 501 "), "{text}");
    let lines = || {
        client
            .log
            .lines()
            .into_iter()
            .filter(|line| line["response_code"] == 501)
    };
    eventually(|| (lines().count() == refused.len() + 1).then_some(())).await;
    assert!(server.log.lines().is_empty(), "nothing went further");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_answer_and_an_http2_port_open_no_tunnel() {
    let mesh = Mesh::new();
    app(mesh.at(2, PORT), |request| answer(request, Then::Serve)).await;
    let config = mesh.server(Protocol::Http2, &[ALLOW_CLIENT]);
    let mut client_config = mesh.client(Protocol::Http2);
    let (_server, client) = pair(&mesh, &config, &client_config).await;
    assert_eq!(ask(&mesh, Some("websocket"), None).await.status(), 501);
    client_config.generation = Generation(2);
    set_route(&mut client_config, |route| {
        route.action = RouteAction::Respond {
            status: 200,
            body: b"local".to_vec(),
        };
    });
    client.apply(&client_config);
    assert_eq!(ask(&mesh, Some("websocket"), None).await.status(), 503);
}
