//! Paths, hosts, targets and headers that two servers could read differently, as raw bytes on HTTP/1.1 and HTTP/2, in each
//! mode of `pathNormalization`, which is changed live: what is judged is what the application sees, byte for byte.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use reeve_tests::{
    Call, Connection, Door, Folder, Mesh, Protocol, StrictBackend, eventually, local_mesh, permit,
    service, sidecar,
};
use serde_json::{Value, json};

use crate::fixture::settings;

mod authorities;
mod fields;
mod paths;
mod ports;
mod wire;

use wire::{Http, Outcome, Sent};

/// Connections at once.
const AT_ONCE: usize = 48;

/// Whoever asks for it gets it, but for what begins with `/admin`.
const ACCESS: &str = r#"@id("anybody")
permit (principal, action, resource in Service::"target.default.svc.cluster.local");
@id("not-admin")
forbid (principal, action, resource) when { context has path && context.path like "/admin*" };"#;

struct Stage {
    mesh: Mesh,
    backend: StrictBackend,
    door: Door,
}

/// What must come of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    /// Its `x-request-id`.
    id: String,
    sent: Sent,
    expected: Outcome,
}

impl Stage {
    async fn start(mode: Option<&str>) -> Self {
        let mut target = sidecar("target");
        target["ports"] = json!([{"port": 9080, "name": "http"}]);
        let folder = Folder::new()
            .with("mesh.yaml", mode_settings(mode))
            .with("workloads.yaml", local_mesh(&[sidecar("client"), target]))
            .with("services.yaml", service("target", 9080, "http"))
            .with("access.yaml", permit("target", ACCESS));
        let mesh = Mesh::start(folder).await;
        let app = SocketAddr::from((mesh.instance("target-0").app_address, 9080));
        let backend = StrictBackend::start(app).await;
        let door = Door::plain("inbound", mesh.inbound("target-0", 9080));
        Self {
            mesh,
            backend,
            door,
        }
    }

    /// Sends every row, and says what is wrong with what came of it.
    async fn try_all(&self, rows: Vec<Row>) -> Vec<String> {
        let mut outcomes = Vec::new();
        for few in rows.chunks(AT_ONCE) {
            let sent = few
                .iter()
                .map(|row| wire::send(&self.door, &row.sent, &row.id));
            outcomes.extend(join_all(sent).await);
        }
        let seen: BTreeMap<String, Outcome> = self
            .backend
            .requests()
            .into_iter()
            .map(wire::seen)
            .collect();
        let wrong = rows.iter().zip(outcomes).filter_map(|(row, status)| {
            let outcome = match seen.get(&row.id) {
                Some(seen) if status == 200 => seen.clone(),
                Some(seen) => {
                    return Some(format!("{row:?}: answered {status}, yet seen: {seen:?}"));
                }
                None => Outcome::Answered(status),
            };
            (!outcome.is(&row.expected)).then(|| format!("{row:?}: {outcome:?}"))
        });
        wrong.collect()
    }

    /// The path that was judged, by request: what the access log has, which is what policies were asked of.
    async fn judged(&self, ids: &[String]) -> BTreeMap<String, String> {
        eventually(
            "every request is in the log",
            Duration::from_secs(10),
            async || {
                let log = self.mesh.log("target-0.sidecar.log")
                    + &self.mesh.log("target-0.sidecar.log.1");
                let lines = log
                    .lines()
                    .filter_map(|line| serde_json::from_str::<Value>(line).ok());
                let text =
                    |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
                let found: BTreeMap<_, _> = lines
                    .map(|line| (text(&line, "request_id"), text(&line, "path")))
                    .collect();
                match ids.iter().find(|id| !found.contains_key(*id)) {
                    Some(missing) => Err(missing.clone()),
                    None => Ok(found),
                }
            },
        )
        .await
    }
}

fn mode_settings(mode: Option<&str>) -> String {
    settings(match mode {
        Some(mode) => json!({"pathNormalization": mode}),
        None => json!({}),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_are_normalised_once_in_the_mode_that_is_set_and_seen_as_they_were_judged() {
    let stage = Stage::start(None).await;
    let kept = Connection::open(stage.door.address, Protocol::Http1).await;
    let mut kept = kept.expect("a connection that stays open");
    let mut wrong = Vec::new();
    for (number, (mode, name)) in paths::MODES.into_iter().enumerate() {
        if number > 0 {
            stage
                .mesh
                .apply("mesh.yaml", mode_settings(Some(name)))
                .await;
        }
        let answer = kept.send(&Call::get("target:9080", "/a//b")).await;
        let expected = if mode == paths::Mode::Refuse {
            400
        } else {
            200
        };
        let status = answer.expect("an answer on the open connection").status;
        assert_eq!(
            status, expected,
            "{name}, on a connection that was open before"
        );
        let rows = paths::rows(mode, name);
        assert!(rows.len() >= 120, "{} inputs on two protocols", rows.len());
        let passed =
            |row: &&Row| matches!(row.expected, Outcome::Saw { .. } | Outcome::Answered(403));
        let ids: Vec<_> = rows
            .iter()
            .filter(passed)
            .map(|row| row.id.clone())
            .collect();
        let expected: BTreeMap<_, _> = rows
            .iter()
            .map(|row| (row.id.clone(), paths::judged(&row.sent, mode)))
            .collect();
        wrong.extend(stage.try_all(rows).await);
        let judged = stage.judged(&ids).await;
        for id in ids {
            let (judged, expected) = (judged.get(&id), expected.get(&id).cloned().flatten());
            if judged != expected.as_ref() {
                wrong.push(format!("{id}: judged {judged:?}, not {expected:?}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(stage.backend.faults(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_targets_and_headers_have_one_reading() {
    let stage = Stage::start(None).await;
    let rows = [authorities::rows(), fields::rows()].concat();
    let http1 = rows.iter().filter(|row| row.sent.http == Http::One).count();
    assert!(
        http1 >= 50 && rows.len() - http1 >= 40,
        "{http1} of {}",
        rows.len()
    );
    let wrong = stage.try_all(rows).await;
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(stage.backend.faults(), Vec::<String>::new());
    stage.mesh.verify_audit().await;
}
