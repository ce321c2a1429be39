use reeve_core::model::PolicySlice;

use super::*;
use crate::{Engine, fixtures::source};

const ALL: &str = "permit (principal, action, resource);";

#[test]
fn a_faulty_slice_is_refused_with_every_fault() {
    let slice = |policies: Vec<PolicySource>| PolicySlice {
        mesh_hash: String::new(),
        policies,
        ..PolicySlice::default()
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

#[test]
fn only_what_changed_is_compiled_again() {
    let forbid = "forbid (principal, action, resource);";
    let slice = |texts: &[(&str, Option<&str>, &str)]| PolicySlice {
        mesh_hash: String::new(),
        policies: texts
            .iter()
            .map(|(id, scope, text)| source(id, *scope, text))
            .collect(),
        ..PolicySlice::default()
    };
    let compiled = |slice: &PolicySlice, before: &[Arc<Compiled>]| {
        compile(&MeshSchema::get().unwrap(), &slice.policies, before)
    };
    let first = slice(&[
        ("default/a", None, ALL),
        ("default/b", None, ALL),
        ("default/c", None, ALL),
    ]);
    let first = compiled(&first, &[]).unwrap();
    let second = slice(&[
        ("default/a", None, ALL),
        ("default/b", None, forbid),
        ("default/c", Some("default"), ALL),
        ("default/d", None, ALL),
    ]);
    let second = compiled(&second, &first).unwrap();
    let kept = |at: usize| first.iter().any(|known| Arc::ptr_eq(known, &second[at]));
    assert_eq!([0, 1, 2, 3].map(kept), [true, false, false, false]);

    let doubled = slice(&[("default/a", None, ALL), ("default/a", None, ALL)]);
    assert!(compiled(&doubled, &first).is_err());
    let faulty = slice(&[
        ("default/a", None, ALL),
        ("default/b", None, "permit (principal);"),
    ]);
    let faults = compiled(&faulty, &first).unwrap_err();
    assert!(
        faults
            .iter()
            .all(|fault| fault.policy.as_str() == "default/b")
    );

    let before = Engine::compile(&slice(&[("default/a", None, ALL)])).unwrap();
    let after = slice(&[("default/a", None, ALL), ("default/b", None, forbid)]);
    let after = Engine::compile_after(&after, Some(&before)).unwrap();
    let asked = crate::fixtures::request();
    assert!(before.decide(&asked).is_allow() && !after.decide(&asked).is_allow());
}
