use reeve_core::{Namespace, model::PolicySource};

use super::{findings, mesh};

const ROLES: &str = r#"---
apiVersion: reeve.dev/v1alpha1
kind: AccessRole
metadata: {name: reader, namespace: reeve-system}
spec:
  cedar: |
    @id("reads")
    permit (principal in ?principal, action in Action::"read", resource in ?resource);
---
apiVersion: reeve.dev/v1alpha1
kind: AccessRole
metadata: {name: private, namespace: pay}
spec:
  cedar: permit (principal in ?principal, action, resource);
"#;

fn binding(namespace: &str, spec: &str) -> String {
    format!(
        "{ROLES}---\napiVersion: reeve.dev/v1alpha1\nkind: AccessRoleBinding\nmetadata: {{name: readers, namespace: \
         {namespace}}}\nspec: {spec}\n"
    )
}

/// Id and scope of each policy.
fn policies(yaml: &str) -> Vec<(String, Option<String>)> {
    let scope = |policy: &PolicySource| policy.scope.as_ref().map(Namespace::to_string);
    let policies = mesh(yaml).policies;
    policies
        .iter()
        .map(|policy| (policy.id.to_string(), scope(policy)))
        .collect()
}

const WEB: &str = r#"principals: ['Namespace::"mesh.local/ns/web"']"#;
const CART: &str = r#"resources: ['Service::"cart.shop.svc.cluster.local"', 'Service::"b.pay.svc.cluster.local"']"#;

#[test]
fn a_role_of_the_root_namespace_is_bound_anywhere_and_decides_there_alone() {
    let shop = binding("shop", &format!("{{role: reader, {WEB}, {CART}}}"));
    let scope = Some("shop".to_owned());
    let expected = [
        ("shop/readers#reads-1".to_owned(), scope.clone()),
        ("shop/readers#reads-2".to_owned(), scope),
    ];
    assert_eq!(policies(&shop), expected);
    let named = binding(
        "shop",
        &format!("{{role: reeve-system/reader, {WEB}, {CART}}}"),
    );
    assert_eq!(policies(&named), expected);
    let root = binding("reeve-system", &format!("{{role: reader, {WEB}, {CART}}}"));
    assert!(policies(&root).iter().all(|(_, scope)| scope.is_none()));
}

#[test]
fn a_role_of_another_namespace_is_not_visible() {
    let own = binding("pay", &format!("{{role: private, {WEB}}}"));
    assert_eq!(
        policies(&own),
        [("pay/readers#part-1".to_owned(), Some("pay".to_owned()))]
    );
    for role in ["private", "pay/private", "nothing"] {
        let other = binding("shop", &format!("{{role: {role}, {WEB}}}"));
        assert_eq!(
            findings(&other),
            ["19 spec.role unknown-reference"],
            "{role}"
        );
    }
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    let without = binding("shop", &format!("{{role: reader, {WEB}}}"));
    assert_eq!(findings(&without), ["19 spec policy"]);
    let unknown = binding(
        "shop",
        &format!("{{role: reader, principals: [web], {CART}}}"),
    );
    assert_eq!(findings(&unknown), ["19 spec policy"]);
    let misspelt = binding(
        "shop",
        &format!("{{role: reader, principals: ['Namespace::\"web\"'], {CART}}}"),
    );
    assert_eq!(findings(&misspelt), ["19 spec policy"; 2]);
    let broken = ROLES.replace("?resource", "?resourc");
    assert_eq!(findings(&broken), ["8 spec.cedar policy"]);
}

#[test]
fn a_binding_and_a_policy_of_one_name_do_not_meet() {
    let both = binding(
        "shop",
        &format!("{{role: reeve-system/reader, {WEB}, {CART}}}"),
    ) + "---\napiVersion: reeve.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: readers, namespace: shop}\n\
           spec: {cedar: '@id(\"reads-1\") permit (principal, action, resource);'}\n";
    assert_eq!(findings(&both).len(), 1, "{:?}", findings(&both));
}
