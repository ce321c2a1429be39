//! Translated policies answer as Istio's documents say the originals do.

mod custom;
mod imported;
mod istio;
mod random;

use reeve_authz::Engine;
use reeve_core::{
    Namespace, UnixTime,
    decision::{AccessRequest, Action, HttpContext, Principal, RequestContext, ResourceRef, User},
};
use serde_json::{Value, json};

use self::istio::{Asked, Labels};
use crate::{
    Mesh,
    resolve::tests::{findings, mesh},
};

/// Two services of one workload each, and a third workload that shares the second's account.
const WORLD: &str = r#"---
apiVersion: v1
kind: Service
metadata: {name: httpbin}
spec: {selector: {app: httpbin}, ports: [{port: 8000, name: http}, {port: 9000, name: tcp}]}
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {selector: {app: other}, ports: [{port: 8000, name: http}]}
---
apiVersion: reeve.dev/v1alpha1
kind: LocalMesh
metadata: {name: m}
spec:
  workloads:
    - {name: httpbin, serviceAccount: httpbin, labels: {app: httpbin, version: v1}, ports: [{port: 8000, name: http}]}
    - {name: other, serviceAccount: other, labels: {app: other, version: v1}, ports: [{port: 8000, name: http}]}
    - {name: second, serviceAccount: other, labels: {app: second, version: v2}}
    - {name: edge, serviceAccount: edge, role: gateway, labels: {istio: ingressgateway}, ports: [{port: 80, name: http}]}
"#;

fn document(policy: &Value) -> String {
    format!("---\n{policy:#}\n")
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    })
}

fn world(policies: &[Value]) -> Mesh {
    let policies: String = policies.iter().map(document).collect();
    mesh(&format!("{WORLD}{policies}"))
}

fn engine(mesh: &Mesh) -> Engine {
    let engine = Engine::compile(&mesh.all_policies()).expect("valid policies");
    engine.in_trust_domain(mesh.settings.trust_domain.clone())
}

/// The question as our data path would put it, to the workload of that name.
fn access(asked: &Asked, workload: &str) -> AccessRequest {
    let id = format!("spiffe://mesh.local/ns/default/sa/{workload}");
    let service = format!("{workload}.default.svc.cluster.local");
    let http = asked.http.as_ref().map(|http| HttpContext {
        grpc: None,
        headers: http
            .headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), [value.clone()].into()))
            .collect(),
        host: http.host.to_ascii_lowercase(),
        method: http.method.clone(),
        path: http.path.clone(),
        query: Default::default(),
    });
    let user = asked.user.as_ref().map(|user| {
        let claims = user.claims.iter();
        let claims = claims.map(|(name, values)| (name.clone(), values.iter().cloned().collect()));
        User {
            issuer: user.issuer.clone(),
            subject: user.subject.clone(),
            claims: claims.collect(),
            expires_at: None,
        }
    });
    AccessRequest {
        action: match &http {
            Some(http) => Action::from_method(&http.method),
            None => Action::Connect,
        },
        context: RequestContext {
            destination_ip: Some(asked.destination.parse().expect("an address")),
            remote_ip: asked
                .client
                .as_ref()
                .map(|ip| ip.parse().expect("an address")),
            sni: asked.sni.as_deref().map(Into::into),
            mtls: asked.principal.is_some(),
            port: asked.port,
            source_ip: asked.ip.parse().expect("an address"),
            time: UnixTime::from_secs(1_000_000),
            http,
        },
        principal: match &asked.principal {
            Some(id) => Principal::Workload(id.parse().expect("an identity")),
            None => Principal::Unauthenticated,
        },
        resource: ResourceRef {
            address: None,
            namespace: Namespace::parse("default").expect("a namespace"),
            services: match workload {
                "edge" => Vec::new(),
                _ => vec![service.parse().expect("a service")],
            },
            workload: Some(id.parse().expect("an identity")),
        },
        user: user.map(Into::into),
    }
}

/// Istio's answer and ours.
fn answers(policies: &[Value], workload: &str, asked: &Asked) -> (bool, bool) {
    let labels: Labels = match workload {
        "edge" => &[("istio", "ingressgateway")],
        "other" => &[("app", "other"), ("version", "v1")],
        _ => &[("app", "httpbin"), ("version", "v1")],
    };
    let expected = istio::allows(policies, labels, asked);
    let ours = engine(&world(policies)).decide(&access(asked, workload));
    (expected, ours.is_allow())
}

fn get(path: &str) -> Asked {
    Asked::http("GET", path).from("spiffe://mesh.local/ns/default/sa/sleep")
}

