use reeve_core::{Namespace, model::PolicySource};

use super::{BindError, Role};
use crate::{PolicySchema, parse_access_policy};

const READER: &str = r#"
@id("reads")
@description("May read the service.")
permit (principal in ?principal, action in Action::"read", resource in ?resource)
unless { context.path like "/internal/*" };
"#;

fn namespace(name: &str) -> Namespace {
    Namespace::parse(name).unwrap()
}

fn role(text: &str) -> Result<Role, Vec<String>> {
    Role::parse(
        &PolicySchema::default(),
        &namespace("reeve-system"),
        "reader",
        text,
    )
    .map_err(|faults| {
        let told = faults.iter().map(|f| format!("{}: {}", f.line, f.message));
        told.collect()
    })
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn policies(text: &str) -> Vec<PolicySource> {
    let shop = namespace("shop");
    parse_access_policy(Some(&shop), &shop, "readers", text).unwrap()
}

#[test]
fn a_binding_is_a_policy_for_each_pair() {
    let principals = owned(&[
        r#"ServiceAccount::"mesh.local/ns/web/sa/front""#,
        r#"Namespace::"mesh.local/ns/ops""#,
    ]);
    let resources = owned(&[
        r#"Service::"cart.shop.svc.cluster.local""#,
        r#"Service::"stock.shop.svc.cluster.local""#,
    ]);
    let text = role(READER).unwrap().bind(&principals, &resources).unwrap();
    let made = policies(&text);
    let ids: Vec<_> = made.iter().map(|p| p.id.as_str()).collect();
    let expected = [
        "shop/readers#reads-1",
        "shop/readers#reads-2",
        "shop/readers#reads-3",
        "shop/readers#reads-4",
    ];
    assert_eq!(ids, expected);
    for (policy, (principal, resource)) in made.iter().zip([(0, 0), (0, 1), (1, 0), (1, 1)]) {
        let text = &policy.text;
        assert!(text.contains(&principals[principal]), "{text}");
        assert!(text.contains(&resources[resource]), "{text}");
        assert!(text.contains("May read the service."), "{text}");
        assert!(text.contains("/internal/*"), "{text}");
        assert_eq!(policy.scope, Some(namespace("shop")));
    }
}

#[test]
fn a_role_without_names_still_gives_ids() {
    let role = role("permit (principal == ?principal, action, resource);").unwrap();
    let one = owned(&[r#"Workload::"spiffe://mesh.local/ns/web/sa/front""#]);
    let made = policies(&role.bind(&one, &[]).unwrap());
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].id.as_str(), "shop/readers#part-1");
}

#[test]
fn a_slot_of_a_condition_is_filled_too() {
    let text = r#"permit (principal in ?principal, action, resource in ?resource);
        @id("own") forbid (principal, action, resource in ?resource);"#;
    let role = role(text).unwrap();
    let principals = owned(&[r#"Namespace::"mesh.local/ns/ops""#]);
    let resources = owned(&[r#"Service::"cart.shop.svc.cluster.local""#]);
    let made = policies(&role.bind(&principals, &resources).unwrap());
    let ids: Vec<_> = made.iter().map(|p| p.id.as_str()).collect();
    assert_eq!(ids, ["shop/readers#part-1", "shop/readers#own"]);
}

#[test]
fn what_is_no_role_is_refused() {
    let refused = |text: &str, fault: &str| {
        let faults = role(text).unwrap_err();
        let found = faults.iter().any(|told| told.contains(fault));
        assert!(found, "{text}: {faults:?}");
    };
    refused("", "there is no policy here");
    refused(
        "permit (principal, action, resource);",
        "1: a policy of a role has a slot",
    );
    refused(
        "permit (principal in ?principal, action, resource)",
        "unexpected",
    );
    refused(
        "\npermit (principal in ?principal, action, resource) when { context.nothing };",
        "2: ",
    );
    refused(
        "\n\n@colour(\"red\") permit (principal in ?principal, action, resource);",
        "3: unknown annotation @colour",
    );
    let twice = "@id(\"a\") permit (principal in ?principal, action, resource);\n";
    refused(&twice.repeat(2), "is there twice");
}

#[test]
fn what_does_not_fit_the_role_is_refused() {
    let reader = role(READER).unwrap();
    let web = owned(&[r#"Namespace::"mesh.local/ns/web""#]);
    let cart = owned(&[r#"Service::"cart.shop.svc.cluster.local""#]);
    let slots =
        |found: Result<String, BindError>| matches!(found.unwrap_err(), BindError::Slots(_));
    assert!(slots(reader.bind(&[], &cart)));
    assert!(slots(reader.bind(&web, &[])));
    let anybody = role("permit (principal, action, resource in ?resource);").unwrap();
    assert!(slots(anybody.bind(&web, &cart)));
    for wrong in [
        "web",
        r#"User::"jason""#,
        r#"Service::"cart.shop.svc.cluster.local""#,
    ] {
        let error = reader.bind(&owned(&[wrong]), &cart).unwrap_err();
        assert!(
            matches!(error, BindError::Entity { .. }),
            "{wrong}: {error}"
        );
    }
    let many: Vec<_> = (0..1_001)
        .map(|n| format!(r#"Namespace::"mesh.local/ns/n{n}""#))
        .collect();
    let both = [
        cart[0].clone(),
        r#"Service::"b.shop.svc.cluster.local""#.to_owned(),
    ];
    assert_eq!(
        reader.bind(&many, &both).unwrap_err(),
        BindError::TooMany(2_002)
    );
}

#[test]
fn what_is_bound_says_no_more_than_its_text() {
    // An id that would end the string is a string.
    let tricky =
        owned(&[r#"Namespace::"mesh.local/ns/a\"); permit (principal, action, resource""#]);
    let cart = owned(&[r#"Service::"cart.shop.svc.cluster.local""#]);
    let bound = role(READER).unwrap().bind(&tricky, &cart).unwrap();
    let shop = namespace("shop");
    // Misspelt as an id, and one policy all the same.
    let found = parse_access_policy(Some(&shop), &shop, "readers", &bound);
    assert!(found.is_err_and(|faults| faults.iter().all(|f| !f.message.contains("twice"))));
    assert_eq!(bound.matches("permit").count(), 2, "{bound}");
}
