//! Junk: thousands of connections a second without any identity, at a sidecar that serves; it costs nobody with a permit
//! an answer, and no answer its record.

use std::{collections::BTreeSet, time::Duration};

use reeve_tests::{Call, Junk, Load, Mesh, Protocol, Target, eventually, request_ids};
use serde_json::json;

use crate::{
    fixture::{client_and_echo, get, to_echo},
    hostile::ALPN_H2,
};

const RUN: Duration = Duration::from_secs(12);
/// What is thrown per second, and the least of it that must have arrived: two cores run both ends of it, with whatever
/// else they run, and no machine must be fast for a test to pass. docs/limits.md has what was measured.
const WANTED: u32 = 10_000;
const LEAST: f64 = 2000.0;
/// Refusals of strangers that may have records of their own.
const MAX_REFUSALS: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_costs_no_permitted_request_its_answer_or_its_record() {
    // Certificates that rotate meanwhile: new connections of the mesh must come through the flood too.
    let settings = json!({"certificateTtl": "10s"});
    let mesh = Mesh::start(client_and_echo(settings)).await;
    let ask = |protocol| Target {
        address: to_echo(&mesh),
        protocol,
        call: get("/"),
        bad_text: None,
    };
    let targets = vec![
        ask(Protocol::Http1),
        ask(Protocol::Http1),
        ask(Protocol::Http2),
    ];
    let door = mesh.inbound("echo-v1-0", 9080);
    let before = mesh.instance("echo-v1-0").sidecar_pid;

    let junk = Junk::start(door, ALPN_H2, WANTED, 2);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let load = Load::start("junk", targets, Duration::from_millis(5));
    tokio::time::sleep(RUN).await;
    let report = load.stop().await;
    let thrown = junk.stop();

    let metrics = Call::get("metrics", "/stats/prometheus");
    let metrics = metrics.send(mesh.inbound("echo-v1-0", 15020)).await;
    let metrics = metrics.expect("metrics").text();
    println!(
        "{:.0} junk connections/s ({} made, {} not); {} requests answered, {} failed, p50 {:?}, p99 {:?}",
        thrown.per_second,
        thrown.made,
        thrown.failed,
        report.ok,
        report.failed,
        report.percentile(0.5),
        report.percentile(0.99)
    );
    assert_eq!(report.failures.len(), 0, "{:#?}", report.failures);
    assert_eq!(report.failed, 0);
    assert!(report.ok > 300, "too little traffic: {}", report.ok);
    assert!(thrown.per_second > LEAST, "too little junk: {thrown:?}");
    assert_eq!(
        mesh.instance("echo-v1-0").sidecar_pid,
        before,
        "the proxy died"
    );
    let count = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.trim().parse::<u64>().ok());
        number.unwrap_or_else(|| panic!("no {name} in {metrics}"))
    };
    let cut = count(r#"reeve_limit_hits_total{limit="max_unproven_per_listener"}"#);
    let failed = count(r#"reeve_tls_handshake_failures_total{side="server"}"#);
    let refused = count(r#"reeve_decisions_total{effect="deny",reason="plaintext_refused"}"#);
    println!("{cut} cut, {failed} handshakes failed, {refused} refusals recorded one by one");
    assert!(cut > 1000 && failed > 1000, "the flood filled no room");
    assert!(refused < MAX_REFUSALS, "{refused} records of refusals");

    let answered: BTreeSet<_> = report.ids.iter().cloned().collect();
    eventually(
        "every answered request is in the log",
        Duration::from_secs(30),
        async || {
            let logged = request_ids(&mesh.records(&[]).await, "echo-v1-0");
            let missing: Vec<_> = answered.difference(&logged).take(5).collect();
            if missing.is_empty() {
                return Ok(());
            }
            Err(format!("answered, and not in the log: {missing:?}"))
        },
    )
    .await;
    mesh.verify_audit().await;
}
