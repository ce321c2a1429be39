//! An application's own TLS goes through sidecars and a gateway unopened, to where the name in its ClientHello leads.
//! The test plays the TLS servers and their clients.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reeve_tests::{Folder, Mesh, eventually, local_mesh, permit, service, sidecar, strict};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::fixture::{CLIENT, gateway_workload, settings};

const PORT: u16 = 8443;
const LIMIT: Duration = Duration::from_secs(10);

/// `b.shop.example` is `b`'s, every other name below it `a`'s; on the mesh's own ports and at the gateway.
fn folder() -> Folder {
    let tls = |name: &str| {
        let mut workload = sidecar(name);
        workload["ports"] = json!([{"port": PORT, "name": "tls"}]);
        workload
    };
    let edge = gateway_workload("edge");
    let gateway = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "default"},
        "spec": {"selector": {"app": "edge"}, "servers": [{
            "port": {"number": PORT, "name": "tls", "protocol": "TLS"},
            "tls": {"mode": "PASSTHROUGH"}, "hosts": ["*.shop.example"],
        }]},
    });
    let to = |host: &str| json!([{"destination": {"host": host, "port": {"number": PORT}}}]);
    let routes = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": {"hosts": ["a", "*.shop.example"], "gateways": ["mesh", "edge"], "tls": [
            {"match": [{"sniHosts": ["*.shop.example"], "port": PORT}], "route": to("a")},
            {"match": [{"sniHosts": ["b.shop.example"]}], "route": to("b")},
        ]},
    });
    let cedar = r#"
permit (principal == Workload::"spiffe://mesh.local/ns/default/sa/client", action == Action::"connect", resource);
permit (principal, action == Action::"connect", resource == Workload::"spiffe://mesh.local/ns/default/sa/edge");
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/edge", action == Action::"connect",
  resource in Service::"b.default.svc.cluster.local"
);"#;
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with(
            "workloads.yaml",
            local_mesh(&[sidecar("client"), tls("a"), tls("b"), edge]),
        )
        .with("a.yaml", service("a", PORT, "tls"))
        .with("b.yaml", service("b", PORT, "https"))
        .with("gateway.yaml", gateway.to_string())
        .with("routes.yaml", routes.to_string())
        .with("access.yaml", permit("tls", cedar))
}

/// A TLS server whose certificate is good for all of the shop's names. It says who it is and which name it was asked
/// for, and sends back what it gets.
pub(crate) async fn server(at: SocketAddr, name: &'static str) -> CertificateDer<'static> {
    let names = ["*.shop.example".to_owned(), "shop.example".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let cert = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.clone()], key.into())
        .expect("a configuration");
    config.alpn_protocols = vec![b"shop/1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(at).await.expect("the application's port");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let asked = stream.get_ref().1.server_name().unwrap_or("-");
                let hello = format!("{name} as {asked}\n");
                stream.write_all(hello.as_bytes()).await.unwrap_or_default();
                let (mut read, mut write) = tokio::io::split(stream);
                drop(tokio::io::copy(&mut read, &mut write).await);
                write.shutdown().await.unwrap_or_default();
            });
        }
    });
    cert
}

/// A client that knows the servers' certificates, and nothing of the mesh.
pub(crate) struct Shopper(TlsConnector);