/// The policies of Istio's pages, by what they are for.
struct Examples {
    nothing: Value,
    viewer: Value,
    whole: Value,
    deny_post: Value,
    jwt: Value,
    tcp: Value,
}

fn examples() -> Examples {
    let nothing = policy("allow-nothing", &json!({}));
    let viewer = policy(
        "httpbin-viewer",
        &json!({
            "selector": {"matchLabels": {"app": "httpbin"}}, "action": "ALLOW",
            "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}],
        }),
    );
    let whole = policy(
        "httpbin",
        &json!({
            "action": "ALLOW",
            "rules": [{
                "from": [
                    {"source": {"principals": ["cluster.local/ns/default/sa/sleep"]}},
                    {"source": {"namespaces": ["test"]}},
                ],
                "to": [
                    {"operation": {"methods": ["GET"], "paths": ["/info*"]}},
                    {"operation": {"methods": ["POST"], "paths": ["/data"]}},
                ],
                "when": [{"key": "request.auth.claims[iss]", "values": ["https://accounts.google.com"]}],
            }],
        }),
    );
    let deny_post = policy(
        "deny-post",
        &json!({
            "selector": {"matchLabels": {"app": "httpbin"}}, "action": "DENY",
            "rules": [{"to": [{"operation": {"methods": ["POST"]}}]}],
        }),
    );
    let jwt = policy(
        "require-jwt",
        &json!({
            "selector": {"matchLabels": {"app": "httpbin"}}, "action": "DENY",
            "rules": [{"from": [{"source": {"notRequestPrincipals": ["*"]}}]}],
        }),
    );
    let tcp = policy(
        "tcp",
        &json!({
            "selector": {"matchLabels": {"app": "httpbin"}}, "action": "DENY",
            "rules": [{"to": [{"operation": {"methods": ["GET"], "ports": ["9000"]}}]}],
        }),
    );
    Examples {
        nothing,
        viewer,
        whole,
        deny_post,
        jwt,
        tcp,
    }
}

/// What is asked under which policies, and what the pages say of it.
fn documented(all: &Examples) -> Vec<(&'static str, Vec<&Value>, Asked, bool)> {
    let token = |asked: Asked| asked.user("https://accounts.google.com", "ada");
    vec![
        ("nothing is allowed", vec![&all.nothing], get("/"), false),
        (
            "a viewer may get",
            vec![&all.nothing, &all.viewer],
            get("/"),
            true,
        ),
        (
            "and not post",
            vec![&all.nothing, &all.viewer],
            Asked::http("POST", "/"),
            false,
        ),
        (
            "the API's example",
            vec![&all.whole],
            token(get("/info/1")),
            true,
        ),
        ("without a token", vec![&all.whole], get("/info/1"), false),
        (
            "to another path",
            vec![&all.whole],
            token(get("/data")),
            false,
        ),
        (
            "a namespace",
            vec![&all.whole],
            token(Asked::http("POST", "/data").from("spiffe://mesh.local/ns/test/sa/x")),
            true,
        ),
        (
            "deny alone lets others pass",
            vec![&all.deny_post],
            get("/"),
            true,
        ),
        (
            "and denies",
            vec![&all.deny_post],
            Asked::http("POST", "/"),
            false,
        ),
        (
            "deny comes before allow",
            vec![&all.deny_post, &all.viewer],
            Asked::http("POST", "/"),
            false,
        ),
        ("no token", vec![&all.jwt], get("/"), false),
        ("a token", vec![&all.jwt], token(get("/")), true),
        (
            "deny on TCP forgets HTTP's part",
            vec![&all.tcp],
            Asked::tcp(9000),
            false,
        ),
        ("and keeps the port", vec![&all.tcp], Asked::tcp(9001), true),
        (
            "allow on TCP needs a rule without HTTP's parts",
            vec![&all.viewer],
            Asked::tcp(9000),
            false,
        ),
    ]
}

#[test]
fn the_examples_of_istios_documents_come_out_as_documented() {
    let all = examples();
    for (what, policies, asked, expected) in documented(&all) {
        let policies: Vec<Value> = policies.into_iter().cloned().collect();
        assert_eq!(
            answers(&policies, "httpbin", &asked),
            (expected, expected),
            "{what}"
        );
    }
    let alone = engine(&world(&[all.deny_post])).decide(&access(&get("/"), "other"));
    assert!(!alone.is_allow(), "what no policy holds for stays closed");
}

