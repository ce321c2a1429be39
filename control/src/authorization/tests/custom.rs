//! Action `CUSTOM`: which proxies ask whom, about what.

use reeve_core::{
    decision::{AccessRequest, Decision},
    model::{ExternalAuthorization, OnFailure, PolicyMode, PolicySlice, ProviderForm},
};
use serde_json::json;

use super::{Asked, WORLD, access, engine, get, policy};
use crate::{
    TokenKeys,
    instances::Instances,
    resolve::tests::{findings, mesh},
};

const PROVIDERS: &str = "---
apiVersion: reeve.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec:
  extensionProviders:
    - name: opa
      envoyExtAuthzGrpc: {service: other.default.svc.cluster.local, port: 8000, timeout: 1s}
    - name: login
      envoyExtAuthzHttp:
        service: default/other
        port: 8000
        failOpen: true
        statusOnError: '503'
        pathPrefix: /check/
        includeRequestHeadersInCheck: [Cookie, X-*]
        headersToUpstreamOnAllow: [authorization]
";

/// What each workload's proxy asks.
fn asked(yaml: &str) -> Vec<(String, Vec<ExternalAuthorization>)> {
    let mesh = mesh(&format!("{WORLD}{PROVIDERS}{yaml}"));
    let mut instances = Instances::new(77);
    instances
        .plan(&mesh.workloads, mesh.services.keys())
        .expect("a plan");
    let names = instances.instances.iter().map(|i| i.instance.clone());
    let names: Vec<_> = names.collect();
    let config = |name| mesh.proxy_config(&instances, &TokenKeys::default(), name);
    let all = names.iter().filter_map(|name| {
        let asks = config(name)?.workload.external_authorizations.clone();
        Some((name.to_string(), asks))
    });
    all.collect()
}

fn custom(name: &str, spec: serde_json::Value) -> String {
    let mut spec = spec;
    spec["action"] = json!("CUSTOM");
    format!("---\n{:#}\n", policy(name, &spec))
}

#[test]
fn a_provider_is_asked_by_the_proxies_of_the_workloads_that_are_picked() {
    let rules = json!([{"to": [{"operation": {"paths": ["/a*"]}}]}]);
    let one = custom(
        "one",
        json!({
            "selector": {"matchLabels": {"app": "httpbin"}}, "provider": {"name": "opa"}, "rules": rules,
        }),
    );
    let all = custom("all", json!({"provider": {"name": "login"}, "rules": [{}]}));
    let asked = asked(&format!("{one}{all}"));
    let providers = |of: &str| -> Vec<String> {
        let found = asked.iter().find(|(name, _)| name == of).expect("a proxy");
        found.1.iter().map(|a| a.provider.name.clone()).collect()
    };
    assert_eq!(providers("httpbin-0"), ["login", "opa"]);
    assert_eq!(providers("second-0"), ["login"]);
    assert_eq!(providers("edge-0"), ["login"]);
    let none: [&str; 0] = [];
    assert_eq!(
        providers("other-0"),
        none,
        "nobody asks the provider about calls to itself"
    );
    let first = asked.iter().find(|(name, _)| name == "httpbin-0");
    let (_, first) = first.expect("a proxy");
    let [login, opa] = first.as_slice() else {
        panic!("{first:?}");
    };
    assert_eq!(opa.provider.form, ProviderForm::Grpc);
    assert_eq!(opa.provider.on_failure, OnFailure::Deny);
    assert_eq!(
        (opa.provider.status_on_error, opa.provider.timeout.as_secs()),
        (403, 1)
    );
    let ids: Vec<_> = opa.policies.iter().map(|p| p.id.to_string()).collect();
    assert_eq!(
        ids,
        ["default/one#rule-1", "default/one#rule-1-connections"]
    );
    assert_eq!(
        (
            login.provider.status_on_error,
            login.provider.timeout.as_secs()
        ),
        (503, 600)
    );
    let ProviderForm::Http(check) = &login.provider.form else {
        panic!("{login:?}");
    };
    assert_eq!(check.path_prefix, "/check");
    let shown = |name: &str| check.shown.iter().any(|p| p.matches(name));
    assert_eq!(["cookie", "x-a", "accept"].map(shown), [true, true, false]);
}

/// The rules as the proxy asks them: what is denied is asked about.
fn matched(asks: &ExternalAuthorization, asked: &AccessRequest) -> Decision {
    let mut policies = asks.policies.clone();
    policies.push(reeve_core::model::PolicySource {
        id: "external/not-asked".parse().expect("an id"),
        scope: None,
        mode: PolicyMode::Enforce,
        text: "permit (principal, action, resource);".to_owned(),
    });
    let slice = PolicySlice {
        policies,
        ..PolicySlice::default()
    };
    reeve_authz::Engine::compile(&slice)
        .expect("valid policies")
        .decide(asked)
}

