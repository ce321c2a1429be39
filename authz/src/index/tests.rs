//! The index against Cedar's own authorizer over all policies.

use std::fmt::Write as _;

use proptest::{collection::vec, option, prelude::*, sample::select};
use reeve_core::{
    decision::{AccessRequest, Decision, Effect, Reason},
    model::{EntityName, EntityRecord, PolicyMode, PolicySlice, PolicySource},
};

use super::*;
use crate::{
    Engine, Plain,
    arbitrary::any_request,
    fixtures::{self, namespace, request, source},
    mesh_schema::MeshSchema,
    store::Store,
};

/// What the mesh of these tests adds.
const SCHEMA: &str = r#"
    entity Unit;
    entity Team in [Team, Unit] { level?: Long };
    entity Workload in [Team, Unit] { tier?: String, team?: Team };
    entity ServiceAccount in [Team];
    entity Service in [Team] { tier?: String };
    entity Namespace in [Unit, Team];
    entity TrustDomain in [Unit];
    @claim("groups") @issuer("https://issuer.example") entity Group in [Unit];
    entity User in [Group];
"#;

const PRINCIPALS: &[&str] = &[
    r#"principal in Team::"a""#,
    r#"principal is Workload in Unit::"u""#,
    "principal",
    "principal is Workload",
    "principal is Unauthenticated",
    r#"principal == Unauthenticated::"unauthenticated""#,
    r#"principal == Workload::"spiffe://mesh.local/ns/default/sa/a""#,
    r#"principal == Workload::"spiffe://partner.example/other/form""#,
    r#"principal in ServiceAccount::"mesh.local/ns/pay/sa/a""#,
    r#"principal in Namespace::"mesh.local/ns/default""#,
    r#"principal is Workload in Namespace::"partner.example/ns/default""#,
    r#"principal in TrustDomain::"mesh.local""#,
];

const ACTIONS: &[&str] = &[
    r#"action in Action::"http""#,
    r#"action in Action::"read""#,
    r#"action in [Action::"write", Action::"GET"]"#,
    r#"action == Action::"POST""#,
];

