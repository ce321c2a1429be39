use serde_json::json;

use super::*;

const SCHEMA: &str = r#"
    entity Group;
    entity User in [Group] { age: Long };
    entity Album;
    action "view" appliesTo { principal: User, resource: Album, context: { port?: Long } };
"#;

fn entities() -> Value {
    json!([
        {"uid": {"type": "User", "id": "alice"}, "attrs": {"age": 30}, "parents": [{"type": "Group", "id": "staff"}]},
        {"uid": {"type": "Album", "id": "trip"}, "attrs": {}, "parents": []},
    ])
}

fn ask(policies: Value) -> Value {
    json!({
        "policies": policies,
        "schema": SCHEMA,
        "entities": entities(),
        "request": {"principal": "User::\"alice\"", "action": "Action::\"view\"", "resource": "Album::\"trip\"", "context": {}},
    })
}

fn run(input: Value) -> Result<EvalOutput, EvalFault> {
    eval(&serde_json::from_value(input).unwrap())
}

fn answer(input: Value) -> (Effect, Vec<String>) {
    let output = run(input).unwrap();
    (output.decision, output.reasons)
}

#[test]
fn policies_come_in_every_form_of_cedar() {
    let text =
        r#"permit (principal in Group::"staff", action, resource) when { principal.age > 18 };"#;
    let policy = cedar_policy::Policy::parse(None, text)
        .unwrap()
        .to_json()
        .unwrap();
    let set = json!({"staticPolicies": {"policy0": policy}, "templates": {}, "templateLinks": []});
    for policies in [
        json!(text),
        set,
        policy.clone(),
        json!([policy]),
        json!([text]),
        json!({"policy0": policy}),
        json!({"staticPolicies": text}),
    ] {
        let found = answer(ask(policies.clone()));
        assert_eq!(
            found,
            (Effect::Allow, vec!["policy0".to_owned()]),
            "{policies}"
        );
    }
    let named = json!({"staticPolicies": {"named": text}});
    assert_eq!(answer(ask(named)).1, ["named"]);
    let linked = json!({
        "staticPolicies": {},
        "templates": {"t": "permit (principal == ?principal, action, resource);"},
        "templateLinks": [{"templateId": "t", "newId": "l", "values": {"?principal": {"type": "User", "id": "alice"}}}],
    });
    assert_eq!(answer(ask(linked)), (Effect::Allow, vec!["l".to_owned()]));
}

#[test]
fn requests_and_schemas_come_in_every_form_of_cedar() {
    let policy =
        json!("permit (principal == User::\"alice\", action == Action::\"view\", resource);");
    for alice in [
        json!("User::\"alice\""),
        json!({"type": "User", "id": "alice"}),
        json!({"__entity": {"type": "User", "id": "alice"}}),
    ] {
        let mut input = ask(policy.clone());
        input["request"]["principal"] = alice;
        assert_eq!(answer(input).0, Effect::Allow);
    }
    let mut bob = ask(policy.clone());
    bob["request"]["principal"] = json!("User::\"bob\"");
    assert_eq!(answer(bob), (Effect::Deny, Vec::new()));
    let (fragment, _) = cedar_policy::SchemaFragment::from_cedarschema_str(SCHEMA).unwrap();
    let json_schema = fragment.to_json_value().unwrap();
    for schema in [json_schema.clone(), json!(json_schema.to_string())] {
        let mut input = ask(policy.clone());
        input["schema"] = schema;
        assert_eq!(answer(input).0, Effect::Allow);
    }
    let mut bare = ask(policy);
    bare["entities"] = json!("[]");
    bare.as_object_mut().unwrap().remove("schema");
    bare["request"].as_object_mut().unwrap().remove("context");
    assert_eq!(answer(bare).0, Effect::Allow);
}

