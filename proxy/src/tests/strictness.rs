//! What records at PERMISSIVE say that STRICT would refuse is what STRICT refuses, and the gauges tell the same.

use std::{sync::Arc, time::Duration};

use reeve_audit::DecisionRecord;
use reeve_core::{
    decision::Reason,
    model::{Generation, MtlsMode, Protocol, ProxyConfig},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    mesh::{Mesh, PORT, Side, caller, echo_app, eventually, fetch, pair},
    tcp,
};

/// How a peer begins.
const PEERS: [(&str, Option<&[u8]>); 5] = [
    ("mesh", None),
    (
        "http",
        Some(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"),
    ),
    ("tls of its own", Some(b"\x16\x03\x01\x00\x05hello")),
    ("bytes", Some(b"hello")),
    ("silence", Some(b"")),
];

fn with_mode(config: &ProxyConfig, mtls: MtlsMode, generation: u64) -> ProxyConfig {
    let mut config = config.clone();
    let mut workload = (*config.workload).clone();
    workload.inbound[0].mtls = mtls;
    config.workload = Arc::new(workload);
    config.generation = Generation(generation);
    config
}

/// One peer comes and goes; what was decided of it, if anything was.
async fn came(mesh: &Mesh, protocol: Protocol, first: Option<&[u8]>) -> Option<DecisionRecord> {
    let before = mesh.decisions("server").len();
    match (first, protocol) {
        (None, Protocol::Http) => assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 200),
        (None, _) => {
            let mut stream = TcpStream::connect(mesh.at(110, PORT)).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            stream.read_exact(&mut [0; 5]).await.unwrap();
        }
        (Some(bytes), _) => {
            let mut stream = TcpStream::connect(mesh.at(1, PORT)).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut rest = [0; 64];
            // An answer, an end, or a server that waits: none of them matters here.
            let read = stream.read(&mut rest);
            drop(tokio::time::timeout(Duration::from_secs(2), read).await);
        }
    }
    for _ in 0..200 {
        let now = mesh.decisions("server");
        if now.len() > before {
            return now.into_iter().nth(before);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    None
}

async fn modes(protocol: Protocol) {
    let mesh = Mesh::new();
    match protocol == Protocol::Http {
        true => echo_app(mesh.at(2, PORT)).await,
        false => tcp::echo(&mesh).await,
    }
    let config = mesh.server(protocol, &["permit(principal, action, resource);"]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(protocol)).await;
    let mut told = Vec::new();
    for (generation, mode) in [(2, MtlsMode::Permissive), (3, MtlsMode::Strict)] {
        server.apply(&with_mode(&config, mode, generation));
        for (name, first) in PEERS {
            // Nobody who says nothing to HTTP, or what is no request, is served, whatever the mode; nothing is decided of them.
            if protocol == Protocol::Http && ["silence", "bytes"].contains(&name) {
                continue;
            }
            let record = came(&mesh, protocol, first).await;
            let record = record.unwrap_or_else(|| panic!("{name}: nothing was decided"));
            let refused = match mode == MtlsMode::Strict {
                true => record.decision.reason == Reason::PlaintextRefused,
                false => record.strict_would_refuse,
            };
            told.push((mode, name, refused));
        }
    }
    let of = |wanted: MtlsMode| -> Vec<(&str, bool)> {
        let own = told.iter().filter(|(mode, ..)| *mode == wanted);
        own.map(|(_, name, refused)| (*name, *refused)).collect()
    };
    assert_eq!(
        of(MtlsMode::Permissive),
        of(MtlsMode::Strict),
        "{protocol:?}"
    );
    assert!(of(MtlsMode::Strict).contains(&("mesh", false)));
    let refused = of(MtlsMode::Strict)
        .iter()
        .filter(|(_, refused)| *refused)
        .count();
    counted(&server, refused).await;
}

async fn counted(server: &Side, refused: usize) {
    let counted = format!("reeve_plaintext_refused_total{{port=\"{PORT}\"}} {refused}");
    let none = format!("reeve_connections_without_mtls{{port=\"{PORT}\"}} 0");
    eventually(|| {
        let page = server.metrics();
        (page.contains(&counted) && page.contains(&none)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strict_refuses_of_http_is_what_records_said_before() {
    modes(Protocol::Http).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strict_refuses_of_bytes_is_what_records_said_before() {
    modes(Protocol::Tcp).await;
}
