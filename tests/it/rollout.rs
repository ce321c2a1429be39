//! Rollouts: a good version gets the traffic step by step and nobody notices; a bad one is taken back by itself.

use std::time::Duration;

use reeve_tests::{
    CLIENT_TO_ECHO, Folder, Load, Mesh, Protocol, Target, echo, local_mesh, permit, service,
    sidecar, strict,
};
use serde_json::{Value, json};

use crate::fixture::{get, settings, to_echo};

/// Comments and order must survive.
const SUBSETS: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec:
  host: echo
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
";

const SPLIT: &str = "\
# who gets what
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: [echo]
  http:
    - route:
        - destination: {host: echo, subset: v1}
          weight: 100 # for now
        - destination: {host: echo, subset: v2}
          weight: 0
";

fn folder(new: Value) -> Folder {
    let workloads = [sidecar("client"), echo("echo-v1", "echo", "v1"), new];
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&workloads))
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", CLIENT_TO_ECHO))
        .with("echo.yaml", SPLIT)
        .with("subsets.yaml", SUBSETS)
}

/// Some 150 requests a second.
fn load(mesh: &Mesh) -> Load {
    let target = |protocol| Target {
        address: to_echo(mesh),
        protocol,
        call: get("/"),
        bad_text: None,
    };
    let targets = [Protocol::Http1, Protocol::Http2, Protocol::Http1].map(target);
    Load::start("rollout", targets.to_vec(), Duration::from_millis(20))
}

async fn split(mesh: &Mesh) -> String {
    let file = mesh.folder.path().join("echo.yaml");
    std::fs::read_to_string(file).expect("the file with the weights")
}

