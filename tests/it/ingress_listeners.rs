//! `Sidecar.ingress` and `inboundConnectionPool`: which ports of a workload are open, where they lead, and how much goes to
//! the application at once.

use std::{net::SocketAddr, time::Duration};

use reeve_tests::{Call, Folder, Mesh, eventually, local_mesh, permit, service, sidecar, strict};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

use crate::fixture::settings;

const PORT: u16 = 9080;
const SHUT: u16 = 9081;
/// Where the application really listens.
const APP: u16 = 7777;
const LIMIT: Duration = Duration::from_secs(10);

const CLIENT_TO_SERVER: &str = r#"permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client", action,
  resource in Service::"server.default.svc.cluster.local"
);"#;

fn folder() -> Folder {
    let mut server = sidecar("server");
    server["ports"] = json!([{"port": PORT, "name": "http"}, {"port": SHUT, "name": "http-b"}]);
    let scope = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
        "metadata": {"name": "server", "namespace": "default"},
        "spec": {
            "workloadSelector": {"labels": {"app": "server"}},
            "inboundConnectionPool": {"http": {"http2MaxRequests": 1}},
            "ingress": [{
                "port": {"number": PORT, "protocol": "HTTP", "name": "http"},
                "defaultEndpoint": format!("127.0.0.1:{APP}"),
            }],
        },
    });
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&[sidecar("client"), server]))
        .with("server.yaml", service("server", PORT, "http"))
        .with("scope.yaml", scope.to_string())
        .with("access.yaml", permit("server", CLIENT_TO_SERVER))
}

/// Answers `/slow` once it is let go, and everything else at once. Says when `/slow` is there.
async fn application(at: SocketAddr, go: watch::Receiver<bool>) -> watch::Receiver<bool> {
    let (there, arrived) = watch::channel(false);
    let listener = TcpListener::bind(at).await.expect("the application's port");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut go, there) = (go.clone(), there.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                if head.starts_with(b"GET /slow") {
                    there.send_replace(true);
                    drop(go.wait_for(|go| *go).await);
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
                stream.write_all(answer).await.unwrap_or_default();
            });
        }
    });
    arrived
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_opens_the_ports_that_it_names_and_bounds_what_goes_to_the_application() {
    let mut mesh = Mesh::start(folder()).await;
    let (go, wait) = watch::channel(false);
    let app = SocketAddr::from((mesh.instance("server-0").app_address, APP));
    let mut arrived = application(app, wait).await;
    let to = mesh.outbound("client-0", "server", PORT);
    let call = |path: &str| Call::get("server:9080", path);
    let answer = call("/").send(to).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let shut = TcpStream::connect(mesh.inbound("server-0", SHUT)).await;
    assert!(
        shut.is_err(),
        "a port that the Sidecar does not name is shut"
    );

    let slow = tokio::spawn(async move { Call::get("server:9080", "/slow").send(to).await });
    let there = timeout(LIMIT, arrived.wait_for(|there| *there)).await;
    drop(there.expect("it comes").expect("the application runs"));
    let over = call("/fast").send(to).await.expect("an answer");
    assert_eq!(over.status, 503, "one request is enough");
    assert!(over.text().contains("upstream_overflow"), "{}", over.text());
    go.send_replace(true);
    let slow = slow.await.expect("a task").expect("an answer");
    assert_eq!(slow.status, 200, "{}", slow.text());
    eventually("there is room again", LIMIT, async || {
        let answer = call("/fast").send(to).await.map_err(|e| e.to_string())?;
        let fine = answer.status == 200;
        fine.then_some(()).ok_or_else(|| answer.text())
    })
    .await;
    mesh.verify_audit().await;
    mesh.stop().await;
}
