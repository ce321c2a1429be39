//! `reeve proxy-config` shows what is in force in a sidecar, and no private key.

use std::time::Duration;

use reeve_tests::{Mesh, eventually};
use serde_json::json;

use crate::fixture::{CLIENT, client_and_echo, get, to_echo};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_tells_what_is_in_force() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    let pc = async |what: &str, rest: &[&str]| {
        let args = [&["proxy-config", what], rest].concat();
        mesh.reeve(&args).await
    };

    let table = pc("listeners", &["echo-v1-0"]).await;
    let row = table.stdout.lines().find(|line| line.contains("inbound"));
    let row = row.unwrap_or_else(|| panic!("no inbound listener: {}", table.text()));
    assert!(
        row.contains(":9080") && row.contains("STRICT") && row.contains("enforced"),
        "{row}"
    );
    let clusters = pc("clusters", &["client-0", "--name", "echo"]).await;
    assert!(
        clusters
            .stdout
            .contains("spiffe://mesh.local/ns/default/sa/echo"),
        "{}",
        clusters.text()
    );
    let endpoints = pc("endpoints", &["client-0", "--name", "echo", "-o", "json"]).await;
    assert_eq!(endpoints.json()[0]["instance"], "echo-v1-0");
    let routes = pc("routes", &["client-0", "--name", "9080"]).await;
    assert!(
        routes
            .stdout
            .contains("echo.default.svc.cluster.local:9080"),
        "{}",
        routes.text()
    );
    let policies = pc("policies", &["echo-v1-0"]).await;
    assert!(
        policies.stdout.contains("client-to-echo"),
        "{}",
        policies.text()
    );

    let nothing = pc("endpoints", &["client-0", "--name", "nowhere"]).await;
    assert_eq!(nothing.code, Some(1), "{}", nothing.text());
    let nobody = pc("listeners", &["nobody-0"]).await;
    assert_eq!(nobody.code, Some(2), "{}", nobody.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_shown_and_keys_are_not() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    let secrets = mesh
        .reeve_ok(&["proxy-config", "secrets", "client-0", "-o", "json"])
        .await
        .json();
    let of = |name: &str| {
        let all = secrets["secrets"].as_array().expect("a list");
        all.iter()
            .filter(|s| s["name"] == name)
            .cloned()
            .collect::<Vec<_>>()
    };
    let chain = of("default");
    assert_eq!(chain[0]["uris"], json!([CLIENT]));
    assert!(chain.iter().all(|s| s["valid"] == true), "{chain:?}");
    assert_eq!(of("ROOTCA").len(), 1);

    let all = mesh
        .reeve_ok(&["proxy-config", "all", "client-0", "-o", "json"])
        .await
        .stdout
        .to_lowercase();
    for word in ["private key", "pkcs8", "-----begin", "secret_key"] {
        assert!(!all.contains(word), "{word} is shown");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_level_changes_while_the_sidecar_runs() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    let log = async |rest: &[&str]| {
        mesh.reeve(&[&["proxy-config", "log", "client-0"], rest].concat())
            .await
    };
    assert!(log(&[]).await.stdout.contains("info"));
    let refused = log(&["--level", "reeve_proxy=loud"]).await;
    assert_eq!(refused.code, Some(1), "{}", refused.text());
    assert!(
        refused.stderr.contains("reeve_proxy=loud"),
        "{}",
        refused.text()
    );
    let set = log(&["--level", "info,h2=trace", "-o", "json"]).await;
    assert!(
        set.json()["filter"]
            .as_str()
            .is_some_and(|f| f.contains("h2=trace"))
    );
    assert_eq!(get("/").status(to_echo(&mesh)).await, Ok(200));
    // The sidecar ships its records over HTTP/2 every second.
    eventually("HTTP/2 is told of", Duration::from_secs(10), async || {
        let told = mesh.reeve_ok(&["logs", "client", "--internal"]).await;
        let found = told.stdout.contains("\"h2::");
        found.then_some(()).ok_or_else(|| told.text())
    })
    .await;
}
