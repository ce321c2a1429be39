//! A gateway behind Debian's HAProxy, which tells it by the PROXY protocol who connected.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use reeve_tests::{
    Call, Folder, Mesh, echo, eventually, local_mesh, permit, service, sidecar, strict,
};
use serde_json::json;

use crate::fixture::settings;

const PORT: u16 = 8080;
const LIMIT: Duration = Duration::from_secs(10);
/// Who comes from 127.0.0.77 may come in.
const ACCESS: &str = r#"
permit (principal, action in Action::"http", resource == Workload::"spiffe://mesh.local/ns/default/sa/edge")
when { context.source_ip == ip("127.0.0.77") };
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/edge", action,
  resource in Service::"echo.default.svc.cluster.local"
);"#;

fn folder() -> Folder {
    let mut edge = sidecar("edge");
    edge["role"] = json!("gateway");
    let gateway = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "default"},
        "spec": {"selector": {"app": "edge"}, "servers": [{
            "port": {"number": PORT, "name": "http", "protocol": "HTTP"}, "hosts": ["*"],
        }]},
    });
    let routes = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "all", "namespace": "default"},
        "spec": {"hosts": ["*"], "gateways": ["edge"], "http": [
            {"route": [{"destination": {"host": "echo"}}]},
        ]},
    });
    let topology = json!({"proxyProtocol": {}});
    Folder::new()
        .with(
            "mesh.yaml",
            settings(json!({"defaultConfig": {"gatewayTopology": topology}})),
        )
        .with("strict.yaml", strict())
        .with(
            "workloads.yaml",
            local_mesh(&[edge, echo("echo-v1", "echo", "v1")]),
        )
        .with("services.yaml", service("echo", 9080, "http"))
        .with("gateway.yaml", gateway.to_string())
        .with("routes.yaml", routes.to_string())
        .with("access.yaml", permit("edge", ACCESS))
}

/// HAProxy before `gateway`; ended when dropped.
struct Balancer(Child);

impl Balancer {
    fn start(at: SocketAddr, gateway: SocketAddr, version: &str) -> Self {
        let config = std::env::temp_dir().join(format!("reeve-haproxy-{}", at.port()));
        let text = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
             listen l\n bind {at}\n server gateway {gateway} {version}\n"
        );
        std::fs::write(&config, text).expect("a configuration");
        let process = Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy is installed (tests/tools/install.sh)");
        Self(process)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        drop(self.0.wait());
    }
}

async fn free_address() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    listener.local_addr().expect("its address")
}

/// The status of a call from `source`.
async fn from(source: &str, to: SocketAddr, id: &str) -> Result<u16, String> {
    let out = tokio::process::Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--interface",
            source,
        ])
        .args([
            "-H",
            &format!("x-request-id: {id}"),
            "-H",
            "x-forwarded-for: 127.0.0.77",
        ])
        .arg(format!("http://{to}/"))
        .output()
        .await
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    match text.parse() {
        Ok(0) | Err(_) => Err(text),
        Ok(status) => Ok(status),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_behind_haproxy_knows_who_connected_to_it() {
    let mut mesh = Mesh::start(folder()).await;
    let gateway = mesh.inbound("edge-0", PORT);
    for version in ["send-proxy", "send-proxy-v2"] {
        let at = free_address().await;
        let _balancer = Balancer::start(at, gateway, version);
        let good = format!("good-{version}");
        eventually("haproxy passes a call on", LIMIT, async || {
            let status = from("127.0.0.77", at, &good).await?;
            (status == 200)
                .then_some(())
                .ok_or_else(|| status.to_string())
        })
        .await;
        let decided = mesh.decision_on(&good, "edge-0").await;
        assert!(decided.to_string().contains("127.0.0.77"), "{decided}");
        // What a client says of itself is not believed: no proxy is trusted with x-forwarded-for.
        assert_eq!(
            from("127.0.0.78", at, &format!("bad-{version}")).await,
            Ok(403)
        );
    }
    // Without a header, nobody gets in.
    assert!(Call::get("shop.example", "/").send(gateway).await.is_err());
    mesh.verify_audit().await;
    mesh.stop().await;
}