const CONNECTIONS: &[&str] = &["action", r#"action == Action::"connect""#];

const RESOURCES: &[&str] = &[
    r#"resource in Team::"b""#,
    r#"resource is Service in Team::"a""#,
    r#"resource in Unit::"u""#,
    "resource",
    "resource is Workload",
    "resource is Service",
    r#"resource == Workload::"spiffe://mesh.local/ns/default/sa/b""#,
    r#"resource == Service::"api.example.com""#,
    r#"resource in Service::"reviews.default.svc.cluster.local""#,
    r#"resource in Namespace::"mesh.local/ns/default""#,
    r#"resource is Service in Namespace::"mesh.local/ns/pay""#,
    r#"resource in TrustDomain::"partner.example""#,
];

/// Conditions of any action.
const PARTS: &[&str] = &[
    r#"principal in [Team::"a", Team::"b", Unit::"u"]"#,
    r#"principal is Workload && principal.hasTag("app") && principal.getTag("app").contains("a")"#,
    r#"principal is Workload && principal.hasTag("app") && principal.getTag("app") == ["a"]"#,
    r#"principal is Workload && principal has tier && principal.tier == "gold""#,
    r#"principal is Workload && principal has team && principal.team in Unit::"u""#,
    r#"principal is Workload && principal has team && principal.team has level && principal.team.level > 1"#,
    r#"resource.hasTag("app") && resource.getTag("app").containsAny(["a", "b"])"#,
    r#"resource has tier && resource.tier == "gold""#,
    r#"resource is Workload in Team::"a""#,
    r#"Team::"a" in Unit::"u""#,
    r#"Team::"b" has level && Team::"b".level == 1"#,
    "context.mtls",
    "context.port > 1023",
    "context.port * 1000000000000000 > 0",
    "principal == resource",
    r#"principal == Workload::"spiffe://mesh.local/ns/default/sa/b""#,
    r#"Workload::"spiffe://mesh.local/ns/pay/sa/a" == principal"#,
    r#"principal != Workload::"spiffe://mesh.local/ns/default/sa/a""#,
    r#"principal in [Namespace::"mesh.local/ns/pay", Namespace::"mesh.local/ns/default"]"#,
    r#"principal in ServiceAccount::"mesh.local/ns/default/sa/b""#,
    r#"[Workload::"spiffe://mesh.local/ns/default/sa/a", Workload::"spiffe://mesh.local/ns/pay/sa/a"].contains(principal)"#,
    "principal is Workload",
    r#"resource is Workload && resource in Service::"pay.pay.svc.cluster.local""#,
    r#"resource in Namespace::"mesh.local/ns/pay""#,
    r#"action in Action::"read""#,
    r#"context.source_ip.isInRange(ip("10.0.0.0/8"))"#,
    r#"context.time < datetime("2026-06-01")"#,
    "context.port == 80",
    "context.port == 70000",
    r#"context.source_ip == ip("10.0.0.1")"#,
    r#"context.source_ip == ip("10.0.0.0/24")"#,
    r#"context.source_ip.isInRange(ip("2001:db8::/32"))"#,
    r#"context.source_ip.isInRange(ip("10.0.0.77/24"))"#,
    r#"context.source_ip.isInRange(ip("0.0.0.0/0"))"#,
    "context has port && context.port == 443",
    r#"context.time.offset(duration("1d")) > datetime("2026-06-01")"#,
];

/// Conditions of HTTP actions.
const HTTP_PARTS: &[&str] = &[
    r#"context has user && context.user in Group::"admin""#,
    r#"context has user && context.user in Unit::"u""#,
    r#"context.path == "/reviews/7""#,
    r#"context.path like "/a/*""#,
    r#"context.path like "/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/*""#,
    r#"context.path like "*/7""#,
    r#"context.path like "/*""#,
    r#"context.path like "a*""#,
    r#"context.host == """#,
    r#"context has user && context.user.subject == """#,
    r#"context has user && context.user.hasTag("groups") && context.user.getTag("groups").contains("admin")"#,
    r#"context has user && context.user.hasTag("groups") && context.user.getTag("groups").containsAll(["admin", "a"])"#,
    r#"context has user && context.user.hasTag("realm.roles") && context.user.getTag("realm.roles").containsAny(["", "admin"])"#,
    r#"context.headers.hasTag("end-user") && context.headers.getTag("end-user").contains("a")"#,
    r#"context.headers.hasTag("x-a") && context.headers.getTag("x-a") == ["a"]"#,
    r#"context.query.hasTag("page") && context.query.getTag("page").containsAll(["admin"])"#,
    r#"context has grpc && context.grpc.service == "store.Ratings""#,
    r#"context has grpc && context.grpc.service == "store.Reviews""#,
    "context.path_segments.count > 2",
    r#"context.path like "/re*""#,
    r#"context.path like "/é*""#,
    r#"context.path like "/reviews/7""#,
    r#"context.method == "GET""#,
    r#"context.path_segments has s1 && context.path_segments.s1 == "reviews""#,
    r#"context.path_segments has s16 && context.path_segments.s16 == "p""#,
    r#"context has grpc && context.grpc.method == "Get""#,
    r#"context has user && context.user.issuer == "https://issuer.example""#,
    r#"context has user && !(context.user.hasTag("groups")) && context.port * 1000000000000000 > 0"#,
];

/// How conditions are joined.
#[derive(Clone, Copy, Debug)]
enum Join {
    And,
    Or,
    Clause,
    Unless,
    NotAnd,
    If,
}

fn condition(parts: &[(&str, Join)]) -> String {
    let mut clauses = String::new();
    let mut body = String::new();
    for (part, join) in parts {
        let first = body.is_empty();
        body = match join {
            _ if first => format!("({part})"),
            Join::And => format!("({body} && ({part}))"),
            Join::Or => format!("({body} || ({part}))"),
            Join::NotAnd => format!("(!({part}) && {body})"),
            Join::If => format!("(if {part} then {body} else context.mtls)"),
            Join::Clause => {
                write!(clauses, " when {{ {body} }}").unwrap();
                format!("({part})")
            }
            Join::Unless => {
                write!(clauses, " unless {{ {body} }}").unwrap();
                format!("({part})")
            }
        };
    }
    if !body.is_empty() {
        write!(clauses, " when {{ {body} }}").unwrap();
    }
    clauses
}

prop_compose! {
    fn parts(pool: Vec<&'static str>)(
        parts in vec((select(pool), select(vec![
            Join::And, Join::And, Join::Or, Join::Clause, Join::Unless, Join::NotAnd, Join::If,
        ])), 0..4),
    ) -> String {
        condition(&parts)
    }
}

fn body() -> impl Strategy<Value = String> {
    let http = (select(ACTIONS), parts([PARTS, HTTP_PARTS].concat()));
    let any = (
        select([ACTIONS, CONNECTIONS].concat()),
        parts(PARTS.to_vec()),
    );
    let action = prop_oneof![http, any];
    (select(PRINCIPALS), action, select(RESOURCES)).prop_map(
        |(principal, (action, conditions), resource)| {
            format!("({principal}, {action}, {resource}){conditions};")
        },
    )
}

prop_compose! {
    fn any_policy()(
        forbid in prop::bool::weighted(0.4),
        shadow in prop::bool::weighted(0.2),
        scope in option::weighted(0.3, select(vec!["default", "pay"])),
        annotations in select(vec![
            "", "", "", UNTIL, "@until(\"2030-01-01\") ", "@owner(\"a team\") @description(\"why\") ",
        ]),
        body in body(),
    ) -> Written {
        let effect = if forbid { "forbid" } else { "permit" };
        let mode = if shadow { PolicyMode::Shadow } else { PolicyMode::Enforce };
        (scope, mode, format!("{annotations}{effect} {body}"))
    }
}

/// Lapses in the midst of the times that requests are made at.
const UNTIL: &str = "@until(\"2027-01-15T08:00:00Z\") ";

/// Scope, mode and text.
type Written = (Option<&'static str>, PolicyMode, String);

/// Strict validation refuses some of what is put together here, such as conditions that can never hold.
fn valid(policies: Vec<Written>) -> Vec<PolicySource> {
    let sources = policies.into_iter().enumerate();
    let sources = sources.map(|(at, (scope, mode, text))| PolicySource {
        mode,
        ..source(
            &format!("{}/p{at}", scope.unwrap_or("reeve-system")),
            scope,
            &text,
        )
    });
    let valid = |source: &PolicySource| {
        let policies = vec![source.clone()];
        Engine::compile(&slice(policies, Vec::new())).is_ok()
    };
    sources.filter(valid).collect()
}

fn slice(policies: Vec<PolicySource>, entities: Vec<EntityRecord>) -> PolicySlice {
    PolicySlice {
        policies,
        schema: vec![SCHEMA.to_owned()],
        entities: entities.into(),
        ..PolicySlice::default()
    }
}

fn engine(policies: Vec<PolicySource>) -> Engine {
    Engine::compile(&slice(policies, Vec::new())).unwrap()
}

/// What entities can be told of, those that requests have among them.
const TOLD: &[(&str, &str)] = &[
    ("Workload", "spiffe://mesh.local/ns/default/sa/a"),
    ("Workload", "spiffe://mesh.local/ns/default/sa/b"),
    ("Workload", "spiffe://partner.example/other/form"),
    ("ServiceAccount", "mesh.local/ns/pay/sa/a"),
    ("Service", "reviews.default.svc.cluster.local"),
    ("Service", "api.example.com"),
    ("Namespace", "mesh.local/ns/default"),
    ("Namespace", "mesh.local/ns/pay"),
    ("TrustDomain", "partner.example"),
    ("Team", "a"),
    ("Team", "b"),
    ("Group", "admin"),
];

prop_compose! {
    /// Something about one of those.
    fn any_record()(
        (kind, id) in select(TOLD),
        parents in vec(select(vec![("Team", "a"), ("Team", "b"), ("Unit", "u")]), 0..3),
        tier in option::of(select(vec!["gold", "iron"])),
        level in option::of(0..3i64),
        team in option::of(select(vec!["a", "b", "nowhere"])),
        app in option::of(prop::collection::btree_set(select(vec!["a", "b", "c"]), 1..3)),
    ) -> EntityRecord {
        let name = |kind: &str, id: &str| EntityName { id: id.to_owned(), kind: kind.to_owned() };
        let mut attrs = std::collections::BTreeMap::new();
        if matches!(kind, "Workload" | "Service") {
            attrs.extend(tier.map(|tier| ("tier".to_owned(), tier.into())));
        }
        if kind == "Workload" {
            let team = team.map(|id| serde_json::json!({"__entity": {"type": "Team", "id": id}}));
            attrs.extend(team.map(|team| ("team".to_owned(), team)));
        }
        if kind == "Team" {
            attrs.extend(level.map(|level| ("level".to_owned(), level.into())));
        }
        let labelled = matches!(kind, "Workload" | "Service");
        let app = app.filter(|_| labelled).map(|app| ("app".to_owned(), app.into_iter().collect()));
        let fits = |parent: &&(&str, &str)| match kind {
            // No circles: a is in b at most.
            "Team" => parent.0 == "Unit" || (id, parent.1) == ("a", "b"),
            "Group" | "TrustDomain" => parent.0 == "Unit",
            "ServiceAccount" | "Service" => parent.0 == "Team",
            _ => true,
        };
        let parents: std::collections::BTreeSet<_> =
            parents.iter().filter(fits).map(|(kind, id)| name(kind, id)).collect();
        EntityRecord {
            attrs,
            parents: parents.into_iter().collect(),
            tags: app.into_iter().collect(),
            uid: name(kind, id),
        }
    }
}

/// At most one record of each.
fn records() -> impl Strategy<Value = Vec<EntityRecord>> {
    vec(any_record(), 0..10).prop_map(|records| {
        let mut by_uid = std::collections::BTreeMap::new();
        for record in records {
            by_uid.insert(record.uid.clone(), record);
        }
        by_uid.into_values().collect()
    })
}

/// What Cedar's own authorizer says with every policy that concerns the resource's namespace, and everything built.
fn plain(slice: &PolicySlice, asked: &AccessRequest) -> Decision {
    let plain = Plain::new(slice, &asked.resource.namespace, asked.context.time).unwrap();
    plain.decide(&plain.question(asked, None).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_index_changes_no_decision_no_reason_and_no_error(
        policies in vec(any_policy(), 1..12).prop_map(valid),
        requests in vec(any_request(), 1..8),
        records in records(),
    ) {
        let slice = slice(policies, records);
        let engine = Engine::compile(&slice).unwrap();
        // Also the first one's principal and resource in every other's circumstances, and all of it again: what is
        // remembered must not depend on what was asked before.
        let first = requests[0].clone();
        let mixed = requests.iter().map(|request| AccessRequest {
            principal: first.principal.clone(),
            resource: first.resource.clone(),
            ..request.clone()
        });
        let asked: Vec<_> = mixed.chain(requests.iter().cloned()).collect();
        for request in asked.iter().chain(&asked) {
            prop_assert_eq!(engine.decide(request), plain(&slice, request));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 32, ..ProptestConfig::default() })]

    /// One generation after the other, each made from the one before, decides as if it had been made alone.
    #[test]
    fn a_set_that_was_changed_decides_as_one_made_anew(
        generations in vec((vec(any_policy(), 0..8).prop_map(valid), records()), 2..5),
        requests in vec(any_request(), 1..8),
    ) {
        let mut before: Option<Engine> = None;
        for (policies, records) in generations {
            let slice = slice(policies, records);
            let changed = Engine::compile_after(&slice, before.as_ref()).unwrap();
            let anew = Engine::compile(&slice).unwrap();
            prop_assert_eq!(changed.needs(), anew.needs());
            for request in &requests {
                prop_assert_eq!(changed.decide(request), anew.decide(request));
                prop_assert_eq!(changed.decide_opaque(request), anew.decide_opaque(request));
            }
            before = Some(changed);
        }
    }

    /// Whatever two tenants write, what becomes of requests for one's resources does not depend on the other.
    #[test]
    fn no_policy_of_one_tenant_counts_for_anothers_resources(
        own in vec(any_policy(), 0..6),
        others in vec(any_policy(), 1..8),
        requests in vec(any_request(), 1..8),
    ) {
        let tenant = |name: &'static str, policies: Vec<Written>| {
            let scoped = policies.into_iter().map(|(_, mode, text)| (Some(name), mode, text));
            valid(scoped.collect())
        };
        let (own, others) = (tenant("default", own), tenant("pay", others));
        let alone = engine(own.clone());
        let both = engine([own, others.clone()].concat());
        let without = engine(others);
        for mut request in requests {
            request.resource.namespace = namespace("default");
            prop_assert_eq!(both.decide(&request), alone.decide(&request));
            prop_assert_eq!(both.decide_opaque(&request), alone.decide_opaque(&request));
            let nothing = Decision::without_policy(Effect::Deny, Reason::NoPermit);
            prop_assert_eq!(without.decide(&request), nothing);
            prop_assert!(without.explain(&request).policies.is_empty());
        }
    }
}

fn candidates(policies: Vec<PolicySource>, asked: &AccessRequest) -> Vec<String> {
    let mesh = MeshSchema::get().unwrap();
    let all = crate::compile::compile(&mesh, &policies, &[]).unwrap();
    let mut index = Index::default();
    all.iter()
        .for_each(|policy| index.change(policy, Step::Comes));
    let store = Store::default();
    let ground = Ground {
        mesh: &mesh,
        home: None,
        store: &store,
    };
    let shelf = index.shelf(asked, ground);
    let found = index.candidates(&shelf, asked, &store);
    found
        .iter()
        .map(|policy| policy.source.id.to_string())
        .collect()
}

/// A thousand policies that differ in what stands for `@`, and one that is for [`request`].
fn a_thousand(policy: &str, meant: &str) -> Vec<PolicySource> {
    let numbered = (0..1000).map(|n| {
        let other = meant.replace("bookinfo", &format!("other{n}"));
        source(
            &format!("default/p{n}"),
            Some("default"),
            &policy.replace('@', &other),
        )
    });
    let own = source("default/own", Some("default"), &policy.replace('@', meant));
    numbered.chain([own]).collect()
}

#[test]
fn of_a_thousand_policies_for_one_service_only_the_callers_own_is_asked() {
    let mut asked = request();
    asked.user = Some(fixtures::user().into());
    let http = asked.context.http.as_mut().unwrap();
    http.path = "/bookinfo/7".into();
    http.headers = [("tenant".into(), ["bookinfo".into()].into())].into();
    Arc::make_mut(asked.user.as_mut().unwrap()).subject = "bookinfo".into();
    Arc::make_mut(asked.user.as_mut().unwrap()).issuer = "bookinfo".into();
    let workload = "spiffe://mesh.local/ns/default/sa/bookinfo-productpage";
    let account = "mesh.local/ns/default/sa/bookinfo-productpage";
    let table = [
        (
            r#"permit (principal == Workload::"@", action, resource);"#,
            workload,
        ),
        (
            r#"permit (principal in ServiceAccount::"@", action, resource);"#,
            account,
        ),
        (
            r#"permit (principal, action, resource) when { principal == Workload::"@" };"#,
            workload,
        ),
        (
            r#"permit (principal, action, resource) when { context.mtls && Workload::"@" == principal };"#,
            workload,
        ),
        (
            r#"permit (principal, action, resource) unless { !context.mtls } when { principal in [ServiceAccount::"@"] };"#,
            account,
        ),
        (
            r#"forbid (principal is Workload, action, resource in Service::"reviews.default.svc.cluster.local") when { [Workload::"@"].contains(principal) };"#,
            workload,
        ),
        (
            r#"permit (principal, action in Action::"read", resource) when { context has user && context.user.subject == "@" };"#,
            "bookinfo",
        ),
        (
            r#"permit (principal, action in Action::"read", resource) when { context.path == "/@/7" };"#,
            "bookinfo",
        ),
        (
            r#"permit (principal, action in Action::"read", resource) when { context.path like "/@/*" };"#,
            "bookinfo",
        ),
        (
            r#"permit (principal, action in Action::"read", resource) when { context.path like "/@*" };"#,
            "bookinfo",
        ),
        (
            r#"permit (principal, action in Action::"read", resource) when { context.path_segments has s1 && context.path_segments.s1 == "@" };"#,
            "bookinfo",
        ),
        (
            r#"permit (principal, action in Action::"http", resource) when { context has user && context.user.issuer == "@" };"#,
            "bookinfo",
        ),
        (
            r#"permit (principal, action, resource) when { "@" == "@" && context.source_ip.isInRange(ip("10.1.2.0/24")) && context.port == 9080 && principal == Workload::"@" };"#,
            workload,
        ),
        (
            r#"permit (principal, action in Action::"read", resource) when { context.headers.hasTag("tenant") && context.headers.getTag("tenant").contains("@") };"#,
            "bookinfo",
        ),
    ];
    for (policy, meant) in table {
        assert_eq!(
            candidates(a_thousand(policy, meant), &asked),
            ["default/own"],
            "{policy}"
        );
    }
}

#[test]
fn what_may_fail_first_is_always_asked() {
    let workload = "spiffe://mesh.local/ns/default/sa/bookinfo-productpage";
    let table = [
        r#"forbid (principal, action, resource) when { context.port + 1 > 0 && principal == Workload::"@" };"#,
        r#"forbid (principal, action, resource) when { context.port + 1 > 0 } when { principal == Workload::"@" };"#,
        r#"forbid (principal, action, resource) unless { context.port + 1 > 0 } when { principal == Workload::"@" };"#,
        r#"forbid (principal, action, resource) when { context.port + 1 > 0 || principal == Workload::"@" };"#,
        r#"forbid (principal, action, resource) unless { principal == Workload::"@" };"#,
    ];
    for policy in table {
        assert_eq!(
            candidates(a_thousand(policy, workload), &request()).len(),
            1001,
            "{policy}"
        );
    }
}

#[test]
fn another_namespaces_policies_are_no_candidates() {
    let policies = || {
        vec![
            source(
                "pay/a",
                Some("pay"),
                "permit (principal, action, resource);",
            ),
            source(
                "reeve-system/b",
                None,
                "permit (principal, action, resource);",
            ),
        ]
    };
    assert_eq!(candidates(policies(), &request()), ["reeve-system/b"]);
    let mut elsewhere = request();
    elsewhere.resource.namespace = namespace("pay");
    assert_eq!(
        candidates(policies(), &elsewhere),
        ["pay/a", "reeve-system/b"]
    );
}

#[test]
fn of_many_addresses_and_ports_only_the_fitting_are_asked() {
    let text =
        |condition: String| format!("permit (principal, action, resource) when {{ {condition} }};");
    let condition = |n: u32| match n % 3 {
        0 => format!("context.port == {}", 8080 + n / 3),
        1 => format!("context.source_ip.isInRange(ip(\"10.{}.0.0/16\"))", n / 3),
        _ => format!("context.source_ip == ip(\"10.1.2.{}\")", n / 3 % 256),
    };
    let policies = (0..300).map(|n| source(&format!("default/p{n:03}"), None, &text(condition(n))));
    let mut asked = request();
    asked.context.port = 8090;
    let found = candidates(policies.collect(), &asked);
    assert_eq!(found, ["default/p004", "default/p011", "default/p030"]);
}

#[test]
fn a_change_leaves_what_it_does_not_concern_as_it_is() {
    let policy = |n: u32| {
        let account = format!("mesh.local/ns/default/sa/a{n}");
        let text =
            format!("permit (principal in ServiceAccount::\"{account}\", action, resource);");
        source(&format!("default/p{n:04}"), None, &text)
    };
    let policies: Vec<_> = (0..2000).map(policy).collect();
    let mesh = MeshSchema::get().unwrap();
    let all = crate::compile::compile(&mesh, &policies, &[]).unwrap();
    let mut index = Index::default();
    all.iter()
        .for_each(|policy| index.change(policy, Step::Comes));
    let mut next = index.clone();
    next.change(&all[7], Step::Goes);
    let (shared, drawers) = next.shared_with(&index);
    assert_eq!((shared, drawers), (255, 1999));
    next.change(&all[7], Step::Comes);
    assert_eq!(next.shared_with(&index).1, 2000);
    all.iter()
        .for_each(|policy| next.change(policy, Step::Goes));
    assert_eq!(next.shared_with(&index).1, 0, "nothing is left behind");
}
