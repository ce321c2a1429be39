//! Point 5: certificates of 10 s rotate under load, and nobody notices.

use std::{collections::BTreeMap, time::Duration};

use reeve_tests::{Call, Folder, Load, Mesh, Protocol, Target};

const RUN: Duration = Duration::from_secs(60);
const ROTATIONS: u64 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_ten_seconds_rotate_under_load_and_no_request_fails() {
    let folder = Folder::bookinfo();
    let settings = folder
        .read("mesh.yaml")
        .replace("certificateTtl: 60s", "certificateTtl: 10s");
    assert!(settings.contains("certificateTtl: 10s"), "{settings}");
    folder.write("mesh.yaml", settings);
    let mesh = Mesh::start(folder).await;

    let page = Target {
        address: mesh.inbound("ingress-0", 8080),
        protocol: Protocol::Http1,
        call: Call::get("bookinfo.example", "/productpage"),
        bad_text: Some("unavailable"),
    };
    let before = rotations(&mesh).await;
    let load = Load::start("rotation", vec![page; 4], Duration::from_millis(20));
    tokio::time::sleep(RUN).await;
    let report = load.stop().await;
    let after = rotations(&mesh).await;

    println!(
        "{} requests, p50 {:?}, p99 {:?}",
        report.ok,
        report.percentile(0.5),
        report.percentile(0.99)
    );
    assert_eq!(report.failed, 0, "{:#?}", report.failures);
    assert!(report.ok > 1000, "too little traffic: {}", report.ok);
    assert_eq!(before.len(), 9, "{before:?}");
    for (instance, count) in &after {
        let rotated = count - before.get(instance).copied().unwrap_or_default();
        assert!(
            rotated >= ROTATIONS,
            "{instance} rotated {rotated} times: {after:?}"
        );
    }
    mesh.verify_audit().await;
}

/// Instance → how often its certificate has been replaced, from its sidecar's metrics.
async fn rotations(mesh: &Mesh) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for instance in mesh.instances().expect("instances") {
        let address = mesh.inbound(&instance.name, 15020);
        let answer = Call::get("metrics", "/stats/prometheus")
            .send(address)
            .await
            .expect("metrics");
        let text = answer.text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("reeve_certificate_rotations "));
        let count: f64 = line
            .unwrap_or_else(|| panic!("no rotations in the metrics of {}", instance.name))
            .trim()
            .parse()
            .expect("a number");
        counts.insert(instance.name, count as u64);
    }
    counts
}
