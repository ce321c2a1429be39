//! Protocols through a real pair of sidecars: WebSocket, gRPC in its four shapes, big bodies, trailers, many idle
//! connections.
//! The test plays both applications.

pub(crate) mod greeter;

use std::{fs, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Frame, Incoming},
    ext::Protocol as Extension,
    header::{HeaderName, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use reeve_tests::{
    Call, Connection, Folder, Mesh, Protocol, Signer, Start, Token, local_mesh, permit, sidecar,
    strict,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, accept_async, client_async,
    tungstenite::{Message, protocol::Role},
};

use crate::fixture::settings;

const ISSUER: &str = "https://issuer.example";
const WEB: u16 = 9080;
const SOCKETS: u16 = 9081;
const GRPC: u16 = 9082;
/// Bytes of a big body each way, if not a GiB.
const BODY_MIB: &str = "REEVE_TEST_BODY_MIB";
const PIECE: usize = 64 << 10;
/// What a sidecar's memory may grow by while a body of any size passes.
const BODY_GROWTH_KIB: u64 = 24 << 10;
/// The soft limit of open files that `reeve up` is started with, as many systems have it (systemd.exec(5)). Sidecars
/// raise it for themselves.
const OPEN_FILES: u64 = 1024;
/// Connections that are open and idle, and what each may cost the sidecar that holds it.
const IDLE: usize = 10_000;
const IDLE_KIB: u64 = 40;

const CLIENT_TO_SERVER: &str = r#"permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
  action,
  resource in Service::"server.default.svc.cluster.local"
);"#;

fn folder(signer: &Signer) -> Folder {
    let ports = json!([
        {"port": WEB, "name": "http-web"},
        {"port": SOCKETS, "name": "http-sockets"},
        {"port": GRPC, "name": "grpc"},
    ]);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "server", "namespace": "default"},
        "spec": {"selector": {"app": "server"}, "ports": ports},
    });
    let tokens = json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "server", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "server"}},
            "jwtRules": [{"issuer": ISSUER, "jwks": signer.jwks().to_string()}],
        },
    });
    let mut server = sidecar("server");
    server["ports"] = ports;
    let sleeper = json!({
        "name": "sleeper", "serviceAccount": "sleeper", "role": "none", "labels": {"app": "sleeper"},
        "command": ["sleep", "3600"],
    });
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with(
            "workloads.yaml",
            local_mesh(&[sidecar("client"), server, sleeper]),
        )
        .with("service.yaml", service.to_string())
        .with("tokens.yaml", tokens.to_string())
        .with("access.yaml", permit("server", CLIENT_TO_SERVER))
}

/// Where the application of `server` listens.
fn app(mesh: &Mesh, port: u16) -> SocketAddr {
    SocketAddr::from((mesh.instance("server-0").app_address, port))
}

fn to_server(mesh: &Mesh, port: u16) -> SocketAddr {
    mesh.outbound("client-0", "server", port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protocols_pass_through_a_pair_of_sidecars() {
    let signer = Signer::new("key-1");
    let limited = format!("ulimit -Sn {OPEN_FILES} && exec \"$@\"");
    let how = Start {
        wrapper: ["sh", "-c", &limited, "sh"].map(str::to_owned).to_vec(),
        ..Start::default()
    };
    let mut mesh = Mesh::start_with(folder(&signer), &how).await;
    web_sockets(app(&mesh, SOCKETS)).await;
    web(app(&mesh, WEB)).await;
    greeter::serve(app(&mesh, GRPC)).await;

    a_web_socket_talks_until_its_token_ends(&mesh, &signer).await;
    a_web_socket_over_http2_talks_until_its_token_ends(&mesh, &signer).await;
    greeter::every_shape_passes(to_server(&mesh, GRPC)).await;
    big_bodies_pass_in_constant_memory(&mesh).await;
    trailers_pass_both_ways(&mesh).await;
    applications_keep_their_limit_of_open_files(&mesh);
    idle_connections_cost_little(&mesh).await;
    mesh.stop().await;
}

/// Sends every message back.
async fn web_sockets(at: SocketAddr) {
    let listener = TcpListener::bind(at).await.expect("the application's port");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let socket = accept_async(stream).await.expect("a WebSocket");
                let (write, read) = socket.split();
                read.forward(write).await.unwrap_or_default();
            });
        }
    });
}