#[test]
fn translations_read_as_if_a_person_had_written_them() {
    let spec = json!({
        "selector": {"matchLabels": {"app": "httpbin"}},
        "rules": [{
            "from": [{"source": {"principals": ["cluster.local/ns/default/sa/sleep"]}}],
            "to": [{"operation": {"methods": ["GET", "HEAD"], "paths": ["/info*"]}}],
        }],
    });
    let mesh = world(&[policy("info", &spec)]);
    let [only] = mesh.policies.as_slice() else {
        panic!("{:?}", mesh.policies);
    };
    assert_eq!(only.id.as_str(), "default/info#rule-1");
    assert_eq!(
        only.text,
        r#"@id("rule-1")
permit (principal == Workload::"spiffe://mesh.local/ns/default/sa/sleep", action in [Action::"GET", Action::"HEAD"], resource in Service::"httpbin.default.svc.cluster.local")
when { context.path like "/info*" };"#
    );
}

#[test]
fn dry_runs_are_shadow_policies_and_audits_change_nothing() {
    let mut dry = policy(
        "dry",
        &json!({
            "action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/headers"]}}]}],
        }),
    );
    dry["metadata"]["annotations"] = json!({"istio.io/dry-run": "true"});
    let open = policy("all", &json!({"rules": [{}]}));
    let audit = policy("audit", &json!({"action": "AUDIT", "rules": [{}]}));
    let decision = engine(&world(&[dry, open, audit])).decide(&access(&get("/headers"), "httpbin"));
    assert!(decision.is_allow());
    let shadow = decision.shadow.expect("what enforcing would have answered");
    assert!(!shadow.is_allow());
    assert_eq!(
        shadow.policies.first().map(|p| p.as_str()),
        Some("default/dry#rule-1")
    );
}

#[test]
fn what_cannot_be_translated_is_refused_by_name_at_its_place() {
    let refused = |spec: &str, expected: &[&str]| {
        let head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n";
        let mut found = findings(&format!("{head}{spec}{WORLD}"));
        found.retain(|finding| !finding.ends_with("command missing?"));
        assert_eq!(found, expected, "{spec}");
    };
    for (spec, expected) in [
        (
            "  action: ALLOW\n  provider: {name: x}\n  rules: [{}]\n",
            "6 spec.provider invalid",
        ),
        ("  action: LOG\n  rules: [{}]\n", "5 spec.action invalid"),
        ("  action: DENY\n", "5 spec.action missing"),
        (
            "  rules:\n  - when:\n    - {key: 'experimental.envoy.filters.network.mysql_proxy[db.table]', values: ['[update]']}\n",
            "7 spec.rules[0].when[0].key unsupported",
        ),
        (
            "  rules:\n  - when:\n    - {key: destination.ip, values: [10.0.0.1, here]}\n",
            "7 spec.rules[0].when[0].values[1] invalid",
        ),
        (
            "  rules:\n  - when:\n    - {key: request.colour, values: [a]}\n",
            "7 spec.rules[0].when[0].key invalid",
        ),
        (
            "  rules:\n  - when:\n    - {key: source.ip}\n",
            "7 spec.rules[0].when[0] missing",
        ),
        (
            "  rules:\n  - from:\n    - source: {remoteIpBlocks: [10.0.0.1/a]}\n",
            "7 spec.rules[0].from[0].source.remoteIpBlocks[0] invalid",
        ),
        (
            "  rules:\n  - from:\n    - source: {ipBlocks: [10.0.0.1, 10.0.0.0/33]}\n",
            "7 spec.rules[0].from[0].source.ipBlocks[1] invalid",
        ),
        (
            "  rules:\n  - to:\n    - operation: {ports: [http]}\n",
            "7 spec.rules[0].to[0].operation.ports[0] invalid",
        ),
        (
            "  rules:\n  - to:\n    - operation: {hosts: ['a.test:80']}\n",
            "7 spec.rules[0].to[0].operation.hosts[0] invalid",
        ),
        (
            "  rules:\n  - to:\n    - operation: {path: [/a]}\n",
            "7 spec.rules[0].to[0].operation.path unknown-field",
        ),
        ("  rules:\n  - from: []\n", "6 spec.rules[0].from invalid"),
        (
            "  targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio}]\n  rules: [{}]\n",
            "5 spec.targetRefs[0].kind invalid",
        ),
        (
            "  targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: none}]\n  rules: [{}]\n",
            "5 spec.targetRefs[0].name unknown-reference",
        ),
        (
            "  targetRefs: [{group: apps, kind: Deployment, name: httpbin}]\n  rules: [{}]\n",
            "5 spec.targetRefs[0].kind unsupported",
        ),
        (
            "  selector: {matchLabels: {app: nobody}}\n  rules: [{}]\n",
            "5 spec.selector unknown-reference?",
        ),
    ] {
        refused(spec, &[expected]);
    }
}

