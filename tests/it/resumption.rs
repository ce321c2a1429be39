//! A TLS session of a workload is never resumed by a sidecar, and nothing outlives the certificate that it was made
//! with: neither a connection that is open nor a ticket that is kept.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reeve_tests::{Folder, Mesh, MeshTls, eventually, local_mesh, permit, service, sidecar};
use rustls::{
    ClientConfig, HandshakeKind, ServerConfig,
    client::{ClientSessionMemoryCache, Resumption},
    pki_types::PrivatePkcs8KeyDer,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::{
    fixture::settings,
    hostile::ALPN_HTTP1,
    interop::{result_of, script},
};

const LIFE: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_secs(5);
const ANYBODY: &str =
    r#"permit (principal, action, resource in Service::"target.default.svc.cluster.local");"#;

/// A workload that would resume, its own server that gives it tickets, and the sidecar that it calls.
struct Caller {
    config: Arc<ClientConfig>,
    giver: SocketAddr,
    target: SocketAddr,
}

impl Caller {
    async fn new(identity: &MeshTls, target: SocketAddr) -> Self {
        let made = rcgen::generate_simple_self_signed(["mesh.invalid".to_owned()]);
        let made = made.expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .expect("a configuration");
        server.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let giver = listener.local_addr().expect("its address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    stream.shutdown().await.unwrap_or_default();
                }
            }
        });
        let mut config = identity.config(ALPN_HTTP1).expect("a configuration");
        config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(64)));
        Self {
            config: Arc::new(config),
            giver,
            target,
        }
    }

    async fn connect(&self, to: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(to).await?;
        let connector = TlsConnector::from(self.config.clone());
        let shaken = connector.connect(MeshTls::server_name(), stream);
        timeout(LIMIT, shaken).await.expect("an answer in time")
    }

    /// Fetches fresh tickets from its own server; how that went.
    async fn collect(&self) -> Option<HandshakeKind> {
        let mut stream = self.connect(self.giver).await.expect("its own server");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("a clean end");
        stream.get_ref().1.handshake_kind()
    }
}

/// One request on a connection that is kept: the status line.
async fn ask(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: target\r\n\r\n")
        .await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    Ok(head.lines().next().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_is_resumed_and_nothing_outlives_its_certificate() {
    let result = std::env::temp_dir().join(format!("rv-{}-ticket.json", std::process::id()));
    drop(std::fs::remove_file(&result));
    let mut target = sidecar("target");
    target["ports"] = json!([{"port": 9080, "name": "http"}]);
    let workloads = [target, script("holder", "hold_svid.py", &result)];
    let life = format!("{}s", LIFE.as_secs());
    let folder = Folder::new()
        .with("mesh.yaml", settings(json!({"certificateTtl": life})))
        .with("hold_svid.py", include_str!("peers/hold_svid.py"))
        .with("workloads.yaml", local_mesh(&workloads))
        .with("services.yaml", service("target", 9080, "http"))
        .with("access.yaml", permit("target", ANYBODY));
    let mut mesh = Mesh::start(folder).await;
    let identity = MeshTls::from_json(&result_of(&result).await);
    let held = Instant::now();
    let caller = Caller::new(&identity, mesh.inbound("target-0", 9080)).await;

    assert_eq!(caller.collect().await, Some(HandshakeKind::Full));
    let again = caller.collect().await;
    assert_eq!(
        again,
        Some(HandshakeKind::Resumed),
        "it has tickets, and shows them"
    );
    let mut open = caller.connect(caller.target).await.expect("it is let in");
    assert_eq!(open.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    // Judged, and served as far as there is an application.
    assert_eq!(
        ask(&mut open).await.expect("an answer"),
        "HTTP/1.1 503 Service Unavailable"
    );

    let mut rest = Vec::new();
    let ended = timeout(LIFE + LIMIT, open.read_to_end(&mut rest)).await;
    // Cut, or closed because the sidecar's own certificate was renewed before.
    drop(ended.expect("it ends with its certificate"));
    assert!(held.elapsed() < LIFE + LIMIT);
    eventually("the certificate has ended", LIFE, async || {
        caller.collect().await;
        match caller.connect(caller.target).await {
            // In TLS 1.3 a client learns only afterwards that its certificate was refused.
            Ok(mut stream) => match ask(&mut stream).await {
                Ok(line) => Err(line),
                Err(_) => Ok(()),
            },
            Err(_) => Ok(()),
        }
    })
    .await;
    mesh.stop().await;
}
