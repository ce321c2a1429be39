//! Routes by claims at a gateway, their counts, and a transformation there that routes see.

use reeve_tests::{Call, Folder, Mesh, Signer, Token, echo, local_mesh, permit, service, strict};
use serde_json::{Value, json};

use crate::fixture::{gateway_workload, settings};

const ISSUER: &str = "https://issuer.example";
const PORT: u16 = 8080;

const ACCESS: &str = r#"
permit (principal, action in Action::"http", resource == Workload::"spiffe://mesh.local/ns/default/sa/edge");
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/edge", action,
  resource in Service::"echo.default.svc.cluster.local"
);"#;

const ROUTES: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec:
  host: echo
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop.example]
  gateways: [edge]
  http:
    - match:
        - headers: {"@request.auth.claims.groups": {exact: testers}}
          withoutHeaders: {"@request.auth.claims[realm][banned]": {exact: "true"}}
          statPrefix: testers
        - headers: {x-tester: {exact: "yes"}}
      route: [{destination: {host: echo, subset: v2}}]
    - route: [{destination: {host: echo, subset: v1}}]
---
apiVersion: reeve.dev/v1alpha1
kind: Transformation
metadata: {name: lab}
spec:
  owner: team-lab
  expires: 2099-12-31
  selector: {matchLabels: {app: edge}}
  match: [{uri: {prefix: /lab}}]
  request: {headers: {set: {x-tester: "yes"}}}
  response: {status: 299}
"#;

fn folder(jwks: &Value) -> Folder {
    let edge = gateway_workload("edge");
    let gateway = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "default"},
        "spec": {"selector": {"app": "edge"}, "servers": [{
            "port": {"number": PORT, "name": "http", "protocol": "HTTP"}, "hosts": ["shop.example"],
        }]},
    });
    let tokens = json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "edge", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "edge"}},
            "jwtRules": [{"issuer": ISSUER, "jwks": jwks.to_string()}],
        },
    });
    let (one, two) = (echo("echo-v1", "echo", "v1"), echo("echo-v2", "echo", "v2"));
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&[edge, one, two]))
        .with("services.yaml", service("echo", 9080, "http"))
        .with("gateway.yaml", gateway.to_string())
        .with("tokens.yaml", tokens.to_string())
        .with("routes.yaml", ROUTES)
        .with("access.yaml", permit("edge", ACCESS))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_routes_by_verified_claims_counts_them_and_transforms_before_it_routes() {
    let signer = Signer::new("key-1");
    let mesh = Mesh::start(folder(&signer.jwks())).await;
    let edge = mesh.inbound("edge-0", PORT);
    let token = |groups: Value, banned: Value| {
        let token = Token::new(ISSUER, "ann", "shop", 600);
        let token = token.claim("groups", groups);
        signer.sign(&token.claim("realm", json!({"banned": banned})))
    };
    let call = |path: &str| Call::get("shop.example", path);
    let with = |token: &str| call("/").header("authorization", &format!("Bearer {token}"));
    let version = async |call: Call| {
        let answer = call.send(edge).await.expect("an answer");
        (answer.status.as_u16(), answer.json()["version"].clone())
    };
    let (v1, v2) = (json!("v1"), json!("v2"));
    let tester = token(json!(["staff", "testers"]), json!(false));
    assert_eq!(version(with(&tester)).await, (200, v2.clone()));
    assert_eq!(version(with(&tester)).await, (200, v2.clone()));
    let staff = token(json!(["staff"]), json!(false));
    assert_eq!(version(with(&staff)).await, (200, v1.clone()));
    let banned = token(json!("testers"), json!(true));
    assert_eq!(version(with(&banned)).await, (200, v1.clone()));
    // Nobody claims anything by a header.
    let forged = call("/").header("x-claims", "groups=testers");
    assert_eq!(version(forged).await, (200, v1));
    assert_eq!(version(call("/lab")).await, (299, v2));
    let decided = mesh
        .record("the gateway's decision on /lab", |record| {
            record["request"]["context"]["http"]["path"] == "/lab"
                && record["transformations"] == json!(["default/lab"])
        })
        .await;
    assert_eq!(decided["direction"], "outbound");
    let labels = ["route=\"testers\"", "response_code_class=\"2xx\""];
    let counted = mesh
        .metric("edge-0", "reeve_route_requests_total", &labels)
        .await;
    assert_eq!(counted, 2.0);
    let labels = ["transformation=\"default/lab\"", "result=\"applied\""];
    let counted = mesh
        .metric("edge-0", "reeve_transformations_total", &labels)
        .await;
    assert_eq!(counted, 2.0, "its request and its response");
}
