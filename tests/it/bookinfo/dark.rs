//! A dark launch: reviews v3 is for test automation, by its identity, and for beta users, by the claims of a token that
//! the gateway verified.

use reeve_tests::{Call, Mesh, Signer, Token, permit};
use serde_json::{Value, json};

use super::{reviews, routes, to, version, visitor};
use crate::fixture::istio;

const ISSUER: &str = "https://login.shop.example";
const AUTOMATION: &str = "spiffe://mesh.local/ns/default/sa/test-automation";

/// Who else than the front may ask reviews, and who may see the new version at all.
const DARK: &str = r#"@id("automation-to-reviews")
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/test-automation",
  action == Action::"GET",
  resource in Service::"reviews.default.svc.cluster.local"
);
@id("dark")
forbid (
  principal, action in Action::"http",
  resource == Workload::"spiffe://mesh.local/ns/default/sa/bookinfo-reviews-v3"
) unless {
  principal == Workload::"spiffe://mesh.local/ns/default/sa/test-automation" ||
  context.headers.hasTag("end-user") && context.headers.getTag("end-user").contains("beta-ann")
};"#;

/// Needs the workload `test-automation` and a service account of its own for reviews v3.
pub(super) async fn launch(mesh: &Mesh) {
    let signer = Signer::new("key-1");
    configure(mesh, &signer).await;
    beta_users_alone(mesh, &signer).await;
    automation_by_its_identity(mesh).await;
    a_route_is_no_permit(mesh, &signer).await;
    mesh.withdraw("dark.yaml").await;
}

async fn configure(mesh: &Mesh, signer: &Signer) {
    let rules = json!([
        {
            "name": "dark",
            "match": [
                {"sourceLabels": {"app": "test-automation"}},
                {"headers": {"end-user": {"prefix": "beta-"}}},
            ],
            "route": to("reviews", "v3"),
        },
        {"name": "public", "route": to("reviews", "v1")},
    ]);
    // Who a visitor is comes from a token alone: what else could say it does not pass the gateway.
    let tokens = json!({
        "selector": {"matchLabels": {"istio": "ingressgateway"}},
        "jwtRules": [{
            "issuer": ISSUER, "jwks": signer.jwks().to_string(),
            "outputClaimToHeaders": [{"header": "end-user", "claim": "preferred_username"}],
        }],
    });
    let mut gate: Value = json!({"hosts": ["*"], "gateways": ["bookinfo-gateway"], "http": [{
        "route": [{"destination": {"host": "productpage", "port": {"number": 9080}}}],
        "headers": {"request": {"remove": ["cookie"]}},
    }]});
    gate["http"][0]["match"] = json!([{"uri": {"prefix": "/api/v1/products"}}]);
    let tokens = istio("RequestAuthentication", "visitors", &tokens);
    let gate = istio("VirtualService", "bookinfo", &gate);
    mesh.folder.write("RequestAuthentication.yaml", tokens);
    mesh.folder.write("VirtualService-bookinfo.yaml", gate);
    mesh.folder.write("dark.yaml", permit("dark", DARK));
    mesh.apply("VirtualService-reviews.yaml", routes("reviews", &rules))
        .await;
}

fn bearer(signer: &Signer, user: &str) -> String {
    let token = Token::new(ISSUER, "1", "shop", 600).claim("preferred_username", json!(user));
    format!("Bearer {}", signer.sign(&token))
}

async fn beta_users_alone(mesh: &Mesh, signer: &Signer) {
    let ann = bearer(signer, "beta-ann");
    let own = |name: &str| reviews().header("x-request-id", name);
    let cases = [
        (own("beta").header("authorization", &ann), "v3"),
        (
            own("ann").header("authorization", &bearer(signer, "ann")),
            "v1",
        ),
        (own("nobody"), "v1"),
        (own("forged-header").header("end-user", "beta-ann"), "v1"),
        (own("forged-cookie").header("cookie", "user=beta-ann"), "v1"),
    ];
    let mut connection = visitor(mesh).await;
    for (call, expected) in cases {
        let answer = connection.send(&call).await.expect("an answer");
        assert_eq!(version(&answer), expected, "{call:?}");
    }
    let forged = reviews().header("authorization", &(ann + "x"));
    let answer = connection.send(&forged).await.expect("an answer");
    assert_eq!(answer.status, 401);
    let decided = mesh.decision_on("beta", "reviews-v3-0").await;
    assert_eq!(decided["decision"]["effect"], "allow", "{decided}");
}

/// It asks reviews itself, in its own name.
async fn automation_by_its_identity(mesh: &Mesh) {
    let ask = Call::get("reviews:9080", "/reviews/0").header("x-request-id", "automation");
    let address = mesh.outbound("test-automation-0", "reviews", 9080);
    assert_eq!(version(&ask.send(address).await.expect("an answer")), "v3");
    let decided = mesh.decision_on("automation", "reviews-v3-0").await;
    let principal = decided["request"]["principal"].to_string();
    assert!(principal.contains(AUTOMATION), "{decided}");
}

/// Another name with the prefix is turned away by policy, on record.
async fn a_route_is_no_permit(mesh: &Mesh, signer: &Signer) {
    let call = reviews().header("x-request-id", "beta-bob");
    let call = call.header("authorization", &bearer(signer, "beta-bob"));
    let answer = visitor(mesh).await.send(&call).await.expect("an answer");
    assert_eq!(answer.status, 403);
    let decided = mesh.decision_on("beta-bob", "reviews-v3-0").await;
    let policies = decided["decision"]["policies"].to_string();
    assert!(policies.contains("dark"), "{decided}");
}
