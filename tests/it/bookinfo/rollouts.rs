//! `reeve rollout` on Bookinfo, under visitors: a bad canary is taken back, blue/green loses no request.

use std::time::Duration;

use reeve_tests::{Load, Mesh, Protocol, Target};
use serde_json::json;

use super::{ingress, reviews, routes};

/// The answers of reviews v3 are errors.
fn folder() -> reeve_tests::Folder {
    let folder = super::folder();
    let workloads = folder.read("workloads.yaml");
    let (before, rest) = workloads.split_once("    - name: reviews-v3").expect("v3");
    let after = rest.find("    - name:").expect("the next workload");
    let mut bad = reeve_tests::echo("reviews-v3", "reviews", "v3");
    bad["env"]["FAULTY"] = json!("1");
    bad["serviceAccount"] = json!("bookinfo-reviews");
    let text = format!("{before}    - {bad}\n{}", &rest[after..]);
    folder
        .with("workloads.yaml", text)
        .with("VirtualService-reviews.yaml", split("v1", "v3"))
}

fn split(from: &str, to: &str) -> String {
    let share = |version: &str, weight: u32| json!({"destination": {"host": "reviews", "subset": version}, "weight": weight});
    routes(
        "reviews",
        &json!([{"route": [share(from, 100), share(to, 0)]}]),
    )
}

/// Some 150 visits a second.
fn visitors(mesh: &Mesh, name: &str) -> Load {
    let target = Target {
        address: ingress(mesh),
        protocol: Protocol::Http1,
        call: reviews(),
        bad_text: Some("error"),
    };
    Load::start(name, vec![target; 3], Duration::from_millis(20))
}

const THRESHOLDS: [&str; 6] = ["--hold", "2s", "--min-requests", "10", "-o", "json"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_canary_is_taken_back_and_blue_green_loses_no_visitor() {
    let mut mesh = Mesh::start(folder()).await;
    let before = mesh.folder.read("VirtualService-reviews.yaml");
    let load = visitors(&mesh, "canary");
    let canary = ["rollout", "canary", "reviews", "--from", "v1", "--to", "v3"];
    let steps = ["--steps", "20,50,100"];
    let outcome = mesh
        .reeve(&[&canary[..], &steps, &THRESHOLDS].concat())
        .await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let report = outcome.json();
    assert_eq!(report["promoted"], false, "{report:#}");
    assert_eq!(report["after"], json!([100, 0]), "{report:#}");
    assert_eq!(mesh.folder.read("VirtualService-reviews.yaml"), before);
    let canary = load.stop().await;
    assert!(canary.failed > 0, "never asked the new version: {report:#}");

    mesh.apply("VirtualService-reviews.yaml", split("v1", "v2"))
        .await;
    let load = visitors(&mesh, "blue-green");
    let switch = [
        "rollout",
        "blue-green",
        "reviews",
        "--from",
        "v1",
        "--to",
        "v2",
    ];
    let report = mesh
        .reeve_ok(&[&switch[..], &THRESHOLDS].concat())
        .await
        .json();
    assert_eq!(report["promoted"], true, "{report:#}");
    assert_eq!(report["after"], json!([0, 100]), "{report:#}");
    let green = load.stop().await;
    assert_eq!(green.failed, 0, "{:?}", green.failures);
    println!(
        "canary: {} of {} failed; blue/green: none of {}",
        canary.failed,
        canary.ok + canary.failed,
        green.ok
    );
    mesh.verify_audit().await;
    mesh.stop().await;
}
