//! End users are in the groups that a claim of their verified token names, if it is of the issuer that the schema names.

use reeve_tests::{Mesh, Signer, Token, permit};
use serde_json::json;

use super::{AUDIENCE, ISSUER};
use crate::fixture::{client_and_echo, get, to_echo};

const OTHER_ISSUER: &str = "https://other.example";

const SCHEMA: &str = r#"apiVersion: reeve.dev/v1alpha1
kind: AccessSchema
metadata: { name: users, namespace: reeve-system }
spec:
  cedar: |
    entity Department;
    @claim("groups") @issuer("https://issuer.example") entity Group in [Department];
    entity User in [Group];
---
apiVersion: reeve.dev/v1alpha1
kind: AccessEntities
metadata: { name: users, namespace: reeve-system }
spec:
  entities:
  - uid: Group::"editors"
    parents: [Department::"press"]
"#;

const PRESS_ONLY: &str = r#"@id("press")
permit (principal, action == Action::"GET", resource in Service::"echo.default.svc.cluster.local")
when { context has user && context.user in Department::"press" };"#;

fn request_authentication(jwks: &serde_json::Value) -> String {
    let rule =
        |issuer| json!({"issuer": issuer, "audiences": [AUDIENCE], "jwks": jwks.to_string()});
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "echo", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "echo"}},
            "jwtRules": [rule(ISSUER), rule(OTHER_ISSUER)],
        },
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_user_is_in_the_groups_of_their_verified_token() {
    let signer = Signer::new("key-1");
    let folder = client_and_echo(json!({}))
        .with("schema.yaml", SCHEMA)
        .with("tokens.yaml", request_authentication(&signer.jwks()))
        .with("access.yaml", permit("echo", PRESS_ONLY));
    let mesh = Mesh::start(folder).await;
    let token = |issuer: &str, groups: serde_json::Value| {
        let token = Token::new(issuer, "alice", AUDIENCE, 600).claim("groups", groups);
        format!("Bearer {}", signer.sign(&token))
    };
    for (issuer, groups, status) in [
        (ISSUER, json!(["staff", "editors"]), 200),
        (ISSUER, json!(["staff"]), 403),
        (OTHER_ISSUER, json!(["editors"]), 403),
        (ISSUER, json!(["press"]), 403),
    ] {
        let call = get("/").header("authorization", &token(issuer, groups.clone()));
        let got = call.status(to_echo(&mesh)).await.expect("an answer");
        assert_eq!(got, status, "{issuer} {groups}");
    }
    let got = get("/").status(to_echo(&mesh)).await.expect("an answer");
    assert_eq!(got, 403, "nobody");
    // The record holds the claim that the groups come from.
    let record = mesh
        .record("the editor's request", |record| {
            record["decision"]["effect"] == "allow"
        })
        .await;
    let claims = &record["request"]["user"]["claims"]["groups"];
    assert_eq!(*claims, json!(["editors", "staff"]), "{record}");
    mesh.verify_audit().await;
}
