//! Point 4: bad JWTs are refused, a good one passes and its claims reach the policy.

mod answers;
mod fields;
mod keys;

use reeve_tests::{Mesh, Signer, Token, permit};
use serde_json::json;

use crate::fixture::{client_and_echo, get, to_echo};

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "bookshop";

const ADMINS_ONLY: &str = r#"@id("admins")
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
  action == Action::"GET",
  resource in Service::"echo.default.svc.cluster.local"
) when {
  context has user &&
  context.user.issuer == "https://issuer.example" &&
  context.user.hasTag("groups") &&
  context.user.getTag("groups").contains("admins")
};"#;

fn request_authentication(jwks: &serde_json::Value) -> String {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "echo", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "echo"}},
            "jwtRules": [{"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": jwks.to_string()}],
        },
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_tokens_are_refused_and_the_claims_of_a_good_one_reach_the_policy() {
    let (signer, stranger) = (Signer::new("key-1"), Signer::new("key-1"));
    let folder = client_and_echo(json!({}))
        .with("access.yaml", permit("echo", ADMINS_ONLY))
        .with("jwt.yaml", request_authentication(&signer.jwks()));
    let mesh = Mesh::start(folder).await;
    let address = to_echo(&mesh);

    let admin = |audience, valid_s| {
        Token::new(ISSUER, "alice", audience, valid_s).claim("groups", json!(["admins", "staff"]))
    };
    let good = signer.sign(&admin(AUDIENCE, 600));
    let flipped = {
        // Not the very last character, whose low bits a decoder may ignore.
        let at = good.len() - 10;
        let other = if good.as_bytes()[at] == b'A' {
            "B"
        } else {
            "A"
        };
        format!("{}{other}{}", &good[..at], &good[at + 1..])
    };
    let plain = Token::new(ISSUER, "bob", AUDIENCE, 600).claim("groups", json!(["staff"]));
    let cases = [
        (
            "expired",
            signer.sign(&admin(AUDIENCE, -600)),
            401,
            "invalid_token",
        ),
        (
            "wrong-audience",
            signer.sign(&admin("another-shop", 600)),
            401,
            "invalid_token",
        ),
        (
            "unsigned",
            admin(AUDIENCE, 600).unsigned(),
            401,
            "invalid_token",
        ),
        (
            "wrongly-signed",
            stranger.sign(&admin(AUDIENCE, 600)),
            401,
            "invalid_token",
        ),
        ("altered", flipped, 401, "invalid_token"),
        ("not-an-admin", signer.sign(&plain), 403, "no_permit"),
        ("good", good, 200, "permitted"),
    ];
    for (name, token, status, reason) in cases {
        let call = get("/")
            .header("x-request-id", name)
            .header("authorization", &format!("Bearer {token}"));
        let answer = call.send(address).await.expect("an answer");
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
        let record = mesh.decision_on(name, "echo-v1-0").await;
        assert_eq!(record["decision"]["reason"], reason, "{name}: {record}");
        if name == "good" {
            assert_eq!(record["request"]["user"]["subject"], "alice", "{record}");
            assert_eq!(
                record["decision"]["policies"][0]
                    .as_str()
                    .map(|p| p.contains("admins")),
                Some(true)
            );
        }
    }
    // Without a token, the request is judged as nobody's.
    assert_eq!(get("/").status(address).await, Ok(403));
    mesh.verify_audit().await;
}
