use reeve_core::{
    PolicyId, ServiceName, UnixTime,
    decision::Principal,
    model::{PolicyMode, PolicySource},
};

use super::*;
use crate::fixtures::{connection, engine, grpc, id, mesh_wide, namespace, request, source, user};

const ALL: &str = "permit (principal, action, resource);";

fn permit_when(condition: &str) -> Engine {
    mesh_wide(&format!(
        "permit (principal, action, resource) when {{ {condition} }};"
    ))
}

fn policy_ids(decision: &Decision) -> Vec<&str> {
    decision.policies.iter().map(PolicyId::as_str).collect()
}

#[test]
fn nothing_is_allowed_without_a_permit() {
    let decision = engine(Vec::new()).decide(&request());
    assert_eq!(
        decision,
        Decision::without_policy(Effect::Deny, Reason::NoPermit)
    );
    let closed = Engine::deny_all(Reason::NoPolicySet);
    assert_eq!(
        closed.decide(&request()),
        Decision::without_policy(Effect::Deny, Reason::NoPolicySet)
    );
    assert!(closed.explain(&request()).policies.is_empty());
}

#[test]
fn a_forbid_outweighs_every_permit() {
    let engine = mesh_wide(&format!(
        "{ALL}\n{ALL}\n@id(\"no\") forbid (principal, action, resource);"
    ));
    let decision = engine.decide(&request());
    assert_eq!(
        (decision.effect, decision.reason),
        (Effect::Deny, Reason::Forbidden)
    );
    assert_eq!(policy_ids(&decision), ["reeve-system/p#no"]);
    let decision = mesh_wide(&format!("{ALL}\n{ALL}")).decide(&request());
    assert_eq!(
        (decision.effect, decision.reason),
        (Effect::Allow, Reason::Permitted)
    );
    assert_eq!(
        policy_ids(&decision),
        ["reeve-system/p#1", "reeve-system/p#2"]
    );
}

/// Each row: a scope that fits [`request`], and its twin that does not.
#[test]
fn scopes_fit_exactly_who_what_and_whom_they_name() {
    let table = [
        (
            r#"principal == Workload::"spiffe://mesh.local/ns/default/sa/bookinfo-productpage", action, resource"#,
            r#"principal == Workload::"spiffe://mesh.local/ns/default/sa/bookinfo-ratings", action, resource"#,
        ),
        (
            r#"principal in ServiceAccount::"mesh.local/ns/default/sa/bookinfo-productpage", action, resource"#,
            r#"principal in ServiceAccount::"mesh.local/ns/other/sa/bookinfo-productpage", action, resource"#,
        ),
        (
            r#"principal in Namespace::"mesh.local/ns/default", action, resource"#,
            r#"principal in Namespace::"partner.example/ns/default", action, resource"#,
        ),
        (
            r#"principal in TrustDomain::"mesh.local", action, resource"#,
            r#"principal in TrustDomain::"mesh.local.evil", action, resource"#,
        ),
        (
            "principal is Workload, action, resource",
            "principal is Unauthenticated, action, resource",
        ),
        (
            r#"principal, action == Action::"GET", resource"#,
            r#"principal, action == Action::"HEAD", resource"#,
        ),
        (
            r#"principal, action in Action::"http", resource"#,
            r#"principal, action == Action::"connect", resource"#,
        ),
        (
            r#"principal, action in Action::"read", resource"#,
            r#"principal, action in Action::"write", resource"#,
        ),
        (
            r#"principal, action in [Action::"POST", Action::"GET"], resource"#,
            r#"principal, action in [Action::"POST", Action::"PUT"], resource"#,
        ),
        (
            r#"principal, action, resource in Service::"reviews.default.svc.cluster.local""#,
            r#"principal, action, resource in Service::"ratings.default.svc.cluster.local""#,
        ),
        (
            r#"principal, action, resource == Workload::"spiffe://mesh.local/ns/default/sa/bookinfo-reviews""#,
            r#"principal, action, resource == Workload::"spiffe://mesh.local/ns/default/sa/bookinfo-productpage""#,
        ),
        (
            r#"principal, action, resource in Namespace::"mesh.local/ns/default""#,
            r#"principal, action, resource in Namespace::"mesh.local/ns/pay""#,
        ),
        (
            r#"principal, action, resource in TrustDomain::"mesh.local""#,
            r#"principal, action, resource in TrustDomain::"partner.example""#,
        ),
        (
            "principal, action, resource is Workload",
            "principal, action, resource is Service",
        ),
    ];
    for (fits, twin) in table {
        assert!(
            mesh_wide(&format!("permit ({fits});"))
                .decide(&request())
                .is_allow(),
            "{fits}"
        );
        let denied = mesh_wide(&format!("permit ({twin});")).decide(&request());
        assert_eq!(denied.reason, Reason::NoPermit, "{twin}");
    }
}

