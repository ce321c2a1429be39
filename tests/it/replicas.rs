//! Several audit logs under the mesh's: one killed, one deleted, one rolled back, while records keep coming.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use reeve_tests::{Load, Mesh, Protocol, Target, decisions, eventually, request_ids};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    fixture::{client_and_echo, get, to_echo},
    tamper::{at_rest, copy_tree, verify},
};

const REPLICAS: [&str; 3] = ["audit-0", "audit-1", "audit-2"];
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_outlive_the_death_of_a_replica_and_no_log_can_vanish() {
    let settings = json!({"audit": {"recordedHeaders": ["x-request-id"], "replicas": 3}});
    let mut mesh = Mesh::start(client_and_echo(settings)).await;
    assert_eq!(get("/").status(to_echo(&mesh)).await, Ok(200));
    let first = home_of(&mesh, "echo-v1-0").await;
    // Before anything is copied: a copy with an older key would be named for that.
    new_keys(&mesh).await;
    let target = Target {
        address: to_echo(&mesh),
        protocol: Protocol::Http1,
        call: get("/"),
        bad_text: None,
    };
    let load = Load::start("replicas", vec![target; 2], Duration::from_millis(20));
    eventually("records are in that log", PATIENCE, async || {
        let batches = logged(&mesh, &first).await;
        match batches > 5 {
            true => Ok(()),
            false => Err(format!("{batches} batches")),
        }
    })
    .await;
    let old = copied(&mesh, &first).await;

    // Killed, again and again for a while: its proxies go to another.
    let before: u64 = others(&mesh, &first).await;
    eventually("another log takes what comes", PATIENCE, async || {
        kill_replica(&mesh, &first);
        let now = others(&mesh, &first).await;
        match now > before + 3 {
            true => Ok(()),
            false => Err(format!("{now} batches after {before}")),
        }
    })
    .await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:#?}", report.failures);
    all_logged(&mesh, &report.ids).await;
    let records = mesh.records(&[]).await;
    let ids: BTreeSet<_> = records
        .iter()
        .map(|record| record["id"].to_string())
        .collect();
    assert_eq!(ids.len(), records.len(), "no record comes twice");
    reeve_tests::assert_gapless(&records);
    found_and_proved(&mesh, &records).await;
    all_noted(&mesh).await;
    mesh.verify_audit().await;
    let shown = mesh.reeve_ok(&["status"]).await.stdout;
    assert!(REPLICAS.iter().all(|name| shown.contains(name)), "{shown}");

    at_rest(&mesh.state.join("audit/checkpoint")).await;
    mesh.kill().await;
    tampered_with(&mesh, &first, &old).await;
}

/// Waits until every answered request is in a log, and no record of a proxy in none.
async fn all_logged(mesh: &Mesh, answered: &[String]) {
    let answered: BTreeSet<String> = answered.iter().cloned().collect();
    eventually("every answered request is in a log", PATIENCE, async || {
        let records = mesh.records(&[]).await;
        let logged = request_ids(&records, "echo-v1-0");
        let missing: Vec<_> = answered.difference(&logged).take(5).collect();
        // The mesh's own records are never at rest: each look at the trail adds one.
        let own = |record: &Value| {
            record["id"]
                .as_str()
                .is_some_and(|id| id.starts_with("reeve."))
        };
        let unlogged = |record: &&Value| record["logged"] == false && !own(record);
        let waiting = records.iter().filter(unlogged).count();
        match missing.is_empty() && waiting == 0 {
            true => Ok(()),
            false => Err(format!("missing: {missing:?}; {waiting} in no log")),
        }
    })
    .await;
}

/// Each log gets a new key, which is on record; the mesh log's old key still leads to all of it.
async fn new_keys(mesh: &Mesh) {
    all_noted(mesh).await;
    let key = mesh.state.join("audit/log.vkey");
    let old = fs::read_to_string(&key).expect("the log's key");
    let said = mesh.reeve_ok(&["audit", "rotate-key"]).await.stdout;
    assert_eq!(said.matches("signed for by").count(), 4, "{said}");
    eventually("the new keys are on record", PATIENCE, async || {
        let records = mesh.records(&["--event", "log_key_rotated"]).await;
        let logs = REPLICAS.iter().filter(|name| {
            let log = format!("mesh.local/audit/{name}+");
            let new = |record: &&Value| record["detail"]["new"].to_string().contains(&log);
            records.iter().any(|record| new(&record))
        });
        match (records.len(), logs.count()) {
            (4, 3) => Ok(()),
            other => Err(format!("{other:?}: {records:#?}")),
        }
    })
    .await;
    mesh.verify_audit_with(&["--key", old.trim()]).await;
}

/// A whole copy of a replica's folder while it runs.
async fn copied(mesh: &Mesh, name: &str) -> PathBuf {
    let old = mesh.state.with_extension("old");
    let folder = mesh.state.join("replicas").join(name);
    eventually("a whole copy of its log", PATIENCE, async || {
        copy_live(&folder, &old);
        let checkpoint = |at: &Path| fs::read(at.join("audit/checkpoint")).unwrap_or_default();
        match checkpoint(&old) == checkpoint(&folder) {
            true => Ok(()),
            false => Err("it grew meanwhile".to_owned()),
        }
    })
    .await;
    old
}

