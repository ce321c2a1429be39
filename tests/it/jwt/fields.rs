//! Every field of `RequestAuthentication`, on a running mesh: what the application sees, and what it does not.

use std::net::SocketAddr;

use reeve_tests::{
    Call, Folder, Mesh, Signer, StrictBackend, Token, local_mesh, permit, service, sidecar,
};
use serde_json::{Value, json};

use super::{AUDIENCE, ISSUER};
use crate::fixture::{istio, settings};

/// `staff` may do anything, and anybody may do `/open`.
const ACCESS: &str = r#"@id("open")
permit (principal, action, resource in Service::"target.default.svc.cluster.local")
when { context has path && context.path == "/open" };
@id("staff")
permit (principal, action, resource in Service::"target.default.svc.cluster.local")
when { context has user && context.user.hasTag("roles") && context.user.getTag("roles").contains("staff") };"#;

struct Stage {
    mesh: Mesh,
    backend: StrictBackend,
    address: SocketAddr,
    jwks: String,
    good: String,
    bearer: String,
}

/// What the application saw of a request: target, and headers by name.
type Saw = Option<(String, Vec<(String, String)>)>;

impl Stage {
    async fn start(signer: &Signer) -> Self {
        let mut target = sidecar("target");
        target["ports"] = json!([{"port": 9080, "name": "http"}]);
        let folder = Folder::new()
            .with("mesh.yaml", settings(json!({})))
            .with("workloads.yaml", local_mesh(&[sidecar("client"), target]))
            .with("services.yaml", service("target", 9080, "http"))
            .with("access.yaml", permit("target", ACCESS));
        let mesh = Mesh::start(folder).await;
        let app = SocketAddr::from((mesh.instance("target-0").app_address, 9080));
        let backend = StrictBackend::start(app).await;
        let address = mesh.inbound("target-0", 9080);
        let token = Token::new(ISSUER, "alice", AUDIENCE, 600)
            .claim("roles", json!("staff night"))
            .claim("level", json!(7))
            .claim("realm", json!({"team": "blue"}))
            .claim("list", json!(["a"]));
        let good = signer.sign(&token);
        Self {
            mesh,
            backend,
            address,
            jwks: signer.jwks().to_string(),
            bearer: format!("Bearer {good}"),
            good,
        }
    }

    /// A rule with these fields besides.
    fn rule(&self, more: Value) -> Value {
        let mut rule = json!({
            "issuer": ISSUER, "audiences": ["other", AUDIENCE], "jwks": self.jwks,
            "spaceDelimitedClaims": ["roles"],
        });
        for (key, value) in more.as_object().expect("fields") {
            rule[key] = value.clone();
        }
        json!({"selector": {"matchLabels": {"app": "target"}}, "jwtRules": [rule]})
    }

    /// These rules, in force.
    async fn rules(&self, spec: &Value) {
        self.mesh
            .apply(
                "tokens.yaml",
                istio("RequestAuthentication", "target", spec),
            )
            .await;
    }

    /// `status` and what the application saw of a call.
    async fn call(&self, path: &str, headers: &[(&str, &str)]) -> (u16, Saw) {
        let before = self.backend.count();
        let mut call = Call::get("target:9080", path);
        for (name, value) in headers {
            call = call.header(name, value);
        }
        let answer = call.send(self.address).await.expect("an answer");
        let seen = self.backend.requests().into_iter().nth(before);
        let saw = seen.map(|seen| {
            let carried = ["host", "x-request-id", "traceparent", "tracestate", "b3"];
            let kept = seen.headers.into_iter();
            let kept = kept.filter(|(name, _)| !carried.contains(&name.as_str()));
            let mut kept: Vec<_> = kept.collect();
            kept.sort();
            (seen.target, kept)
        });
        (answer.status.as_u16(), saw)
    }
}

