//! Point 6: the mesh process is gone for 20 s, and neither traffic nor the record of it suffers.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use reeve_tests::{
    Load, Mesh, Protocol, Target, alive, echo, eventually, local_mesh, request_ids, sidecar,
};
use serde_json::json;

use crate::fixture::{client_and_echo, get, to_echo};

const OUTAGE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_and_its_record_survive_the_loss_of_the_mesh_process() {
    let mut mesh = Mesh::start(client_and_echo(json!({"certificateTtl": "120s"}))).await;
    let target = Target {
        address: to_echo(&mesh),
        protocol: Protocol::Http1,
        call: get("/"),
        bad_text: None,
    };
    let load = Load::start("outage", vec![target; 3], Duration::from_millis(5));
    eventually(
        "some records are in the log",
        Duration::from_secs(15),
        async || {
            let count = mesh.records(&[]).await.len();
            if count > 50 {
                Ok(())
            } else {
                Err(format!("{count} records"))
            }
        },
    )
    .await;
    let authorities = mesh.reeve_ok(&["ca", "bundle"]).await.stdout;
    assert!(authorities.contains("BEGIN CERTIFICATE"), "{authorities}");
    let checkpoint = mesh.state.join("checkpoint.before");
    fs::copy(mesh.state.join("audit/checkpoint"), &checkpoint).expect("the checkpoint");

    go_without_mesh_process(&mesh, &load).await;
    mesh.wait_ready(Duration::from_secs(30)).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:#?}", report.failures);

    // The same CA goes on: same authorities, and what it issues now is accepted by those who were there before.
    assert_eq!(mesh.reeve_ok(&["ca", "bundle"]).await.stdout, authorities);
    a_new_replica_serves(&mesh).await;

    // The log is complete: every answered request is in it, gapless, and consistent with the checkpoint of before.
    let answered: BTreeSet<String> = report.ids.iter().cloned().collect();
    eventually(
        "every answered request is in the log",
        Duration::from_secs(30),
        async || {
            let logged = request_ids(&mesh.records(&[]).await, "echo-v1-0");
            let missing: Vec<_> = answered.difference(&logged).take(5).collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(format!("missing: {missing:?}"))
            }
        },
    )
    .await;
    reeve_tests::assert_gapless(&mesh.records(&[]).await);
    let shown = checkpoint.display().to_string();
    mesh.verify_audit_with(&["--checkpoint", &shown]).await;
}

/// Kills the mesh process, keeps it down, and asserts that requests are served and recorded all the while.
async fn go_without_mesh_process(mesh: &Mesh, load: &Load) {
    let held = hold_down(mesh).await;
    let recorded = wal_bytes(mesh, "echo-v1-0");
    let (served, _) = load.so_far();
    let began = Instant::now();
    while began.elapsed() < OUTAGE {
        assert!(
            mesh.status().await.is_err(),
            "the mesh process is back too early"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let (served_in_outage, grown) = (
        load.so_far().0 - served,
        wal_bytes(mesh, "echo-v1-0") - recorded,
    );
    assert!(
        served_in_outage > 500,
        "only {served_in_outage} requests were served during the outage"
    );
    assert!(
        grown > served_in_outage * 200,
        "{grown} bytes for {served_in_outage} records"
    );
    println!(
        "{served_in_outage} requests served and recorded ({grown} bytes) without a mesh process"
    );
    drop(held);
}

async fn a_new_replica_serves(mesh: &Mesh) {
    let mut two = echo("echo-v1", "echo", "v1");
    two["replicas"] = json!(2);
    mesh.apply("workloads.yaml", local_mesh(&[sidecar("client"), two]))
        .await;
    eventually(
        "the new replica serves",
        Duration::from_secs(20),
        async || {
            let answer = get("/")
                .send(to_echo(mesh))
                .await
                .map_err(|e| format!("{e:#}"))?;
            let by = answer.json()["instance"].clone();
            if by == "echo-v1-1" {
                Ok(())
            } else {
                Err(format!("served by {by}"))
            }
        },
    )
    .await;
}

/// Kills the mesh process and takes its addresses, so that the supervisor cannot bring it back until they are freed.
pub(crate) async fn hold_down(mesh: &Mesh) -> Vec<TcpListener> {
    let limit = Duration::from_secs(10);
    let killed = mesh.mesh_pid().expect("the mesh process");
    mesh.kill_process(killed);
    let held = eventually("the mesh's addresses can be taken", limit, async || {
        let wanted = [mesh.grpc(), mesh.api()];
        let taken: Result<Vec<_>, _> = wanted.iter().map(TcpListener::bind).collect();
        if taken.is_err()
            && let Some(pid) = mesh.mesh_pid().filter(|pid| *pid != killed && alive(*pid))
        {
            // It came back first: once more.
            mesh.kill_process(pid);
        }
        taken.map_err(|error| error.to_string())
    })
    .await;
    assert!(!alive(killed));
    held
}

fn wal_bytes(mesh: &Mesh, instance: &str) -> u64 {
    fn size(path: &Path) -> u64 {
        let Ok(entries) = fs::read_dir(path) else {
            return 0;
        };
        entries.flatten().map(|entry| written(&entry.path())).sum()
    }
    /// Without the zeros that a preallocated file ends in.
    fn written(path: &Path) -> u64 {
        if path.is_dir() {
            return size(path);
        }
        let bytes = fs::read(path).unwrap_or_default();
        bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last as u64 + 1)
    }
    size(&mesh.state.join("wal").join(instance))
}