const VALID_S: i64 = 4;

async fn a_web_socket_talks_until_its_token_ends(mesh: &Mesh, signer: &Signer) {
    let token = signer.sign(&Token::new(ISSUER, "alice", "any", VALID_S));
    let issued = Instant::now();
    let stream = TcpStream::connect(to_server(mesh, SOCKETS))
        .await
        .expect("the sidecar");
    let request = Request::get("ws://server:9081/chat")
        .header("host", "server:9081")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("authorization", format!("Bearer {token}"))
        .body(())
        .expect("a request");
    let (socket, answer) = client_async(request, stream).await.expect("an upgrade");
    assert_eq!(answer.status(), 101);
    talks_and_ends(socket, issued).await;
}

/// RFC 8441: the caller speaks HTTP/2, the application HTTP/1.1.
async fn a_web_socket_over_http2_talks_until_its_token_ends(mesh: &Mesh, signer: &Signer) {
    let token = signer.sign(&Token::new(ISSUER, "bob", "any", VALID_S));
    let issued = Instant::now();
    let stream = TcpStream::connect(to_server(mesh, SOCKETS))
        .await
        .expect("the sidecar");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::connect("http://server:9081/chat")
        .extension(Extension::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("x-request-id", "over-http2")
        .header("authorization", format!("Bearer {token}"))
        .body(pieces(0))
        .expect("a request");
    let mut answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let stream = hyper::upgrade::on(&mut answer).await.expect("a tunnel");
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Client, None).await;
    talks_and_ends(socket, issued).await;
    let record = mesh.decision_on("over-http2", "server-0").await;
    assert_eq!(record["request"]["action"], json!("GET"), "{record}");
    assert_eq!(record["decision"]["effect"], "allow");
}

async fn talks_and_ends<S>(mut socket: WebSocketStream<S>, issued: Instant)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let big = Message::binary(vec![7; 1 << 20]);
    for message in [Message::text("hello"), big] {
        socket.send(message.clone()).await.expect("sent");
        let back = socket.next().await.expect("an answer").expect("a message");
        assert!(back == message);
    }
    let ended = timeout(Duration::from_secs(10), socket.next()).await;
    let ended = ended.expect("it ends with its token");
    assert!(
        !matches!(ended, Some(Ok(Message::Text(_) | Message::Binary(_)))),
        "{ended:?}"
    );
    let lived = issued.elapsed();
    let (least, most) = (Duration::from_secs(3), Duration::from_secs(6));
    assert!((least..most).contains(&lived), "it lived {lived:?}");
}

type AnyBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// `POST /count` answers how many bytes came, or with the trailers that came; `GET /<bytes>` sends that many.
async fn web(at: SocketAddr) {
    let listener = TcpListener::bind(at).await.expect("the application's port");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = service_fn(answer);
                let builder = hyper::server::conn::http1::Builder::new();
                builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .unwrap_or_default();
            });
        }
    });
}

