use proptest::{collection::vec, prelude::*, sample::select};
use reeve_core::{
    Namespace, ServiceName, SpiffeId, TrustDomain, decision::Principal, model::PolicySlice,
};

use super::*;
use crate::{
    Engine, Verdict, arbitrary::any_request, fixtures, mesh_schema::MeshSchema, parse_access_policy,
};

fn known() -> Known {
    let mut known = Known::new(TrustDomain::parse("mesh.local").unwrap());
    let (default, shop) = ["default", "shop"]
        .map(|n| Namespace::parse(n).unwrap())
        .into();
    for (host, namespace) in [("reviews", &default), ("ratings", &default), ("web", &shop)] {
        let host = format!("{host}.{namespace}.svc.cluster.local");
        known.add_service(&ServiceName::parse(&host).unwrap(), namespace);
    }
    for id in [
        "default/sa/productpage",
        "default/sa/reviews",
        "shop/sa/web",
    ] {
        known.add_workload(&SpiffeId::parse(&format!("spiffe://mesh.local/ns/{id}")).unwrap());
    }
    known
}

/// Code, policy and message of every remark on the policies of namespace `default`, whose ids are in the text.
const NOW: UnixTime = UnixTime::from_secs(1_795_000_000);

fn remarks_on(text: &str) -> Vec<(RemarkCode, String, String)> {
    let home = Namespace::parse("default").unwrap();
    let policies = parse_access_policy(Some(&home), &home, "p", text);
    let policies = policies.unwrap_or_else(|faults| panic!("{text}\n{faults:#?}"));
    let review = review(&PolicySchema::default(), &policies, Some(&known()), NOW).unwrap();
    let told = |r: Remark| {
        let id = r.fault.policy.to_string();
        (r.code, id.replace("default/p#", ""), r.fault.message)
    };
    review.remarks.into_iter().map(told).collect()
}

fn never(conditions: &str) -> bool {
    let text = format!("permit (principal, action in Action::\"http\", resource) {conditions};");
    let home = Namespace::parse("default").unwrap();
    // Cedar itself finds what the types of a request alone rule out.
    if let Err(faults) = parse_access_policy(Some(&home), &home, "p", &text) {
        assert!(faults[0].message.contains("impossible"), "{faults:?}");
        return true;
    }
    let found = remarks_on(&text);
    found
        .iter()
        .any(|(code, _, _)| *code == RemarkCode::NeverTrue)
}

/// Conditions that exclude each other, and the like of them that do not.
const CONTRADICTIONS: &[(&str, &str)] = &[
    (
        r#"when { context.path == "/a" && context.path == "/b" }"#,
        r#"when { context.path == "/a" || context.path == "/b" }"#,
    ),
    (
        r#"when { context.path == "/a/b" && context.path like "/b/*" }"#,
        r#"when { context.path == "/a/b" && context.path like "/*/b" }"#,
    ),
    (
        r#"when { context.path like "/a/*" && context.path like "/b/*" }"#,
        r#"when { context.path like "/a/*" && context.path like "*/b" }"#,
    ),
    (
        "when { context.mtls } unless { context.mtls }",
        "when { context.mtls } unless { context.port == 1 }",
    ),
    (
        "when { context.port > 80 && context.port <= 80 }",
        "when { context.port >= 80 && context.port <= 80 }",
    ),
    (
        "when { context.port == 80 } when { 80 != context.port }",
        "when { context.port == 80 } when { 81 != context.port }",
    ),
    (
        r#"when { context.time < datetime("2027-01-01T00:00:00Z") && context.time > datetime("2028-01-01T00:00:00Z") }"#,
        r#"when { context.time > datetime("2027-01-01T00:00:00Z") && context.time < datetime("2028-01-01T00:00:00Z") }"#,
    ),
    (
        r#"when { action == Action::"GET" && action == Action::"POST" }"#,
        r#"when { action == Action::"GET" && action in Action::"read" }"#,
    ),
    (
        r#"when { action in [Action::"GET", Action::"PUT"] } unless { action in Action::"http" }"#,
        r#"when { action in [Action::"GET", Action::"PUT"] } unless { action in Action::"read" }"#,
    ),
    (
        "when { principal in ServiceAccount::\"mesh.local/ns/default/sa/productpage\" && principal in ServiceAccount::\"mesh.local/ns/default/sa/reviews\" }",
        "when { principal in ServiceAccount::\"mesh.local/ns/default/sa/productpage\" || principal in ServiceAccount::\"mesh.local/ns/default/sa/reviews\" }",
    ),
    (
        "when { principal in ServiceAccount::\"mesh.local/ns/default/sa/productpage\" && principal in Namespace::\"mesh.local/ns/shop\" }",
        "when { principal in ServiceAccount::\"mesh.local/ns/default/sa/productpage\" && principal in Namespace::\"mesh.local/ns/default\" }",
    ),
    (
        "when { principal in ServiceAccount::\"mesh.local/ns/default/sa/productpage\" } unless { principal in TrustDomain::\"mesh.local\" }",
        "when { principal in TrustDomain::\"mesh.local\" } unless { principal in ServiceAccount::\"mesh.local/ns/default/sa/productpage\" }",
    ),
    (
        "when { principal is Unauthenticated && context.mtls }",
        "when { principal is Workload && context.mtls }",
    ),
    (
        r#"when { context.headers.hasTag("a") && context.headers.getTag("a") == ["x"] && context.headers.getTag("a").contains("y") }"#,
        r#"when { context.headers.hasTag("a") && context.headers.getTag("a") == ["x", "y"] && context.headers.getTag("a").contains("y") }"#,
    ),
    (
        "when { context.port == 1 || context.mtls } when { context.port == 2 } unless { context.mtls }",
        "when { context.port == 1 || context.mtls } when { context.port == 2 }",
    ),
    (
        "when { if context.mtls then context.port == 1 else context.port == 2 } when { context.port == 3 }",
        "when { if context.mtls then context.port == 1 else context.port == 2 } when { context.port == 2 }",
    ),
];

