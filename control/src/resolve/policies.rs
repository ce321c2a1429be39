//! `AccessPolicy`: Cedar text to validated policies, faults mapped to lines of the YAML file.

use std::{
    collections::{HashMap, HashSet},
    sync::{LazyLock, Mutex, MutexGuard},
};

use reeve_authz::{Engine, MAX_CANDIDATES, PolicyFault, mesh_hash, parse_access_policy};
use reeve_core::{
    Namespace, PolicyId,
    model::{PolicySlice, PolicySource},
};

use super::hosts::Services;
use crate::{
    Code, Fault, LocalWorkload,
    kinds::{AccessPolicySpec, Object},
    source::path::Path,
};

/// Policies that a fault names.
const NAMED: usize = 8;

pub(super) fn resolve(
    objects: &[Object<AccessPolicySpec>],
    root: &Namespace,
    mesh: (&Services, &[LocalWorkload]),
    faults: &mut Vec<Fault>,
) -> (Vec<PolicySource>, String) {
    let mut policies: Vec<PolicySource> = Vec::new();
    let mut ids = HashSet::new();
    let before = faults.len();
    let mut known = known();
    let mut read = HashMap::new();
    for object in objects {
        let path = Path::of(&["spec", "cedar"]);
        let text = &object.spec.cedar;
        if text.trim().is_empty() {
            faults.push(object.error(&path, Code::Missing, "there is no Cedar text"));
            continue;
        }
        let scope = (object.namespace != *root).then_some(&object.namespace);
        let document = Document {
            whole_mesh: scope.is_none(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            text: text.clone(),
        };
        let parsed = match known.documents.remove(&document) {
            Some(found) => Ok(found),
            None => parse_access_policy(scope, &object.namespace, &object.name, text),
        };
        match parsed {
            Ok(found) => {
                for policy in &found {
                    if !ids.insert(policy.id.clone()) {
                        let text = format!("there are two policies {}", policy.id);
                        faults.push(object.error(&path, Code::DuplicateObject, text));
                    }
                }
                policies.extend(found.iter().cloned());
                read.insert(document, found);
            }
            Err(found) => faults.extend(found.iter().map(|f| placed(object, &path, f))),
        }
    }
    known.documents = read;
    policies.sort_by(|a, b| a.id.cmp(&b.id));
    let hash = mesh_hash(&policies);
    if faults.len() == before {
        compile(objects, &hash, &policies, mesh, &mut known, faults);
    }
    (policies, hash)
}

/// What the last set came to, so that what did not change is not read, validated and compiled again. It holds nothing
/// but what follows from the texts themselves.
#[derive(Debug, Default)]
struct Known {
    documents: HashMap<Document, Vec<PolicySource>>,
    engine: Option<Engine>,
}

/// An `AccessPolicy`, as far as its policies depend on it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Document {
    whole_mesh: bool,
    namespace: Namespace,
    name: String,
    text: String,
}

fn known() -> MutexGuard<'static, Known> {
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    KNOWN.lock().unwrap_or_else(|poisoned| {
        let mut known = poisoned.into_inner();
        *known = Known::default();
        known
    })
}

/// What only shows when all policies stand together, which a proxy would refuse otherwise.
fn compile(
    objects: &[Object<AccessPolicySpec>],
    hash: &str,
    policies: &[PolicySource],
    mesh: (&Services, &[LocalWorkload]),
    known: &mut Known,
    faults: &mut Vec<Fault>,
) {
    let slice = PolicySlice {
        mesh_hash: hash.to_owned(),
        policies: policies.to_vec(),
    };
    match Engine::compile_after(&slice, known.engine.as_ref()) {
        Ok(engine) => {
            if policies.len() > MAX_CANDIDATES
                && let Some(crowd) = engine.crowd(together(mesh))
            {
                faults.extend(crowded(objects, &crowd));
            }
            known.engine = Some(engine);
        }
        Err(found) => {
            for fault in found {
                if let Some(object) = owner(objects, &fault.policy) {
                    faults.push(placed(object, &Path::of(&["spec", "cedar"]), &fault));
                }
            }
        }
    }
}

/// How many services a workload is behind at most.
fn together((services, workloads): (&Services, &[LocalWorkload])) -> usize {
    let behind = |w| services.values().filter(|s| s.selects(w)).count();
    let most = workloads.iter().map(behind).max();
    most.unwrap_or_default().max(1)
}

/// A request that concerned all of `crowd` would have to ask each of them.
fn crowded(objects: &[Object<AccessPolicySpec>], crowd: &[PolicyId]) -> Option<Fault> {
    let first = crowd.first()?;
    let named: Vec<_> = crowd.iter().take(NAMED).map(PolicyId::as_str).collect();
    let more = crowd.len().saturating_sub(NAMED);
    let text = format!(
        "one request could concern more than {MAX_CANDIDATES} policies: {}{}",
        named.join(", "),
        if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        },
    );
    let mut fault = owner(objects, first)?.error(&Path::of(&["spec", "cedar"]), Code::Policy, text);
    fault.hint = Some(
        "say in each whom it concerns: a principal, a resource, or a condition such as context.path == \"/x\" that \
         comes before anything that can fail"
            .to_owned(),
    );
    Some(fault)
}

/// The object that a policy comes from.
fn owner<'a>(
    objects: &'a [Object<AccessPolicySpec>],
    policy: &PolicyId,
) -> Option<&'a Object<AccessPolicySpec>> {
    let owns = |o: &&Object<AccessPolicySpec>| {
        let whole = format!("{}/{}", o.namespace, o.name);
        policy.as_str().split('#').next() == Some(whole.as_str())
    };
    objects.iter().find(owns).or(objects.first())
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
