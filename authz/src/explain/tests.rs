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