const THRESHOLDS: [&str; 6] = ["--hold", "3s", "--min-requests", "20", "-o", "json"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_version_is_promoted_and_no_request_fails() {
    let mesh = Mesh::start(folder(echo("echo-v2", "echo", "v2"))).await;
    let load = load(&mesh);
    let canary = ["rollout", "canary", "echo", "--from", "v1", "--to", "v2"];
    let steps = ["--steps", "20,60,100"];
    let args = [&canary[..], &steps, &THRESHOLDS].concat();
    let report = mesh.reeve_ok(&args).await.json();
    assert_eq!(report["promoted"], true, "{report:#}");
    let steps = report["steps"].as_array().expect("steps");
    let weights: Vec<_> = steps.iter().map(|s| s["weights"].clone()).collect();
    assert_eq!(weights, [json!([80, 20]), json!([40, 60]), json!([0, 100])]);
    for step in steps {
        assert_eq!(step["failures"], 0, "{step:#}");
        assert!(step["requests"].as_u64() >= Some(20), "{step:#}");
        assert!(
            step["p99_ms"].as_f64() > step["p50_ms"].as_f64(),
            "{step:#}"
        );
    }

    // Blue/green, back to where it was.
    let back = [
        "rollout",
        "blue-green",
        "echo",
        "--from",
        "v2",
        "--to",
        "v1",
    ];
    let report = mesh
        .reeve_ok(&[&back[..], &THRESHOLDS].concat())
        .await
        .json();
    assert_eq!(report["after"], json!([0, 100]), "{report:#}");
    assert_eq!(split(&mesh).await, SPLIT, "comments and order stay");

    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    println!("{} requests, none failed", report.ok);
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_version_is_taken_back_by_itself() {
    let mut faulty = echo("echo-v2", "echo", "v2");
    faulty["env"]["FAULTY"] = json!("1");
    let mesh = Mesh::start(folder(faulty)).await;
    let load = load(&mesh);
    let file = mesh.folder.path().with_extension("report.json");
    let canary = ["rollout", "canary", "echo", "--from", "v1", "--to", "v2"];
    let report = ["--report", file.to_str().expect("a path")];
    let args = [&canary[..], &report, &THRESHOLDS].concat();
    let outcome = mesh.reeve(&args).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let report = outcome.json();
    let written = std::fs::read(&file).expect("the report");
    assert_eq!(
        serde_json::from_slice::<Value>(&written).expect("JSON"),
        report
    );
    assert_eq!(report["promoted"], false);
    assert_eq!(report["after"], json!([100, 0]), "{report:#}");
    assert_eq!(
        report["steps"].as_array().map(Vec::len),
        Some(1),
        "{report:#}"
    );
    let reason = report["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("0.00 % of"), "{reason}");
    assert_eq!(split(&mesh).await, SPLIT);

    let (_, failed) = load.so_far();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = load.stop().await;
    assert_eq!(report.failed, failed, "nobody is sent there any more");
    // 5 % of the requests of some ten seconds.
    assert!((20..200).contains(&failed), "{failed} failed");
    println!("{failed} of {} requests failed", report.ok + failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_rolled_out_is_told_with_what_to_write() {
    let mesh = Mesh::start(folder(echo("echo-v2", "echo", "v2"))).await;
    let canary = ["rollout", "canary", "echo", "--from", "v1", "--to", "v3"];
    let outcome = mesh.reeve(&canary).await;
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(
        outcome.stderr.contains("subset: v3}, weight: 0}"),
        "{outcome:?}"
    );
    let steps = ["--steps", "50,20,100"];
    let outcome = mesh.reeve(&[&canary[..], &steps].concat()).await;
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("must grow"), "{outcome:?}");
}

/// Every request goes to v1, and a copy of it to v2.
const MIRRORED: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: [echo]
  http:
    - route: [{destination: {host: echo, subset: v1}}]
      mirrors: [{destination: {host: echo, subset: v2}}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_versions_are_judged_on_the_same_requests_and_twice_alike() {
    let mut faulty = echo("echo-v2", "echo", "v2");
    faulty["env"]["FAULTY"] = json!("1");
    let mesh = Mesh::start(folder(faulty).with("echo.yaml", MIRRORED)).await;
    let none = mesh.reeve(&["compare", "echo-v1", "echo-v2"]).await;
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(none.stdout.contains("too few to say"), "{none:?}");

    let load = load(&mesh);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let sent = load.stop().await;
    assert_eq!(sent.failed, 0, "{:?}", sent.failures);
    tokio::time::sleep(Duration::from_secs(1)).await;

    let json = |a, b| ["compare", a, b, "--since", "60s", "-o", "json"];
    let broken = mesh.reeve(&json("echo-v1", "echo-v2")).await;
    assert_eq!(broken.code, Some(1), "{broken:?}");
    let report = broken.json();
    assert_eq!(report["verdict"], "fails_more", "{report:#}");
    assert_eq!(report["mended"], 0);
    let pairs = report["pairs"].as_u64().expect("pairs");
    assert_eq!(report["broken"].as_u64(), Some(pairs), "{report:#}");
    assert_eq!(report["statuses"]["200"]["500"].as_u64(), Some(pairs));
    // Copies may be dropped when there is no room for them; no more than a few here.
    assert!(pairs * 10 >= sent.ok * 9, "{pairs} of {}", sent.ok);

    let mended = mesh.reeve_ok(&json("echo-v2", "echo-v1")).await.json();
    assert_eq!(mended["verdict"], "fails_less", "{mended:#}");
    let window = |end: &str| mended["window"][end].as_u64().expect("a time") / 1000;
    let (since, until) = (
        window("since").to_string(),
        (window("until") + 1).to_string(),
    );
    let exact = ["--since", &since, "--until", &until];
    let again = [&["compare", "echo-v2", "echo-v1", "-o", "json"][..], &exact].concat();
    let first = mesh.reeve_ok(&again).await.json();
    assert_eq!(
        first,
        mesh.reeve_ok(&again).await.json(),
        "the same way twice"
    );
    println!("{pairs} pairs of {} requests", sent.ok);
}
