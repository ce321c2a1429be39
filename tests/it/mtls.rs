//! Point 2: STRICT refuses plaintext; PERMISSIVE serves it and records it as unauthenticated.

mod fixture;
mod guide;
mod lock;
mod many;
mod migration;

use reeve_tests::{Mesh, permit};
use serde_json::json;

use crate::fixture::{client_and_echo, get, to_echo};

const ANYBODY_TO_ECHO: &str = r#"permit (
  principal == Unauthenticated::"unauthenticated",
  action == Action::"GET",
  resource in Service::"echo.default.svc.cluster.local"
);"#;

const PERMISSIVE: &str = "\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: default}
spec: {mtls: {mode: PERMISSIVE}}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_refuses_plaintext_and_permissive_serves_and_records_it() {
    // Plaintext is permitted by policy throughout: what refuses it under STRICT is the mode alone.
    let folder =
        client_and_echo(json!({})).with("anybody.yaml", permit("anybody", ANYBODY_TO_ECHO));
    let mesh = Mesh::start(folder).await;
    let inbound = mesh.inbound("echo-v1-0", 9080);

    let refused = get("/strict")
        .header("x-request-id", "plain-1")
        .send(inbound)
        .await;
    assert!(refused.is_err(), "plaintext was answered: {refused:?}");
    assert!(
        !mesh.log("echo-v1-0.app.log").contains("/strict"),
        "plaintext reached the application"
    );
    mesh.record("the refusal is recorded", |record| {
        let text = record.to_string();
        text.contains("plaintext_refused") && text.contains("echo-v1-0")
    })
    .await;
    // mTLS goes on.
    let served = get("/mtls")
        .header("x-request-id", "mtls-1")
        .send(to_echo(&mesh))
        .await;
    assert_eq!(served.expect("an answer").status, 200);
    let record = mesh.decision_on("mtls-1", "echo-v1-0").await;
    assert_eq!(
        record["request"]["principal"],
        json!({"workload": crate::fixture::CLIENT})
    );
    assert_eq!(record["authenticated_by"], "mtls");
    assert_eq!(record["request"]["context"]["mtls"], true);
    assert_eq!(record["mtls_mode"], "STRICT");

    mesh.apply("strict.yaml", PERMISSIVE).await;
    let served = get("/permissive")
        .header("x-request-id", "plain-2")
        .send(inbound)
        .await;
    assert_eq!(served.expect("an answer").status, 200);
    let record = mesh.decision_on("plain-2", "echo-v1-0").await;
    assert_eq!(record["request"]["principal"], "unauthenticated");
    assert_eq!(record["authenticated_by"], "nothing");
    assert_eq!(record["request"]["context"]["mtls"], false);
    assert_eq!(record["strict_would_refuse"], true);
    assert_eq!(record["mtls_mode"], "PERMISSIVE");
    let flipped = mesh
        .record("the flip", |record| record["event"] == "mtls_mode_changed")
        .await;
    let detail = &flipped["detail"];
    assert_eq!(
        (&detail["from"], &detail["to"]),
        (&json!("STRICT"), &json!("PERMISSIVE")),
        "{flipped}"
    );
    assert!(
        detail["ports"]
            .as_str()
            .is_some_and(|ports| ports.contains("default/echo")),
        "{flipped}"
    );

    // And back: an open plaintext connection ends, a new one is refused.
    mesh.apply("strict.yaml", reeve_tests::strict()).await;
    let refused = get("/strict").send(inbound).await;
    assert!(refused.is_err(), "plaintext was answered: {refused:?}");
    mesh.verify_audit().await;
}