#[test]
fn a_gateway_knows_its_clients_addresses() {
    let spec = json!({
        "selector": {"matchLabels": {"istio": "ingressgateway"}},
        "rules": [{"from": [{"source": {"remoteIpBlocks": ["10.0.0.0/8"]}}]}],
    });
    for (ip, expected) in [("10.1.2.3", true), ("11.1.2.3", false)] {
        let asked = Asked::http("GET", "/").at(ip);
        assert_eq!(
            answers(&[policy("p", &spec)], "edge", &asked),
            (expected, expected)
        );
    }
}

/// Whether the workload of that name is allowed to be asked, where it stands behind the services that the mesh says.
fn allowed_at(mesh: &Mesh, workload: &str, asked: &Asked) -> bool {
    let found = mesh.workloads.iter().find(|w| w.name.as_str() == workload);
    let found = found.expect("a workload");
    let mut access = access(asked, workload);
    access.resource.workload.clone_from(&found.identity);
    let services = mesh.services.values().filter(|s| s.selects(found));
    access.resource.services = services.map(|s| s.host.clone()).collect();
    engine(mesh).decide(&access).is_allow()
}

#[test]
fn a_selector_tells_workloads_of_one_account_apart() {
    let spec = json!({"selector": {"matchLabels": {"app": "second"}}, "rules": [{}]});
    let mesh = world(&[policy("p", &spec)]);
    let [only] = mesh.policies.as_slice() else {
        panic!("{:?}", mesh.policies);
    };
    assert_eq!(
        only.text,
        "@id(\"rule-1\")\npermit (principal, action, resource in Service::\"p.default.selector\");"
    );
    for (workload, expected) in [("second", true), ("other", false), ("httpbin", false)] {
        assert_eq!(
            allowed_at(&mesh, workload, &get("/")),
            expected,
            "{workload}"
        );
    }
    let deny = json!({
        "action": "DENY", "selector": {"matchLabels": {"version": "v2"}},
        "rules": [{"to": [{"operation": {"paths": ["/admin"]}}]}],
    });
    let mut deny = policy("deny", &deny);
    deny["metadata"]["namespace"] = json!("reeve-system");
    let mesh = world(&[policy("all", &json!({"rules": [{}]})), deny]);
    for (workload, path, expected) in [
        ("second", "/admin", false),
        ("second", "/", true),
        ("other", "/admin", true),
    ] {
        assert_eq!(
            allowed_at(&mesh, workload, &get(path)),
            expected,
            "{workload} {path}"
        );
    }
}

const EDGES: &str = r#"---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front, namespace: default}
spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bank, namespace: default}
spec:
  hosts: [api.bank.example, "*.cards.example"]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: NONE
"#;

#[test]
fn targets_are_gateways_their_classes_and_service_entries() {
    let target = |group: &str, kind: &str, name: &str| json!({"targetRefs": [{"group": group, "kind": kind, "name": name}], "rules": [{}]});
    let api = "gateway.networking.k8s.io";
    let label = "{name: edge, serviceAccount: edge, role: gateway, labels: {istio: ingressgateway}";
    let world = WORLD.replace(
        label,
        "{name: edge, serviceAccount: edge, role: gateway, labels: {gateway.networking.k8s.io/gateway-name: front}",
    );
    let edge = r#"resource == Workload::"spiffe://mesh.local/ns/default/sa/edge""#;
    for (spec, namespace, head) in [
        (target(api, "Gateway", "front"), "default", edge),
        (target(api, "GatewayClass", "istio"), "reeve-system", edge),
        (
            target("", "Service", "httpbin"),
            "default",
            r#"resource in Service::"httpbin.default.svc.cluster.local""#,
        ),
    ] {
        let mut one = policy("p", &spec);
        one["metadata"]["namespace"] = json!(namespace);
        let mesh = mesh(&format!("{world}{EDGES}{}", document(&one)));
        let texts: Vec<_> = mesh.policies.iter().map(|p| p.text.as_str()).collect();
        let expected = format!("@id(\"rule-1\")\npermit (principal, action, {head});");
        assert_eq!(texts, [expected], "{spec}");
    }
    let entry = policy("p", &target("networking.istio.io", "ServiceEntry", "bank"));
    let mesh = mesh(&format!("{world}{EDGES}{}", document(&entry)));
    let texts: Vec<_> = mesh.policies.iter().map(|p| p.text.as_str()).collect();
    let both = r#"permit (principal, action, resource)
when { resource in Service::"api.bank.example" || resource in Service::"bank.default.entry" };"#;
    assert_eq!(texts, [format!("@id(\"rule-1\")\n{both}")]);
}

