//! While one sidecar process takes over from another, both are recorded at once.

use std::time::{Duration, Instant};

use reeve_tests::{Connection, Mesh, Protocol, eventually};
use serde_json::json;

use crate::fixture::{client_and_echo, get, to_echo};

/// A new process numbers its workers from here, or the one before it did.
const SECOND_BANK: u64 = 64;
/// From an answer to its record in the log: the time that records wait for a batch (250 ms), twice, and a busy machine.
const SOON: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_new_process_is_recorded_while_the_old_one_still_serves() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    let before = mesh.instance("echo-v1-0").sidecar_pid.expect("a sidecar");
    let first = first_epoch(&mesh).await;
    // Keeps the old process for as long as the stream is read.
    let mut held = Connection::open(to_echo(&mesh), Protocol::Http1)
        .await
        .expect("a connection");
    let mut stream = held.stream(&get("/stream/50")).await.expect("a stream");
    stream.next().await.expect("a line");
    mesh.reeve_ok(&["proxy", "restart", "echo-v1"]).await;
    assert!(reeve_tests::alive(before), "it finishes what is open");

    let mut slowest = Duration::ZERO;
    for number in 0..3 {
        let id = format!("soon-{number}");
        let call = get("/").header("x-request-id", &id);
        assert_eq!(call.status(to_echo(&mesh)).await, Ok(200));
        let began = Instant::now();
        let record = loop {
            let args = ["--since", "1m"];
            let records = mesh.records(&args).await;
            let found = records
                .into_iter()
                .find(|r| r["kind"] == "decision" && r["request_id"] == id.as_str());
            match found {
                Some(record) => break record,
                None => assert!(began.elapsed() < 5 * SOON, "{id} is not in the log"),
            }
        };
        slowest = slowest.max(began.elapsed());
        let of: Vec<&str> = record["id"].as_str().expect("an id").split('/').collect();
        let worker: u64 = of[2].parse().expect("a worker");
        let epoch: u64 = of[1].parse().expect("an epoch");
        assert!(epoch == first + 1 && worker >= SECOND_BANK, "{record}");
    }
    assert!(slowest < 2 * SOON, "the slowest took {slowest:?}");
    assert!(reeve_tests::alive(before), "all the while");
    stream.next().await.expect("a line of the stream");
    mesh.verify_audit().await;

    drop((stream, held));
    eventually(
        "the old process ends",
        Duration::from_secs(20),
        async || {
            if reeve_tests::alive(before) {
                Err("it runs".to_owned())
            } else {
                Ok(())
            }
        },
    )
    .await;
    mesh.record("what the old process said last is in the log", |record| {
        record["event"] == "stopped"
            && record["id"]
                .as_str()
                .is_some_and(|id| id.starts_with(&format!("echo-v1-0/{first}/0/")))
    })
    .await;
    // Once more: the first numbers are free again.
    mesh.reeve_ok(&["proxy", "restart", "echo-v1"]).await;
    assert_eq!(get("/").status(to_echo(&mesh)).await, Ok(200));
    mesh.record("the third process", |record| {
        record["event"] == "started"
            && record["id"]
                .as_str()
                .is_some_and(|id| id.starts_with(&format!("echo-v1-0/{}/0/", first + 2)))
    })
    .await;
    mesh.verify_audit().await;
}

/// The number of the first process' run.
async fn first_epoch(mesh: &Mesh) -> u64 {
    let record = mesh
        .record("the first process has begun", |record| {
            record["event"] == "started"
                && record["id"]
                    .as_str()
                    .is_some_and(|id| id.starts_with("echo-v1-0/"))
        })
        .await;
    let id = record["id"].as_str().expect("an id");
    let epoch = id.split('/').nth(1).expect("an epoch");
    epoch.parse().expect("a number")
}
