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
        ..PolicySlice::default()
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

/// What a fence of the guide shows: whole policies, or parts that are put into one.
fn shown(fence: &str) -> Vec<String> {
    if fence.starts_with("permit") || fence.starts_with("forbid") {
        return vec![fence.to_owned()];
    }
    let mut all = Vec::new();
    let mut when = String::new();
    for line in fence.lines().filter(|line| !line.is_empty()) {
        if let Some((part, _)) = line.split_once(|c: char| !c.is_alphabetic())
            && when.is_empty()
            && part != "when"
        {
            let line = line.split("  //").next().unwrap();
            let scope =
                ["principal", "action", "resource"].map(|p| if p == part { line } else { p });
            all.push(format!("permit ({});", scope.join(", ")));
            continue;
        }
        if line.starts_with("when") && !when.is_empty() {
            all.push(std::mem::take(&mut when));
        }
        if when.is_empty() {
            when = "permit (principal, action in Action::\"http\", resource)".to_owned();
        }
        when = format!("{when}\n{line}");
    }
    if !when.is_empty() {
        all.push(when);
    }
    let close = |policy: String| {
        if policy.ends_with(';') {
            policy
        } else {
            format!("{policy}\n;")
        }
    };
    all.into_iter().map(close).collect()
}

#[test]
fn every_example_of_the_guide_is_valid() {
    let guide = fs::read_to_string(folder("README.md")).unwrap();
    let fences = guide.split("```cedar\n").skip(1);
    let mut count = 0;
    for policy in fences.flat_map(|rest| shown(rest.split("```").next().unwrap())) {
        count += 1;
        let home = Namespace::parse("default").unwrap();
        let parsed = parse_access_policy(None, &home, "guide", &policy);
        assert!(parsed.is_ok(), "{policy}\n{parsed:#?}");
    }
    assert!(count > 12, "{count}");
}