#[test]
fn contradictions_are_found_and_their_negated_twins_are_not() {
    for (contradictory, fine) in CONTRADICTIONS {
        assert!(never(contradictory), "{contradictory}");
        assert!(!never(fine), "{fine}");
    }
    // A resource may be in two services, and what may fail is left alone.
    assert!(!never(
        r#"when { resource in Service::"reviews.default.svc.cluster.local" && resource in Service::"ratings.default.svc.cluster.local" }"#
    ));
    assert!(!never(
        "when { context.port + 1 == 1 && context.port + 1 == 2 }"
    ));
}

#[test]
fn a_contradiction_is_told_with_both_halves_where_it_stands() {
    let found = remarks_on(
        "permit (principal, action == Action::\"GET\", resource)\nwhen { context.path == \"/a\" }\nwhen { context.path == \"/b\" };",
    );
    let [(RemarkCode::NeverTrue, id, message)] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(id, "default/p");
    assert_eq!(
        message,
        "it can never apply: `context.path == \"/a\"` and `context.path == \"/b\"` exclude each other"
    );
}

/// What becomes of the policy `small` beside `big`.
fn beside(small: &str, big: &str) -> Option<RemarkCode> {
    let found = remarks_on(&format!("@id(\"small\") {small};\n@id(\"big\") {big};"));
    let of = |wanted: &str| {
        let mut found = found.iter().filter(|(_, id, _)| id == wanted);
        found.next().map(|(code, _, _)| *code)
    };
    assert_eq!(of("big"), None, "{found:?}");
    of("small")
}

#[test]
fn what_a_wider_policy_covers_is_told_and_what_it_does_not_is_not() {
    const PAGE: &str = "principal == Workload::\"spiffe://mesh.local/ns/default/sa/productpage\"";
    const REVIEWS: &str = "resource in Service::\"reviews.default.svc.cluster.local\"";
    let small = format!(
        "permit ({PAGE}, action == Action::\"GET\", {REVIEWS}) when {{ context.path like \"/reviews/*\" }}"
    );
    for (big, covered) in [
        (format!("permit (principal, action, {REVIEWS})"), true),
        (format!("permit (principal in Namespace::\"mesh.local/ns/default\", action in Action::\"read\", {REVIEWS})"), true),
        (format!("permit ({PAGE}, action in Action::\"http\", resource in Namespace::\"mesh.local/ns/default\") when {{ context.path like \"/r*\" }}"), true),
        ("permit (principal is Workload, action in Action::\"http\", resource) when { context.path like \"*\" || context.mtls }".to_owned(), true),
        (format!("permit ({PAGE}, action in Action::\"http\", {REVIEWS}) unless {{ context.path == \"/admin\" }}"), true),
        (format!("permit ({PAGE}, action in Action::\"http\", {REVIEWS}) unless {{ context.path like \"*/admin\" }}"), false),
        (format!("permit ({PAGE}, action in Action::\"write\", {REVIEWS})"), false),
        (format!("permit (principal in Namespace::\"mesh.local/ns/shop\", action, {REVIEWS})"), false),
        (format!("permit ({PAGE}, action in Action::\"http\", {REVIEWS}) when {{ context.path like \"/reviews/7/*\" }}"), false),
        (format!("permit ({PAGE}, action, {REVIEWS}) when {{ context.port + 0 > 0 }}"), false),
        (format!("@mode(\"shadow\") permit (principal, action, {REVIEWS})"), false),
        (format!("@until(\"2030-01-01\") permit (principal, action, {REVIEWS})"), false),
        ("permit (principal, action, resource in Service::\"ratings.default.svc.cluster.local\")".to_owned(), false),
    ] {
        let found = beside(&small, &big);
        assert_eq!(found, covered.then_some(RemarkCode::Shadowed), "{big}");
        let forbid = big.replacen("permit", "forbid", 1);
        let found = beside(&small, &forbid);
        assert_eq!(found, covered.then_some(RemarkCode::Forbidden), "{forbid}");
    }
    // A forbid is never useless because of a permit.
    let forbid = small.replacen("permit", "forbid", 1);
    assert_eq!(
        beside(&forbid, "permit (principal, action, resource)"),
        None
    );
    assert_eq!(
        beside(&forbid, "forbid (principal, action, resource)"),
        Some(RemarkCode::Shadowed)
    );
}

