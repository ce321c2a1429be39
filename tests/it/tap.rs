//! `reeve tap` shows live traffic to the operator, without secrets, and the audit log says that somebody looked.

use std::time::Duration;

use reeve_tests::{Call, Mesh, binary, echo, eventually, local_mesh, sidecar};
use serde_json::json;

use crate::fixture::{CLIENT, client_and_echo, get, settings, to_echo};

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

const BODY: &str = r#"{"password":"hunter2","plain":"shown"}"#;

async fn post_body(mesh: &Mesh) {
    let call = Call::post("echo:9080", "/body", BODY).header("content-type", "application/json");
    assert_eq!(call.status(to_echo(mesh)).await, Ok(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_shown_where_configuration_says_so_and_without_secrets() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    let args = [
        "tap", "client", "--body", "--max", "3", "--for", "20s", "-o", "json",
    ];
    let refused = mesh.reeve(&args).await;
    assert_eq!(refused.code, Some(2), "{}", refused.text());
    assert!(
        refused.text().contains("MeshConfig.spec.tap"),
        "{}",
        refused.text()
    );
    mesh.record("the refusal is in the record", |record| {
        record["event"] == "tap_refused" && record["detail"]["reason"] != ""
    })
    .await;

    let bodies = settings(json!({"tap": {"mode": "BODIES"}}));
    mesh.apply("mesh.yaml", &bodies).await;
    let asking = async {
        for _ in 0..40 {
            post_body(&mesh).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (tapped, ()) = tokio::join!(mesh.reeve(&args), asking);
    assert_eq!(tapped.code, Some(0), "{}", tapped.text());
    assert!(!tapped.stdout.contains("hunter2"), "{}", tapped.stdout);
    // The first may have been under way when the tap was opened.
    let events = tapped.json_lines();
    let event = events.last().expect("requests");
    let redacted = r#"{"password":"[redacted]","plain":"shown"}"#;
    assert_eq!(event["request_body"]["text"], redacted, "{event}");
    assert_eq!(event["request_body"]["bytes"], BODY.len());
    // The echo calls it gRPC, which is only counted.
    assert_eq!(event["response_body"]["hidden"], "binary", "{event}");

    // A tap that is open ends when configuration takes the right away.
    let open = ["tap", "client", "--for", "30s"];
    let closing = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let none = settings(json!({"tap": {"mode": "BODIES", "namespaces": {"default": "NONE"}}}));
        mesh.apply("mesh.yaml", &none).await;
    };
    let began = std::time::Instant::now();
    let (ended, ()) = tokio::join!(mesh.reeve(&open), closing);
    assert_eq!(ended.code, Some(1), "nothing came by: {}", ended.text());
    assert!(began.elapsed() < Duration::from_secs(25), "it ended early");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_may_not_tap() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    // It runs as the operator's user, and can reach the admin sockets.
    let script = "while ! \"$REEVE\" tap --for 200ms > \"$OUT\" 2>&1; do sleep 0.1; \
         grep -q 'only the mesh' \"$OUT\" && sleep 1000; done";
    let out = std::env::temp_dir().join(format!("rv-tap-{}", std::process::id()));
    let spy = json!({
        "name": "spy", "serviceAccount": "spy", "labels": {"app": "spy"},
        "command": ["sh", "-c", script],
        "env": {"REEVE": binary("reeve"), "OUT": out, "REEVE_STATE": mesh.state},
    });
    let workloads = [sidecar("client"), echo("echo-v1", "echo", "v1"), spy];
    mesh.apply("workloads.yaml", local_mesh(&workloads)).await;
    mesh.record("the attempt is in the record", |record| {
        record["event"] == "tap_refused"
            && record["detail"]["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("belongs to spy-0"))
    })
    .await;
    let told = std::fs::read_to_string(&out).expect("what the spy saw");
    assert!(told.contains("only the mesh's operator may tap"), "{told}");
    std::fs::remove_file(&out).expect("its removal");
}
