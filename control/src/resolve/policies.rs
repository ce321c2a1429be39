//! `AccessPolicy`: Cedar text to validated policies, faults mapped to lines of the YAML file.

use reeve_authz::{PolicyFault, mesh_hash, parse_access_policy};
use reeve_core::{Namespace, model::PolicySource};

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
    (policies, hash)
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
