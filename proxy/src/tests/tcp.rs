use std::{sync::Arc, time::Duration};

use reeve_core::model::{Generation, MtlsMode, Protocol};
use reeve_svid::{MeshTls, alpn};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::mesh::{ALLOW_CLIENT, Mesh, PORT, eventually, pair, set_policies};

/// Sends back what it gets.
pub(super) async fn echo(mesh: &Mesh) {
    let listener = TcpListener::bind(mesh.at(2, PORT)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_by_mtls_and_end_with_the_permit() {
    let mesh = Mesh::new();
    echo(&mesh).await;
    let mut config = mesh.server(Protocol::Tcp, &[ALLOW_CLIENT]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Tcp)).await;
    let mut stream = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
    let mut answer = [0; 5];
    for _ in 0..2 {
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");
    }
    config.generation = Generation(2);
    set_policies(&mut config, &[]);
    server.apply(&config);
    let ended = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut answer)).await;
    assert!(matches!(ended.expect("within a second"), Ok(0) | Err(_)));
    let line = server.log.wait(|line| line["protocol"] == "tcp").await;
    assert_eq!(
        (&line["bytes_received"], &line["bytes_sent"]),
        (&10.into(), &10.into())
    );
    // Who called is named, as it is to HTTP's servers.
    let own = "source_workload=\"client";
    let metrics = server.metrics();
    let mut series = metrics
        .lines()
        .filter(|l| l.starts_with("istio_tcp_received_bytes_total{"));
    assert!(series.any(|l| l.contains(own)), "{metrics}");

    // A reset may come before the connection is even used.
    let refused = async {
        let mut refused = TcpStream::connect(mesh.at(110, PORT)).await?;
        refused.read(&mut answer).await
    };
    let ended = tokio::time::timeout(Duration::from_secs(2), refused).await;
    assert!(matches!(ended.expect("closed at once"), Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_counted_while_a_connection_is_open() {
    let mesh = Mesh::new();
    echo(&mesh).await;
    let config = mesh.server(Protocol::Tcp, &[ALLOW_CLIENT]);
    let (server, client) = pair(&mesh, &config, &mesh.client(Protocol::Tcp)).await;
    let mut stream = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
    for total in [5, 10] {
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
        for proxy in [&server, &client] {
            for name in [
                "istio_tcp_received_bytes_total",
                "istio_tcp_sent_bytes_total",
            ] {
                eventually(|| (proxy.sum_of(name) == total).then_some(())).await;
            }
        }
    }
    assert_eq!(server.sum_of("istio_tcp_connections_opened_total"), 1);
    assert_eq!(server.sum_of("istio_tcp_connections_closed_total"), 0);
    assert!(!server.metrics().contains("response_code=\"0\""));
    drop(stream);
    eventually(|| (server.sum_of("istio_tcp_connections_closed_total") == 1).then_some(())).await;
    assert_eq!(
        server.sum_of("istio_tcp_sent_bytes_total"),
        10,
        "nothing twice"
    );
}

fn mesh_tls(mesh: &Mesh, account: &str) -> MeshTls {
    MeshTls::new(mesh.issue(account), Arc::new(reeve_core::SystemClock))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_from_before_names_were_told_is_served() {
    let mesh = Mesh::new();
    echo(&mesh).await;
    let config = mesh.server(Protocol::Tcp, &[ALLOW_CLIENT]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Tcp)).await;
    let old = mesh_tls(&mesh, "client").client_config(&[Mesh::id("server")], &[alpn::TCP]);
    let stream = TcpStream::connect(mesh.at(1, PORT)).await.unwrap();
    let connector = TlsConnector::from(old.unwrap());
    let name = "127.0.0.1".try_into().unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    eventually(|| {
        server
            .metrics()
            .contains("source_workload=\"unknown\"")
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_from_before_names_were_told_gets_bytes_alone() {
    let mesh = Mesh::new();
    let client = mesh.side("client");
    client.apply(&mesh.client(Protocol::Tcp));
    eventually(|| client.proxy.status().ready.then_some(())).await;
    let old = mesh_tls(&mesh, "server")
        .server_config(&[alpn::TCP])
        .unwrap();
    let listener = TcpListener::bind(mesh.at(1, PORT)).await.unwrap();
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(old).accept(stream).await.unwrap();
        let mut got = [0; 5];
        stream.read_exact(&mut got).await.unwrap();
        got
    });
    let mut stream = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(&serving.await.unwrap(), b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_tls_is_counted() {
    let mesh = Mesh::new();
    let config = mesh.server(Protocol::Tcp, &[ALLOW_CLIENT]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Tcp)).await;
    let mut stream = TcpStream::connect(mesh.at(1, PORT)).await.unwrap();
    stream
        .write_all(b"\x16\x03\x01\x00\x05junk!")
        .await
        .unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.ok();
    eventually(|| server.metrics().contains("plaintext_refused").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_read_do_not_slip_past_a_policy_on_http() {
    let mesh = Mesh::new();
    echo(&mesh).await;
    let everyone = "permit(principal, action, resource);";
    let no_writes = r#"forbid(principal, action in Action::"write", resource);"#;
    let mut config = mesh.server(Protocol::Http, &[everyone]);
    let mut workload = (*config.workload).clone();
    workload.inbound[0].mtls = MtlsMode::Permissive;
    config.workload = Arc::new(workload);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let opaque = async || {
        let mut stream = TcpStream::connect(mesh.at(1, PORT)).await.unwrap();
        // An application's own TLS, which passes unread.
        let hello = b"\x16\x03\x01\x00\x05hello";
        stream.write_all(hello).await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.map(|_| stream)
    };
    let mut open = opaque().await.expect("no policy looks at HTTP");
    config.generation = Generation(2);
    set_policies(&mut config, &[everyone, no_writes]);
    server.apply(&config);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(1), open.read_to_end(&mut rest)).await;
    ended.expect("it was judged again, and ended").ok();
    assert!(opaque().await.is_err());
    let line = server.log.wait(|line| line["effect"] == "deny").await;
    assert_eq!(
        (&line["reason"], &line["protocol"]),
        (&"forbid_error".into(), &"tcp".into())
    );
    assert_eq!(line["policies"].as_array().unwrap().len(), 1, "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_another_mesh_is_refused_and_the_reason_is_on_record() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    echo(&mesh).await;
    let config = mesh.server(Protocol::Tcp, &[ALLOW_CLIENT]);
    let (_server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Tcp)).await;
    let foreign = mesh_tls(&other, "client").client_config(&[Mesh::id("server")], &[alpn::TCP]);
    let connector = TlsConnector::from(foreign.unwrap());
    let stream = TcpStream::connect(mesh.at(1, PORT)).await.unwrap();
    let name = "127.0.0.1".try_into().unwrap();
    assert!(connector.connect(name, stream).await.is_err());
    eventually(|| {
        let all = super::redaction::recorded(mesh.folder());
        let event = all.split("\"event\":\"handshake_refused\"").next()?;
        let detail = event.rsplit("\"detail\":").next()?;
        (all.len() > event.len()
            && detail.contains("\"reason\":")
            && detail.contains("\"address\":"))
        .then_some(())
    })
    .await;
}