impl Shopper {
    pub(crate) fn new(certs: &[CertificateDer<'static>]) -> Self {
        let mut roots = RootCertStore::empty();
        for cert in certs {
            roots.add(cert.clone()).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"shop/1".to_vec()];
        Self(TlsConnector::from(Arc::new(config)))
    }

    async fn connect(
        &self,
        to: SocketAddr,
        name: &'static str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(to).await?;
        let name = ServerName::try_from(name).expect("a name");
        timeout(LIMIT, self.0.connect(name, stream))
            .await
            .expect("an answer in time")
    }

    /// Who answers to that name, after a megabyte went there and back.
    pub(crate) async fn asks(&self, to: SocketAddr, name: &'static str) -> String {
        let mut stream = self
            .connect(to, name)
            .await
            .expect("a handshake with the server itself");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"shop/1"[..]));
        let mut greeting = Vec::new();
        while greeting.last() != Some(&b'\n') {
            greeting.push(stream.read_u8().await.expect("a greeting"));
        }
        let sent: Vec<u8> = (0..1 << 20_u32).map(|n| (n % 251) as u8).collect();
        let (mut read, mut write) = tokio::io::split(stream);
        let mut back = Vec::new();
        let sending = async {
            write.write_all(&sent).await.expect("sent");
            write.shutdown().await.expect("closed");
        };
        tokio::join!(sending, async {
            read.read_to_end(&mut back).await.expect("a clean end")
        });
        assert!(back == sent, "{} bytes came back", back.len());
        String::from_utf8(greeting).expect("text").trim().to_owned()
    }

    pub(crate) async fn is_turned_away(&self, to: SocketAddr, name: &'static str) {
        let answer = self.connect(to, name).await;
        assert!(answer.is_err(), "{name} was let in");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_of_applications_passes_by_its_server_name_between_sidecars_and_through_a_gateway() {
    let mut mesh = Mesh::start(folder()).await;
    let app = |instance: &str| SocketAddr::from((mesh.instance(instance).app_address, PORT));
    let certs = [server(app("a-0"), "a").await, server(app("b-0"), "b").await];
    let shopper = Shopper::new(&certs);

    between_sidecars(&mesh, &shopper).await;
    through_the_gateway(&mesh, &shopper).await;
    what_names_nothing_goes_nowhere(&mesh, &shopper).await;
    mesh.verify_audit().await;
    mesh.stop().await;
}

async fn between_sidecars(mesh: &Mesh, shopper: &Shopper) {
    let to = mesh.outbound("client-0", "a", PORT);
    assert_eq!(
        shopper.asks(to, "x.shop.example").await,
        "a as x.shop.example"
    );
    assert_eq!(
        shopper.asks(to, "b.shop.example").await,
        "b as b.shop.example"
    );
    // No route is about this service: its address alone says where to.
    let straight = mesh.outbound("client-0", "b", PORT);
    assert_eq!(
        shopper.asks(straight, "x.shop.example").await,
        "b as x.shop.example"
    );
    let decided = mesh.record("`a` decided on its sidecar", |record| {
        is_connect(record, CLIENT, "a-0") && record["decision"]["effect"] == "allow"
    });
    assert_eq!(decided.await["authenticated_by"], "mtls");
}

async fn through_the_gateway(mesh: &Mesh, shopper: &Shopper) {
    let gate = mesh.inbound("edge-0", PORT);
    assert_eq!(
        shopper.asks(gate, "b.shop.example").await,
        "b as b.shop.example"
    );
    // The gateway lets it in, and `a` does not want the gateway's visitors.
    shopper.is_turned_away(gate, "x.shop.example").await;
    let edge = "spiffe://mesh.local/ns/default/sa/edge";
    for (instance, principal, effect) in [
        ("edge-0", "unauthenticated", "allow"),
        ("b-0", edge, "allow"),
        ("a-0", edge, "deny"),
    ] {
        let what = format!("{instance} decided on {principal}");
        mesh.record(&what, |record| {
            is_connect(record, principal, instance) && record["decision"]["effect"] == effect
        })
        .await;
    }
}

async fn what_names_nothing_goes_nowhere(mesh: &Mesh, shopper: &Shopper) {
    for to in [
        mesh.outbound("client-0", "a", PORT),
        mesh.inbound("edge-0", PORT),
    ] {
        for name in ["shop.example", "x.shop.example.org", "127.0.0.1"] {
            shopper.is_turned_away(to, name).await;
        }
        let mut stream = TcpStream::connect(to).await.expect("the proxy");
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: b.shop.example\r\n\r\n")
            .await
            .expect("sent");
        let mut answer = Vec::new();
        let ended = timeout(LIMIT, stream.read_to_end(&mut answer)).await;
        drop(ended.expect("closed at once"));
        assert_eq!(answer, b"", "no TLS, no answer");
    }
    let line = eventually("the gateway's access log tells", LIMIT, async || {
        let log = mesh.log("edge-0.sidecar.log");
        let turned_away = |line: &&str| line.contains(r#""server_name":"shop.example""#);
        let line = log.lines().find(turned_away).ok_or("no line yet")?;
        serde_json::from_str::<Value>(line).map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(
        (&line["flags"], &line["effect"], &line["reason"]),
        (&json!("NR"), &json!("deny"), &json!("no_route"))
    );
    // On record, one by one or counted, at the gateway and beside the client.
    for proxy in ["edge-0", "client-0"] {
        mesh.record("the refusals are in the audit log", |record| {
            let of_proxy = record["id"]
                .as_str()
                .is_some_and(|id| id.starts_with(proxy));
            of_proxy && record["decision"]["reason"] == "no_route"
        })
        .await;
    }
}

pub(crate) fn is_connect(record: &Value, principal: &str, instance: &str) -> bool {
    let proxy = record["id"].as_str().unwrap_or_default().split('/').next();
    record["kind"] == "decision"
        && record["request"]["action"] == "connect"
        && record["request"]["principal"]
            .to_string()
            .contains(principal)
        && proxy == Some(instance)
}
