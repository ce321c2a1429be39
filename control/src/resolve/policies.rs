//! `AccessPolicy`, `AccessRoleBinding` and `AuthorizationPolicy`: Cedar text to validated policies, faults mapped to lines of the YAML file.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::{Arc, LazyLock, Mutex, MutexGuard},
};

use reeve_authz::{
    Engine, MAX_CANDIDATES, PolicyFault, break_glass::BREAK_GLASS, mesh_hash, parse_access_policy,
};
use reeve_core::{
    Namespace, PolicyId,
    model::{PolicySlice, PolicySource},
};

use super::{
    hosts::Services,
    roles::{self, Bound},
};
use crate::{
    Code, Fault, LocalWorkload,
    authorization::{self, Translated, World},
    kinds::{AccessRoleSpec, AuthorizationPolicySpec, Object},
    source::path::Path,
};

/// Policies that a fault names.
const NAMED: usize = 8;

/// The Cedar text of one object.
struct Text<'a> {
    document: &'a Arc<crate::source::Document>,
    namespace: &'a Namespace,
    name: &'a str,
    cedar: Cow<'a, str>,
    /// Where the text stands, or what it was translated from.
    path: Path,
    translated: bool,
}

/// What becomes policies, beside `AccessPolicy`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Others<'a> {
    pub(super) authorization: &'a [Object<AuthorizationPolicySpec>],
    pub(super) roles: &'a [Object<AccessRoleSpec>],
}

pub(super) fn resolve(
    others: Others<'_>,
    world: World<'_>,
    faults: &mut Vec<Fault>,
) -> (Vec<PolicySource>, String) {
    let mut policies: Vec<PolicySource> = Vec::new();
    let mut ids = HashSet::new();
    let before = errors(faults);
    let texts = texts(others, world, faults);
    let mut known = known();
    let mut read = HashMap::new();
    for one in &texts {
        // SECURITY: nothing may pass for a grant in the record, or stand where one will.
        if one.namespace.as_str() == BREAK_GLASS {
            let text = format!("namespace {BREAK_GLASS} is reserved for break-glass grants");
            let path = Path::of(&["metadata", "namespace"]);
            faults.push(one.document.error(&path, Code::Invalid, text));
            continue;
        }
        let scope = (one.namespace != world.root).then_some(one.namespace);
        let document = Document {
            whole_mesh: scope.is_none(),
            namespace: one.namespace.clone(),
            name: one.name.to_owned(),
            text: one.cedar.to_string(),
        };
        let parsed = match known.documents.remove(&document) {
            Some(found) => Ok(found),
            None => parse_access_policy(scope, one.namespace, one.name, &one.cedar),
        };
        match parsed {
            Ok(found) => {
                for policy in &found {
                    if !ids.insert(policy.id.clone()) {
                        let text = format!("there are two policies {}", policy.id);
                        faults.push(one.error(Code::DuplicateObject, text));
                    }
                }
                policies.extend(found.iter().cloned());
                read.insert(document, found);
            }
            Err(found) => faults.extend(found.iter().map(|f| one.placed(f))),
        }
    }
    known.documents = read;
    policies.sort_by(|a, b| a.id.cmp(&b.id));
    let hash = mesh_hash(&policies);
    if errors(faults) == before {
        let mesh = (world.services, world.workloads);
        compile(&texts, &hash, &policies, mesh, &mut known, faults);
    }
    (policies, hash)
}

fn errors(faults: &[Fault]) -> usize {
    faults.iter().filter(|fault| fault.is_error()).count()
}

/// Every Cedar text, roles bound and Istio's policies translated.
fn texts<'a>(others: Others<'a>, world: World<'a>, faults: &mut Vec<Fault>) -> Vec<Text<'a>> {
    let mut texts = Vec::new();
    for object in world.access {
        let path = Path::of(&["spec", "cedar"]);
        if object.spec.cedar.trim().is_empty() {
            faults.push(object.error(&path, Code::Missing, "there is no Cedar text"));
            continue;
        }
        texts.push(Text {
            document: &object.document,
            namespace: &object.namespace,
            name: &object.name,
            cedar: Cow::Borrowed(&object.spec.cedar),
            path,
            translated: false,
        });
    }
    for Bound { object, cedar } in roles::bind(others.roles, world.bindings, world.root, faults) {
        texts.push(Text {
            document: &object.document,
            namespace: &object.namespace,
            name: &object.name,
            cedar: Cow::Owned(cedar),
            path: Path::of(&["spec"]),
            translated: true,
        });
    }
    let authorization = others.authorization;
    for Translated { object, cedar } in authorization::translate(authorization, world, faults) {
        if let Some(object) = authorization.get(object).filter(|_| !cedar.is_empty()) {
            texts.push(Text {
                document: &object.document,
                namespace: &object.namespace,
                name: &object.name,
                cedar: Cow::Owned(cedar),
                path: Path::of(&["spec"]),
                translated: true,
            });
        }
    }
    texts
}

impl Text<'_> {
    fn error(&self, code: Code, text: impl Into<String>) -> Fault {
        self.document.error(&self.path, code, text)
    }

    fn placed(&self, fault: &PolicyFault) -> Fault {
        let text = format!("policy {}: {}", fault.policy, fault.message);
        let mut placed = match self.translated {
            true => self.error(Code::Policy, text),
            false => in_text(self.document, &self.path, text, fault.line),
        };
        let snippet = fault.snippet.as_ref().map(|s| format!("in `{}`", s.trim()));
        let parts: Vec<_> = snippet.into_iter().chain(fault.help.clone()).collect();
        placed.hint = (!parts.is_empty()).then(|| parts.join("; "));
        placed
    }
}

/// A fault in line `line` of the Cedar text that stands at `path`.
pub(super) fn in_text(
    document: &crate::source::Document,
    path: &Path,
    text: String,
    line: usize,
) -> Fault {
    let mut fault = document.error(path, Code::Policy, text);
    if let Some(node) = document.at(path) {
        fault.line = node.line_of_text(line);
    }
    fault
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
    texts: &[Text<'_>],
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
                faults.extend(crowded(texts, &crowd));
            }
            known.engine = Some(engine);
        }
        Err(found) => {
            for fault in found {
                faults.extend(owner(texts, &fault.policy).map(|text| text.placed(&fault)));
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
fn crowded(texts: &[Text<'_>], crowd: &[PolicyId]) -> Option<Fault> {
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
    let mut fault = owner(texts, first)?.error(Code::Policy, text);
    fault.hint = Some(
        "say in each whom it concerns: a principal, a resource, or a condition such as context.path == \"/x\" that \
         comes before anything that can fail"
            .to_owned(),
    );
    Some(fault)
}

/// The text that a policy comes from.
fn owner<'t, 'a>(texts: &'t [Text<'a>], policy: &PolicyId) -> Option<&'t Text<'a>> {
    let owns = |text: &&Text<'_>| {
        let whole = format!("{}/{}", text.namespace, text.name);
        policy.as_str().split('#').next() == Some(whole.as_str())
    };
    texts.iter().find(owns).or(texts.first())
}