async fn answer(request: Request<Incoming>) -> Result<Response<AnyBody>, hyper::Error> {
    let bytes = request
        .uri()
        .path()
        .trim_start_matches('/')
        .parse()
        .unwrap_or_default();
    let mut body = request.into_body();
    let mut count: usize = 0;
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        count += frame.data_ref().map_or(0, Bytes::len);
        trailers = frame.into_trailers().ok().or(trailers);
    }
    let body = if bytes > 0 {
        pieces(bytes)
    } else if let Some(trailers) = trailers {
        let frames = [
            Ok(Frame::data(Bytes::from("abc"))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(tokio_stream::iter(frames)).boxed_unsync();
        let mut response = Response::new(body);
        let declared = HeaderValue::from_static("x-sum");
        response.headers_mut().insert("trailer", declared);
        return Ok(response);
    } else {
        let text = http_body_util::Full::new(Bytes::from(count.to_string()));
        text.map_err(|never| match never {}).boxed_unsync()
    };
    Ok(Response::new(body))
}

/// A body of that many bytes, made as it is read.
fn pieces(bytes: usize) -> AnyBody {
    let piece = Bytes::from(vec![7; PIECE]);
    let frames = (0..bytes / PIECE).map(move |_| Ok(Frame::data(piece.clone())));
    StreamBody::new(tokio_stream::iter(frames)).boxed_unsync()
}

async fn big_bodies_pass_in_constant_memory(mesh: &Mesh) {
    let mib = std::env::var(BODY_MIB)
        .ok()
        .and_then(|text| text.parse().ok());
    let bytes = mib.unwrap_or(1024_usize) << 20;
    let to = to_server(mesh, WEB);
    // Everything that is made once is there before memory is looked at.
    for protocol in [Protocol::Http1, Protocol::Http2] {
        transfer(to, protocol, 4 << 20).await;
    }
    let before = memory(mesh);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let began = Instant::now();
        transfer(to, protocol, bytes).await;
        let took = began.elapsed().as_secs_f64();
        println!("{protocol:?}: 2 x {bytes} bytes in {took:.1} s");
    }
    for ((name, after), (_, before)) in peak(mesh).into_iter().zip(before) {
        println!("{name}: {before} KiB, at most {after} KiB while 4 x {bytes} bytes passed");
        assert!(
            after < before + BODY_GROWTH_KIB,
            "{name}: {before} KiB grew to {after} KiB"
        );
    }
}

/// Sends that many bytes and gets as many.
async fn transfer(to: SocketAddr, protocol: Protocol, bytes: usize) {
    let client = Client::builder(TokioExecutor::new())
        .http2_only(protocol == Protocol::Http2)
        .build_http();
    let post = Request::post(format!("http://{to}/count")).body(pieces(bytes));
    let sent = client.request(post.expect("a request"));
    let text = sent.await.expect("an answer").into_body().collect();
    let text = text.await.expect("a count").to_bytes();
    assert_eq!(text, bytes.to_string(), "every byte arrived");
    let get = Request::get(format!("http://{to}/{bytes}")).body(pieces(0));
    let got = client.request(get.expect("a request"));
    let mut body = got.await.expect("an answer").into_body();
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        count += frame.expect("a piece").data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(count, bytes, "every byte came back");
}

/// By HTTP/1.1 in chunks, and by HTTP/2.
async fn trailers_pass_both_ways(mesh: &Mesh) {
    let to = to_server(mesh, WEB);
    let mut stream = TcpStream::connect(to).await.expect("the sidecar");
    let request = "POST /count HTTP/1.1\r\nhost: server:9080\r\ntransfer-encoding: chunked\r\n\
                   te: trailers\r\nconnection: te, close\r\ntrailer: x-sum\r\n\r\n\
                   3\r\nabc\r\n0\r\nx-sum: 7\r\nauthorization: Bearer x\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    let reading = timeout(Duration::from_secs(10), stream.read_to_string(&mut answer));
    reading.await.expect("in time").expect("an answer");
    assert!(
        answer.ends_with("3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"),
        "{answer}"
    );
    let stream = TcpStream::connect(to).await.expect("the sidecar");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let sums = [("x-sum", "7"), ("x-reeve-peer", "w=forged")];
    let sums = sums.map(|(name, value)| {
        let name = HeaderName::from_static(name);
        (name, HeaderValue::from_static(value))
    });
    let frames: [Result<_, std::io::Error>; 2] = [
        Ok(Frame::data(Bytes::from("abc"))),
        Ok(Frame::trailers(HeaderMap::from_iter(sums))),
    ];
    let request = Request::post("http://server:9080/count")
        .header("te", "trailers")
        .header("trailer", "x-sum, x-reeve-peer")
        .body(StreamBody::new(tokio_stream::iter(frames)).boxed_unsync())
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    let back = answer.into_body().collect().await.expect("a body");
    let back = back.trailers().expect("trailers");
    assert_eq!(
        (back.len(), &back["x-sum"]),
        (1, &"7".parse().expect("a value"))
    );
}

