//! `reeve tap` shows live traffic to the operator, without secrets, and the audit log says that somebody looked.

use std::time::Duration;

use reeve_tests::{Mesh, eventually};
use serde_json::json;

use crate::fixture::{CLIENT, client_and_echo, get, to_echo};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_shows_requests_without_secrets_and_is_recorded() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    let address = to_echo(&mesh);
    let asking = async {
        // Long enough for the tap to be open at some of them.
        for _ in 0..40 {
            let call = get("/tapped?key=hunter2")
                .header("authorization", "Bearer hunter2")
                .header("x-shown", "yes");
            assert!(call.status(address).await.is_ok());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let args = [
        "tap", "echo-v1", "--path", "/tapped", "--max", "3", "--for", "20s", "-o", "json",
    ];
    let (tapped, ()) = tokio::join!(mesh.reeve(&args), asking);
    assert_eq!(tapped.code, Some(0), "{}", tapped.text());
    assert!(!tapped.stdout.contains("hunter2"), "{}", tapped.stdout);
    let events = tapped.json_lines();
    assert_eq!(events.len(), 3, "{}", tapped.stdout);
    for event in &events {
        assert_eq!(event["instance"], "echo-v1-0");
        assert_eq!(event["path"], "/tapped");
        assert_eq!(event["peer"], CLIENT);
        assert_eq!(event["request_headers"]["authorization"], "[redacted]");
        assert_eq!(event["request_headers"]["x-shown"], "yes");
        assert!(
            event["response_headers"]["content-type"].is_string(),
            "{event}"
        );
        assert!(event["decision_id"].is_string(), "{event}");
    }
    eventually(
        "the audit log says so",
        Duration::from_secs(20),
        async || {
            let told = mesh.reeve(&["audit", "query", "-o", "json"]).await;
            let both = ["tap_started", "tap_ended"]
                .iter()
                .all(|e| told.stdout.contains(e));
            if both { Ok(()) } else { Err(told.text()) }
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_with_nothing_to_show_says_so() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    let nothing = mesh.reeve(&["tap", "--denied", "--for", "500ms"]).await;
    assert_eq!(nothing.code, Some(1), "{}", nothing.text());
    let nobody = mesh.reeve(&["tap", "nobody"]).await;
    assert_eq!(nobody.code, Some(2), "{}", nobody.text());
}
