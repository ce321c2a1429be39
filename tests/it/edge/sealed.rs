//! HTTPS that nobody in the mesh opens, with OpenSSL's server and curl: from a workload through the egress gateway to the
//! outside, and from the outside through the ingress gateway to a workload, as in Istio's tasks.

use std::{net::SocketAddr, path::Path, time::Duration};

use reeve_tests::{
    Folder, Mesh, Scratch, eventually, local_mesh, permit, service, sidecar, strict, test_tools,
};
use serde_json::{Value, json};

use super::{
    authority::Authority,
    openssl::{OpenSsl, free_address},
};
use crate::fixture::{gateway_workload, istio, settings};

const OUTSIDE: &str = "api.partner.example";
const SHOP: &str = "shop.example";
const TLS: u16 = 8443;
const LIMIT: Duration = Duration::from_secs(10);

const ACCESS: &str = r#"
@id("client-to-egress")
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client", action == Action::"connect",
  resource == Workload::"spiffe://mesh.local/ns/default/sa/egress"
);
@id("egress-to-partner")
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/egress", action == Action::"connect",
  resource in Service::"api.partner.example"
);
@id("visitors")
permit (
  principal, action == Action::"connect",
  resource == Workload::"spiffe://mesh.local/ns/default/sa/ingress"
);
@id("ingress-to-shop")
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/ingress", action == Action::"connect",
  resource in Service::"shop.default.svc.cluster.local"
);"#;

fn gateway(name: &str, host: &str) -> String {
    let port = json!({"number": TLS, "name": "tls", "protocol": "TLS"});
    let server = json!({"port": port, "hosts": [host], "tls": {"mode": "PASSTHROUGH"}});
    istio(
        "Gateway",
        name,
        &json!({"selector": {"app": name}, "servers": [server]}),
    )
}

/// What `client` asks of the partner goes by the egress gateway; the shop's workload ends TLS itself.
fn folder(port: u16, shop: &str) -> Folder {
    let shop = json!({
        "name": "shop", "serviceAccount": "shop", "labels": {"app": "shop"},
        "command": ["sh", "-c", shop], "ports": [{"port": TLS, "name": "tls"}],
        "health": {"tcp": {"port": TLS}},
    });
    let to =
        |host: &str, port: u16| json!([{"destination": {"host": host, "port": {"number": port}}}]);
    let entry = json!({
        "hosts": [OUTSIDE], "location": "MESH_EXTERNAL", "resolution": "STATIC",
        "ports": [{"number": 443, "name": "tls", "protocol": "TLS", "targetPort": port}],
        "endpoints": [{"address": "127.0.0.1"}],
    });
    let outward = json!({"hosts": [OUTSIDE], "gateways": ["mesh", "egress"], "tls": [
        {
            "match": [{"gateways": ["mesh"], "port": 443, "sniHosts": [OUTSIDE]}],
            "route": to("egress", TLS),
        },
        {
            "match": [{"gateways": ["egress"], "port": TLS, "sniHosts": [OUTSIDE]}],
            "route": to(OUTSIDE, 443),
        },
    ]});
    let inward = json!({"hosts": [SHOP], "gateways": ["ingress"], "tls": [
        {"match": [{"port": TLS, "sniHosts": [SHOP]}], "route": to("shop", TLS)},
    ]});
    let mode = json!({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}});
    Folder::new()
        .with("mesh.yaml", settings(mode))
        .with("strict.yaml", strict())
        .with(
            "workloads.yaml",
            local_mesh(&[
                sidecar("client"),
                gateway_workload("egress"),
                gateway_workload("ingress"),
                shop,
            ]),
        )
        .with(
            "services.yaml",
            service("egress", TLS, "tls") + &service("shop", TLS, "tls"),
        )
        .with("entry.yaml", istio("ServiceEntry", "partner", &entry))
        .with(
            "gateways.yaml",
            gateway("egress", OUTSIDE) + &gateway("ingress", SHOP),
        )
        .with("outward.yaml", istio("VirtualService", "partner", &outward))
        .with("inward.yaml", istio("VirtualService", "shop", &inward))
        .with("access.yaml", permit("sealed", ACCESS))
}

