//! Decisions by groups, attributes and labels.

use std::sync::Arc;

use reeve_core::model::{EntityRecord, PolicySlice};
use serde_json::json;

use crate::{
    Engine,
    fixtures::{PRODUCTPAGE, REVIEWS, namespace, request, user},
    schema::PolicySchema,
};

const SCHEMA: &str = "
    entity Department;
    entity Team in [Department] { budget?: Long };
    entity Tenant;
    entity Namespace in [Tenant];
    entity Service in [Team];
    entity Workload in [Team] { tier?: String, owner?: Team };
    @claim(\"groups\") @issuer(\"https://issuer.example\") entity Group in [Department];
    entity User in [Group];
";

fn entities() -> Arc<Vec<EntityRecord>> {
    let records = json!([
        {"uid": {"type": "Team", "id": "web"}, "parents": [{"type": "Department", "id": "shop"}], "attrs": {"budget": 7}},
        {"uid": {"type": "Workload", "id": PRODUCTPAGE}, "parents": [{"type": "Team", "id": "web"}],
         "attrs": {"tier": "gold", "owner": {"__entity": {"type": "Team", "id": "web"}}}, "tags": {"app": ["page", "productpage"]}},
        {"uid": {"type": "Service", "id": "reviews.default.svc.cluster.local"}, "parents": [{"type": "Team", "id": "books"}],
         "tags": {"app": ["reviews"]}},
        {"uid": {"type": "Workload", "id": REVIEWS}, "tags": {"app": ["reviews"]}},
        {"uid": {"type": "Namespace", "id": "mesh.local/ns/default"}, "parents": [{"type": "Tenant", "id": "acme"}]},
        {"uid": {"type": "Group", "id": "staff"}, "parents": [{"type": "Department", "id": "people"}]},
    ]);
    Arc::new(serde_json::from_value(records).unwrap())
}

fn engine(policy: &str) -> Engine {
    let schema = PolicySchema::new(&[SCHEMA.to_owned()]).unwrap();
    let root = namespace("reeve-system");
    let policies = schema.parse_access_policy(None, &root, "p", policy);
    let policies = policies.unwrap_or_else(|faults| panic!("{policy}: {faults:#?}"));
    let slice = PolicySlice {
        policies,
        schema: schema.texts().to_vec(),
        entities: entities(),
        ..PolicySlice::default()
    };
    Engine::compile(&slice).unwrap()
}

/// Policies, and whether they let the request through.
const TABLE: &[(&str, bool)] = &[
    (
        r#"permit (principal in Team::"web", action, resource);"#,
        true,
    ),
    (
        r#"permit (principal in Team::"books", action, resource);"#,
        false,
    ),
    (
        r#"permit (principal in Department::"shop", action, resource);"#,
        true,
    ),
    (
        r#"permit (principal in Tenant::"acme", action, resource in Tenant::"acme");"#,
        true,
    ),
    (
        r#"permit (principal, action, resource in Team::"books");"#,
        true,
    ),
    (
        r#"permit (principal, action, resource in Team::"web");"#,
        false,
    ),
    (
        r#"permit (principal is Workload, action, resource) when { principal has tier && principal.tier == "gold" };"#,
        true,
    ),
    (
        r#"permit (principal is Workload, action, resource is Workload) when { resource has tier && resource.tier == "gold" };"#,
        false,
    ),
    (
        r#"permit (principal is Workload, action, resource) when { principal has owner && principal.owner has budget && principal.owner.budget > 5 };"#,
        true,
    ),
    (
        r#"permit (principal is Workload, action, resource) when { principal has owner && principal.owner in Department::"shop" };"#,
        true,
    ),
    (
        r#"permit (principal, action, resource) when { Team::"web" in Department::"shop" };"#,
        true,
    ),
    (
        r#"permit (principal, action, resource) when { Team::"web" has budget && Team::"web".budget == 7 };"#,
        true,
    ),
    (
        r#"permit (principal is Workload, action, resource) when { principal.hasTag("app") && principal.getTag("app").contains("page") };"#,
        true,
    ),
    (
        r#"permit (principal is Workload, action, resource) when { principal.hasTag("app") && principal.getTag("app") == ["page"] };"#,
        false,
    ),
    (
        r#"permit (principal is Workload, action, resource) when { principal.hasTag("nope") };"#,
        false,
    ),
    (
        r#"permit (principal, action, resource) when { resource.hasTag("app") && resource.getTag("app") == ["reviews"] };"#,
        true,
    ),
    (
        r#"permit (principal, action in Action::"read", resource) when { context has user && context.user in Group::"staff" };"#,
        true,
    ),
    (
        r#"permit (principal, action in Action::"read", resource) when { context has user && context.user in Department::"people" };"#,
        true,
    ),
    (
        r#"permit (principal, action in Action::"read", resource) when { context has user && context.user in Group::"root" };"#,
        false,
    ),
];

#[test]
fn groups_attributes_and_labels_decide() {
    let mut asked = request();
    asked.user = Some(user().into());
    for &(policy, allowed) in TABLE {
        let engine = engine(policy);
        assert_eq!(engine.decide(&asked).is_allow(), allowed, "{policy}");
        let explained = engine.explain(&asked);
        let applied = explained.policies[0].verdict == crate::Verdict::Satisfied;
        assert_eq!(applied, allowed, "{policy}");
    }
}

#[test]
fn groups_of_another_issuers_users_are_others() {
    let text = r#"permit (principal, action in Action::"read", resource) when { context has user && context.user in Group::"staff" };"#;
    let engine = engine(text);
    let mut asked = request();
    asked.user = Some(user().into());
    assert!(engine.decide(&asked).is_allow());
    Arc::make_mut(asked.user.as_mut().unwrap()).issuer = "https://evil.example".into();
    assert!(!engine.decide(&asked).is_allow());
    Arc::make_mut(asked.user.as_mut().unwrap()).issuer = "https://issuer.example".into();
    Arc::make_mut(asked.user.as_mut().unwrap()).claims.clear();
    assert!(!engine.decide(&asked).is_allow());
    asked.user = None;
    assert!(!engine.decide(&asked).is_allow());
}

#[test]
fn what_may_be_absent_is_asked_for_first() {
    let schema = PolicySchema::new(&[SCHEMA.to_owned()]).unwrap();
    let root = namespace("reeve-system");
    for (text, said) in [
        (
            r#"permit (principal is Workload, action, resource) when { principal.tier == "gold" };"#,
            "tier",
        ),
        (
            r#"permit (principal is Workload, action, resource) when { principal.getTag("app").contains("a") };"#,
            "tag",
        ),
        (
            r#"permit (principal in Taem::"web", action, resource);"#,
            "Taem",
        ),
        (
            r#"permit (principal is Workload, action, resource) when { principal has colour };"#,
            "impossible",
        ),
        (
            r#"permit (principal is Workload, action in Action::"read", resource) when { principal.hasTag(context.host) };"#,
            "spell out",
        ),
    ] {
        let faults = schema
            .parse_access_policy(None, &root, "p", text)
            .unwrap_err();
        let said = faults.iter().any(|fault| fault.message.contains(said));
        assert!(said, "{text}: {faults:?}");
    }
}

#[test]
fn what_is_known_of_entities_may_change_alone() {
    let text = r#"permit (principal in Team::"web", action, resource);"#;
    let before = engine(text);
    let schema = PolicySchema::new(&[SCHEMA.to_owned()]).unwrap();
    let root = namespace("reeve-system");
    let slice = PolicySlice {
        policies: schema.parse_access_policy(None, &root, "p", text).unwrap(),
        schema: schema.texts().to_vec(),
        ..PolicySlice::default()
    };
    let after = Engine::compile_after(&slice, Some(&before)).unwrap();
    assert!(before.decide(&request()).is_allow());
    assert!(!after.decide(&request()).is_allow());
    assert!(before.decide(&request()).is_allow());
    let without = PolicySlice {
        schema: Vec::new(),
        ..slice.clone()
    };
    assert!(
        Engine::compile_after(&without, Some(&after)).is_err(),
        "the type is gone"
    );
    assert_ne!(crate::slice_hash(&slice), crate::slice_hash(&without));
    let known = PolicySlice {
        entities: entities(),
        ..slice.clone()
    };
    assert_ne!(crate::slice_hash(&slice), crate::slice_hash(&known));
    assert_eq!(
        crate::mesh_hash(&without.policies),
        crate::slice_hash(&without)
    );
}

#[test]
fn where_the_end_user_is_not_known_their_groups_are_not_either() {
    use crate::{Asked, Foreseen, Foresight, Needs, Searched};
    let text = r#"permit (principal, action in Action::"read", resource) when { context has user && context.user in Group::"staff" };"#;
    let foresight = Foresight::new(engine(text));
    assert!(foresight.sight().claim("groups"));
    let ask = |request: &reeve_core::decision::AccessRequest, user: bool, redacted: &[&str]| {
        let redacted_claims = redacted.iter().map(|&name| name.to_owned()).collect();
        let known = Searched {
            names: &Needs::default(),
            redacted_claims: &redacted_claims,
            redacted_context: &Default::default(),
            user,
        };
        foresight.ask(request, known, Asked::Plainly)
    };
    let mut asked = request();
    assert!(matches!(ask(&asked, false, &[]), Foreseen::Open(_)));
    assert!(matches!(ask(&asked, true, &[]), Foreseen::Certain(found) if !found.is_allow()));
    asked.user = Some(user().into());
    assert!(matches!(ask(&asked, true, &[]), Foreseen::Certain(found) if found.is_allow()));
    assert!(matches!(ask(&asked, true, &["sub"]), Foreseen::Certain(found) if found.is_allow()));
    Arc::make_mut(asked.user.as_mut().unwrap()).claims.clear();
    assert!(matches!(ask(&asked, true, &["groups"]), Foreseen::Open(_)));
}
