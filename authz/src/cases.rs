//! The decision cases of `policies/cases/*.json`: a request, changes to it, and the answers that the policy library
//! must give. Format and rules: `policies/README.md`.

use std::{collections::BTreeSet, fs, path::PathBuf};

use reeve_core::{
    Namespace, PolicyId,
    decision::{AccessRequest, Decision, Reason},
    model::PolicySlice,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{Engine, parse_access_policy};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    documents: Vec<Document>,
    request: Value,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    object: String,
    scope: Option<Namespace>,
    file: Option<String>,
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    change: Value,
    expect: Expected,
    twins: Vec<Twin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Twin {
    change: Value,
    expect: Expected,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    reason: Reason,
    #[serde(default)]
    policies: Vec<PolicyId>,
    shadow: Option<Box<Expected>>,
}

impl Expected {
    fn assert_met(&self, decision: &Decision, at: &str) {
        assert_eq!(decision.reason, self.reason, "{at}: {decision:?}");
        assert_eq!(decision.policies, self.policies, "{at}");
        match (&self.shadow, &decision.shadow) {
            (Some(expected), Some(shadow)) => expected.assert_met(shadow, at),
            (expected, shadow) => {
                assert_eq!(expected.is_some(), shadow.is_some(), "{at}: {decision:?}")
            }
        }
    }
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../policies")
        .join(name)
}

fn names(name: &str) -> BTreeSet<String> {
    let files = fs::read_dir(folder(name)).unwrap();
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    files.map(|file| stem(file.unwrap().path())).collect()
}

fn engine(documents: &[Document]) -> Engine {
    let mut policies = Vec::new();
    for document in documents {
        let text = match (&document.file, &document.text) {
            (Some(file), None) => fs::read_to_string(folder(file)).unwrap(),
            (None, Some(text)) => text.clone(),
            _ => panic!("{}: either file or text", document.object),
        };
        let root = Namespace::parse("reeve-system").unwrap();
        let home = document.scope.as_ref().unwrap_or(&root);
        let parsed = parse_access_policy(document.scope.as_ref(), home, &document.object, &text);
        policies.extend(parsed.unwrap_or_else(|faults| panic!("{}: {faults:#?}", document.object)));
    }
    Engine::compile(&PolicySlice {
        mesh_hash: crate::mesh_hash(&policies),
        policies,
    })
    .unwrap()
}

/// RFC 7396: objects are merged, null removes, all else replaces.
fn merge(target: &mut Value, change: &Value) {
    let (Value::Object(target), Value::Object(change)) = (&mut *target, change) else {
        *target = change.clone();
        return;
    };
    for (name, value) in change {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

fn request(base: &Value, changes: &[&Value], at: &str) -> AccessRequest {
    let mut request = base.clone();
    for change in changes {
        merge(&mut request, change);
    }
    serde_json::from_value(request).unwrap_or_else(|e| panic!("{at}: {e}"))
}

#[test]
fn the_library_answers_every_case() {
    for name in names("cases") {
        let text = fs::read_to_string(folder("cases").join(format!("{name}.json"))).unwrap();
        let file: File = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let engine = engine(&file.documents);
        for case in &file.cases {
            let at = format!("{name}: {}", case.name);
            let decision = engine.decide(&request(&file.request, &[&case.change], &at));
            case.expect.assert_met(&decision, &at);
            let mut differs = false;
            for (number, twin) in case.twins.iter().enumerate() {
                let at = format!("{at}, twin {number}");
                let other =
                    engine.decide(&request(&file.request, &[&case.change, &twin.change], &at));
                twin.expect.assert_met(&other, &at);
                differs |= other.effect != decision.effect;
            }
            assert!(differs, "{at}: needs a twin that comes out the other way");
        }
    }
}

#[test]
fn every_library_policy_has_cases() {
    assert_eq!(names("library"), names("cases"));
}
