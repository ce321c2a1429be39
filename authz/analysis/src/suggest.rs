//! Least-privilege policies from recorded traffic: what was permitted, and nothing else.
//!
//! Evidence is what was allowed, whether by a policy or because the service is open or in shadow. For each service and
//! caller, methods with the same paths make one `permit`; paths are generalised by [`crate::shape`], and each comment
//! says what was. Callers that do the same and are all who are in a group of the mesh's own are named by it. If every request of a group carried a verified token of one issuer, so must those that are permitted.

mod cases;
mod evidence;
mod groups;
mod policy;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
};

use reeve_audit::{Scan, ScanError};
use reeve_core::{
    Namespace, UnixTime,
    model::{PolicyMode, PolicySource},
};
use serde::Serialize;

pub use self::groups::Groups;
use self::{
    evidence::{Evidence, Findings, Gatherer, Target},
    policy::Permit,
};
use crate::{Wanted, replay::in_parallel};

/// Most services for which policies are suggested.
const MAX_TARGETS: usize = 2_000;

/// Policies that would permit what was permitted.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Suggestions {
    /// Decisions that were looked at.
    pub decisions: u64,
    /// Of these, what was allowed: the evidence.
    pub allowed: u64,
    /// Allowed, but to what no policy can name: addresses outside the mesh that stand for no service.
    pub unnamed: u64,
    /// Allowed after transformations; what they were before is not recorded, and must be permitted as well.
    pub transformed: u64,
    /// An `AccessPolicy` for each service.
    pub suggestions: Vec<Suggestion>,
}

/// An `AccessPolicy` and its cases.
#[derive(Clone, Debug, Serialize)]
pub struct Suggestion {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
    /// What it is about: a service, or a workload that no service selects.
    pub target: String,
    /// Its Cedar text.
    pub cedar: String,
    /// Cases in YAML, as `reeve policy test` takes them.
    pub cases: String,
}

/// Why nothing can be suggested.
#[derive(Debug, thiserror::Error)]
pub enum SuggestError {
    /// The trail cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// What was made of it is no policy; a bug.
    #[error("the suggested policy {policy} is not valid: {message}")]
    Policy {
        /// Which.
        policy: String,
        /// What is wrong with it.
        message: String,
    },
}

/// Makes policies of what `scan` has of `wanted` traffic; all who are in one of `groups` are named by it. `read` counts the records that were read so far.
pub fn suggest(
    scan: &Scan,
    wanted: &Wanted,
    groups: &Groups,
    read: &AtomicU64,
) -> Result<Suggestions, SuggestError> {
    let gather = || Gatherer::new(wanted);
    let gathered = in_parallel(scan, read, gather, Gatherer::line, Gatherer::end)?;
    let findings = Findings::of(gathered);
    let mut made = Suggestions {
        decisions: findings.decisions,
        allowed: findings.allowed,
        unnamed: findings.unnamed,
        transformed: findings.transformed,
        suggestions: Vec::new(),
    };
    let mut names = BTreeMap::<(Namespace, String), usize>::new();
    for (target, evidence) in findings.targets.into_iter().take(MAX_TARGETS) {
        let name = unique(&mut names, &target);
        made.suggestions
            .push(suggestion(&target, name, (evidence, groups))?);
    }
    Ok(made)
}

fn unique(names: &mut BTreeMap<(Namespace, String), usize>, target: &Target) -> String {
    let name = format!("suggested-{}", target.short());
    let key = (target.namespace().clone(), name.clone());
    let count = names.entry(key).or_default();
    *count += 1;
    match *count {
        1 => name,
        more => format!("{name}-{more}"),
    }
}

fn suggestion(
    target: &Target,
    name: String,
    (evidence, groups): (Vec<Evidence>, &Groups),
) -> Result<Suggestion, SuggestError> {
    let permits = Permit::all(target, evidence, groups);
    let namespace = target.namespace().clone();
    let fault = |message: String| SuggestError::Policy {
        policy: format!("{namespace}/{name}"),
        message,
    };
    let text = policy::document(target, &permits);
    let told = |faults: Vec<reeve_authz::PolicyFault>| {
        let first = faults.first();
        fault(first.map(|f| f.message.clone()).unwrap_or_default())
    };
    let id = reeve_core::PolicyId::parse(&format!("{namespace}/{name}"));
    let id = id.map_err(|e| fault(e.to_string()))?;
    let cedar = reeve_authz::format_policies(&id, &text, LINE_WIDTH).map_err(told)?;
    let schema = &groups.schema;
    let sources = schema.parse_access_policy(Some(&namespace), &namespace, &name, &cedar);
    let engine = engine(sources.map_err(told)?, groups).map_err(told)?;
    Ok(Suggestion {
        target: target.to_string(),
        cases: cases::file(target, &permits, &engine),
        cedar,
        namespace,
        name,
    })
}

/// `reeve policy fmt`'s default.
const LINE_WIDTH: usize = 100;

fn engine(
    policies: Vec<PolicySource>,
    groups: &Groups,
) -> Result<reeve_authz::Engine, Vec<reeve_authz::PolicyFault>> {
    debug_assert!(policies.iter().all(|p| p.mode == PolicyMode::Enforce));
    let slice = reeve_core::model::PolicySlice {
        mesh_hash: reeve_authz::mesh_hash(&policies),
        policies,
        schema: groups.schema.texts().to_vec(),
        entities: Arc::clone(&groups.entities),
    };
    reeve_authz::Engine::compile(&slice)
}

/// A time as people read it.
fn shown(time: UnixTime) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
