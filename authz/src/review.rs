//! What is likely wrong with policies that are valid: names that nothing in the mesh has, conditions that contradict
//! each other, policies that others make useless.
//!
//! Everything said here is certain as far as it goes, for requests that typed code builds; what cannot be decided is
//! not said. A policy whose evaluation may fail is left alone, since an error is neither true nor false.

mod names;
mod region;
mod relation;

use std::{collections::HashMap, time::Duration};

use reeve_core::{UnixTime, decision::Effect, model::PolicyMode, model::PolicySource};
use serde::{Deserialize, Serialize};

use self::{region::Region, relation::Relations};
use crate::{
    Known, PolicyFault, PolicySchema,
    check::Place,
    compile::{self, Compiled},
    entities::datetime,
};

/// Most pairs of policies that are compared with each other in one review.
const MAX_COMPARED: usize = 1_000_000;

/// How long before its end a policy is remarked on.
const LAPSE_NOTICE: Duration = Duration::from_secs(14 * 24 * 3600);

/// Something that is likely not what was meant. Lines and columns count in the policy's own text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// What kind of thing.
    pub code: RemarkCode,
    /// What and where.
    #[serde(flatten)]
    pub fault: PolicyFault,
}

/// What kind of thing a [`Remark`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemarkCode {
    /// It names a service, namespace or identity that the mesh does not have.
    UnknownEntity,
    /// Its conditions exclude each other.
    NeverTrue,
    /// Its `@until` comes within two weeks.
    Lapses,
    /// Its `@until` has passed.
    Lapsed,
    /// Another policy of the same effect covers all that it covers.
    Shadowed,
    /// A permit all of which is forbidden.
    Forbidden,
}

impl RemarkCode {
    /// As it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownEntity => "unknown_entity",
            Self::NeverTrue => "never_true",
            Self::Lapses => "lapses",
            Self::Lapsed => "lapsed",
            Self::Shadowed => "shadowed",
            Self::Forbidden => "forbidden",
        }
    }
}

/// What came of a review.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// In order of policy and place.
    pub remarks: Vec<Remark>,
    /// Whether there were too many policies to compare all with all.
    pub incomplete: bool,
}

/// Reviews `policies` against each other, and against what is `known` of the mesh.
pub fn review(
    schema: &PolicySchema,
    policies: &[PolicySource],
    known: Option<&Known>,
    now: UnixTime,
) -> Result<Review, Vec<PolicyFault>> {
    let Some(first) = policies.first() else {
        return Ok(Review::default());
    };
    let mesh = schema.mesh(&first.id)?;
    let all = compile::compile(mesh, policies, &[])?;
    let regions: Vec<Option<Region>> = all.iter().map(|p| Region::of(mesh, p)).collect();
    let relations = Relations { known };
    let mut review = Review::default();
    for (policy, region) in all.iter().zip(&regions) {
        let remarks = &mut review.remarks;
        if let Some(known) = known {
            names::unknown(policy, known, remarks);
            names::unknown_labels(policy, known, remarks);
        }
        if let Some(until) = policy.checked.until
            && let Some((code, message, help)) = lapse(policy, until, now)
        {
            remarks.push(remark(code, policy, "@until", message, help));
        } else if let Some((one, other)) = region.as_ref().and_then(|r| relations.contradiction(r))
        {
            let message = match one == other {
                true => format!("it can never apply: `{one}` never holds"),
                false => format!("it can never apply: `{one}` and `{other}` exclude each other"),
            };
            let help = "change one of them, or remove the policy";
            remarks.push(remark(RemarkCode::NeverTrue, policy, &other, message, help));
        }
    }
    let compiled: Vec<&Compiled> = all.iter().map(AsRef::as_ref).collect();
    compare(&compiled, &regions, relations, &mut review);
    review.remarks.sort_by(|a, b| place(a).cmp(&place(b)));
    Ok(review)
}

