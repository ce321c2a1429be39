//! What callers are told who may not: little, in the words of their protocol.

use std::collections::BTreeSet;

use reeve_tests::{Call, Connection, Mesh, Protocol, Signer, permit};
use serde_json::{Value, json};

use super::request_authentication;
use crate::fixture::{CLIENT_TO_ECHO, client_and_echo, get, to_echo};

const REALM: &str = "Bearer realm=\"http://echo:9080/\", error=\"invalid_token\"";

const SECRET: &str = r#"@id("very-secret")
forbid (principal, action, resource) when { context has path && context.path == "/secret" };"#;

/// Everything in an answer that a caller can read.
fn told(answer: &reeve_tests::Answer) -> String {
    format!("{:?} {}", answer.headers, answer.text())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_are_told_what_their_protocol_says_and_no_policy_detail() {
    let signer = Signer::new("key-1");
    let secret = format!("{CLIENT_TO_ECHO}\n{SECRET}");
    let folder = client_and_echo(json!({}))
        .with("access.yaml", permit("echo", &secret))
        .with("jwt.yaml", request_authentication(&signer.jwks()));
    let mesh = Mesh::start(folder).await;
    let address = to_echo(&mesh);
    let bad = |call: Call| call.header("authorization", "Bearer a.b.c");
    let grpc = |path: &str| {
        Call::post("echo:9080", path, "")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
    };

    let answer = bad(get("/")).send(address).await.expect("an answer");
    assert_eq!(answer.status, 401);
    assert_eq!(answer.headers["www-authenticate"], REALM);
    assert_opaque(&answer, "invalid_token", &mesh).await;

    let answer = get("/secret").send(address).await.expect("an answer");
    assert_eq!(answer.status, 403);
    assert!(
        !answer.headers.contains_key("www-authenticate"),
        "nothing to authenticate for"
    );
    assert_opaque(&answer, "denied", &mesh).await;
    assert!(!told(&answer).contains("very-secret"), "{}", told(&answer));

    let mut connection = Connection::open(address, Protocol::Http2)
        .await
        .expect("a connection");
    for (call, code, message) in [
        (bad(grpc("/pkg.Echo/Say")), "16", "invalid_token"),
        (grpc("/secret"), "7", "denied"),
    ] {
        let answer = connection.send(&call).await.expect("an answer");
        assert_eq!(answer.status, 200, "{message}");
        assert_eq!(answer.headers["grpc-status"], code, "{message}");
        assert_eq!(answer.headers["grpc-message"], message);
        assert_eq!(answer.headers["content-type"], "application/grpc");
        assert!(answer.headers.contains_key("x-reeve-decision-id"));
        assert!(answer.body.is_empty(), "{message}");
        assert!(!told(&answer).contains("secret"), "{}", told(&answer));
    }
}

/// Asserts that the body is an error and an id, and that the operator finds the decision by it.
async fn assert_opaque(answer: &reeve_tests::Answer, error: &str, mesh: &Mesh) {
    let body: Value = answer.json();
    let members: BTreeSet<_> = body.as_object().expect("an object").keys().collect();
    let expected = ["decision_id".to_owned(), "error".to_owned()];
    assert_eq!(members, expected.iter().collect());
    assert_eq!(body["error"], error);
    let id = body["decision_id"].as_str().expect("an id").to_owned();
    assert_eq!(answer.headers["x-reeve-decision-id"], id.as_str());
    assert!(id.starts_with("d-") && !id.contains("echo"), "{id}");
    reeve_tests::eventually(
        "the operator finds the decision",
        std::time::Duration::from_secs(10),
        async || {
            let explained = mesh.reeve(&["audit", "explain", &id]).await;
            match explained.code {
                Some(0) => Ok(()),
                _ => Err(explained.text()),
            }
        },
    )
    .await;
}
