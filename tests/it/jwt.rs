//! Point 4: bad JWTs are refused, a good one passes and its claims reach the policy.

mod answers;
mod fields;
mod groups;
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

/// An administrator's token.
fn admin(audience: &str, valid_s: i64) -> Token {
    Token::new(ISSUER, "alice", audience, valid_s).claim("groups", json!(["admins", "staff"]))
}

/// Tokens that must not pass: name, token, and the reason of `reeve jwt verify`.
#[expect(clippy::too_many_lines, reason = "a table")]
fn attacks(
    signer: &Signer,
    stranger: &Signer,
    good: &str,
) -> Vec<(&'static str, String, &'static str)> {
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
    let under = |header: serde_json::Value| signer.sign_under(&header, &admin(AUDIENCE, 600));
    let embedded = json!({"jwk": stranger.jwks()["keys"][0], "jku": "https://evil.example/jwks"});
    let parts: Vec<&str> = good.split('.').collect();
    let zero = "A".repeat(86);
    vec![
        ("expired", signer.sign(&admin(AUDIENCE, -600)), "expired"),
        (
            "wrong-audience",
            signer.sign(&admin("another-shop", 600)),
            "wrong_audience",
        ),
        (
            "no-audience",
            signer.sign(&admin(AUDIENCE, 600).claim("aud", json!([]))),
            "wrong_audience",
        ),
        (
            "wrong-issuer",
            signer.sign(&Token::new(
                "https://issuer.example/",
                "alice",
                AUDIENCE,
                600,
            )),
            "unknown_issuer",
        ),
        (
            "for-later",
            signer.sign(&admin(AUDIENCE, 600).claim("nbf", json!(99_999_999_999_u64))),
            "not_yet_valid",
        ),
        (
            "exp-as-text",
            signer.sign(&admin(AUDIENCE, 600).claim("exp", json!("9"))),
            "claim_type",
        ),
        ("unsigned", admin(AUDIENCE, 600).unsigned(), "unsigned"),
        (
            "wrongly-signed",
            stranger.sign(&admin(AUDIENCE, 600)),
            "bad_signature",
        ),
        ("altered", flipped, "bad_signature"),
        (
            "zero-signature",
            format!("{}.{}.{zero}", parts[0], parts[1]),
            "bad_signature",
        ),
        (
            "shared-secret",
            under(json!({"alg": "HS256"})),
            "symmetric_algorithm",
        ),
        (
            "another-algorithm",
            under(json!({"alg": "RS256"})),
            "algorithm_mismatch",
        ),
        (
            "own-key",
            stranger.sign_under(&embedded, &admin(AUDIENCE, 600)),
            "bad_signature",
        ),
        (
            "key-id-path",
            under(json!({"kid": "../../dev/null"})),
            "unknown_key",
        ),
        (
            "critical",
            under(json!({"crit": ["exp"], "exp": 1})),
            "critical_header",
        ),
        ("unencoded", under(json!({"b64": false})), "critical_header"),
        (
            "logout-token",
            under(json!({"typ": "logout+jwt"})),
            "wrong_type",
        ),
        ("padded", format!("{good}=="), "malformed"),
        ("encrypted", format!("{good}.AAAA.AAAA"), "malformed"),
        (
            "oversized",
            signer.sign(&admin(AUDIENCE, 600).claim("pad", json!("x".repeat(8_000)))),
            "too_large",
        ),
    ]
}

/// What `reeve jwt verify` says of each.
async fn verify_offline(
    mesh: &Mesh,
    signer: &Signer,
    tokens: &[(&str, String, &str)],
) -> Vec<serde_json::Value> {
    let jwks = std::env::temp_dir().join(format!("rv-{}-jwks.json", std::process::id()));
    std::fs::write(&jwks, signer.jwks().to_string()).expect("a file");
    let jwks = jwks.to_str().expect("a path");
    let mut args = vec![
        "jwt",
        "verify",
        "--jwks",
        jwks,
        "--issuer",
        ISSUER,
        "--audience",
        AUDIENCE,
    ];
    args.extend(["--leeway", "60s", "-o", "json"]);
    args.extend(tokens.iter().map(|(_, token, _)| token.as_str()));
    let said = mesh.reeve(&args).await;
    assert_eq!(said.code, Some(1), "{}", said.text());
    let verdicts = said.json_lines();
    assert_eq!(verdicts.len(), tokens.len());
    verdicts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_tokens_are_refused_and_the_claims_of_a_good_one_reach_the_policy() {
    let (signer, stranger) = (Signer::new("key-1"), Signer::new("key-1"));
    let folder = client_and_echo(json!({}))
        .with("access.yaml", permit("echo", ADMINS_ONLY))
        .with("jwt.yaml", request_authentication(&signer.jwks()));
    let mesh = Mesh::start(folder).await;
    let address = to_echo(&mesh);

    let good = signer.sign(&admin(AUDIENCE, 600));
    let refused = attacks(&signer, &stranger, &good);
    let checked = verify_offline(&mesh, &signer, &refused).await;
    for ((name, _, why), verdict) in refused.iter().zip(checked) {
        assert_eq!(
            (&verdict["valid"], &verdict["reason"]),
            (&json!(false), &json!(why)),
            "{name}"
        );
    }
    let mut cases: Vec<(&str, String, u16, &str)> = Vec::new();
    cases.extend(
        refused
            .into_iter()
            .map(|(name, token, _)| (name, token, 401, "invalid_token")),
    );
    let plain = Token::new(ISSUER, "bob", AUDIENCE, 600).claim("groups", json!(["staff"]));
    cases.push(("not-an-admin", signer.sign(&plain), 403, "no_permit"));
    cases.push(("good", good, 200, "permitted"));
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
