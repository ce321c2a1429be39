//! The root is rotated under load: no request fails, each step waits for every proxy, and at the end no proxy trusts
//! the old root. In an emergency it is distrusted at once.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reeve_tests::{
    CLIENT_TO_ECHO, Call, Connection, Folder, Load, Mesh, MeshTls, Protocol, Target, echo,
    eventually, local_mesh, permit, service, sidecar, strict,
};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    drills::drill,
    fixture::settings,
    hostile::ALPN_HTTP1,
    interop::{result_of, script},
};

const RAW: &str = r#"permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
  action,
  resource in Service::"raw.default.svc.cluster.local"
);"#;
const HOLDER: &str = r#"permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/holder",
  action,
  resource in Service::"echo.default.svc.cluster.local"
);"#;
/// Longest time for a rotation, on a slow machine.
const LIMIT: Duration = Duration::from_secs(120);

/// 500 requests a second are aimed at; what the machine cannot give is not asked. `reeve drill` counts what is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_is_rotated_under_load_and_in_the_end_nobody_trusts_the_old_one() {
    let mut mesh = Mesh::start(folder("20s", &[])).await;
    let before = mesh.reeve_ok(&["ca", "status", "-o", "json"]).await.json();
    let (outcome, report) = drill(&mesh, &["rotate-root", "--rps", "500"]).await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.text());
    assert_eq!(report["verdict"], "passed", "{report:#}");
    assert_eq!(report["load"]["failed"], 0, "{report:#}");
    assert!(report["load"]["ok"].as_u64() > Some(0), "{report:#}");
    let asked = report["calls"].to_string();
    for kind in ["(HTTP/2)", "(HTTP/1.1)", "(TCP)"] {
        assert!(
            asked.contains(kind),
            "{kind} is not part of the load: {asked}"
        );
    }
    let rotated = mesh.reeve_ok(&["ca", "status", "-o", "json"]).await.json();
    assert_ne!(before["root_not_after"], rotated["root_not_after"]);
    assert_eq!(
        (&rotated["authorities"], &rotated["rotation"]),
        (&json!(1), &Value::Null)
    );
    let members = mesh.reeve_ok(&["ca", "members", "-o", "json"]).await.json();
    for member in members.as_array().expect("members") {
        assert_eq!(
            member["bundle_sequence"], 3,
            "who trusts the old root: {member}"
        );
    }
    let records = mesh.records(&["--kind", "event"]).await;
    let steps: Vec<&str> = records
        .iter()
        .filter(|record| record["event"] == "authority_rotated")
        .filter_map(|record| record["detail"]["step"].as_str())
        .collect();
    assert_eq!(steps, ["spread", "renew", "retire", "over"]);
    mesh.verify_audit().await;
    mesh.stop().await;
}

/// The rotation is over, and a certificate under the old root has not ended: neither a handshake nor a session that was
/// kept is worth anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rotation_neither_a_handshake_nor_a_kept_session_under_the_old_root_is_accepted() {
    let result = std::env::temp_dir().join(format!("rv-{}-retired.json", std::process::id()));
    drop(std::fs::remove_file(&result));
    let holder = [script("holder", "hold_svid.py", &result)];
    let mut mesh = Mesh::start(folder("30m", &holder)).await;
    let held = MeshTls::from_json(&result_of(&result).await);
    let echo_sidecar = mesh.inbound("echo-v1-0", 9080);
    let kept = Stranger::new(&held);
    assert_eq!(kept.ask(echo_sidecar).await, Ok(200));
    mesh.reeve_ok(&["ca", "rotate", "root"]).await;
    // No step is waited for: that nobody loses anything is another test's claim, and a certificate lives for 30 min.
    let force = ["ca", "rotate", "root", "--force", "--yes"];
    mesh.reeve_ok(&force).await;
    assert_eq!(kept.ask(echo_sidecar).await, Ok(200), "it is trusted still");
    mesh.reeve_ok(&[&force[..], &["--wait"]].concat()).await;
    for stranger in [Stranger::new(&held), kept] {
        let refused = stranger.ask(echo_sidecar).await;
        assert!(
            refused.is_err(),
            "the old root is still trusted: {refused:?}"
        );
    }
    eventually(
        "the refusal is recorded with its reason",
        LIMIT,
        async || {
            let records = mesh.records(&["--kind", "event"]).await;
            let refused = records.iter().filter(|r| r["event"] == "handshake_refused");
            let reasons: Vec<String> = refused.map(|r| r["detail"]["reason"].to_string()).collect();
            match reasons
                .iter()
                .any(|r| r.contains("no authority of the trust bundle"))
            {
                true => Ok(()),
                false => Err(format!("{reasons:?}")),
            }
        },
    )
    .await;
    mesh.stop().await;
}