#[test]
fn a_namespaces_policy_covers_no_more_than_its_namespace() {
    // `resource in Namespace default` is all that a policy of that namespace decides.
    let small = "permit (principal, action == Action::\"GET\", resource)";
    let big = "forbid (principal, action, resource in Namespace::\"mesh.local/ns/default\")";
    assert_eq!(beside(small, big), Some(RemarkCode::Forbidden));
    let shop = "forbid (principal, action, resource in Namespace::\"mesh.local/ns/shop\")";
    assert_eq!(beside(small, shop), None);
}

#[test]
fn of_two_equal_policies_one_is_useless() {
    let found = remarks_on(
        "@id(\"a\") permit (principal, action, resource);\n@id(\"b\") permit (principal, action, resource);",
    );
    let codes: Vec<_> = found
        .iter()
        .map(|(code, id, _)| (*code, id.as_str()))
        .collect();
    assert_eq!(codes, [(RemarkCode::Shadowed, "b")]);
}

#[test]
fn names_that_the_mesh_does_not_have_are_told_with_what_was_meant() {
    let found = remarks_on(
        "permit (principal in ServiceAccount::\"mesh.local/ns/default/sa/productpge\",\n  action,\n\
           resource in Service::\"reveiws.default.svc.cluster.local\")\n\
         unless { principal in Namespace::\"mesh.local/ns/shpo\" || principal in TrustDomain::\"partner.example\" };",
    );
    let told: Vec<_> = found
        .iter()
        .map(|(_, _, message)| message.as_str())
        .collect();
    assert_eq!(
        told,
        [
            "the mesh has no service account mesh.local/ns/default/sa/productpge",
            "the mesh has no service reveiws.default.svc.cluster.local",
            "the mesh has no namespace mesh.local/ns/shpo",
        ]
    );
    assert!(
        remarks_on("permit (principal in TrustDomain::\"mesh.local\", action, resource);")
            .is_empty()
    );
    let slip =
        remarks_on("permit (principal in Namespace::\"mesh.locla/ns/shop\", action, resource);");
    assert_eq!(slip[0].2, "the mesh has no trust domain mesh.locla");
}

#[test]
fn a_lapsed_policy_is_told() {
    let found = remarks_on("@until(\"2020-01-01\") permit (principal, action, resource);");
    assert_eq!(found[0].0, RemarkCode::Lapsed, "{found:?}");
    assert!(remarks_on("@until(\"2099-01-01\") permit (principal, action, resource);").is_empty());
}

#[test]
fn a_policy_that_lapses_soon_is_told_with_what_that_does() {
    let soon = UnixTime::from_millis(NOW.as_millis() + 86_400_000);
    let until = datetime(soon);
    for (effect, then) in [
        ("permit", "is denied then"),
        ("forbid", "as open as the permits"),
    ] {
        let found = remarks_on(&format!(
            "@until({until:?}) {effect} (principal, action, resource);"
        ));
        assert_eq!(found[0].0, RemarkCode::Lapses, "{found:?}");
        assert!(found[0].2.contains(then), "{found:?}");
    }
}

const PRINCIPALS: &[&str] = &[
    "principal",
    "principal is Workload",
    "principal is Unauthenticated",
    r#"principal == Workload::"spiffe://mesh.local/ns/default/sa/a""#,
    r#"principal in ServiceAccount::"mesh.local/ns/default/sa/a""#,
    r#"principal in Namespace::"mesh.local/ns/default""#,
    r#"principal in TrustDomain::"mesh.local""#,
];

const RESOURCES: &[&str] = &[
    "resource",
    r#"resource == Workload::"spiffe://mesh.local/ns/default/sa/b""#,
    r#"resource in Service::"reviews.default.svc.cluster.local""#,
    r#"resource in Namespace::"mesh.local/ns/default""#,
];

