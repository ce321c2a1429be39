use reeve_core::decision::Reason;

use super::*;
use crate::fixtures::{mesh_wide, request};

#[test]
fn explanations_say_what_is_missing_nearest_first() {
    let engine = mesh_wide(
        r#"@id("far") permit (principal is Unauthenticated, action, resource);
           @id("near") permit (principal, action == Action::"GET", resource)
             when { context.mtls && context.port == 9080 && context.path == "/" };
           @id("broken") permit (principal, action, resource) when { context.port * 9223372036854775807 > 0 };
           @id("unless") permit (principal, action, resource) unless { context.mtls };"#,
    );
    let explained = engine.explain(&request());
    assert_eq!(explained.decision.reason, Reason::NoPermit);
    let order: Vec<_> = explained.policies.iter().map(|p| p.id.as_str()).collect();
    assert_eq!(
        order,
        ["broken", "near", "unless", "far"].map(|n| format!("reeve-system/p#{n}"))
    );
    let near = &explained.policies[1];
    assert_eq!((near.matched, near.parts), (5, 6));
    assert_eq!(
        near.failed.as_deref(),
        Some(r#"when { context.path == "/" }"#)
    );
    assert!(
        near.text
            .contains("permit (principal, action == Action::\"GET\", resource)")
    );
    let text = explained.to_string();
    assert!(text.starts_with("denied: no_permit\n"), "{text}");
    assert!(
        text.contains(
            "permit reeve-system/p#far: 0 of 3 parts hold, not: principal is Unauthenticated"
        ),
        "{text}"
    );
    assert!(
        text.contains("permit reeve-system/p#broken: failed to evaluate:"),
        "{text}"
    );
}

/// What `explain` says of a policy must be what `decide` made of it.
#[test]
fn explanations_agree_with_the_decision() {
    let engine = mesh_wide(
        r#"@id("yes") permit (principal, action in Action::"read", resource)
             when { context.headers.hasTag("end-user") } when { context.headers.getTag("end-user").contains("joe") };
           @id("no") forbid (principal, action, resource) when { context.port == 1 };
           @id("soon") @mode("shadow") forbid (principal, action, resource);"#,
    );
    let explained = engine.explain(&request());
    assert_eq!(explained.decision, engine.decide(&request()));
    let satisfied: Vec<_> = explained
        .policies
        .iter()
        .filter(|p| p.verdict == Verdict::Satisfied)
        .map(|p| p.id.as_str())
        .collect();
    assert_eq!(satisfied, ["reeve-system/p#soon", "reeve-system/p#yes"]);
    assert!(explained.to_string().contains("would deny: forbidden"));
}

/// What is shown beside the part of the one policy that does not hold.
fn values(condition: &str) -> Vec<(String, String)> {
    let engine = mesh_wide(&format!(
        "permit (principal, action in Action::\"http\", resource) when {{ {condition} }};"
    ));
    let explained = engine.explain(&request());
    explained.policies[0].values.clone().into_iter().collect()
}

#[test]
fn a_condition_that_fails_is_shown_with_the_values_that_it_looked_at() {
    for (condition, shown) in [
        (
            r#"context.path like "/a/*""#,
            &[("context.path", r#""/reviews/7""#)][..],
        ),
        (
            "context.port == 80 || context.port > 10000",
            &[("context.port", "9080")],
        ),
        (
            r#"context.headers.hasTag("end-user") && context.headers.getTag("end-user") == ["jim"]"#,
            &[(
                r#"context.headers.getTag("end-user")"#,
                r#"["jason", "joe"]"#,
            )],
        ),
        (
            r#"context.headers.hasTag("x-none")"#,
            &[(r#"context.headers.getTag("x-none")"#, "absent")],
        ),
        ("context has user", &[("context.user", "absent")]),
        (
            "context has grpc && context.grpc.method == \"Get\" || context.mtls == false",
            &[
                ("context.grpc", "absent"),
                ("context.grpc.method", "absent"),
                ("context.mtls", "true"),
            ],
        ),
        (
            r#"context.source_ip.isInRange(ip("192.168.0.0/16"))"#,
            &[("context.source_ip", r#"ip("10.1.2.3")"#)],
        ),
        (
            r#"principal in Namespace::"mesh.local/ns/pay""#,
            &[(
                "principal",
                r#"Workload::"spiffe://mesh.local/ns/default/sa/bookinfo-productpage" in Namespace::"mesh.local/ns/default", ServiceAccount::"mesh.local/ns/default/sa/bookinfo-productpage", TrustDomain::"mesh.local""#,
            )],
        ),
    ] {
        let shown: Vec<_> = shown
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(values(condition), shown, "{condition}");
    }
}

#[test]
fn conditions_are_those_that_explanations_count() {
    let engine = mesh_wide(
        r#"@until("2099-01-01") permit (principal, action, resource)
             when { context.mtls && context.port == 1 } unless { context.port == 2 };"#,
    );
    let conditions = engine.conditions();
    let [(_, conditions)] = conditions.as_slice() else {
        panic!("{conditions:?}");
    };
    assert_eq!(
        *conditions,
        [
            "when { context.mtls }",
            "when { context.port == 1 }",
            "unless { context.port == 2 }"
        ]
    );
    let explained = engine.explain(&request());
    assert_eq!(explained.policies[0].failed.as_ref(), conditions.get(1));
}

#[test]
fn what_a_policy_says_of_itself_is_told() {
    let engine = mesh_wide(
        r#"@id("freeze") @description("change freeze") @owner("release team") @until("2027-01-03")
           forbid (principal, action in Action::"http", resource);"#,
    );
    // 15 January 2027: it has lapsed, and that alone is what is missing.
    let explained = engine.explain(&request());
    assert_eq!(explained.decision.reason.as_str(), "no_permit");
    let shown = explained.to_string();
    for part in [
        "forbid reeve-system/p#freeze: 3 of 4 parts hold, not: @until(\"2027-01-03\")",
        "\n      description: change freeze",
        "\n      owner: release team",
        "\n      until: 2027-01-03",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let policy = serde_json::to_value(&explained.policies[0]).unwrap();
    assert_eq!(policy["annotations"]["owner"], "release team");
}

/// A `forbid` that would fail, were it asked, does not keep anything shut after its end.
#[test]
fn a_lapsed_policy_cannot_fail() {
    let engine = mesh_wide(
        r#"permit (principal, action, resource);
           @until("2027-01-03") forbid (principal, action, resource)
             when { context.port * 9223372036854775807 > 0 };"#,
    );
    let mut asked = request();
    assert!(engine.decide(&asked).is_allow());
    assert!(engine.decide(&asked).errors.is_empty());
    asked.context.time = UnixTime::from_secs(1_798_000_000);
    assert_eq!(engine.decide(&asked).reason.as_str(), "forbid_error");
}