/// The mesh process dies in the middle of a rotation, which goes on where it stood; who was away is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_survives_the_mesh_process_and_waits_for_a_proxy_by_name() {
    let folder = Folder::new()
        .with(
            "mesh.yaml",
            settings(json!({"certificateTtl": "10s", "rotationWait": "1s"})),
        )
        .with(
            "workloads.yaml",
            local_mesh(&[sidecar("client"), echo("echo-v1", "echo", "v1")]),
        )
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", CLIENT_TO_ECHO));
    let mut mesh = Mesh::start(folder).await;
    let to_echo = mesh.outbound("client-0", "echo", 9080);
    eventually("all members are known", LIMIT, async || {
        let members = mesh.reeve_ok(&["ca", "members", "-o", "json"]).await.json();
        match members.as_array().map_or(0, Vec::len) {
            3 => Ok(()),
            few => Err(format!("{few} members: {members}")),
        }
    })
    .await;
    let load = Load::start(
        "survives",
        vec![target(to_echo, Protocol::Http2)],
        Duration::from_millis(20),
    );
    mesh.reeve_ok(&["ca", "rotate", "root"]).await;
    let pid = mesh.mesh_pid().expect("a mesh process");
    mesh.kill_process(pid);
    mesh.wait_ready(LIMIT).await;
    eventually("the rotation is over", LIMIT, async || {
        let status = mesh.reeve(&["ca", "status", "-o", "json"]).await;
        if status.code != Some(0) {
            return Err(status.text());
        }
        let status = status.json();
        match (
            status["rotation"].is_null(),
            status["bundle_sequence"].as_u64(),
        ) {
            (true, Some(3)) => Ok(()),
            _ => Err(status.to_string()),
        }
    })
    .await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:#?}", report.failures);
    mesh.stop().await;
}

/// The root's key is in other hands: from one moment to the next nothing under it is worth anything, in a handshake, in
/// a session that was kept, on a connection that is open. Then everybody has renewed, and traffic flows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_an_emergency_nothing_under_the_old_root_is_trusted_and_the_mesh_heals() {
    let result = std::env::temp_dir().join(format!("rv-{}-old-root.json", std::process::id()));
    drop(std::fs::remove_file(&result));
    let holder = [script("holder", "hold_svid.py", &result)];
    let mut mesh = Mesh::start(folder("2m", &holder)).await;
    let held = MeshTls::from_json(&result_of(&result).await);
    let echo_sidecar = mesh.inbound("echo-v1-0", 9080);
    let kept = Stranger::new(&held);
    assert_eq!(kept.ask(echo_sidecar).await, Ok(200));
    let mut open = kept.connect(echo_sidecar).await.expect("it is let in");
    let get = Call::get("echo:9080", "/");
    assert_eq!(open.send(&get).await.expect("an answer").status, 200);

    let refused = mesh.reeve(&["ca", "rotate", "root", "--emergency"]).await;
    assert_eq!(refused.code, Some(2), "nobody said yes: {}", refused.text());
    mesh.reeve_ok(&["ca", "rotate", "root", "--emergency", "--yes", "--wait"])
        .await;
    for stranger in [Stranger::new(&held), kept] {
        let refused = stranger.ask(echo_sidecar).await;
        assert!(
            refused.is_err(),
            "the old root is still trusted: {refused:?}"
        );
    }
    assert!(
        open.send(&get).await.is_err(),
        "the open connection was not closed"
    );
    let to_echo = mesh.outbound("client-0", "echo", 9080);
    eventually("traffic flows", LIMIT, async || {
        match get.status(to_echo).await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    mesh.verify_audit().await;
    mesh.stop().await;
}

fn folder(certificate_ttl: &str, more: &[Value]) -> Folder {
    let mut raw = echo("raw-v1", "raw", "v1");
    raw["ports"] = json!([{"port": 9080, "name": "tcp"}]);
    let workloads = [sidecar("client"), echo("echo-v1", "echo", "v1"), raw];
    let spec = json!({"certificateTtl": certificate_ttl, "rotationWait": "2s"});
    Folder::new()
        .with("mesh.yaml", settings(spec))
        .with("strict.yaml", strict())
        .with("hold_svid.py", include_str!("peers/hold_svid.py"))
        .with("workloads.yaml", local_mesh(&[&workloads, more].concat()))
        .with("echo.yaml", service("echo", 9080, "http"))
        .with("raw.yaml", service("raw", 9080, "tcp"))
        .with("access.yaml", permit("echo", CLIENT_TO_ECHO))
        .with("access-raw.yaml", permit("raw", RAW))
        .with("access-holder.yaml", permit("holder", HOLDER))
}

fn target(address: SocketAddr, protocol: Protocol) -> Target {
    Target {
        address,
        protocol,
        call: Call::get("echo:9080", "/"),
        bad_text: None,
    }
}

/// Who holds a certificate under the old root, and would resume its sessions.
struct Stranger(TlsConnector);

impl Stranger {
    fn new(held: &MeshTls) -> Self {
        let mut config = held.config(ALPN_HTTP1).expect("a configuration");
        config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(64)));
        Self(TlsConnector::from(Arc::new(config)))
    }

    async fn connect(&self, to: SocketAddr) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(to).await?;
        let stream = self.0.connect(MeshTls::server_name(), stream).await?;
        Connection::over(stream, Protocol::Http1).await
    }

    async fn ask(&self, to: SocketAddr) -> Result<u16, String> {
        let exchange = async {
            let mut connection = self.connect(to).await?;
            anyhow::Ok(
                connection
                    .send(&Call::get("echo:9080", "/"))
                    .await?
                    .status
                    .as_u16(),
            )
        };
        exchange.await.map_err(|error| format!("{error:#}"))
    }
}