#[test]
fn validation_reports_errors_and_warnings() {
    let output = run(ask(json!(
        "permit (principal, action, resource) when { principal.height > 1 };\n\
         permit (principal, action, resource) when { false };\n\
         permit (principal, action, resource);"
    )))
    .unwrap();
    let named: Vec<_> = output
        .validation
        .iter()
        .map(|v| v.policy.as_str())
        .collect();
    assert_eq!(named, ["policy0", "policy1"]);
    assert!(
        output.validation[0].message.contains("height"),
        "{:?}",
        output.validation
    );
    assert_eq!(output.errors.len(), 1, "and evaluation goes on");
    assert_eq!(output.decision, Effect::Allow);
    assert!(
        run(ask(json!("permit (principal, action, resource);")))
            .unwrap()
            .validation
            .is_empty()
    );
}

#[test]
fn a_failing_forbid_denies_unless_plain_cedar_is_asked_for() {
    let policies = json!(
        "permit (principal, action, resource);\nforbid (principal, action, resource) when { principal.height > 1 };"
    );
    let output = run(ask(policies.clone())).unwrap();
    assert_eq!(
        (output.decision, output.reason),
        (Effect::Deny, Reason::ForbidError)
    );
    assert_eq!(output.reasons, ["policy1"]);
    assert_eq!(output.errors[0].policy, "policy1");
    let mut plain = ask(policies);
    plain["on_forbid_error"] = json!("skip");
    assert_eq!(answer(plain), (Effect::Allow, vec!["policy0".to_owned()]));
}

/// Each row: what is broken, and the part that is blamed.
#[test]
fn broken_input_is_blamed_on_its_part() {
    let fine = || ask(json!("permit (principal, action, resource);"));
    let broken = |change: fn(&mut Value)| {
        let mut input = fine();
        change(&mut input);
        run(input).unwrap_err().part
    };
    assert_eq!(answer(fine()).0, Effect::Allow);
    assert_eq!(
        broken(|i| i["policies"] = json!("permit (principal")),
        "policies"
    );
    assert_eq!(broken(|i| i["policies"] = json!(7)), "policies");
    assert_eq!(
        broken(|i| i["policies"] = json!([{"effect": "maybe"}])),
        "policies"
    );
    assert_eq!(broken(|i| i["schema"] = json!("entity")), "schema");
    assert_eq!(broken(|i| i["schema"] = json!({"": 1})), "schema");
    assert_eq!(broken(|i| i["entities"] = json!({})), "entities");
    assert_eq!(
        broken(|i| i["entities"][0]["attrs"]["age"] = json!("x")),
        "entities"
    );
    assert_eq!(
        broken(|i| i["request"]["principal"] = json!("alice")),
        "request"
    );
    assert_eq!(
        broken(|i| i["request"]["principal"] = json!({"type": "User"})),
        "request"
    );
    assert_eq!(
        broken(|i| i["request"]["context"]["port"] = json!("x")),
        "request"
    );
    assert_eq!(
        broken(|i| i["request"]["action"] = json!("Action::\"edit\"")),
        "request"
    );
    assert_eq!(
        broken(|i| i["request"]["resource"] = json!("User::\"bob\"")),
        "request"
    );
    let deep = |open: &str| json!(format!("{}1", open.repeat(5_000)));
    for policies in [
        deep("("),
        json!([deep("[")]),
        json!({"staticPolicies": {"a": deep("{")}}),
    ] {
        assert_eq!(run(ask(policies)).unwrap_err().part, "policies");
    }
    let mut unchecked = fine();
    unchecked["request"]["resource"] = json!("User::\"bob\"");
    unchecked["request"]["validateRequest"] = json!(false);
    assert_eq!(answer(unchecked).0, Effect::Allow);
    let unknown = json!({"policies": "", "request": {}, "polcies": ""});
    assert!(serde_json::from_value::<EvalInput>(unknown).is_err());
}

#[test]
fn output_is_cedars_vocabulary() {
    let output = run(ask(json!("permit (principal, action, resource);"))).unwrap();
    let json = serde_json::to_value(&output).unwrap();
    let expected = json!({"decision": "allow", "reason": "permitted", "reasons": ["policy0"], "errors": [], "validation": []});
    assert_eq!(json, expected);
}
