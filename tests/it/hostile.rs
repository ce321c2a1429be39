//! The mesh that hostile bytes are sent to: `client` and `target`, PERMISSIVE, with a strict recording application
//! behind `target`, and three doors: plaintext to the client's sidecar, plaintext to the target's, and mTLS to the target's.

use std::{collections::BTreeMap, fs, net::SocketAddr, time::Duration};

use reeve_tests::{
    Door, Folder, Mesh, MeshTls, StrictBackend, decisions_of, eventually, local_mesh, permit,
    service, sidecar,
};
use serde_json::json;

use crate::{
    fixture::settings,
    interop::{result_of, script},
};

/// ALPN of the mesh's HTTP/1.1.
pub(crate) const ALPN_HTTP1: &[u8] = b"reeve-http/1.1";
/// ALPN of the mesh's HTTP/2.
pub(crate) const ALPN_H2: &[u8] = b"reeve-h2";

const ANYBODY_TO_TARGET: &str = r#"@id("anybody-to-target")
permit (principal, action, resource in Service::"target.default.svc.cluster.local");"#;

/// The mesh, its application and its doors.
pub(crate) struct Hostile {
    pub(crate) mesh: Mesh,
    pub(crate) backend: StrictBackend,
    /// `client`'s sidecar, by plaintext.
    pub(crate) outbound: Door,
    /// `target`'s sidecar, by plaintext.
    pub(crate) inbound: Door,
    /// `target`'s sidecar, by mTLS as `holder`.
    pub(crate) meshed: Door,
}

/// Starts all of it.
pub(crate) async fn start(name: &str) -> Hostile {
    let result = std::env::temp_dir().join(format!("rv-{}-{name}-svid.json", std::process::id()));
    drop(fs::remove_file(&result));
    let mut target = sidecar("target");
    target["ports"] = json!([{"port": 9080, "name": "http"}]);
    let workloads = [
        sidecar("client"),
        target,
        script("holder", "hold_svid.py", &result),
    ];
    let folder = Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("hold_svid.py", include_str!("peers/hold_svid.py"))
        .with("workloads.yaml", local_mesh(&workloads))
        .with("services.yaml", service("target", 9080, "http"))
        .with("access.yaml", permit("target", ANYBODY_TO_TARGET));
    let mesh = Mesh::start(folder).await;
    let app = SocketAddr::from((mesh.instance("target-0").app_address, 9080));
    let backend = StrictBackend::start(app).await;
    let identity = MeshTls::from_json(&result_of(&result).await);
    let inbound = mesh.inbound("target-0", 9080);
    let outbound = Door::plain("outbound", mesh.outbound("client-0", "target", 9080));
    let meshed = Door {
        tls: Some(identity),
        ..Door::plain("mTLS", inbound)
    };
    Hostile {
        mesh,
        backend,
        outbound,
        inbound: Door::plain("inbound", inbound),
        meshed,
    }
}

impl Hostile {
    /// The doors.
    pub(crate) fn doors(&self) -> [&Door; 3] {
        [&self.outbound, &self.inbound, &self.meshed]
    }

    /// The instance whose sidecar a door belongs to.
    pub(crate) fn behind(&self, door: &Door) -> &'static str {
        if door.address == self.outbound.address {
            "client-0"
        } else {
            "target-0"
        }
    }

    /// Asserts that the application saw no more requests than the audit log has permitted ones of `target`'s proxy, path
    /// by path, and nothing that a strict parser would refuse.
    pub(crate) async fn assert_nothing_unlogged(&self) {
        assert_eq!(
            self.backend.faults(),
            Vec::<String>::new(),
            "a strict application would refuse"
        );
        let mut seen = BTreeMap::<String, usize>::new();
        for request in self.backend.requests() {
            // These tests use no query, but for what smuggles one.
            let path = request.target.split('?').next().unwrap_or_default();
            *seen.entry(path.to_owned()).or_default() += 1;
        }
        eventually(
            "the audit log has what the application saw",
            Duration::from_secs(60),
            async || {
                let logged = self.permitted().await;
                let more = seen
                    .iter()
                    .find(|(path, count)| logged.get(*path).is_none_or(|logged| logged < count));
                more.map_or(Ok(()), |(path, count)| {
                    Err(format!("{path} seen {count} times"))
                })
            },
        )
        .await;
    }

    /// How often `target`'s proxy has permitted a request to each path.
    async fn permitted(&self) -> BTreeMap<String, usize> {
        let records = ["--kind", "decision", "--effect", "allow"];
        let records = self.mesh.records(&records).await;
        let mut paths = BTreeMap::<String, usize>::new();
        for record in decisions_of(&records, "target-0") {
            let path = record["request"]["context"]["http"]["path"]
                .as_str()
                .unwrap_or_default();
            *paths.entry(path.to_owned()).or_default() += 1;
        }
        paths
    }
}