/// Each row: a condition that holds for [`request`] with a user and a gRPC method, and its twin that does not.
#[test]
fn conditions_see_what_the_request_says() {
    let table = [
        (
            r#"context.source_ip.isInRange(ip("10.0.0.0/8"))"#,
            r#"context.source_ip.isInRange(ip("10.2.0.0/16"))"#,
        ),
        ("context.port == 9080", "context.port == 80"),
        ("context.mtls", "!context.mtls"),
        (
            r#"context.time < datetime("2030-01-01")"#,
            r#"context.time < datetime("2020-01-01")"#,
        ),
    ];
    let http = [
        (r#"context.method == "GET""#, r#"context.method == "get""#),
        (
            r#"context.host == "reviews""#,
            r#"context.host == "ratings""#,
        ),
        (
            r#"context.path like "/reviews/*""#,
            r#"context.path like "/admin/*""#,
        ),
        (
            r#"context.path_segments has s2 && context.path_segments.s2 == "7""#,
            "context.path_segments has s3",
        ),
        (
            "context.path_segments.count == 2",
            "context.path_segments.count == 3",
        ),
        (
            r#"context has grpc && context.grpc.service == "store.Ratings""#,
            "!(context has grpc)",
        ),
        (
            r#"context has grpc && context.grpc.method == "Get""#,
            r#"context has grpc && context.grpc.method == "Put""#,
        ),
        (
            r#"context.headers.hasTag("end-user") && context.headers.getTag("end-user").contains("joe")"#,
            r#"context.headers.hasTag("end-user") && context.headers.getTag("end-user").contains("jo")"#,
        ),
        (
            r#"context.headers.hasTag("end-user")"#,
            r#"context.headers.hasTag("x-other")"#,
        ),
        (
            r#"context.query.hasTag("page") && context.query.getTag("page") == ["2"]"#,
            r#"context.query.hasTag("page") && context.query.getTag("page") == ["2", "3"]"#,
        ),
        (
            r#"context has user && context.user.issuer == "https://issuer.example""#,
            r#"context has user && context.user.issuer == "https://issuer.example/""#,
        ),
        (
            r#"context has user && context.user.subject == "alice""#,
            "!(context has user)",
        ),
        (
            r#"context has user && context.user.hasTag("groups") && context.user.getTag("groups").containsAll(["admin", "staff"])"#,
            r#"context has user && context.user.hasTag("groups") && context.user.getTag("groups").contains("root")"#,
        ),
    ];
    let mut asked = request();
    asked.user = Some(user().into());
    asked.context.http.as_mut().unwrap().grpc = Some(grpc());
    for (holds, twin) in table.iter().chain(&http) {
        let scoped = |condition: &str| {
            mesh_wide(&format!(
                "permit (principal, action == Action::\"GET\", resource) when {{ {condition} }};"
            ))
        };
        assert!(scoped(holds).decide(&asked).is_allow(), "{holds}");
        assert_eq!(
            scoped(twin).decide(&asked).reason,
            Reason::NoPermit,
            "{twin}"
        );
    }
    for (holds, twin) in table {
        assert!(
            permit_when(holds).decide(&connection()).is_allow(),
            "{holds}"
        );
        assert_eq!(
            permit_when(twin).decide(&connection()).reason,
            Reason::NoPermit,
            "{twin}"
        );
    }
}

#[test]
fn the_absent_is_absent() {
    let mut bare = request();
    bare.principal = Principal::Unauthenticated;
    bare.context.mtls = false;
    let http = |condition: &str| {
        mesh_wide(&format!(
            "permit (principal, action in Action::\"read\", resource) when {{ {condition} }};"
        ))
    };
    assert!(
        http("!(context has user) && !(context has grpc)")
            .decide(&bare)
            .is_allow()
    );
    assert!(
        !http("context has user || context has grpc")
            .decide(&bare)
            .is_allow()
    );
    assert!(
        mesh_wide("permit (principal is Unauthenticated, action, resource);")
            .decide(&bare)
            .is_allow()
    );
    assert!(
        !mesh_wide("permit (principal is Workload, action, resource);")
            .decide(&bare)
            .is_allow()
    );
    let strangers =
        r#"permit (principal == Unauthenticated::"unauthenticated", action, resource);"#;
    assert!(mesh_wide(strangers).decide(&bare).is_allow());
    assert!(!mesh_wide(strangers).decide(&request()).is_allow());
}

#[test]
fn an_identity_of_another_form_has_its_trust_domain_as_only_parent() {
    let mut asked = request();
    asked.principal = Principal::Workload(id("spiffe://mesh.local/build/runner"));
    let by_domain =
        mesh_wide(r#"permit (principal in TrustDomain::"mesh.local", action, resource);"#);
    assert!(by_domain.decide(&asked).is_allow());
    let by_namespace =
        mesh_wide(r#"permit (principal in Namespace::"mesh.local/ns/default", action, resource);"#);
    assert!(!by_namespace.decide(&asked).is_allow());
}

#[test]
fn the_same_workload_may_be_asker_and_asked() {
    let mut asked = request();
    asked.principal = Principal::Workload(asked.resource.workload.clone().unwrap());
    let own = mesh_wide("permit (principal, action, resource) when { principal == resource };");
    assert!(own.decide(&asked).is_allow());
    assert!(!own.decide(&request()).is_allow());
}

#[test]
fn a_service_outside_the_mesh_is_asked_for_by_name() {
    let mut asked = request();
    asked.resource.workload = None;
    asked.resource.services = vec![ServiceName::parse("api.example.com").unwrap()];
    let table = [
        (
            r#"resource == Service::"api.example.com""#,
            r#"resource == Service::"www.example.com""#,
        ),
        (
            r#"resource in Namespace::"mesh.local/ns/default""#,
            r#"resource in Namespace::"mesh.local/ns/pay""#,
        ),
        ("resource is Service", "resource is Workload"),
    ];
    for (fits, twin) in table {
        assert!(
            mesh_wide(&format!("permit (principal, action, {fits});"))
                .decide(&asked)
                .is_allow(),
            "{fits}"
        );
        assert!(
            !mesh_wide(&format!("permit (principal, action, {twin});"))
                .decide(&asked)
                .is_allow(),
            "{twin}"
        );
    }
    let closed = |change: fn(&mut AccessRequest)| {
        let mut asked = asked.clone();
        change(&mut asked);
        mesh_wide(ALL).decide(&asked).reason
    };
    assert_eq!(closed(|_| {}), Reason::Permitted);
    let nameless = closed(|r| r.resource.services.clear());
    assert_eq!(
        nameless,
        Reason::ForbidError,
        "what cannot be asked is closed"
    );
    assert_eq!(
        closed(|r| r.resource.services.extend_from_within(..)),
        Reason::ForbidError
    );
    assert_eq!(
        closed(|r| r.principal = Principal::Unauthenticated),
        Reason::ForbidError
    );
}

#[test]
fn a_forbid_that_fails_to_evaluate_closes() {
    let overflow = "context.port * 9223372036854775807 > 0";
    let forbid =
        format!("@id(\"broken\") forbid (principal, action, resource) when {{ {overflow} }};");
    let decision = mesh_wide(&format!("{ALL}\n{forbid}")).decide(&request());
    assert_eq!(
        (decision.effect, decision.reason),
        (Effect::Deny, Reason::ForbidError)
    );
    assert_eq!(policy_ids(&decision), ["reeve-system/p#broken"]);
    assert_eq!(decision.errors.len(), 1);
    assert!(
        decision.errors[0].message.contains("overflow"),
        "{:?}",
        decision.errors
    );

    // The twin: a permit that fails to evaluate merely does not permit.
    let permit =
        format!("@id(\"broken\") permit (principal, action, resource) when {{ {overflow} }};");
    let decision = mesh_wide(&format!("{ALL}\n{permit}")).decide(&request());
    assert_eq!(
        (decision.effect, decision.reason),
        (Effect::Allow, Reason::Permitted)
    );
    assert_eq!(decision.errors.len(), 1);
    assert_eq!(
        mesh_wide(&permit).decide(&request()).reason,
        Reason::NoPermit
    );

    // A forbid that applies is named before one that fails.
    let both = mesh_wide(&format!(
        "{ALL}\n{forbid}\n@id(\"no\") forbid (principal, action, resource);"
    ));
    let decision = both.decide(&request());
    assert_eq!(decision.reason, Reason::Forbidden);
    assert_eq!(policy_ids(&decision), ["reeve-system/p#no"]);
}

#[test]
fn a_namespaced_policy_never_decides_for_another_namespace() {
    let policies = |scope: Option<&str>, text: &str| engine(vec![source("pay/a", scope, text)]);
    let other = "permit (principal, action, resource in Namespace::\"mesh.local/ns/default\");";
    assert!(!policies(Some("pay"), ALL).decide(&request()).is_allow());
    assert!(!policies(Some("pay"), other).decide(&request()).is_allow());
    assert!(policies(Some("default"), ALL).decide(&request()).is_allow());
    assert!(policies(None, ALL).decide(&request()).is_allow());

    let forbid = "forbid (principal, action, resource);";
    let mixed = |scope: Option<&str>| {
        engine(vec![
            source("reeve-system/all", None, ALL),
            source("pay/no", scope, forbid),
        ])
    };
    assert!(
        mixed(Some("pay")).decide(&request()).is_allow(),
        "a tenant cannot close another's door"
    );
    assert!(!mixed(Some("default")).decide(&request()).is_allow());
    assert!(!mixed(None).decide(&request()).is_allow());
    let explained = mixed(Some("pay")).explain(&request());
    assert_eq!(explained.policies.len(), 1, "it is not even a candidate");
}

fn shadow(source: PolicySource) -> PolicySource {
    PolicySource {
        mode: PolicyMode::Shadow,
        ..source
    }
}

#[test]
fn shadow_policies_are_recorded_and_never_bind() {
    let permit = || source("default/yes", Some("default"), ALL);
    let forbid = || {
        source(
            "default/no",
            Some("default"),
            "forbid (principal, action, resource);",
        )
    };
    let decision = engine(vec![permit(), shadow(forbid())]).decide(&request());
    assert!(decision.is_allow());
    let other = decision.shadow.unwrap();
    assert_eq!(
        (other.effect, other.reason),
        (Effect::Deny, Reason::Forbidden)
    );
    assert_eq!(policy_ids(&other), ["default/no"]);

    let decision = engine(vec![shadow(permit())]).decide(&request());
    assert_eq!(
        (decision.effect, decision.reason),
        (Effect::Deny, Reason::NoPermit)
    );
    assert!(decision.shadow.unwrap().is_allow());

    let same = engine(vec![permit(), shadow(source("default/too", None, ALL))]).decide(&request());
    assert_eq!(same.shadow, None, "no difference, no note");
    let elsewhere = PolicySource {
        scope: Some(namespace("pay")),
        ..shadow(forbid())
    };
    assert_eq!(
        engine(vec![permit(), elsewhere]).decide(&request()).shadow,
        None
    );
}

#[test]
fn a_policy_applies_until_its_date() {
    let engine = mesh_wide(&format!("@until(\"2027-01-15\")\n{ALL}"));
    let mut asked = request();
    for (seconds, allowed) in [(1_800_057_599, true), (1_800_057_600, false)] {
        asked.context.time = UnixTime::from_secs(seconds);
        assert_eq!(engine.decide(&asked).is_allow(), allowed, "{seconds}");
    }
    let explained = &engine.explain(&asked).policies[0];
    assert_eq!(explained.failed.as_deref(), Some("@until(\"2027-01-15\")"));
    assert_eq!((explained.matched, explained.parts), (3, 4));
}

#[test]
fn needs_name_the_headers_and_parameters_of_every_policy() {
    let engine = mesh_wide(
        r#"permit (principal, action in Action::"read", resource) when { context.headers.hasTag("end-user") };
           @mode("shadow") permit (principal, action in Action::"read", resource) when { context.query.hasTag("q") };"#,
    );
    assert_eq!(engine.needs().headers, ["end-user".to_owned()].into());
    assert_eq!(engine.needs().query, ["q".to_owned()].into());
    assert_eq!(engine.mesh_hash(), "hash");
}
