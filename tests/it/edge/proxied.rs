//! A gateway behind Debian's HAProxy, which tells it by the PROXY protocol who connected, before plaintext and before TLS.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use reeve_tests::{
    Call, Folder, Mesh, Scratch, TlsClient, echo, eventually, local_mesh, permit, service, strict,
};
use serde_json::json;

use super::{authority::Authority, openssl::free_address};
use crate::fixture::{gateway_workload, settings};

const PORT: u16 = 8080;
const HTTPS: u16 = 8443;
const SHOP: &str = "shop.example";
const LIMIT: Duration = Duration::from_secs(10);
/// Who comes from 127.0.0.77 may come in.
const ACCESS: &str = r#"
permit (principal, action in Action::"http", resource == Workload::"spiffe://mesh.local/ns/default/sa/edge")
when { context.remote_ip == ip("127.0.0.77") };
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/edge", action,
  resource in Service::"echo.default.svc.cluster.local"
);"#;

fn folder(authority: &Authority) -> Folder {
    let edge = gateway_workload("edge");
    let gateway = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "default"},
        "spec": {"selector": {"app": "edge"}, "servers": [
            {"port": {"number": PORT, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]},
            {
                "port": {"number": HTTPS, "name": "https", "protocol": "HTTPS"}, "hosts": [SHOP],
                "tls": {"mode": "SIMPLE", "credentialName": "shop"},
            },
        ]},
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
        .with("shop.yaml", authority.issue(&[SHOP]).secret("shop", None))
        .with("routes.yaml", routes.to_string())
        .with("access.yaml", permit("edge", ACCESS))
}

/// HAProxy before `gateway`; ended when dropped.
struct Balancer {
    process: Child,
    config: PathBuf,
}

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
        Self { process, config }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.process.kill().unwrap_or_default();
        drop(self.process.wait());
        drop(std::fs::remove_file(&self.config));
    }
}

/// The status of a call from `source`; by HTTPS, when the authority's file is given.
async fn from(source: &str, to: SocketAddr, id: &str, ca: Option<&Path>) -> Result<u16, String> {
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}"])
        .args(["--interface", source])
        .args(["-H", &format!("x-request-id: {id}")])
        .args(["-H", "x-forwarded-for: 127.0.0.77"]);
    match ca {
        None => curl.arg(format!("http://{to}/")),
        Some(ca) => curl
            .args(["--connect-to", &format!("{SHOP}:443:{to}")])
            .arg("--cacert")
            .arg(ca)
            .arg(format!("https://{SHOP}/")),
    };
    let out = curl.output().await.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    match text.parse() {
        Ok(0) | Err(_) => Err(text),
        Ok(status) => Ok(status),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_behind_haproxy_knows_who_connected_to_it() {
    let authority = Authority::new("outside");
    let files = Scratch::new("haproxy");
    files.write("ca.crt", &authority.pem(), 0o644);
    let ca = files.path().join("ca.crt");
    let mut mesh = Mesh::start(folder(&authority)).await;
    let (http, https) = (mesh.inbound("edge-0", PORT), mesh.inbound("edge-0", HTTPS));
    // The last one looks after the gateway's health, too, by connections of its own (`LOCAL`).
    let ways = [
        ("send-proxy", http, None),
        ("send-proxy-v2", http, None),
        ("send-proxy", https, Some(ca.as_path())),
        (
            "send-proxy-v2-ssl-cn check inter 100ms",
            https,
            Some(ca.as_path()),
        ),
    ];
    for (number, (version, gateway, ca)) in ways.into_iter().enumerate() {
        let at = free_address().await;
        let _balancer = Balancer::start(at, gateway, version);
        let good = format!("good-{number}");
        eventually("haproxy passes a call on", LIMIT, async || {
            let status = from("127.0.0.77", at, &good, ca).await?;
            (status == 200)
                .then_some(())
                .ok_or_else(|| status.to_string())
        })
        .await;
        let decided = mesh.decision_on(&good, "edge-0").await;
        assert!(decided.to_string().contains("127.0.0.77"), "{decided}");
        // What a client says of itself is not believed: no proxy is trusted with x-forwarded-for.
        let bad = from("127.0.0.78", at, &format!("bad-{number}"), ca).await;
        assert_eq!(bad, Ok(403), "{version}");
    }
    // Without a header, nobody gets in.
    assert!(Call::get(SHOP, "/").send(http).await.is_err());
    let client = TlsClient::trusting(&authority.pem());
    assert!(client.connect(https, SHOP).await.is_err());
    mesh.verify_audit().await;
    mesh.stop().await;
}
