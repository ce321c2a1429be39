//! A sidecar without a file descriptor to spare: it waits, tells once, counts, and serves again when there are some.

use std::{fs, time::Duration};

use reeve_tests::{Call, Mesh, eventually};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use tokio::{net::TcpStream, time::sleep};

use crate::fixture::{client_and_echo, get, to_echo};

const LIMIT: Duration = Duration::from_secs(20);
/// How long there are none.
const DEARTH: Duration = Duration::from_secs(4);

/// Lets the process have no more descriptors than it has, and a few; gives what it was allowed before.
fn starve(pid: i32) -> Rlimit {
    let open = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("its descriptors")
        .count();
    let pid = Pid::from_raw(pid).expect("a process");
    let few = Rlimit {
        current: Some(open as u64 + 2),
        maximum: None,
    };
    let before = rustix::process::getrlimit(Resource::Nofile);
    let few = Rlimit {
        maximum: before.maximum,
        ..few
    };
    prlimit(Some(pid), Resource::Nofile, few).expect("a limit");
    before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_a_sidecar_waits_warns_once_and_serves_when_there_are_some() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    let address = to_echo(&mesh);
    assert_eq!(get("/").status(address).await, Ok(200));
    let sidecar = mesh.instance("client-0").sidecar_pid.expect("a sidecar");
    let before = starve(sidecar);

    let mut callers = Vec::new();
    for _ in 0..40 {
        callers.push(
            TcpStream::connect(address)
                .await
                .expect("the kernel's queue"),
        );
    }
    sleep(DEARTH).await;
    let log = mesh.log("client-0.sidecar.log");
    let warnings = log.matches("connections cannot be accepted").count();
    drop(callers);
    let pid = Pid::from_raw(sidecar).expect("a process");
    prlimit(Some(pid), Resource::Nofile, before).expect("the limit of before");
    assert_eq!(warnings, 1, "{log}");

    eventually("requests pass again", LIMIT, async || {
        match get("/").status(address).await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let metrics = mesh.inbound("client-0", 15020);
    let page = Call::get("metrics", "/stats/prometheus")
        .send(metrics)
        .await;
    let page = page.expect("metrics").text();
    let failed: u64 = page
        .lines()
        .find_map(|l| l.strip_prefix("reeve_accept_failures_total{reason=\"descriptors\"} "))
        .and_then(|count| count.parse().ok())
        .expect("a count");
    assert!((1..200).contains(&failed), "{failed} tries in {DEARTH:?}");
}
