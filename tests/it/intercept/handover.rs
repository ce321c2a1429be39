//! Captured traffic does not notice that sidecars are replaced.

use std::{path::Path, time::Duration};

use reeve_tests::{Mesh, run};
use serde_json::json;

use super::{LIMIT, namespace, start, virtual_addresses};

/// How long requests are made.
const SECONDS: &str = "20";

async fn load(mesh: &Mesh, address: &str) -> String {
    let (space, script) = (
        namespace(mesh, "client-0"),
        mesh.folder.path().join("client.py").display().to_string(),
    );
    let words = [
        "netns", "exec", &space, "python3", &script, "load", address, "8080", SECONDS,
    ];
    run(Path::new("ip"), &words, &[], 4 * LIMIT).await.text()
}

async fn no_captured_request_fails(mode: &str) {
    let mesh = start(mode, json!({})).await;
    let [four, six] = virtual_addresses(&mesh, "server");
    let replacing = async {
        let mut replaced = 0;
        for round in 0..4 {
            for instance in ["server-0", "client-0"] {
                mesh.reeve_ok(&["proxy", "restart", instance]).await;
                replaced += 1;
            }
            // The first two follow each other at once.
            tokio::time::sleep(Duration::from_secs(2 * round)).await;
        }
        replaced
    };
    let (first, second, replaced) = tokio::join!(load(&mesh, &four), load(&mesh, &six), replacing);
    assert_eq!(replaced, 8);
    for told in [first, second] {
        let words: Vec<&str> = told.split_whitespace().collect();
        let done: u32 = words.get(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        assert!(done > 50 && words.get(3) == Some(&"0"), "{mode}: {told}");
        eprintln!("{mode}: {}", told.trim());
    }
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captured_requests_survive_the_replacement_of_both_sidecars_under_redirect() {
    no_captured_request_fails("redirect").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captured_requests_survive_the_replacement_of_both_sidecars_under_tproxy() {
    no_captured_request_fails("tproxy").await;
}
