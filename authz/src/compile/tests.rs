use reeve_core::model::PolicySlice;

use super::*;
use crate::{Engine, fixtures::source};

const ALL: &str = "permit (principal, action, resource);";

#[test]
fn a_faulty_slice_is_refused_with_every_fault() {
    let slice = |policies: Vec<PolicySource>| PolicySlice {
        mesh_hash: String::new(),
        policies,
    };
    let faults = Engine::compile(&slice(vec![
        source(
            "default/typo",
            None,
            "permit (principal, action, resource) when { context.prot == 1 };",
        ),
        source(
            "default/syntax",
            None,
            "permit (principal, action resource);",
        ),
        source("default/two", None, &format!("{ALL}\n{ALL}")),
        source(
            "default/slot",
            None,
            "permit (principal == ?principal, action, resource);",
        ),
        source("default/same", None, ALL),
        source("default/same", None, ALL),
    ]))
    .unwrap_err();
    let named: Vec<_> = faults.iter().map(|f| f.policy.as_str()).collect();
    for name in ["typo", "syntax", "two", "slot", "same"] {
        assert!(
            named.contains(&format!("default/{name}").as_str()),
            "{name}: {faults:#?}"
        );
    }
    assert!(Engine::compile(&slice(vec![source("default/same", None, ALL)])).is_ok());
    let long = format!("// {}\n{ALL}", "x".repeat(70_000));
    assert!(Engine::compile(&slice(vec![source("default/long", None, &long)])).is_err());
}
