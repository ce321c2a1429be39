use reeve_core::model::PolicySlice;
use serde_json::json;

use super::*;
use crate::{Engine, PolicySchema, fixtures::namespace};

const SCHEMA: &str = "
    entity Department;
    entity Team in [Department] { budget?: Long, lead?: Workload };
    entity Workload in [Team] { tier?: String, owner?: Team };
    entity Service in [Team];
";

fn records() -> Vec<EntityRecord> {
    let named = |kind: &str, id: &str| json!({"type": kind, "id": id});
    let entity = |kind: &str, id: &str| json!({"__entity": named(kind, id)});
    serde_json::from_value(json!([
        {"uid": named("Team", "web"), "parents": [named("Department", "shop")], "attrs": {"budget": 7}},
        {"uid": named("Team", "ops"), "parents": [named("Department", "it")]},
        {"uid": named("Workload", "spiffe://mesh.local/ns/a/sa/a"), "parents": [named("Team", "web"), named("Team", "ops")],
         "attrs": {"tier": "gold", "owner": entity("Team", "web")}, "tags": {"app": ["a"], "version": ["v1"]}},
        {"uid": named("Service", "a.a.svc.cluster.local"), "parents": [named("Team", "books")]},
    ]))
    .unwrap()
}

/// What is left, as `uid > parents attributes tags`.
fn left(policy: &str) -> Vec<String> {
    let schema = PolicySchema::new(&[SCHEMA.to_owned()]).unwrap();
    let parsed = schema.parse_access_policy(None, &namespace("reeve-system"), "p", policy);
    let slice = PolicySlice {
        policies: parsed.unwrap_or_else(|faults| panic!("{policy}: {faults:#?}")),
        schema: schema.texts().to_vec(),
        ..PolicySlice::default()
    };
    let engine = Engine::compile(&slice).unwrap();
    let asked = engine.asked_of();
    let told = |record: EntityRecord| {
        let parents = record.parents.iter().map(|p| p.id.clone());
        let mut said: Vec<String> = parents.collect();
        said.extend(record.attrs.into_keys().chain(record.tags.into_keys()));
        let id = record.uid.id.rsplit('/').next().unwrap().to_owned();
        format!("{id} > {}", said.join(" "))
    };
    asked[&None]
        .narrowed(&records())
        .into_iter()
        .map(told)
        .collect()
}

#[test]
fn only_what_policies_can_learn_is_left() {
    for (policy, expected) in [
        ("permit (principal, action, resource);", &[][..]),
        (
            r#"permit (principal in Department::"shop", action, resource);"#,
            &["web > shop", "a > web"],
        ),
        (
            r#"permit (principal, action, resource) when { principal in [Team::"ops", Team::"none"] };"#,
            &["a > ops"],
        ),
        (
            r#"permit (principal, action, resource in Team::"books");"#,
            &["a.a.svc.cluster.local > books"],
        ),
        (
            r#"permit (principal is Workload in Team::"web", action, resource) when { principal has tier };"#,
            &["a > web tier"],
        ),
        (
            r#"permit (principal is Workload, action, resource) when { principal has owner.budget && principal.owner.budget > 5 };"#,
            &["web > budget", "a > owner"],
        ),
        (
            r#"permit (principal is Workload, action, resource) when { principal.hasTag("app") };"#,
            &["a > app"],
        ),
        (
            r#"permit (principal is Workload, action, resource) when { principal has owner && resource in principal.owner };"#,
            &[
                "web > shop",
                "ops > it",
                "a > web ops owner",
                "a.a.svc.cluster.local > books",
            ],
        ),
        (
            r#"permit (principal, action, resource) when { Team::"web" has budget };"#,
            &["web > budget"],
        ),
    ] {
        assert_eq!(left(policy), expected, "{policy}");
    }
}