/// What curl gets from `https://host/`, sent to `to` instead; else its exit code.
async fn curl(host: &str, to: SocketAddr, ca: &Path) -> Result<String, Option<i32>> {
    let out = tokio::process::Command::new("curl")
        .args([
            "-sS",
            "--max-time",
            "10",
            "--connect-to",
            &format!("{host}:443:{to}"),
            "--cacert",
        ])
        .arg(ca)
        .arg(format!("https://{host}/"))
        .output()
        .await
        .expect("curl is installed");
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        false => Err(out.status.code()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_passes_both_gateways_unopened() {
    test_tools();
    let authority = Authority::new("outside");
    let (partner, shop) = (Scratch::new("partner"), Scratch::new("shop"));
    for (files, name) in [(&partner, OUTSIDE), (&shop, SHOP)] {
        let issued = authority.issue(&[name]);
        files.write("ca.crt", &authority.pem(), 0o644);
        files.write("server.crt", &issued.chain, 0o644);
        files.write("server.key", &issued.key, 0o600);
    }
    let ca = partner.path().join("ca.crt");
    let at = free_address().await;
    let folder_of = |files: &Scratch| files.path().display().to_string();
    let server = OpenSsl::start(&folder_of(&partner), at, &["-www"]).await;
    let own = folder_of(&shop);
    let command = format!(
        "exec openssl s_server -www -accept $HOST:$PORT -cert {own}/server.crt -key {own}/server.key"
    );
    let mut mesh = Mesh::start(folder(at.port(), &command)).await;

    outward(&mesh, &ca).await;
    inward(&mesh, &ca).await;
    drop(server);
    let to = mesh.outbound_to("client-0", OUTSIDE, 443);
    assert!(curl(OUTSIDE, to, &ca).await.is_err(), "nobody else answers");
    mesh.verify_audit().await;
    mesh.stop().await;
}

async fn outward(mesh: &Mesh, ca: &Path) {
    let to = mesh.outbound_to("client-0", OUTSIDE, 443);
    let page = curl(OUTSIDE, to, ca).await.expect("a page");
    assert!(page.contains("s_server"), "{page}");
    for (principal, policy) in [
        ("sa/client", "client-to-egress"),
        ("sa/egress", "egress-to-partner"),
    ] {
        mesh.record("the gateway decided", |record| {
            record["kind"] == "decision"
                && record["id"]
                    .as_str()
                    .is_some_and(|id| id.starts_with("egress-0/"))
                && record["request"]["principal"]
                    .to_string()
                    .contains(principal)
                && record["decision"]["policies"].to_string().contains(policy)
        })
        .await;
    }
    // Another name goes nowhere, though the connection is to the partner's address.
    assert!(curl("other.partner.example", to, ca).await.is_err());
    let told = eventually("the access log tells", LIMIT, async || {
        let log = mesh.log("egress-0.sidecar.log");
        let line = log
            .lines()
            .find(|l| l.contains(OUTSIDE) && l.contains("\"direction\":\"outbound\""));
        line.map(str::to_owned)
            .ok_or_else(|| "no line yet".to_owned())
    });
    let line: Value = serde_json::from_str(&told.await).expect("JSON");
    assert_eq!(line["server_name"], OUTSIDE, "{line}");
    assert_eq!(line["protocol"], "tcp", "{line}");
}

async fn inward(mesh: &Mesh, ca: &Path) {
    let to = mesh.inbound("ingress-0", TLS);
    let page = curl(SHOP, to, ca).await.expect("a page");
    assert!(page.contains("s_server"), "{page}");
    let decided = mesh.record("the shop's sidecar decided", |record| {
        record["kind"] == "decision"
            && record["id"]
                .as_str()
                .is_some_and(|id| id.starts_with("shop-0/"))
    });
    let decided = decided.await;
    assert!(
        decided["request"]["principal"]
            .to_string()
            .contains("sa/ingress"),
        "{decided}"
    );
    assert_eq!(
        decided["authenticated_by"], "mtls",
        "the hop behind the gateway"
    );
    assert!(curl("other.example", to, ca).await.is_err());
}