/// What `reeve up` was started with, so that programs which use select(2) go on working.
fn applications_keep_their_limit_of_open_files(mesh: &Mesh) {
    let soft = |pid: Option<i32>| {
        let pid = pid.expect("a process");
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
        let line = limits
            .lines()
            .find_map(|l| l.strip_prefix("Max open files"));
        let mut words = line.expect("a limit").split_whitespace();
        let mut number = || words.next().and_then(|w| w.parse::<u64>().ok());
        (
            number().expect("a soft limit"),
            number().expect("a hard limit"),
        )
    };
    let (own, hard) = soft(mesh.instance("sleeper-0").app_pid);
    assert_eq!(own, OPEN_FILES);
    assert!(
        hard > IDLE as u64,
        "this machine allows no more than {hard} open files"
    );
    for name in ["client-0", "server-0"] {
        assert_eq!(
            soft(mesh.instance(name).sidecar_pid),
            (hard, hard),
            "{name}"
        );
    }
}

async fn idle_connections_cost_little(mesh: &Mesh) {
    let to = to_server(mesh, WEB);
    let own = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: own.maximum,
        ..own
    };
    setrlimit(Resource::Nofile, raised).expect("as many open files as this machine allows");
    let before = memory(mesh);
    let mut open = Vec::with_capacity(IDLE);
    let mut opening = JoinSet::new();
    let call = Call::post("server:9080", "/count", "x");
    for n in 0..IDLE {
        let call = call.clone();
        opening.spawn(async move {
            let mut connection = Connection::open(to, Protocol::Http1)
                .await
                .expect("a connection");
            let answer = connection.send(&call).await.expect("an answer");
            assert_eq!(answer.text(), "1", "connection {n}");
            connection
        });
        if opening.len() >= 64 {
            open.push(
                opening
                    .join_next()
                    .await
                    .expect("a task")
                    .expect("a connection"),
            );
        }
    }
    open.extend(opening.join_all().await);
    let after = memory(mesh);
    assert_eq!(
        open.iter()
            .filter(|connection| !connection.is_closed())
            .count(),
        IDLE
    );
    for ((name, after), (_, before)) in after.into_iter().zip(before) {
        let each = after.saturating_sub(before) / IDLE as u64;
        println!(
            "{name}: {before} KiB, with {IDLE} idle connections {after} KiB, {each} KiB for each"
        );
        assert!(
            each <= IDLE_KIB,
            "{name}: {each} KiB for each idle connection"
        );
    }
    let again = open[IDLE / 2]
        .send(&call)
        .await
        .expect("an idle connection still serves");
    assert_eq!(again.status, 200);
}

/// Resident memory of both sidecars, KiB.
fn memory(mesh: &Mesh) -> Vec<(String, u64)> {
    of_sidecars(mesh, "VmRSS:")
}

/// The most that it ever was.
fn peak(mesh: &Mesh) -> Vec<(String, u64)> {
    of_sidecars(mesh, "VmHWM:")
}

fn of_sidecars(mesh: &Mesh, what: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for name in ["client-0", "server-0"] {
        let pid = mesh.instance(name).sidecar_pid.expect("a sidecar");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix(what));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        found.push((name.to_owned(), kib.expect("a figure")));
    }
    found
}