const CONDITIONS: &[&str] = &[
    "context.mtls",
    "!context.mtls",
    "context.port > 1023",
    "context.port <= 1023",
    "context.port == 80 || context.port > 60000",
    r#"context.path like "/a*""#,
    r#"context.path like "*/b*""#,
    r#"context.path == "/a""#,
    r#"context.path != "/a""#,
    r#"principal in Namespace::"mesh.local/ns/default""#,
    r#"principal in [Namespace::"mesh.local/ns/pay", Namespace::"mesh.local/ns/default"]"#,
    r#"action == Action::"GET""#,
    r#"context.headers.hasTag("x-a") && context.headers.getTag("x-a").contains("a")"#,
    r#"context.headers.hasTag("x-a") && context.headers.getTag("x-a") == ["a"]"#,
    r#"context.time < datetime("2027-01-01T00:00:00Z")"#,
    r#"if context.mtls then context.port > 1023 else context.path == "/a""#,
    "context.port + 1 > 0",
];

fn policy() -> impl Strategy<Value = String> {
    let condition = (any::<bool>(), select(CONDITIONS)).prop_map(|(when, condition)| {
        let word = if when { "when" } else { "unless" };
        format!("{word} {{ {condition} }}")
    });
    let action = select(&[r#"action in Action::"http""#, r#"action in Action::"read""#][..]);
    let parts = (
        select(PRINCIPALS),
        action,
        select(RESOURCES),
        vec(condition, 0..4),
    );
    parts.prop_map(|(principal, action, resource, conditions)| {
        let conditions = conditions.join(" ");
        format!("permit ({principal}, {action}, {resource}) {conditions};")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// What a review says holds for whatever is asked.
    #[test]
    fn remarks_are_true_of_every_request(
        texts in vec(policy(), 1..5),
        requests in vec(any_request(), 24),
    ) {
        let sources: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(n, text)| fixtures::source(&format!("p{n}"), None, text))
            .filter(|p| compile::compile(&MeshSchema::get().unwrap(), std::slice::from_ref(p), &[]).is_ok())
            .collect();
        let review = review(&PolicySchema::default(), &sources, None, UnixTime::from_secs(0)).unwrap();
        let engine = Engine::compile(&PolicySlice { mesh_hash: String::new(), policies: sources, ..PolicySlice::default() }).unwrap();
        for mut request in requests {
            request.context.mtls &= request.principal != Principal::Unauthenticated;
            let explained = engine.explain(&request);
            let applies = |id: &str| {
                let mut found = explained.policies.iter().filter(|p| p.id.as_str() == id);
                found.next().is_some_and(|p| p.verdict == Verdict::Satisfied)
            };
            for remark in &review.remarks {
                if !applies(remark.fault.policy.as_str()) {
                    continue;
                }
                prop_assert_eq!(remark.code, RemarkCode::Shadowed, "{:?} {:?}", remark, texts);
                let other = remark.fault.message.split_whitespace().nth(3).unwrap();
                prop_assert!(applies(other), "{:?} {:?} {:?}", remark, request, texts);
            }
        }
    }
}

#[test]
fn groups_and_labels_that_nothing_has_are_remarked_on_with_what_was_likely_meant() {
    let text = "entity Team; entity Workload in [Team];
        @claim(\"groups\") @issuer(\"https://issuer.example\") entity Group; entity User in [Group];";
    let schema = PolicySchema::new(&[text.to_owned()]).unwrap();
    let records = serde_json::json!([
        {"uid": {"type": "Workload", "id": "spiffe://mesh.local/ns/shop/sa/web"},
         "parents": [{"type": "Team", "id": "payments"}], "tags": {"version": ["v1"]}},
    ]);
    let records: Vec<reeve_core::model::EntityRecord> = serde_json::from_value(records).unwrap();
    let mut known = known();
    known.add_entities(&schema, &records);
    let home = Namespace::parse("default").unwrap();
    let remarks = |text: &str| {
        let policies = schema.parse_access_policy(Some(&home), &home, "p", text);
        let found = review(&schema, &policies.unwrap(), Some(&known), NOW).unwrap();
        let told = |r: Remark| (r.fault.message, r.fault.help.unwrap_or_default());
        found.remarks.into_iter().map(told).collect::<Vec<_>>()
    };
    let fine = r#"permit (principal in Team::"payments", action in Action::"read", resource)
        when { principal is Workload && principal.hasTag("version") && context has user && context.user in Group::"any" };"#;
    assert_eq!(remarks(fine), []);
    let team = remarks(r#"permit (principal in Team::"paymnets", action, resource);"#);
    assert_eq!(team[0].0, "the mesh has no Team paymnets");
    assert!(team[0].1.contains("payments"), "{team:?}");
    let label = remarks(
        r#"permit (principal is Workload, action, resource) when { principal.hasTag("verison") };"#,
    );
    assert_eq!(label[0].0, "nothing in the mesh has a label \"verison\"");
    assert!(label[0].1.contains("version"), "{label:?}");
}
