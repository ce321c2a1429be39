//! A witness is asked before the log acknowledges: while it is away, proxies serve and keep their records; a log that its
//! operator rolled back is cosigned no more, and acknowledges nothing.

use std::{fs, path::Path, time::Duration};

use reeve_tests::{Call, Mesh, eventually};
use serde_json::{Value, json};

use crate::{
    fixture::{client_and_echo, get, settings, to_echo},
    proofs::witness,
    tamper::{at_rest, copy_tree},
};

const LIMIT: Duration = Duration::from_secs(60);

/// What the mesh process says of its witnesses.
async fn said(mesh: &Mesh) -> String {
    let status = mesh.status().await.expect("a status");
    let said = status["audit"]["witnesses"].as_str();
    said.expect("a sentence").to_owned()
}

async fn says(mesh: &Mesh, what: &str) {
    eventually(what, LIMIT, async || match said(mesh).await {
        now if now.contains(what) => Ok(()),
        now => Err(now),
    })
    .await;
}

async fn ask(mesh: &Mesh, name: &str) {
    let call = get("/").header("x-request-id", name);
    assert_eq!(call.status(to_echo(mesh)).await, Ok(200), "{name}");
}

/// Records that the echo server's sidecar keeps, for they are not acknowledged.
async fn backlog(mesh: &Mesh) -> Result<u64, String> {
    let page = Call::get("metrics", "/stats/prometheus");
    let page = page.send(mesh.inbound("echo-v1-0", 15020)).await;
    let page = page.map_err(|error| format!("{error:#}"))?.text();
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix("reeve_wal{figure=\"backlog\"} "));
    line.and_then(|value| value.trim().parse().ok())
        .ok_or_else(|| "no such metric".to_owned())
}

async fn all_acknowledged(mesh: &Mesh) {
    eventually(
        "everything is acknowledged",
        LIMIT,
        async || match backlog(mesh).await? {
            0 => Ok(()),
            count => Err(format!("{count} records wait")),
        },
    )
    .await;
}

fn witnessed(address: &str, key: &str) -> String {
    let witness: Value = json!({"url": format!("http://{address}"), "key": key});
    settings(json!({"audit": {
        "recordedHeaders": ["x-request-id"], "witnesses": [witness], "witnessTimeout": "2s",
    }}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_that_the_witness_has_not_cosigned() {
    let mut mesh = Mesh::start(client_and_echo(json!({}))).await;
    assert!(said(&mesh).await.contains("the operator can rewrite"));
    ask(&mesh, "alone").await;
    let log = fs::read_to_string(mesh.state.join("audit/log.vkey")).expect("the log's key");
    let dir = mesh.state.with_extension("witness");
    let (process, address, key) = witness(&dir, &log, "127.0.0.1:0").await;
    mesh.apply("mesh.yaml", witnessed(&address, &key)).await;
    ask(&mesh, "watched").await;
    mesh.decision_on("watched", "echo-v1-0").await;
    says(&mesh, "witness.example/w1 cosigned up to tree size").await;
    all_acknowledged(&mesh).await;
    let demand = ["--witness", key.as_str()];
    mesh.verify_audit_with(&demand).await;
    let kept = mesh.state.with_extension("before");

    // Nobody answers there: requests are served, and their records stay with the proxy.
    drop(process);
    ask(&mesh, "unwatched").await;
    says(&mesh, "nobody answers there").await;
    eventually("the record stays", LIMIT, async || {
        (backlog(&mesh).await? > 0)
            .then_some(())
            .ok_or_else(|| "acknowledged".to_owned())
    })
    .await;
    let (process, ..) = witness(&dir, &log, &address).await;
    all_acknowledged(&mesh).await;
    mesh.verify_audit_with(&demand).await;

    // The operator goes back to an earlier state, and on from there: the witness knows better.
    at_rest(&mesh.state.join("audit/checkpoint")).await;
    mesh.stop().await;
    copy_tree(&mesh.state, &kept);
    mesh.start_again().await;
    ask(&mesh, "forgotten").await;
    mesh.decision_on("forgotten", "echo-v1-0").await;
    all_acknowledged(&mesh).await;
    mesh.stop().await;
    let cosigned = fs::read(mesh.state.join("audit/checkpoint.cosigned")).expect("a cosignature");
    restore(&kept, &mesh.state);
    mesh.start_again().await;
    ask(&mesh, "instead").await;
    eventually("the witness refuses", LIMIT, async || {
        match said(&mesh).await {
            now if now.contains("entries, and the log has") || now.contains("HTTP status 4") => {
                Ok(())
            }
            now if now.contains("another tree") => Ok(()),
            now => Err(now),
        }
    })
    .await;
    assert!(backlog(&mesh).await.expect("a metric") > 0);
    // Whoever has the cosigned checkpoint of before shows that the log was rewritten.
    let away = dir.join("monday");
    fs::write(&away, cosigned).expect("a checkpoint");
    let shown = away.display().to_string();
    let forked = mesh
        .reeve(&["audit", "verify", "--checkpoint", &shown])
        .await;
    assert_eq!(forked.code, Some(1), "{}", forked.text());
    assert!(forked.text().contains("checkpoint"), "{}", forked.text());
    drop(process);
    for folder in [dir, kept] {
        drop(fs::remove_dir_all(folder));
    }
}

fn restore(from: &Path, to: &Path) {
    fs::remove_dir_all(to).expect("the state's end");
    copy_tree(from, to);
}
