//! `AccessPolicy`, `AccessRoleBinding` and `AuthorizationPolicy`: Cedar text to validated policies, faults mapped to lines of the YAML file.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, LazyLock, Mutex, MutexGuard},
};

use reeve_authz::{
    AskedOf, Engine, MAX_CANDIDATES, PolicyFault, PolicySchema, break_glass::BREAK_GLASS,
    slice_hash,
};
use reeve_core::{
    Namespace, PolicyId,
    model::{EntityRecord, PolicySlice, PolicySource},
};

use super::{
    entities::{Labelled, Stated},
    hosts::Services,
    roles::{self, Bound},
};
use crate::{
    Code, Fault, LocalWorkload,
    authorization::{self, Translated, World},
    kinds::{AccessRoleSpec, AuthorizationPolicySpec, Object},
    mesh::with_labels,
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
#[derive(Clone, Copy)]
pub(super) struct Others<'a> {
    pub(super) authorization: &'a [Object<AuthorizationPolicySpec>],
    pub(super) roles: &'a [Object<AccessRoleSpec>],
    /// What is said of entities, and the labels of what there is.
    pub(super) entities: &'a Stated<'a>,
    pub(super) labelled: &'a Labelled<'a>,
}

/// Every policy, everything that is known of entities, and what the policies of each scope can learn of them.
pub(super) type Resolved = (
    PolicySlice,
    Arc<Vec<EntityRecord>>,
    BTreeMap<Option<Namespace>, AskedOf>,
);

pub(super) fn resolve(
    schema: &PolicySchema,
    others: Others<'_>,
    world: World<'_>,
    faults: &mut Vec<Fault>,
) -> Resolved {
    let mut policies: Vec<PolicySource> = Vec::new();
    let mut ids = HashSet::new();
    let before = errors(faults);
    let texts = texts(schema, others, world, faults);
    let mut known = known(schema);
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
            None => schema.parse_access_policy(scope, one.namespace, one.name, &one.cedar),
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
    let mut slice = PolicySlice {
        policies,
        schema: schema.texts().to_vec(),
        ..PolicySlice::default()
    };
    let entities = others.entities.with_labels(schema, others.labelled);
    let document = texts.first().map(|text| text.document);
    others.entities.check(schema, &entities, document, faults);
    if errors(faults) == before {
        compile(&texts, &mut slice, (&entities, world), &mut known, faults);
    }
    slice.mesh_hash = slice_hash(&slice);
    let engine = known.engine.as_ref().filter(|_| !slice.entities.is_empty());
    let asked_of = engine.map(Engine::asked_of).unwrap_or_default();
    (slice, entities, asked_of)
}

fn errors(faults: &[Fault]) -> usize {
    faults.iter().filter(|fault| fault.is_error()).count()
}

/// Every Cedar text, roles bound and Istio's policies translated.
fn texts<'a>(
    schema: &PolicySchema,
    others: Others<'a>,
    world: World<'a>,
    faults: &mut Vec<Fault>,
) -> Vec<Text<'a>> {
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
    for Bound { object, cedar } in
        roles::bind(schema, (others.roles, world.bindings), world.root, faults)
    {
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
    for Translated { object, cedar, .. } in authorization::translate(authorization, world, faults) {
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
    /// The schema that they were read against.
    schema: Vec<String>,
    documents: HashMap<Document, Vec<PolicySource>>,
    engine: Option<Engine>,
    /// What it knows of entities.
    entities: Arc<Vec<EntityRecord>>,
}

/// An `AccessPolicy`, as far as its policies depend on it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Document {
    whole_mesh: bool,
    namespace: Namespace,
    name: String,
    text: String,
}

fn known(schema: &PolicySchema) -> MutexGuard<'static, Known> {
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(|poisoned| {
        let mut known = poisoned.into_inner();
        *known = Known::default();
        known
    });
    if known.schema != schema.texts() {
        *known = Known {
            schema: schema.texts().to_vec(),
            ..Known::default()
        };
    }
    known
}

/// What only shows when all policies stand together, which a proxy would refuse otherwise.
fn compile(
    texts: &[Text<'_>],
    slice: &mut PolicySlice,
    (entities, world): (&Arc<Vec<EntityRecord>>, World<'_>),
    known: &mut Known,
    faults: &mut Vec<Fault>,
) {
    // Which labels count shows when the policies are compiled.
    slice.entities = Arc::clone(&known.entities);
    match Engine::compile_after(slice, known.engine.as_ref()) {
        Ok(mut engine) => {
            let named = with_labels(entities, &engine.needs().labels);
            if *named != *known.entities {
                known.entities = named;
                slice.entities = Arc::clone(&known.entities);
                match Engine::compile_after(slice, Some(&engine)) {
                    Ok(complete) => engine = complete,
                    Err(_) => return,
                }
            }
            let together = together((world.services, world.workloads));
            if slice.policies.len() > MAX_CANDIDATES
                && let Some(crowd) = engine.crowd(together)
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
