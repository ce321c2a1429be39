//! A partner of another make: a trust domain with the stock go-spiffe library, federated with ours both ways by `https_spiffe`.
//! Its workload calls ours with a certificate and with a token; each side's root is rotated and the other follows.

use reeve_tests::test_tool;
use tokio::process::{Child, Command};

use super::*;
use crate::{
    custody::rotated,
    fixture::{ECHO, client_and_echo},
};

const PARTNER: &str = "partner.test";
const LEDGER_MAY: &str = r#"@id("ledger")
permit (
  principal == Workload::"spiffe://partner.test/ns/pay/sa/ledger",
  action,
  resource in Service::"echo.default.svc.cluster.local"
);"#;

/// The partner, until this is dropped.
struct Partner {
    listen: SocketAddr,
    endpoint: SocketAddr,
    _process: Child,
}

impl Partner {
    /// Begins with our bundle in a file.
    async fn start(mesh: &Mesh) -> Self {
        let at = |port| SocketAddr::from(([127, mesh.base, 0, 1], port));
        let (listen, endpoint) = (at(8446), at(8445));
        let ours = mesh.state.join("ours.json");
        std::fs::write(&ours, bundle_of(mesh).await).expect("a file");
        let log = std::fs::File::create(mesh.state.join("partner.log")).expect("a log");
        let process = Command::new(test_tool("go-spiffe"))
            .args(["partner", &listen.to_string(), &endpoint.to_string()])
            .arg(&ours)
            .args(["mesh.local", &format!("https://{}/", endpoint_of(mesh))])
            .arg("spiffe://mesh.local/ns/reeve-system/sa/control")
            .args([&mesh.inbound("echo-v1-0", 9080).to_string(), ECHO])
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the partner starts");
        Self {
            listen,
            endpoint,
            _process: process,
        }
    }

    /// What it answers, once it listens.
    async fn ask(&self, path: &str) -> Value {
        let call = Call::get("partner", path);
        let what = format!("the partner answers {path}");
        let answer = eventually(&what, LIMIT, async || {
            call.send(self.listen).await.map_err(|e| format!("{e:#}"))
        });
        answer.await.json()
    }

    /// What it holds, once that is so.
    async fn status(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("the partner {what}"), LIMIT, async || {
            let status = self.ask("/status").await;
            match is_so(&status) {
                true => Ok(status),
                false => Err(status.to_string()),
            }
        })
        .await
    }

    /// A call by its workload comes to this status: of ours, or 502 if there was no connection.
    async fn calls(&self, path: &str, status: u16) {
        let call = Call::get("echo:9080", path);
        eventually(&format!("{path}: {status}"), LIMIT, async || {
            match call.status(self.listen).await {
                Ok(found) if found == status => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

async fn authorities(mesh: &Mesh, count: usize) {
    let what = format!("{PARTNER} has {count} authorities here");
    eventually(&what, LIMIT, async || {
        let known = fetched(mesh, PARTNER).await;
        match known["authorities"] == count {
            true => Ok(()),
            false => Err(known.to_string()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partner_with_the_stock_library_federates_both_ways_and_rotates() {
    let spec = json!({"certificateTtl": "20s", "rotationWait": "4s"});
    let tokens = json!({
        "selector": {"matchLabels": {"app": "echo"}},
        "jwtRules": [{"issuer": format!("spiffe://{PARTNER}"), "audiences": ["echo"]}],
    });
    let folder = client_and_echo(spec)
        .with("access.yaml", permit("ledger", LEDGER_MAY))
        .with(
            "tokens.yaml",
            istio("RequestAuthentication", "tokens", &tokens),
        );
    let mut mesh = Mesh::start(folder).await;
    let partner = Partner::start(&mesh).await;
    let file = mesh.state.join("partner.json");
    std::fs::write(&file, partner.ask("/bundle").await.to_string()).expect("a file");
    let by_spiffe = json!({
        "bundleEndpointURL": format!("https://{}/", partner.endpoint),
        "bundleEndpointProfile": {
            "type": "https_spiffe", "endpointSPIFFEID": format!("spiffe://{PARTNER}/spire/server"),
        },
        "trustDomainBundleFile": file,
    });
    mesh.folder
        .write("partner.yaml", federated(PARTNER, &by_spiffe));
    let serving = json!({
        "dangerAllowInternalEndpoints": true,
        "bundleEndpoint": {"address": endpoint_of(&mesh), "refreshHint": "1s"},
    });
    mesh.apply("mesh.yaml", settings("mesh.local", &serving))
        .await;
    fetched(&mesh, PARTNER).await;
    let first = partner
        .status("has fetched our bundle", |s| {
            s["updates"].as_u64() > Some(0)
        })
        .await;
    for path in ["/call", "/call?token"] {
        partner.calls(path, 200).await;
    }

    // Its root is rotated as SPIRE does it: prepared, activated, the old one revoked.
    partner.ask("/prepare").await;
    authorities(&mesh, 2).await;
    partner.calls("/call", 200).await;
    partner.ask("/activate").await;
    for path in ["/call", "/call?token", "/old"] {
        partner.calls(path, 200).await;
    }
    partner.ask("/retire").await;
    authorities(&mesh, 1).await;
    partner.calls("/old", 502).await;
    partner.calls("/call", 200).await;
    refused_because(&mesh, "no authority of the trust bundle issued the chain").await;

    // Ours is rotated, and the library follows.
    mesh.reeve_ok(&["ca", "rotate", "root"]).await;
    rotated(&mesh, 3).await;
    partner
        .status("trusts our new root alone", |s| {
            let alone = s["others"].as_array().map(Vec::len) == Some(1);
            alone && s["others"] != first["others"]
        })
        .await;
    partner.calls("/call", 200).await;
    mesh.verify_audit().await;
    mesh.stop().await;
}
