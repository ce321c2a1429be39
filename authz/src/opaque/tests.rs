use reeve_core::decision::Reason;

use crate::fixtures::{connection, engine, mesh_wide, request, source};

const ALL: &str = "permit (principal, action, resource);";

/// Each row: a `forbid` beside a permit for everything, and whether an opaque connection is denied for it.
const FORBIDS: &[(&str, bool)] = &[
    (
        r#"forbid (principal, action == Action::"GET", resource);"#,
        true,
    ),
    (
        r#"forbid (principal, action in Action::"write", resource);"#,
        true,
    ),
    (
        r#"forbid (principal, action in [Action::"GET", Action::"POST"], resource);"#,
        true,
    ),
    (
        r#"forbid (principal, action in Action::"http", resource) when { context.path like "/admin*" };"#,
        true,
    ),
    (
        r#"forbid (principal, action, resource) when { context has path && context.path == "/x" };"#,
        true,
    ),
    (
        r#"forbid (principal, action, resource) when { action == Action::"DELETE" };"#,
        true,
    ),
    (
        r#"forbid (principal, action, resource) unless { action == Action::"connect" || action == Action::"GET" };"#,
        true,
    ),
    (
        r#"forbid (principal, action == Action::"GET", resource) unless { principal in Namespace::"mesh.local/ns/default" };"#,
        false,
    ),
    (
        r#"forbid (principal, action == Action::"GET", resource) when { context.port == 9080 };"#,
        true,
    ),
    (
        r#"forbid (principal, action == Action::"GET", resource) when { context.port == 1 };"#,
        false,
    ),
    (
        r#"forbid (principal == Unauthenticated::"unauthenticated", action == Action::"GET", resource);"#,
        false,
    ),
    (
        r#"forbid (principal, action == Action::"GET", resource == Service::"other.default.svc.cluster.local");"#,
        false,
    ),
    (
        r#"@mode("shadow") forbid (principal, action == Action::"GET", resource);"#,
        false,
    ),
    (
        r#"forbid (principal, action, resource) when { context.port == 1 };"#,
        false,
    ),
    (
        r#"@until("2020-01-01T00:00:00Z") forbid (principal, action == Action::"GET", resource);"#,
        false,
    ),
];

#[test]
fn a_forbid_that_looks_at_http_counts_for_connections_that_cannot_be_read() {
    for (forbid, denied) in FORBIDS {
        let engine = mesh_wide(&format!("{ALL}\n{forbid}"));
        assert!(
            engine.decide(&connection()).is_allow(),
            "by plain Cedar: {forbid}"
        );
        let decision = engine.decide_opaque(&connection());
        assert_eq!(!decision.is_allow(), *denied, "{forbid}");
        if *denied {
            assert_eq!(decision.reason, Reason::ForbidError);
            assert_eq!(decision.policies.len(), 1, "the policy is named");
        }
    }
}

#[test]
fn what_connect_itself_is_denied_stays_denied() {
    let engine = mesh_wide(&format!(
        "{ALL}\nforbid (principal, action == Action::\"connect\", resource);"
    ));
    assert_eq!(
        engine.decide_opaque(&connection()).reason,
        Reason::Forbidden
    );
    let http_only = mesh_wide(r#"permit (principal, action in Action::"http", resource);"#);
    assert!(http_only.decide(&request()).is_allow());
    assert_eq!(
        http_only.decide_opaque(&connection()).reason,
        Reason::NoPermit
    );
}

#[test]
fn a_namespaced_forbid_concerns_its_own_namespace_alone() {
    let forbid = r#"forbid (principal, action == Action::"GET", resource);"#;
    for (scope, allowed) in [
        (Some("default"), false),
        (None, false),
        (Some("other"), true),
    ] {
        let engine = engine(vec![
            source("reeve-system/all", None, ALL),
            source("x/no", scope, forbid),
        ]);
        assert_eq!(
            engine.decide_opaque(&connection()).is_allow(),
            allowed,
            "{scope:?}"
        );
    }
}