#[test]
fn rules_say_what_is_asked_about_and_a_dry_run_asks_nobody() {
    let rules = json!([{
        "from": [{"source": {"notPrincipals": ["cluster.local/ns/default/sa/admin"]}}],
        "to": [{"operation": {"paths": ["/a*"], "notMethods": ["OPTIONS"]}}],
    }]);
    let spec = json!({
        "selector": {"matchLabels": {"app": "httpbin"}}, "provider": {"name": "opa"}, "rules": rules,
    });
    let of = |yaml: &str| {
        let all = asked(yaml);
        let (_, asks) = all
            .into_iter()
            .find(|(name, _)| name == "httpbin-0")
            .expect("a proxy");
        asks.into_iter().next().expect("a provider")
    };
    let asks = of(&custom("one", spec.clone()));
    let admin = "spiffe://mesh.local/ns/default/sa/admin";
    for (request, expected) in [
        (get("/a/b"), true),
        (get("/b"), false),
        (Asked::http("OPTIONS", "/a"), false),
        (Asked::http("GET", "/a").from(admin), false),
        // A connection has no path: it is asked about rather than not.
        (Asked::tcp(8000), true),
    ] {
        let decision = matched(&asks, &access(&request, "httpbin"));
        assert_eq!(!decision.is_allow(), expected, "{request:?}");
    }
    let mut dry = policy("dry", &spec);
    dry["spec"]["action"] = json!("CUSTOM");
    dry["metadata"]["annotations"] = json!({"istio.io/dry-run": "true"});
    let decision = matched(
        &of(&format!("---\n{dry:#}\n")),
        &access(&get("/a"), "httpbin"),
    );
    assert!(decision.is_allow() && decision.shadow.is_some());
}

#[test]
fn what_the_provider_allows_is_allowed_where_no_allow_policy_is() {
    let mut alone = policy(
        "one",
        &json!({
            "selector": {"matchLabels": {"app": "httpbin"}}, "provider": {"name": "opa"}, "rules": [{}],
        }),
    );
    alone["spec"]["action"] = json!("CUSTOM");
    let decides = |more: &[serde_json::Value]| {
        let policies: String = [alone.clone()]
            .iter()
            .chain(more)
            .map(super::document)
            .collect();
        let mesh = mesh(&format!("{WORLD}{PROVIDERS}{policies}"));
        engine(&mesh)
            .decide(&access(&get("/"), "httpbin"))
            .is_allow()
    };
    assert!(decides(&[]), "as in Istio");
    let allow = policy(
        "allow",
        &json!({
            "selector": {"matchLabels": {"app": "httpbin"}},
            "rules": [{"to": [{"operation": {"methods": ["POST"]}}]}],
        }),
    );
    assert!(
        !decides(&[allow]),
        "ALLOW policies decide after the provider"
    );
    let deny = policy(
        "deny",
        &json!({"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}),
    );
    assert!(!decides(&[deny]), "and so do DENY policies");
}

#[test]
fn what_providers_cannot_be_is_refused_by_name() {
    let told = |providers: &str, spec: &str| {
        let config = format!(
            "apiVersion: reeve.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec:\n  extensionProviders:\n{providers}"
        );
        let custom = match spec {
            "" => String::new(),
            spec => format!(
                "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\nspec: {spec}\n"
            ),
        };
        let mut found = findings(&format!("{config}{custom}{WORLD}"));
        found.retain(|finding| !finding.ends_with("command missing?"));
        found
    };
    let grpc = |rest: &str| {
        format!("  - {{name: a, envoyExtAuthzGrpc: {{service: other, port: 8000{rest}}}}}\n")
    };
    let place = "6 spec.extensionProviders[0]";
    for (providers, expected) in [
        ("  - {name: a}\n".to_owned(), format!("{place} invalid")),
        (grpc(", statusOnError: '200'"), format!("{place}.envoyExtAuthzGrpc.statusOnError invalid")),
        (grpc(", failOpen: true"), format!("{place}.envoyExtAuthzGrpc.failOpen insecure?")),
        (grpc(", includeRequestBodyInCheck: {allowPartialMessage: true}"), format!("{place}.envoyExtAuthzGrpc.includeRequestBodyInCheck.maxRequestBytes missing")),
        (grpc(", includeRequestBodyInCheck: {maxRequestBytes: 2000000}"), format!("{place}.envoyExtAuthzGrpc.includeRequestBodyInCheck.maxRequestBytes unsupported")),
        ("  - {name: a, envoyExtAuthzGrpc: {service: nobody, port: 1}}\n".to_owned(), format!("{place}.envoyExtAuthzGrpc.service unknown-reference")),
        ("  - {name: a, envoyExtAuthzGrpc: {service: httpbin, port: 9000}}\n".to_owned(), format!("{place}.envoyExtAuthzGrpc.port invalid")),
        ("  - {name: a, envoyExtAuthzHttp: {service: other, port: 8000, pathPrefix: check}}\n".to_owned(), format!("{place}.envoyExtAuthzHttp.pathPrefix invalid")),
        ("  - {name: a, envoyExtAuthzHttp: {service: other, port: 8000, headersToUpstreamOnAllow: ['*']}}\n".to_owned(), format!("{place}.envoyExtAuthzHttp.headersToUpstreamOnAllow[0] invalid")),
        ("  - {name: a, zipkin: {service: other, port: 8000}}\n".to_owned(), format!("{place}.zipkin unsupported")),
    ] {
        let found = told(&providers, "");
        assert!(found.contains(&expected), "{providers}: {found:?}");
    }
    let token = "{action: CUSTOM, provider: {name: a}, rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}";
    let found = told(&grpc(""), token);
    let expected = "11 spec.rules[0].from[0].source.requestPrincipals unsupported".to_owned();
    assert!(found.contains(&expected), "{found:?}");
    for (spec, expected) in [
        (
            "{action: CUSTOM, provider: {name: x}, rules: [{}]}",
            "11 spec.provider.name unknown-reference",
        ),
        (
            "{action: CUSTOM, rules: [{}]}",
            "11 spec.provider.name missing",
        ),
        (
            "{action: CUSTOM, provider: {name: a}}",
            "11 spec.action missing",
        ),
    ] {
        let found = told(&grpc(""), spec);
        assert!(found.iter().any(|f| f == expected), "{spec}: {found:?}");
    }
}
