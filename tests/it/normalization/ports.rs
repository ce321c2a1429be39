//! `PathNormalization` by workload and port: two ports of one workload in different modes, at its door and by way of a
//! caller's sidecar, changed live, with the mode in each record.

use std::{collections::BTreeMap, net::SocketAddr};

use reeve_tests::{Call, Connection, Door, Folder, Mesh, Protocol, StrictBackend};
use reeve_tests::{local_mesh, permit, sidecar};
use serde_json::{Value, json};

use super::{
    ACCESS,
    wire::{self, Http, Outcome, Sent},
};
use crate::fixture::settings;

const PORTS: [u16; 2] = [9080, 9090];

/// What is sent, and what the application behind a port sees of it; empty = 400.
type Rows = [(&'static str, [&'static str; 2])];

fn document(value: &Value) -> String {
    format!("---\n{value:#}\n")
}

fn folder() -> Folder {
    let ports = json!([{"port": PORTS[0], "name": "http"}, {"port": PORTS[1], "name": "http-two"}]);
    let mut target = sidecar("target");
    target["ports"] = ports.clone();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "target", "namespace": "default"},
        "spec": {"selector": {"app": "target"}, "ports": ports},
    });
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("workloads.yaml", local_mesh(&[sidecar("client"), target]))
        .with("services.yaml", document(&service))
        .with(
            "paths.yaml",
            rule(&json!({
                "normalization": "MERGE_SLASHES", "portLevel": {"9090": {"normalization": "BASE"}},
            })),
        )
        .with("access.yaml", permit("target", ACCESS))
}

/// Of the target's workload.
fn rule(spec: &Value) -> String {
    let mut spec = spec.clone();
    spec["selector"] = json!({"matchLabels": {"app": "target"}});
    document(&json!({
        "apiVersion": "reeve.dev/v1alpha1", "kind": "PathNormalization",
        "metadata": {"name": "target", "namespace": "default"}, "spec": spec,
    }))
}

struct Stage {
    mesh: Mesh,
    backends: [StrictBackend; 2],
    sent: u32,
}

impl Stage {
    async fn start() -> Self {
        let mesh = Mesh::start(folder()).await;
        let address = mesh.instance("target-0").app_address;
        let app = |port| StrictBackend::start(SocketAddr::from((address, port)));
        let backends = [app(PORTS[0]).await, app(PORTS[1]).await];
        Self {
            mesh,
            backends,
            sent: 0,
        }
    }

    /// Sends every row to both ports, on both protocols, by both ways; `modes` are in the records of what was judged.
    async fn expect(&mut self, modes: [&str; 2], rows: &Rows) {
        let mut last = BTreeMap::new();
        for (number, port) in PORTS.into_iter().enumerate() {
            let doors = [
                Door::plain("inbound", self.mesh.inbound("target-0", port)),
                Door::plain("outbound", self.mesh.outbound("client-0", "target", port)),
            ];
            for (door, http) in doors.iter().flat_map(|d| [(d, Http::One), (d, Http::Two)]) {
                for (target, seen) in rows {
                    self.sent += 1;
                    let id = format!("ports-{}", self.sent);
                    let mut sent = Sent::get(http, target);
                    sent.authority = Some(format!("target:{port}"));
                    let status = wire::send(door, &sent, &id).await;
                    let found = self.backends[number].requests();
                    let found = found.into_iter().map(wire::seen).find(|(of, _)| *of == id);
                    let what = format!("{target} on {http:?} to {port}, {}", door.name);
                    match (seen[number], found) {
                        ("", None) => assert_eq!(status, 400, "{what}"),
                        (expected, Some((_, Outcome::Saw { target, .. }))) => {
                            assert_eq!((target.as_str(), status), (expected, 200), "{what}");
                        }
                        (expected, found) => panic!("{what}: {expected:?}, {status}, {found:?}"),
                    }
                    let judged = !seen[number].is_empty() || door.name == "inbound";
                    if judged {
                        last.insert(number, id);
                    }
                }
            }
        }
        for (number, id) in last {
            let record = self.mesh.decision_on(&id, "target-0").await;
            assert_eq!(record["path_normalization"], modes[number], "{record}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ports_of_one_workload_have_modes_of_their_own_that_change_live() {
    let mut stage = Stage::start().await;
    let kept = Connection::open(stage.mesh.inbound("target-0", PORTS[1]), Protocol::Http1).await;
    let mut kept = kept.expect("a connection that stays open");
    let before: &Rows = &[
        ("/a//b", ["/a/b", "/a//b"]),
        ("/a/../c%2Fd", ["/c%2Fd", "/c%2Fd"]),
        ("/x//%2e%2e/y", ["/x/y", "/x/y"]),
    ];
    let [merged, base] = ["MERGE_SLASHES", "BASE"];
    stage.expect([merged, base], before).await;
    let listeners = stage
        .mesh
        .reeve_ok(&["proxy-config", "listeners", "target-0"])
        .await;
    for (port, mode) in PORTS.into_iter().zip([merged, base]) {
        let line = listeners
            .stdout
            .lines()
            .find(|line| line.contains(&format!(":{port} ")));
        let line = line.unwrap_or_else(|| panic!("no {port}: {}", listeners.text()));
        assert!(line.contains(mode), "{line}");
    }
    let explained = stage
        .mesh
        .reeve_ok(&[
            "proxy-config",
            "routes",
            "client-0",
            "--name",
            "9090",
            "-o",
            "json",
        ])
        .await
        .json();
    let hosts = &explained[0]["virtual_hosts"];
    let host = &hosts["target.default.svc.cluster.local:9090"];
    assert_eq!(host["path_normalization"], base, "{explained}");

    let changed = rule(&json!({"portLevel": {
        "9080": {"normalization": "DECODE_AND_MERGE_SLASHES"}, "9090": {"normalization": "NONE"},
    }}));
    stage.mesh.apply("paths.yaml", changed).await;
    let after: &Rows = &[
        ("/a//b", ["/a/b", "/a//b"]),
        ("/a/../c%2Fd", ["/c/d", "/a/../c%2Fd"]),
    ];
    stage
        .expect(["DECODE_AND_MERGE_SLASHES", "NONE"], after)
        .await;
    let answer = kept.send(&Call::get("target:9090", "/a/./b")).await;
    let status = answer.expect("an answer on the open connection").status;
    assert_eq!(status, 200);
    let targets: Vec<_> = stage.backends[1]
        .requests()
        .into_iter()
        .map(|r| r.target)
        .collect();
    assert!(targets.contains(&"/a/./b".to_owned()), "{targets:?}");

    stage.mesh.withdraw("paths.yaml").await;
    let refused: &Rows = &[("/a//b", ["", ""]), ("/a/../c", ["/c", "/c"])];
    stage.expect(["REFUSE_AMBIGUOUS"; 2], refused).await;
    stage.mesh.verify_audit().await;
}
