use std::sync::{Arc, atomic::AtomicU64};

use reeve_audit::DecisionRecord;
use reeve_authz::format_policies;
use reeve_core::{
    PolicyId,
    decision::{Principal, Reason, User},
};
use tempfile::TempDir;

use super::*;
use crate::{
    fixture::{ENFORCED, asked, candidate, connected, record, trail},
    replay,
};

struct Suggested {
    all: Suggestions,
    /// What a replay of the evidence against the suggestions says.
    replayed: crate::WhatIf,
}

async fn suggested(records: Vec<DecisionRecord>) -> Suggested {
    let dir = TempDir::new().unwrap();
    let scan = trail(dir.path(), records).await;
    let all = suggest(
        &scan,
        &Wanted::default(),
        &Groups::default(),
        &AtomicU64::new(0),
    )
    .unwrap();
    let text: String = all.suggestions.iter().map(|s| s.cedar.as_str()).collect();
    let id = PolicyId::parse("default/x").unwrap();
    for one in &all.suggestions {
        let again = format_policies(&id, &one.cedar, LINE_WIDTH).unwrap();
        assert_eq!(again, one.cedar, "it is laid out already");
    }
    let candidate = candidate(&text, ENFORCED);
    let replayed = replay(&scan, &Wanted::default(), &candidate, &AtomicU64::new(0)).unwrap();
    assert_eq!(replayed.newly_denied, 0, "{:?}\n{text}", replayed.groups);
    Suggested { all, replayed }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_allowed_is_suggested_and_nothing_else() {
    let mut records = Vec::new();
    for number in 0..20 {
        for method in ["GET", "HEAD"] {
            let request = asked(method, &format!("/reviews/{number}"));
            records.push(record(request, Reason::ServiceOpen));
        }
    }
    records.push(record(asked("POST", "/reviews"), Reason::Permitted));
    records.push(record(asked("DELETE", "/reviews/3"), Reason::NoPermit));
    let Suggested { all, replayed } = suggested(records).await;
    assert_eq!((all.decisions, all.allowed), (42, 41));
    assert_eq!(replayed.newly_permitted, 0);
    let [one] = all.suggestions.as_slice() else {
        panic!("{all:?}");
    };
    assert_eq!(one.name, "suggested-reviews");
    let expected = r#"// Suggested from recorded traffic to reviews.default.svc.cluster.local.
// What was not asked for in that time is not permitted: read it before it binds, and try it with
// `reeve policy whatif`.
//
// 40 requests (GET, HEAD), first 2023-11-14T22:13:20Z, last 2023-11-14T22:13:20Z
// for example EXAMPLES
//   /reviews/*: 40 (generalised: * = 20 ids, such as 0, 1, 2)
@id("web-to-reviews")
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/web",
  action in [Action::"GET", Action::"HEAD"],
  resource in Service::"reviews.default.svc.cluster.local"
)
when { context.path like "/reviews/*" && context.path_segments.count == 2 };
"#;
    let example = one.cedar.lines().find(|l| l.starts_with("// for example"));
    let shown = one.cedar.replace(
        example.unwrap().trim_start_matches("// for example "),
        "EXAMPLES",
    );
    assert!(shown.contains(expected), "{shown}");
    assert!(
        one.cedar.contains("@id(\"web-to-reviews-2\")"),
        "{}",
        one.cedar
    );
    assert!(
        one.cases.contains("web-to-reviews: GET /reviews/"),
        "{}",
        one.cases
    );
    assert_eq!(one.cases.matches("twins:").count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_strangers_get_policies_of_their_own() {
    let mut stranger = record(asked("GET", "/"), Reason::ServiceShadow);
    stranger.request.principal = Principal::Unauthenticated;
    let mut passed_through = record(connected(443), Reason::ServiceOpen);
    passed_through.request.resource.workload = None;
    passed_through.request.resource.services.clear();
    let records = vec![
        record(connected(27017), Reason::Permitted),
        stranger,
        passed_through,
    ];
    let Suggested { all, .. } = suggested(records).await;
    assert_eq!((all.allowed, all.unnamed), (2, 1));
    let cedar = &all.suggestions[0].cedar;
    assert!(cedar.contains("when { context.port == 27017 }"), "{cedar}");
    assert!(
        cedar.contains("principal == Unauthenticated::\"unauthenticated\""),
        "{cedar}"
    );
    assert!(cedar.contains("@id(\"anybody-to-reviews\")"), "{cedar}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_callers_cannot_become_policy() {
    let hostile = "/a\"; permit (principal, action, resource); //\n\u{2028}permit*";
    let records = vec![record(asked("GET", hostile), Reason::ServiceOpen)];
    let Suggested { all, .. } = suggested(records).await;
    let one = &all.suggestions[0];
    let id: Namespace = "default".parse().unwrap();
    let parsed = reeve_authz::parse_access_policy(Some(&id), &id, "p", &one.cedar).unwrap();
    assert_eq!(parsed.len(), 1, "{}", one.cedar);
    assert!(
        one.cases.is_ascii() || !one.cases.contains('\u{2028}'),
        "{}",
        one.cases
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_all_carried_are_demanded() {
    let with_user = |issuer: &str, path: &str| {
        let mut record = record(asked("GET", path), Reason::Permitted);
        record.request.user = Some(Arc::new(User {
            claims: [("groups".into(), ["staff".into()].into())].into(),
            expires_at: None,
            issuer: issuer.into(),
            subject: "alice".into(),
        }));
        record
    };
    let Suggested { all, .. } = suggested(vec![with_user("https://i", "/x"); 3]).await;
    let cedar = &all.suggestions[0].cedar;
    assert!(
        cedar.contains("context.user.issuer == \"https://i\""),
        "{cedar}"
    );
    let mixed = vec![
        with_user("https://i", "/x"),
        record(asked("GET", "/x"), Reason::Permitted),
    ];
    let Suggested { all, .. } = suggested(mixed).await;
    assert!(!all.suggestions[0].cedar.contains("user"));
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_a_wildcard_covers_and_too_many_are_not_listed() {
    let mut records: Vec<_> = (0..30)
        .map(|n| record(asked("GET", &format!("/users/{n}")), Reason::Permitted))
        .collect();
    records.push(record(asked("GET", "/users/me"), Reason::Permitted));
    let Suggested { all, .. } = suggested(records).await;
    let cedar = &all.suggestions[0].cedar;
    assert!(!cedar.contains("/users/me"), "{cedar}");
    assert!(cedar.contains("/users/*: 31"), "{cedar}");
}

/// Teams of callers: `pages` by name, `all` with an account whose workloads nobody can list, `spread` by label.
fn teams() -> Groups {
    let schema = "entity Team; @label(\"squad\") entity Squad; entity Workload in [Team, Squad]; entity ServiceAccount in [Team];";
    let id = |name: &str| format!("spiffe://mesh.local/ns/default/sa/{name}");
    let named = |kind: &str, id: &str| serde_json::json!({"type": kind, "id": id});
    let workload = |name: &str, teams: &[(&str, &str)]| {
        let parents: Vec<_> = teams.iter().map(|(kind, id)| named(kind, id)).collect();
        serde_json::json!({"uid": named("Workload", &id(name)), "parents": parents})
    };
    let records = serde_json::json!([
        workload("page", &[("Team", "pages"), ("Team", "all")]),
        workload("shop", &[("Team", "pages"), ("Squad", "s")]),
        workload("web", &[("Squad", "s")]),
        {"uid": named("ServiceAccount", "mesh.local/ns/default/sa/x"), "parents": [named("Team", "all")]},
    ]);
    let schema = reeve_authz::PolicySchema::new(&[schema.to_owned()]).unwrap();
    Groups::new(schema, Arc::new(serde_json::from_value(records).unwrap()))
}

/// The Cedar text that is suggested for what these did.
async fn suggested_with_teams(asking: &[(&str, &str)]) -> String {
    let by = |(caller, path): &(&str, &str)| {
        let mut record = record(asked("GET", path), Reason::ServiceOpen);
        let id = format!("spiffe://mesh.local/ns/default/sa/{caller}");
        record.request.principal = Principal::Workload(id.parse().unwrap());
        record
    };
    let dir = TempDir::new().unwrap();
    let scan = trail(dir.path(), asking.iter().map(by).collect()).await;
    let all = suggest(&scan, &Wanted::default(), &teams(), &AtomicU64::new(0)).unwrap();
    let [one] = all.suggestions.as_slice() else {
        panic!("{all:?}");
    };
    assert!(one.cases.contains("expect"), "{}", one.cases);
    one.cedar.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_stands_for_callers_only_if_all_who_are_in_it_did_the_same() {
    let both = suggested_with_teams(&[("page", "/x"), ("shop", "/x")]).await;
    assert_eq!(both.matches("permit (").count(), 1, "{both}");
    for part in [
        "principal in Team::\"pages\"",
        "@id(\"pages-to-reviews\")",
        "2 requests",
        "by all who are in Team::",
    ] {
        assert!(both.contains(part), "{part}: {both}");
    }
    for alone in [
        // One of them did not ask, did otherwise, or somebody else asked too.
        &[("page", "/x")][..],
        &[("page", "/x"), ("shop", "/y")],
        // A group that a label fills, and one with members that cannot be listed.
        &[("shop", "/x"), ("web", "/x")],
    ] {
        let text = suggested_with_teams(alone).await;
        assert!(
            !text.contains(" in Team::") && !text.contains(" in Squad::"),
            "{text}"
        );
        assert_eq!(text.matches("permit (").count(), alone.len(), "{text}");
    }
}
