use reeve_core::model::PolicySource;

use super::*;
use crate::{
    MAX_CANDIDATES, compile,
    fixtures::{engine, request, source},
};

const MANY: usize = 24;
const ENOUGH: usize = 20;

/// Policies that differ in what stands for `@`: a number.
fn numbered(
    count: usize,
    scope: impl Fn(usize) -> Option<&'static str>,
    text: &str,
) -> Vec<PolicySource> {
    let each = (0..count).map(|n| {
        let text = text.replace('@', &n.to_string());
        source(&format!("default/p{n:04}"), scope(n), &text)
    });
    each.collect()
}

const TWO: Together = Together {
    services: 2,
    groups: 0,
};

/// How many are too many, if they are.
fn crowded(policies: &[PolicySource]) -> usize {
    let mesh = MeshSchema::get().unwrap();
    let all = compile::compile(&mesh, policies, &[]).unwrap();
    let trees: Vec<_> = all
        .iter()
        .map(|p| p.policy.to_pst().unwrap().body().clone())
        .collect();
    let policies = all.iter().zip(&trees);
    let policies = policies.map(|(p, tree)| (&p.source.id, p.source.scope.as_ref(), tree));
    let crowd = most_candidates(&mesh, policies, TWO, ENOUGH);
    assert!(crowd.count >= crowd.policies.len());
    if crowd.count > ENOUGH {
        crowd.policies.len()
    } else {
        0
    }
}

#[test]
fn a_set_that_one_request_could_meet_as_a_whole_is_found() {
    let workload = "Workload::\"spiffe://mesh.local/ns/n@/sa/a\"";
    let table = [
        ("permit (principal, action, resource) when { context.port > @ };".to_owned(), MANY),
        ("permit (principal, action, resource) unless { context.port == @ };".to_owned(), MANY),
        ("forbid (principal in Namespace::\"mesh.local/ns/a\", action, resource) when { context.port > @ };".to_owned(), MANY),
        (format!("permit (principal == {workload}, action, resource);"), 0),
        (format!("permit (principal, action, resource) when {{ principal == {workload} }};"), 0),
        ("permit (principal, action, resource == Service::\"s@.default.svc.cluster.local\");".to_owned(), 0),
        ("permit (principal, action, resource in Namespace::\"mesh.local/ns/n@\");".to_owned(), 0),
        ("permit (principal, action, resource) when { context.port == @ };".to_owned(), 0),
        ("permit (principal, action in Action::\"read\", resource) when { context.path like \"/@/*\" };".to_owned(), 0),
        ("permit (principal, action in Action::\"read\", resource) when { context.path == \"/@\" };".to_owned(), 0),
        ("permit (principal, action in Action::\"read\", resource) when { context.headers.hasTag(\"a\") && context.headers.getTag(\"a\").contains(\"@\") };".to_owned(), MANY),
        // Overflow is an error, and must be found: such policies are asked whatever the rest says.
        (format!("forbid (principal, action, resource) when {{ context.port + @ > 0 && principal == {workload} }};"), MANY),
    ];
    for (text, expected) in table {
        assert_eq!(
            crowded(&numbered(MANY, |_| None, &text)),
            expected,
            "{text}"
        );
    }
}

#[test]
fn tenants_and_actions_do_not_add_up() {
    let all = "permit (principal, action, resource) when { context.port > @ };";
    let halves = |n: usize| {
        Some(if n.is_multiple_of(2) {
            "default"
        } else {
            "pay"
        })
    };
    assert_eq!(crowded(&numbered(MANY, halves, all)), 0);
    assert_eq!(crowded(&numbered(MANY, |_| Some("pay"), all)), MANY);
    let mut policies = numbered(MANY, |_| None, all);
    for (policy, action) in policies.iter_mut().zip(["GET", "PUT"].into_iter().cycle()) {
        policy.text = policy
            .text
            .replace("action", &format!("action == Action::\"{action}\""));
    }
    assert_eq!(crowded(&policies), 0);
}

/// What one request meets is never more than what was foreseen.
#[test]
fn a_request_that_meets_more_than_the_bound_is_denied() {
    let text = "permit (principal, action in Action::\"read\", resource) when { context.headers.hasTag(\"a\") && context.headers.getTag(\"a\").contains(\"@\") };";
    let engine = engine(numbered(MAX_CANDIDATES + 1, |_| None, text));
    let mut asked = request();
    let values = |count: usize| (0..count).map(|n| n.to_string()).collect();
    for (count, reason) in [
        (1, "permitted"),
        (MAX_CANDIDATES, "permitted"),
        (MAX_CANDIDATES + 1, "too_many_policies"),
    ] {
        let http = asked.context.http.as_mut().unwrap();
        http.headers = [("a".to_owned(), values(count))].into();
        assert_eq!(engine.decide(&asked).reason.as_str(), reason, "{count}");
    }
}
