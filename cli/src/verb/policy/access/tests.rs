use reeve_authz::parse_access_policy;
use reeve_core::{Namespace, model::PolicySlice};
use serde_json::json;

use super::{condition::Condition, *};

/// What is said of a GET of `/` by `web`, by these policies.
fn said(cedar: &str) -> (Can, Vec<String>, Vec<String>) {
    let home = Namespace::parse("default").unwrap();
    let policies = parse_access_policy(Some(&home), &home, "p", cedar).unwrap();
    let slice = PolicySlice {
        mesh_hash: reeve_authz::mesh_hash(&policies),
        policies,
        ..PolicySlice::default()
    };
    let request = json!({
        "principal": {"workload": "spiffe://mesh.local/ns/default/sa/web"},
        "action": "GET",
        "resource": {"workload": "spiffe://mesh.local/ns/default/sa/a", "namespace": "default", "services": []},
        "context": {"source_ip": "127.0.0.1", "port": 80, "mtls": true, "time": 0,
            "http": {"method": "GET", "host": "a", "path": "/"}},
    });
    let request: AccessRequest = serde_json::from_value(request).unwrap();
    let engine = Engine::compile(&slice).unwrap();
    let (can, policies, conditions) = judged(&engine.explain(&request), &Conditions::of(&engine));
    let policies = policies.iter().map(ToString::to_string).collect();
    (
        can,
        policies,
        conditions.iter().map(ToString::to_string).collect(),
    )
}

const PERMIT: &str = "@id(\"all\") permit (principal, action, resource);";
const READ: &str = "@id(\"read\") permit (principal, action == Action::\"GET\", resource)
    when { context.port == 80 && context.path like \"/a/*\" };";

#[test]
fn a_permit_without_conditions_is_a_yes() {
    assert_eq!(
        said(PERMIT),
        (Can::Yes, vec!["default/p#all".to_owned()], vec![])
    );
}

#[test]
fn a_permit_whose_conditions_do_not_hold_is_an_if() {
    let (can, policies, conditions) = said(READ);
    assert_eq!((can, policies), (Can::If, vec![]));
    assert_eq!(conditions, ["default/p#read: where the path is like /a/*"]);
}

#[test]
fn a_permit_for_others_or_in_shadow_is_a_no() {
    for cedar in [
        "permit (principal, action == Action::\"POST\", resource);",
        "permit (principal is Unauthenticated, action, resource);",
        "@mode(\"shadow\") permit (principal, action, resource);",
        "forbid (principal, action, resource);",
    ] {
        assert_eq!(said(cedar), (Can::No, vec![], vec![]), "{cedar}");
    }
    let forbidden =
        format!("{PERMIT} {READ} forbid (principal, action == Action::\"GET\", resource);");
    assert_eq!(said(&forbidden).0, Can::No);
}

#[test]
fn a_forbid_with_conditions_is_named() {
    let other = format!(
        "{PERMIT} @id(\"not\") forbid (principal, action == Action::\"GET\", resource) when {{ context.path == \"/x\" }};"
    );
    let (can, policies, conditions) = said(&other);
    assert_eq!((can, policies.len()), (Can::Yes, 1));
    assert_eq!(conditions, ["default/p#not: not where the path is /x"]);
    let applies = other.replace("\"/x\"", "\"/\"");
    let (can, policies, conditions) = said(&applies);
    assert_eq!((can, policies.len()), (Can::If, 1));
    assert_eq!(conditions, ["default/p#not: not where the path is /"]);
}

#[test]
fn end_users_are_named_by_what_their_token_must_say() {
    let user = "context has user && context.user.issuer == \"https://i.example\" && \
                context.user.hasTag(\"roles\") && context.user.getTag(\"roles\").contains(\"admin\")";
    let permit = format!(
        "@id(\"users\") permit (principal, action in Action::\"http\", resource) when {{ {user} }};"
    );
    let (can, _, conditions) = said(&permit);
    assert_eq!(can, Can::If);
    let words = "a user with roles=admin from https://i.example";
    assert_eq!(conditions, [format!("default/p#users: where {words}")]);
    let guard = format!(
        "{PERMIT} @id(\"guard\") forbid (principal, action in Action::\"http\", resource) unless {{ {user} }};"
    );
    let (can, _, conditions) = said(&guard);
    assert_eq!(can, Can::If);
    assert_eq!(conditions, [format!("default/p#guard: only where {words}")]);
}

fn accesses() -> Vec<Access> {
    let access = |caller: &str, answer, conditions| Access {
        caller: caller.to_owned(),
        services: vec!["a.default.svc.cluster.local".to_owned()],
        workload: None,
        methods: vec![Action::Get, Action::Head],
        answer,
        policies: Vec::new(),
        conditions,
    };
    let slice = said_condition();
    vec![
        access(
            "spiffe://mesh.local/ns/default/sa/web",
            Can::Yes,
            Vec::new(),
        ),
        access("unauthenticated", Can::If, vec![slice]),
    ]
}

/// A condition with characters that the forms of graphs take for their own.
fn said_condition() -> Condition {
    let home = Namespace::parse("default").unwrap();
    let text = "permit (principal, action in Action::\"http\", resource) when { context.path == \"<\\\"&>\" };";
    let policies = parse_access_policy(Some(&home), &home, "p", text).unwrap();
    let slice = PolicySlice {
        mesh_hash: reeve_authz::mesh_hash(&policies),
        policies,
        ..PolicySlice::default()
    };
    let engine = Engine::compile(&slice).unwrap();
    let verdict = PolicyVerdict {
        id: PolicyId::parse("default/p").unwrap(),
        effect: Effect::Allow,
        mode: PolicyMode::Enforce,
        verdict: PolicyAnswer::Unsatisfied,
        matched: 3,
        parts: 4,
        resource_fits: true,
        failed: Some("when { context.path == \"<\\\"&>\" }".to_owned()),
        values: BTreeMap::new(),
        error: None,
        annotations: BTreeMap::new(),
        text: text.to_owned(),
    };
    Conditions::of(&engine).of_policy(&verdict)
}

#[test]
fn graphs_have_every_caller_target_and_line_once() {
    let all = accesses();
    let dot = graph::dot(&all);
    assert_eq!(
        dot,
        "digraph access {\n  rankdir=LR;\n  node [shape=box];\n  \
         \"spiffe://mesh.local/ns/default/sa/web\" -> \"a.default.svc.cluster.local\" [label=\"GET HEAD\", style=solid];\n  \
         \"unauthenticated\" -> \"a.default.svc.cluster.local\" \
         [label=\"GET HEAD\\ndefault/p: where the path is <\\\"&>\", style=dashed];\n}"
    );
    let mermaid = graph::mermaid(&all);
    assert_eq!(
        mermaid,
        "flowchart LR\n  c0[\"spiffe://mesh.local/ns/default/sa/web\"]\n  c1[\"unauthenticated\"]\n  \
         t0[\"a.default.svc.cluster.local\"]\n  c0 -->|\"GET HEAD\"| t0\n  \
         c1 -.->|\"GET HEAD<br/>default/p: where the path is &lt;&quot;&amp;&gt;\"| t0"
    );
    let svg = graph::svg(&all);
    assert_eq!(svg.matches("<path ").count(), 2);
    assert_eq!(svg.matches("stroke-dasharray").count(), 1);
    assert_eq!(
        svg.matches(">a.default.svc.cluster.local</text>").count(),
        1
    );
    assert!(
        svg.contains("where the path is &lt;&quot;&amp;&gt;</title>"),
        "{svg}"
    );
    assert_eq!(svg.matches('<').count(), svg.matches('>').count());
}