#[test]
fn policies_in_cedar_count_as_allow_policies() {
    let deny = policy(
        "deny",
        &json!({
            "action": "DENY", "rules": [{"to": [{"operation": {"methods": ["POST"]}}]}],
        }),
    );
    let access_policy = json!({
        "apiVersion": "reeve.dev/v1alpha1", "kind": "AccessPolicy",
        "metadata": {"name": "own", "namespace": "default"},
        "spec": {"cedar": "permit (principal, action == Action::\"PUT\", resource);"},
    });
    let mesh = world(&[deny, access_policy]);
    assert!(
        !engine(&mesh)
            .decide(&access(&get("/"), "httpbin"))
            .is_allow()
    );
    assert!(
        engine(&mesh)
            .decide(&access(&Asked::http("PUT", "/"), "httpbin"))
            .is_allow()
    );
}

#[test]
fn policies_of_the_root_namespace_hold_for_the_whole_mesh() {
    let mut deny = policy(
        "admin",
        &json!({
            "action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/admin*"]}}]}],
        }),
    );
    deny["metadata"]["namespace"] = json!("reeve-system");
    let allow = policy(
        "httpbin",
        &json!({
            "selector": {"matchLabels": {"app": "httpbin"}}, "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}],
        }),
    );
    let mesh = world(&[deny.clone(), allow]);
    let engine = engine(&mesh);
    for (asked, workload, expected) in [
        (get("/admin"), "httpbin", false),
        (get("/x"), "httpbin", true),
        (Asked::http("POST", "/x"), "httpbin", false),
        (get("/admin"), "other", false),
        (Asked::http("POST", "/x"), "other", true),
    ] {
        let decision = engine.decide(&access(&asked, workload));
        assert_eq!(decision.is_allow(), expected, "{workload} {asked:?}");
    }
    deny["metadata"]["namespace"] = json!("istio-system");
    let found = findings(&format!("{}{WORLD}", document(&deny)));
    let told = found
        .iter()
        .any(|f| f.ends_with("metadata.namespace unknown-reference?"));
    assert!(told, "{found:?}");
}

#[test]
fn a_rule_that_contradicts_itself_matches_nothing_and_is_named() {
    let header = json!({"key": "request.headers[X-Version]", "values": ["*"], "notValues": ["*"]});
    let header = json!({"when": [header]});
    let source = json!({"from": [{"source": {"principals": ["*"], "notPrincipals": ["*"]}}]});
    for rule in [header, source] {
        for action in ["ALLOW", "DENY"] {
            let spec = json!({"action": action, "rules": [rule]});
            let mesh = world(&[policy("p", &spec)]);
            let warned = |w: &crate::Fault| w.code == crate::Code::Unreachable;
            assert!(mesh.warnings.iter().any(warned), "{action} {rule}");
            let ids: Vec<_> = mesh.policies.iter().map(|p| p.id.as_str()).collect();
            assert!(!ids.contains(&"default/p#rule-1"), "{ids:?}");
        }
    }
}

/// Istio cuts at the last slash, where no SPIFFE ID would ever be the subject.
#[test]
fn a_workloads_token_is_named_by_its_issuer_and_its_spiffe_id() {
    for (principal, expected) in [
        (
            "spiffe://other.org/spiffe://other.org/ns/pay/sa/ledger",
            true,
        ),
        ("spiffe://other.org/spiffe://other.org/ns/pay/*", true),
        ("spiffe://other.org/*", true),
        ("*/spiffe://other.org/ns/pay/sa/ledger", true),
        ("spiffe://other.org/spiffe://other.org/ns/pay/sa/x", false),
        (
            "spiffe://third.net/spiffe://other.org/ns/pay/sa/ledger",
            false,
        ),
    ] {
        let tokens = json!({
            "selector": {"matchLabels": {"app": "httpbin"}}, "action": "ALLOW",
            "rules": [{"from": [{"source": {"requestPrincipals": [principal]}}]}],
        });
        let asked = get("/").user("spiffe://other.org", "spiffe://other.org/ns/pay/sa/ledger");
        let engine = engine(&world(&[policy("tokens", &tokens)]));
        let decision = engine.decide(&access(&asked, "httpbin"));
        assert_eq!(decision.is_allow(), expected, "{principal}");
    }
}
