use reeve_authz::parse_access_policy;
use reeve_core::{Namespace, model::PolicySlice};
use serde_json::json;

use super::*;

/// What is said of a GET of `/` by `web`, by these policies.
fn said(cedar: &str) -> (Can, Vec<String>, Vec<String>) {
    let home = Namespace::parse("default").unwrap();
    let policies = parse_access_policy(Some(&home), &home, "p", cedar).unwrap();
    let slice = PolicySlice {
        mesh_hash: reeve_authz::mesh_hash(&policies),
        policies,
    };
    let request = json!({
        "principal": {"workload": "spiffe://mesh.local/ns/default/sa/web"},
        "action": "GET",
        "resource": {"workload": "spiffe://mesh.local/ns/default/sa/a", "namespace": "default", "services": []},
        "context": {"source_ip": "127.0.0.1", "port": 80, "mtls": true, "time": 0,
            "http": {"method": "GET", "host": "a", "path": "/"}},
    });
    let request: AccessRequest = serde_json::from_value(request).unwrap();
    let (can, policies, conditions) = judged(&Engine::compile(&slice).unwrap().explain(&request));
    let policies = policies.iter().map(ToString::to_string).collect();
    (
        can,
        policies,
        conditions.iter().map(ToString::to_string).collect(),
    )
}

const PERMIT: &str = "@id(\"all\") permit (principal, action, resource);";
const READ: &str = "@id(\"read\") permit (principal, action == Action::\"GET\", resource)
    when { context.port == 80 && context.path like \"/a/*\" };";

#[test]
fn a_permit_without_conditions_is_a_yes() {
    assert_eq!(
        said(PERMIT),
        (Can::Yes, vec!["default/p#all".to_owned()], vec![])
    );
}

#[test]
fn a_permit_whose_conditions_do_not_hold_is_an_if() {
    let (can, policies, conditions) = said(READ);
    assert_eq!((can, policies), (Can::If, vec![]));
    assert_eq!(
        conditions,
        ["default/p#read: when { context.path like \"/a/*\" }"]
    );
}

#[test]
fn a_permit_for_others_or_in_shadow_is_a_no() {
    for cedar in [
        "permit (principal, action == Action::\"POST\", resource);",
        "permit (principal is Unauthenticated, action, resource);",
        "@mode(\"shadow\") permit (principal, action, resource);",
        "forbid (principal, action, resource);",
    ] {
        assert_eq!(said(cedar), (Can::No, vec![], vec![]), "{cedar}");
    }
    let forbidden =
        format!("{PERMIT} {READ} forbid (principal, action == Action::\"GET\", resource);");
    assert_eq!(said(&forbidden).0, Can::No);
}

#[test]
fn a_forbid_with_conditions_is_named() {
    let other = format!(
        "{PERMIT} @id(\"not\") forbid (principal, action == Action::\"GET\", resource) when {{ context.path == \"/x\" }};"
    );
    let (can, policies, conditions) = said(&other);
    assert_eq!((can, policies.len()), (Can::Yes, 1));
    assert_eq!(
        conditions,
        ["unless default/p#not: when { context.path == \"/x\" }"]
    );
    let applies = other.replace("\"/x\"", "\"/\"");
    let (can, policies, conditions) = said(&applies);
    assert_eq!((can, policies.len()), (Can::If, 1));
    assert_eq!(conditions, ["unless default/p#not"]);
}
