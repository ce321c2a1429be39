//! Nothing that a decision rests on may be missing from what it is remembered by.

use reeve_core::{
    ServiceName, UnixTime,
    decision::{Action, GrpcMethod, HttpContext, Principal, User},
};

use super::*;
use crate::fixtures::{self, mesh_wide, namespace, request};

type Change = fn(&mut AccessRequest);

fn http(request: &mut AccessRequest) -> &mut HttpContext {
    request.context.http.as_mut().unwrap()
}

fn grpc(request: &mut AccessRequest) -> &mut GrpcMethod {
    http(request).grpc.as_mut().unwrap()
}

fn user(request: &mut AccessRequest) -> &mut User {
    std::sync::Arc::make_mut(request.user.as_mut().unwrap())
}

/// Each row: a condition that holds for the request, and a change after which it does not.
const TABLE: [(&str, Change); 24] = [
    (
        r#"principal in ServiceAccount::"mesh.local/ns/default/sa/bookinfo-productpage""#,
        |r| {
            r.principal = Principal::Workload(fixtures::id(fixtures::REVIEWS));
        },
    ),
    ("principal is Workload", |r| {
        r.principal = Principal::Unauthenticated
    }),
    (r#"action == Action::"GET""#, |r| r.action = Action::Head),
    (
        r#"resource in Service::"reviews.default.svc.cluster.local""#,
        |r| {
            r.resource.services =
                vec![ServiceName::parse("other.default.svc.cluster.local").unwrap()];
        },
    ),
    (
        r#"resource == Workload::"spiffe://mesh.local/ns/default/sa/bookinfo-reviews""#,
        |r| {
            r.resource.workload = Some(fixtures::id(fixtures::PRODUCTPAGE));
        },
    ),
    ("resource is Workload", |r| r.resource.workload = None),
    (
        r#"resource in Namespace::"mesh.local/ns/default" && !(resource in Namespace::"mesh.local/ns/pay")"#,
        |r| {
            r.resource.namespace = namespace("pay");
        },
    ),
    (r#"context.source_ip.isInRange(ip("10.0.0.0/8"))"#, |r| {
        r.context.source_ip = "11.1.2.3".parse().unwrap();
    }),
    ("context.source_ip.isIpv4()", |r| {
        r.context.source_ip = "::1".parse().unwrap()
    }),
    ("context.port == 9080", |r| r.context.port = 80),
    ("context.mtls", |r| r.context.mtls = false),
    (r#"context.time < datetime("2030-01-01")"#, |r| {
        r.context.time = UnixTime::from_secs(2_000_000_000)
    }),
    (r#"context.method == "GET""#, |r| {
        http(r).method = "get".into()
    }),
    (r#"context.host == "reviews""#, |r| {
        http(r).host = "ratings".into()
    }),
    (r#"context.path like "/rev*/7""#, |r| {
        http(r).path = "/reviews/8".into()
    }),
    ("context.path_segments.count == 2", |r| {
        http(r).path = "/reviews".into()
    }),
    ("context has grpc", |r| http(r).grpc = None),
    (
        r#"context has grpc && context.grpc.service like "store.*""#,
        |r| grpc(r).service = "shop".into(),
    ),
    (r#"context has grpc && context.grpc.method == "Get""#, |r| {
        grpc(r).method = "Put".into()
    }),
    (
        r#"context.headers.hasTag("end-user") && context.headers.getTag("end-user") == ["jason", "joe"]"#,
        |r| {
            http(r).headers = [("end-user".into(), ["jason".into()].into())].into();
        },
    ),
    (r#"context.query.hasTag("page")"#, |r| http(r).query.clear()),
    ("context has user", |r| r.user = None),
    (
        r#"context has user && context.user.issuer like "https*""#,
        |r| user(r).issuer.clear(),
    ),
    (
        r#"context has user && context.user.hasTag("groups") && context.user.getTag("groups") == ["admin", "staff"]"#,
        |r| {
            user(r).claims = [("groups".into(), ["admin, staff".into()].into())].into();
        },
    ),
];

#[test]
fn a_decision_is_remembered_by_every_value_that_it_rests_on() {
    let mut base = request();
    base.user = Some(fixtures::user().into());
    http(&mut base).grpc = Some(fixtures::grpc());
    for (condition, change) in TABLE {
        let engine = mesh_wide(&format!(
            "permit (principal, action in Action::\"http\", resource) when {{ {condition} }};"
        ));
        let mut other = base.clone();
        change(&mut other);
        for _ in 0..2 {
            assert!(engine.decide(&base).is_allow(), "{condition}");
            assert!(!engine.decide(&other).is_allow(), "{condition}");
        }
    }
}

#[test]
fn what_one_engine_decided_says_nothing_about_another() {
    let all = mesh_wide("permit (principal, action, resource);");
    let none = mesh_wide("forbid (principal, action, resource);");
    for _ in 0..2 {
        assert!(all.decide(&request()).is_allow());
        assert!(!none.decide(&request()).is_allow());
    }
}

#[test]
fn neither_many_callers_nor_many_values_make_a_thread_remember_without_bound() {
    let text = r#"permit (principal, action in Action::"http", resource) when { context.path like "/r*" };"#;
    let engine = mesh_wide(text);
    let kept = |measure: fn(&Memory) -> usize| MEMORY.with_borrow(measure);
    let mut asked = request();
    for n in 0..MAX_MET + 10 {
        asked.principal = Principal::Workload(fixtures::id(&format!("spiffe://mesh.local/w{n}")));
        assert!(engine.decide(&asked).is_allow());
        assert!(kept(|m| m.met.len()) <= MAX_MET);
    }
    for n in 0..MAX_DECISIONS + 10 {
        http(&mut asked).path = format!("/r/{n}");
        assert!(engine.decide(&asked).is_allow());
        assert!(kept(|m| m.met.values().map(|met| met.decisions.len()).sum()) <= MAX_DECISIONS);
    }
    http(&mut asked).path = format!("/r{}", "x".repeat(MAX_KEY_BYTES));
    let before = kept(|m| m.decisions);
    assert!(engine.decide(&asked).is_allow());
    assert_eq!(kept(|m| m.decisions), before, "too long to be remembered");
}
