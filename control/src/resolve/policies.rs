//! `AccessPolicy`: Cedar text to validated policies, faults mapped to lines of the YAML file.

use reeve_authz::{Engine, PolicyFault, mesh_hash, parse_access_policy};
use reeve_core::{
    Namespace,
    model::{PolicySlice, PolicySource},
};

use crate::{
    Code, Fault,
    kinds::{AccessPolicySpec, Object},
    source::path::Path,
};

pub(super) fn resolve(
    objects: &[Object<AccessPolicySpec>],
    root: &Namespace,
    faults: &mut Vec<Fault>,
) -> (Vec<PolicySource>, String) {
    let mut policies: Vec<PolicySource> = Vec::new();
    let before = faults.len();
    for object in objects {
        let path = Path::of(&["spec", "cedar"]);
        let text = &object.spec.cedar;
        if text.trim().is_empty() {
            faults.push(object.error(&path, Code::Missing, "there is no Cedar text"));
            continue;
        }
        let scope = (object.namespace != *root).then_some(&object.namespace);
        match parse_access_policy(scope, &object.namespace, &object.name, text) {
            Ok(found) => {
                for policy in &found {
                    if policies.iter().any(|p| p.id == policy.id) {
                        let text = format!("there are two policies {}", policy.id);
                        faults.push(object.error(&path, Code::DuplicateObject, text));
                    }
                }
                policies.extend(found);
            }
            Err(found) => faults.extend(found.iter().map(|f| placed(object, &path, f))),
        }
    }
    policies.sort_by(|a, b| a.id.cmp(&b.id));
    let hash = mesh_hash(&policies);
    if faults.len() == before {
        compile(objects, &hash, &policies, faults);
    }
    (policies, hash)
}

/// What only shows when all policies stand together, which a proxy would refuse otherwise.
fn compile(
    objects: &[Object<AccessPolicySpec>],
    hash: &str,
    policies: &[PolicySource],
    faults: &mut Vec<Fault>,
) {
    let slice = PolicySlice {
        mesh_hash: hash.to_owned(),
        policies: policies.to_vec(),
    };
    for fault in Engine::compile(&slice).err().into_iter().flatten() {
        let id = fault.policy.as_str();
        let owner = |o: &&Object<AccessPolicySpec>| {
            let whole = format!("{}/{}", o.namespace, o.name);
            id.split('#').next() == Some(whole.as_str())
        };
        if let Some(object) = objects.iter().find(owner).or(objects.first()) {
            faults.push(placed(object, &Path::of(&["spec", "cedar"]), &fault));
        }
    }
}

fn placed(object: &Object<AccessPolicySpec>, path: &Path, fault: &PolicyFault) -> Fault {
    let text = format!("policy {}: {}", fault.policy, fault.message);
    let mut placed = object.error(path, Code::Policy, text);
    if let Some(node) = object.document.at(path) {
        placed.line = node.line_of_text(fault.line);
    }
    let snippet = fault.snippet.as_ref().map(|s| format!("in `{}`", s.trim()));
    let parts: Vec<_> = snippet.into_iter().chain(fault.help.clone()).collect();
    placed.hint = (!parts.is_empty()).then(|| parts.join("; "));
    placed
}