fn saw(target: &str, headers: &[(&str, &str)]) -> Saw {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let mut headers: Vec<_> = headers.iter().map(pair).collect();
    headers.sort();
    Some((target.to_owned(), headers))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_of_a_token_rule_does_what_istio_documents() {
    let stage = Stage::start(&Signer::new("key-1")).await;
    default_places(&stage).await;
    own_places(&stage).await;
    outputs(&stage).await;
    forwarding_and_targets(&stage).await;
    no_token_in_a_log(&stage).await;
}

async fn default_places(stage: &Stage) {
    let good = &stage.good;
    let bearer = &stage.bearer;
    // The default places; the token goes no further. Without one it is for the policies.
    stage.rules(&stage.rule(json!({}))).await;
    assert_eq!(
        stage.call("/x", &[("authorization", bearer)]).await,
        (200, saw("/x", &[]))
    );
    let query = format!("/x?a=1&access_token={good}&b=2");
    assert_eq!(stage.call(&query, &[]).await, (200, saw("/x?a=1&b=2", &[])));
    let escaped = format!("/x?%61ccess_token={good}");
    assert_eq!(stage.call(&escaped, &[]).await, (200, saw("/x", &[])));
    assert_eq!(stage.call("/x", &[]).await, (403, None));
    assert_eq!(stage.call("/open", &[]).await, (200, saw("/open", &[])));
    let basic = [("authorization", "Basic dTpw")];
    assert_eq!(
        stage.call("/open", &basic).await,
        (200, saw("/open", &basic))
    );
    assert_eq!(
        stage
            .call("/open", &[("authorization", "Bearer x.y.z")])
            .await,
        (401, None)
    );
    let two = format!("/x?access_token={}x", stage.good);
    assert_eq!(
        stage.call(&two, &[("authorization", bearer)]).await,
        (401, None),
        "all of several"
    );
}

async fn own_places(stage: &Stage) {
    let good = &stage.good;
    let bearer = &stage.bearer;
    // Own headers with a prefix, parameters and cookies; then nowhere else.
    let places = json!({
        "fromHeaders": [{"name": "X-Token", "prefix": "Token "}, {"name": "x-plain"}],
        "fromParams": ["t"], "fromCookies": ["session"],
    });
    stage.rules(&stage.rule(places)).await;
    let prefixed = format!("token {good}");
    assert_eq!(
        stage.call("/x", &[("x-token", &prefixed)]).await,
        (200, saw("/x", &[]))
    );
    assert_eq!(
        stage.call("/x", &[("x-plain", good)]).await,
        (200, saw("/x", &[]))
    );
    assert_eq!(
        stage.call(&format!("/x?t={good}"), &[]).await,
        (200, saw("/x", &[]))
    );
    let cookie = format!("a=b; session={good}; c=d");
    let rest = [("cookie", "a=b; c=d")];
    assert_eq!(
        stage.call("/x", &[("cookie", &cookie)]).await,
        (200, saw("/x", &rest))
    );
    assert_eq!(
        stage.call("/x", &[("cookie", "session=junk")]).await,
        (401, None)
    );
    assert_eq!(
        stage.call("/x", &[("authorization", bearer)]).await,
        (403, None),
        "not looked at"
    );
}

async fn outputs(stage: &Stage) {
    let payload = stage.good.split('.').nth(1).expect("a payload");
    let bearer = &stage.bearer;
    // What the token says becomes headers, and nobody else says it.
    let outputs = json!({
        "outputPayloadToHeader": "x-payload",
        "outputClaimToHeaders": [
            {"header": "X-Sub", "claim": "sub"}, {"header": "x-level", "claim": "level"},
            {"header": "x-team", "claim": "realm.team"}, {"header": "x-list", "claim": "list"},
            {"header": "x-none", "claim": "none"},
        ],
    });
    stage.rules(&stage.rule(outputs)).await;
    let forged = [
        ("x-sub", "root"),
        ("x_sub", "root"),
        ("x-payload", "forged"),
        ("x_payload", "forged"),
        ("x-list", "forged"),
        ("x-none", "forged"),
        ("x_none", "forged"),
        ("x-other", "kept"),
        ("x_other", "kept"),
    ];
    let kept = [("x-other", "kept"), ("x_other", "kept")];
    assert_eq!(
        stage.call("/open", &forged).await,
        (200, saw("/open", &kept))
    );
    let said = [
        ("x-other", "kept"),
        ("x_other", "kept"),
        ("x-sub", "alice"),
        ("x-level", "7"),
        ("x-team", "blue"),
        ("x-payload", payload),
    ];
    let with_token = [&forged[..], &[("authorization", bearer.as_str())]].concat();
    assert_eq!(stage.call("/x", &with_token).await, (200, saw("/x", &said)));
}

async fn forwarding_and_targets(stage: &Stage) {
    let query = format!("/x?a=1&access_token={}&b=2", stage.good);
    let bearer = &stage.bearer;
    // The token itself goes on where the rule says so.
    stage
        .rules(&stage.rule(json!({"forwardOriginalToken": true})))
        .await;
    let token = [("authorization", bearer.as_str())];
    assert_eq!(stage.call("/x", &token).await, (200, saw("/x", &token)));
    assert_eq!(stage.call(&query, &[]).await, (200, saw(&query, &[])));

    let places = json!({"forwardOriginalToken": true, "fromHeaders": [{"name": "x-token"}]});
    stage.rules(&stage.rule(places)).await;
    let good = stage.good.as_str();
    let both = [("x-token", good), ("x_token", "forged")];
    assert_eq!(
        stage.call("/x", &both).await,
        (200, saw("/x", &[("x-token", good)])),
        "nothing is beside it that was not looked at"
    );
    assert_eq!(
        stage.call("/open", &both[1..]).await,
        (200, saw("/open", &[]))
    );

    // Which workloads: by a service; by a gateway's name, which this is not; and the claims that a rule does not split.
    let mut by_service = stage.rule(json!({"spaceDelimitedClaims": []}));
    by_service
        .as_object_mut()
        .expect("a spec")
        .remove("selector");
    by_service["targetRefs"] = json!([{"kind": "Service", "name": "target"}]);
    stage.rules(&by_service).await;
    assert_eq!(
        stage.call("/x", &token).await,
        (403, None),
        "one role of that name"
    );
    assert_eq!(
        stage.call("/open", &token).await,
        (200, saw("/open", &[])),
        "verified, and taken out"
    );
    let mut by_gateway = by_service.clone();
    by_gateway["targetRefs"] =
        json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}]);
    stage.rules(&by_gateway).await;
    assert_eq!(
        stage.call("/open", &token).await,
        (200, saw("/open", &token)),
        "no rule looks"
    );
}

async fn no_token_in_a_log(stage: &Stage) {
    let good = &stage.good;
    // No token, good or bad, whole or in part, stands in a log or a record.
    let signature = good.rsplit('.').next().expect("a signature");
    for log in ["target-0.sidecar.log", "mesh.log"] {
        assert!(!stage.mesh.log(log).contains(signature), "{log}");
    }
    let records = stage
        .mesh
        .reeve_ok(&["audit", "query", "-o", "json"])
        .await
        .text();
    assert!(!records.is_empty() && !records.contains(signature));
}