/// What is done to a replica's log is found, and the replica named.
async fn tampered_with(mesh: &Mesh, first: &str, old: &Path) {
    let copy = mesh.state.with_extension("copy");
    let log = copy.join("replicas").join(first);
    let restored = || {
        drop(fs::remove_dir_all(&copy));
        copy_tree(&mesh.state, &copy);
    };
    restored();
    let clean = verify(&copy).await;
    assert_eq!(clean.code, Some(0), "untouched: {}", clean.text());

    fs::remove_dir_all(&log).expect("the folder of a replica");
    named(&verify(&copy).await, first, "is missing");

    restored();
    fs::remove_dir_all(&log).expect("the folder of a replica");
    copy_tree(old, &log);
    named(&verify(&copy).await, first, "says that it had");

    restored();
    let other = REPLICAS
        .iter()
        .find(|name| **name != first)
        .expect("another");
    fs::remove_dir_all(&log).expect("the folder of a replica");
    copy_tree(&copy.join("replicas").join(other), &log);
    named(&verify(&copy).await, first, "is missing");
    drop((fs::remove_dir_all(&copy), fs::remove_dir_all(old)));
}

fn named(outcome: &reeve_tests::Outcome, replica: &str, what: &str) {
    let text = outcome.text();
    assert_eq!(outcome.code, Some(1), "{text}");
    let line = text
        .lines()
        .find(|line| line.contains(replica) && line.contains(what));
    assert!(line.is_some(), "{replica}: {what}: {text}");
}

/// A record of each log that has some is explained and proved, and the proof is of that log.
async fn found_and_proved(mesh: &Mesh, records: &[Value]) {
    let mut logs = 0;
    for name in REPLICAS {
        let folder = format!("/replicas/{name}/");
        let in_it = |record: &&Value| record["place"].to_string().contains(&folder);
        let Some(record) = decisions(records).find(in_it) else {
            continue;
        };
        logs += 1;
        let id = record["id"].as_str().expect("an id");
        let proof = mesh.state.join("proof.json").display().to_string();
        mesh.reeve_ok(&["audit", "prove", id, "--out", &proof])
            .await;
        let text = fs::read_to_string(&proof).expect("a proof");
        assert!(text.contains(&format!("mesh.local/audit/{name}")), "{text}");
        mesh.reeve_ok(&["audit", "check-proof", &proof]).await;
        mesh.reeve_ok(&["audit", "explain", id]).await;
    }
    assert!(logs > 1, "all records are in the same log");
}

/// A copy of what a replica that runs has had; what goes away meanwhile is left out.
fn copy_live(from: &Path, to: &Path) {
    drop(fs::remove_dir_all(to));
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match source.is_dir() {
            true => copy_live(&source, &target),
            false => drop(fs::copy(&source, &target)),
        }
    }
}

/// The replica that takes the records of an instance: its proxy notes it.
async fn home_of(mesh: &Mesh, instance: &str) -> String {
    let wal = mesh.state.join("wal").join(instance);
    eventually("a replica has taken records", PATIENCE, async || {
        let folders = fs::read_dir(&wal).into_iter().flatten().flatten();
        let folders = folders.map(|entry| entry.path()).chain([wal.clone()]);
        let texts = folders.filter_map(|folder| fs::read_to_string(folder.join("shipped")).ok());
        let logs: Vec<Value> = texts
            .filter_map(|text| serde_json::from_str(&text).ok())
            .collect();
        let log = logs
            .iter()
            .find_map(|log| log["log"].as_str()?.rsplit_once("/audit/"));
        log.map(|(_, name)| name.to_owned())
            .ok_or_else(|| format!("{logs:?}"))
    })
    .await
}

/// Kills the process of a replica, if it runs just now.
fn kill_replica(mesh: &Mesh, replica: &str) {
    let folder = mesh
        .state
        .join("replicas")
        .join(replica)
        .display()
        .to_string();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(command) = fs::read(process.path().join("cmdline")) else {
            continue;
        };
        let words: Vec<_> = command.split(|byte| *byte == 0).collect();
        let pid = process.file_name().to_string_lossy().parse().ok();
        if words.get(1..3) == Some(&[b"audit".as_slice(), b"serve"])
            && words.contains(&folder.as_bytes())
            && let Some(pid) = pid.and_then(Pid::from_raw)
        {
            // It may have ended already.
            kill_process(pid, Signal::KILL).unwrap_or_default();
        }
    }
}

async fn facts(mesh: &Mesh) -> Vec<Value> {
    let status = mesh.status().await.unwrap_or_default();
    status["audit"]["replicas"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

async fn logged(mesh: &Mesh, replica: &str) -> u64 {
    let facts = facts(mesh).await;
    let fact = facts.iter().find(|fact| fact["replica"] == replica);
    fact.and_then(|fact| fact["tree_size"].as_u64())
        .unwrap_or(0)
}

async fn others(mesh: &Mesh, replica: &str) -> u64 {
    let facts = facts(mesh).await;
    let others = facts.iter().filter(|fact| fact["replica"] != replica);
    others.filter_map(|fact| fact["tree_size"].as_u64()).sum()
}

async fn all_noted(mesh: &Mesh) {
    let what = "the mesh log has every replica's checkpoint";
    eventually(what, PATIENCE, async || noted(mesh).await).await;
}

/// The mesh log has the checkpoint that each replica has.
async fn noted(mesh: &Mesh) -> Result<(), String> {
    let facts = facts(mesh).await;
    for name in REPLICAS {
        let path = mesh
            .state
            .join("replicas")
            .join(name)
            .join("audit/checkpoint");
        let checkpoint = fs::read_to_string(&path).map_err(|e| format!("{name}: {e}"))?;
        let fact = facts.iter().find(|fact| fact["replica"] == name);
        let noted = fact.and_then(|fact| fact["checkpoint"].as_str());
        if noted != Some(checkpoint.as_str()) {
            return Err(format!(
                "{name} is at another checkpoint than the mesh knows"
            ));
        }
    }
    Ok(())
}