/// Before and after the end of `policy`.
fn lapse(
    policy: &Compiled,
    until: UnixTime,
    now: UnixTime,
) -> Option<(RemarkCode, String, &'static str)> {
    let at = datetime(until);
    if until <= now {
        let message = format!("it lapsed at {at} and applies no more");
        return Some((RemarkCode::Lapsed, message, "remove it"));
    }
    if until.since(now) > LAPSE_NOTICE {
        return None;
    }
    let then = match policy.effect() {
        Effect::Allow => "what it alone permits is denied then",
        Effect::Deny => "what it forbids is then as open as the permits make it",
    };
    let message = format!("it lapses at {at}: {then}");
    Some((
        RemarkCode::Lapses,
        message,
        "write a later date if it has to stay",
    ))
}

fn place(remark: &Remark) -> (&str, usize, usize, RemarkCode) {
    let fault = &remark.fault;
    (fault.policy.as_str(), fault.line, fault.column, remark.code)
}

fn remark(
    code: RemarkCode,
    policy: &Compiled,
    needle: &str,
    message: String,
    help: impl Into<String>,
) -> Remark {
    let place = Place {
        id: &policy.source.id,
        document: &policy.source.text,
        offset: 0,
    };
    Remark {
        code,
        fault: place.fault(needle, message).with_help(help),
    }
}

/// Finds policies that others make useless.
fn compare(
    all: &[&Compiled],
    regions: &[Option<Region>],
    relations: Relations<'_>,
    review: &mut Review,
) {
    // A policy can only be covered by one whose resource is the same, wider, or any.
    let mut by_resource: HashMap<Option<&str>, Vec<usize>> = HashMap::new();
    for (at, region) in regions.iter().enumerate() {
        if let Some(region) = region {
            by_resource.entry(region.resource()).or_default().push(at);
        }
    }
    let mut compared = 0;
    for (at, (policy, region)) in all.iter().zip(regions).enumerate() {
        let Some(region) = region else { continue };
        if relations.contradiction(region).is_some() {
            continue;
        }
        let wider = relations.resources_around(region.resource());
        let candidates = wider
            .iter()
            .filter_map(|key| by_resource.get(&key.as_deref()));
        for other in candidates.flatten().copied().filter(|other| *other != at) {
            compared += 1;
            if compared > MAX_COMPARED {
                review.incomplete = true;
                return;
            }
            let (Some(by), Some(Some(theirs))) = (all.get(other), regions.get(other)) else {
                continue;
            };
            let Some(code) = uselessness(policy, by) else {
                continue;
            };
            if !relations.covers(theirs, region) {
                continue;
            }
            // Of two that cover each other, only the later is useless.
            let equal = code == RemarkCode::Shadowed
                && uselessness(by, policy).is_some()
                && relations.covers(region, theirs);
            if equal && at < other {
                continue;
            }
            review.remarks.push(useless(code, policy, by));
            break;
        }
    }
}

/// What `policy` is if `by` covers all of it; nothing if it is no matter.
fn uselessness(policy: &Compiled, by: &Compiled) -> Option<RemarkCode> {
    if by.source.mode == PolicyMode::Shadow && policy.source.mode == PolicyMode::Enforce {
        return None;
    }
    match (policy.effect(), by.effect()) {
        (Effect::Allow, Effect::Allow) | (Effect::Deny, Effect::Deny) => Some(RemarkCode::Shadowed),
        (Effect::Allow, Effect::Deny) => Some(RemarkCode::Forbidden),
        (Effect::Deny, Effect::Allow) => None,
    }
}

fn useless(code: RemarkCode, policy: &Compiled, by: &Compiled) -> Remark {
    let other = &by.source.id;
    let (message, help) = match (code, policy.effect()) {
        (RemarkCode::Forbidden, _) => (
            format!("it permits nothing: {other} forbids all of it"),
            format!("remove it, or make an exception in {other}"),
        ),
        (_, Effect::Allow) => (
            format!("it adds nothing: {other} permits all of it"),
            format!("remove it, or narrow {other}"),
        ),
        (_, Effect::Deny) => (
            format!("it adds nothing: {other} forbids all of it"),
            format!("remove it, or narrow {other}"),
        ),
    };
    let word = match policy.effect() {
        Effect::Allow => "permit",
        Effect::Deny => "forbid",
    };
    remark(code, policy, word, message, help)
}

#[cfg(test)]
mod tests;
