//! Zero failed requests while proxies are replaced, drained and reconfigured and certificates rotate, all at once.

use std::{collections::BTreeSet, time::Duration};

use reeve_tests::{Mesh, churn, eventually};
use serde_json::json;

use crate::fixture::{client_and_echo, get, to_echo};

/// `make soak` runs the same for 20 minutes.
const RUN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_restarts_drains_rotations_and_changes_of_configuration() {
    churn(RUN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_fails_leaves_the_old_one_serving() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    let before = mesh.instance("echo-v1-0").sidecar_pid;
    // A folder in the place of the successor's lock: its write-ahead log cannot be opened.
    let lock = mesh.state.join("wal/echo-v1-0/successor.lock");
    std::fs::create_dir(&lock).expect("the obstacle");
    let outcome = mesh.reeve(&["proxy", "restart", "echo-v1"]).await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.text());
    assert!(
        outcome.text().contains("the old one goes on"),
        "{}",
        outcome.text()
    );
    assert_eq!(mesh.instance("echo-v1-0").sidecar_pid, before);
    assert_eq!(get("/").status(to_echo(&mesh)).await, Ok(200));

    std::fs::remove_dir(&lock).expect("the obstacle");
    mesh.reeve_ok(&["proxy", "restart", "echo-v1"]).await;
    eventually(
        "the new process is known",
        Duration::from_secs(5),
        async || {
            let now = mesh.instance("echo-v1-0").sidecar_pid;
            if now == before {
                Err(format!("{now:?}"))
            } else {
                Ok(())
            }
        },
    )
    .await;
    assert_eq!(get("/").status(to_echo(&mesh)).await, Ok(200));
    let unknown = mesh.reeve(&["proxy", "restart", "nobody"]).await;
    assert_eq!(unknown.code, Some(1), "{}", unknown.text());
    eventually(
        "both epochs are in the log",
        Duration::from_secs(20),
        async || {
            let records = mesh.records(&[]).await;
            let ids = records.iter().filter_map(|r| r["id"].as_str());
            let epochs: BTreeSet<&str> = ids
                .filter_map(|id| id.strip_prefix("echo-v1-0/")?.split('/').next())
                .collect();
            if epochs.len() == 2 {
                Ok(())
            } else {
                Err(format!("{} records", records.len()))
            }
        },
    )
    .await;
    mesh.verify_audit().await;
}
