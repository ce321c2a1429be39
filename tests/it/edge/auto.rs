//! `AUTO_PASSTHROUGH`: a gateway passes the mesh's own TLS on, unopened, to the service that its server name tells. The test
//! is a workload of the mesh in another network.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reeve_tests::{Folder, Mesh, MeshTls, echo, local_mesh, permit, service, strict};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    fixture::{gateway_workload, settings},
    interop::{result_of, script},
};

const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 15443;
const HOLDER: &str = "spiffe://mesh.local/ns/default/sa/holder";
const MESH_HTTP: &[u8] = b"reeve-http/1.1";

const ACCESS: &str = r#"
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/holder", action == Action::"GET",
  resource in Service::"echo.default.svc.cluster.local"
);
permit (principal, action == Action::"connect", resource == Workload::"spiffe://mesh.local/ns/default/sa/edge");"#;

/// The gateway's own address, of the loopback network: Istio's `bind`.
fn bound() -> SocketAddr {
    let process = u8::try_from(std::process::id() % 250).unwrap_or_default();
    SocketAddr::from(([127, 250, process, 7], PORT))
}

fn folder(result: &std::path::Path) -> Folder {
    let edge = gateway_workload("edge");
    let gateway = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "default"},
        "spec": {"selector": {"app": "edge"}, "servers": [{
            "port": {"number": PORT, "name": "tls", "protocol": "TLS"},
            "bind": bound().ip().to_string(),
            "tls": {"mode": "AUTO_PASSTHROUGH"}, "hosts": ["*.local"],
        }]},
    });
    let workloads = [
        edge,
        echo("echo-v1", "echo", "v1"),
        script("holder", "hold_svid.py", result),
    ];
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("hold_svid.py", include_str!("../peers/hold_svid.py"))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&workloads))
        .with("echo.yaml", service("echo", 9080, "http"))
        .with("gateway.yaml", gateway.to_string())
        .with("access.yaml", permit("auto", ACCESS))
}

/// What `echo` answers to who asks the gateway for `name` by the mesh's TLS, or by other TLS.
async fn asks(identity: &MeshTls, name: &'static str, alpn: &[u8]) -> std::io::Result<String> {
    let config = identity.config(alpn).expect("a configuration");
    let stream = TcpStream::connect(bound()).await?;
    let name = ServerName::try_from(name).expect("a name");
    let talk = async {
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await?;
        let request = b"GET /auto HTTP/1.1\r\nhost: echo:9080\r\nx-request-id: auto\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    timeout(LIMIT, talk).await.expect("an end in time")
}

const ECHO: &str = "outbound_.9080_._.echo.default.svc.cluster.local";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_meshs_own_tls_passes_a_gateway_unopened_to_the_service_that_its_name_tells() {
    let result = std::env::temp_dir().join(format!("rv-{}-auto-svid.json", std::process::id()));
    drop(std::fs::remove_file(&result));
    let mut mesh = Mesh::start(folder(&result)).await;
    let holder = MeshTls::from_json(&result_of(&result).await);

    let answer = asks(&holder, ECHO, MESH_HTTP).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let decided = mesh.decision_on("auto", "echo-v1-0").await;
    assert_eq!(decided["authenticated_by"], "mtls", "{decided}");
    assert!(
        decided["request"]["principal"].to_string().contains(HOLDER),
        "{decided}"
    );
    let passed: Value = mesh
        .record("the gateway decided as well", |record| {
            record["request"]["action"] == "connect"
                && record["id"]
                    .as_str()
                    .is_some_and(|id| id.starts_with("edge-0"))
                && record["decision"]["effect"] == "allow"
        })
        .await;
    assert!(
        passed["request"]["principal"]
            .to_string()
            .contains("unauthenticated"),
        "{passed}"
    );

    // Neither other names nor other TLS, and nobody without an identity.
    for (identity, name, alpn) in [
        (
            &holder,
            "outbound_.9081_._.echo.default.svc.cluster.local",
            MESH_HTTP,
        ),
        (&holder, "echo.default.svc.cluster.local", &b"http/1.1"[..]),
        (&holder, ECHO, b"http/1.1"),
        (&MeshTls::nobody(), ECHO, MESH_HTTP),
    ] {
        let answer = asks(identity, name, alpn).await;
        assert!(
            answer.as_ref().is_err() || answer.as_deref().is_ok_and(str::is_empty),
            "{name}: {answer:?}"
        );
    }
    mesh.verify_audit().await;
    mesh.stop().await;
}
