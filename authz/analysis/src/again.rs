//! Recorded decisions decided again, each by the policy set that it rested on: the same must come out.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
};

use reeve_audit::{Scan, ScanError};
use reeve_core::{
    UnixTime,
    decision::{Decision, Reason},
    model::ServiceState,
};
use serde::{Deserialize, Serialize};

use crate::{
    Candidate, Place, Wanted,
    candidate::Flip,
    line::{Line, Recorded},
    replay::in_parallel,
};

/// Decisions that came out otherwise, and things that records lack, that are told; more are counted only.
const MAX_TOLD: usize = 100;

/// Policies of break-glass grants: they are in no policy set.
const GRANTS: &str = "break-glass/";

/// Policy sets by their hash, as decisions have it.
pub type Sets = BTreeMap<String, Arc<Candidate>>;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Again {
    /// Decisions looked at.
    pub decisions: u64,
    /// Those that came out as they did: effect, reason and policies.
    pub same: u64,
    /// Those that did not.
    pub different: u64,
    /// Those that depend on what the record lacks, such as a value that was redacted.
    pub undetermined: u64,
    /// Those that policies did not decide.
    pub not_by_policy: u64,
    /// Those whose policy set is not in the log.
    pub without_policies: u64,
    /// What came out otherwise.
    pub differences: Vec<Difference>,
    /// What records lack, and how often.
    pub missing: BTreeMap<String, u64>,
}

/// A decision that came out otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// The record.
    pub id: String,
    /// When it was written.
    pub time: UnixTime,
    /// What was answered.
    pub was: String,
    /// What is answered by the same policies now.
    pub is: String,
}

#[derive(Deserialize)]
struct RestedOn {
    #[serde(default)]
    policy_hash: String,
}

/// Decides every decision of `scan` that is `wanted` again. `read` counts the records that were read so far.
pub fn again(
    scan: &Scan,
    wanted: &Wanted,
    sets: &Sets,
    read: &AtomicU64,
) -> Result<Again, ScanError> {
    let parts = in_parallel(
        scan,
        read,
        Again::default,
        |again, raw| again.line(raw, wanted, sets),
        |again| again,
    )?;
    let mut whole = Again::default();
    parts.into_iter().for_each(|part| whole.add(part));
    whole.differences.sort();
    whole.differences.truncate(MAX_TOLD);
    Ok(whole)
}

impl Again {
    fn line(&mut self, raw: &[u8], wanted: &Wanted, sets: &Sets) -> Result<(), ScanError> {
        let Some(line) = Line::of(raw)?.filter(|line| wanted.at(line.time)) else {
            return Ok(());
        };
        let recorded = Recorded::of(raw)?;
        if !wanted.request(&recorded.request) {
            return Ok(());
        }
        self.decisions += 1;
        let by_grant = |d: &Decision| d.policies.iter().any(|p| p.as_str().starts_with(GRANTS));
        if by_grant(&recorded.decision) {
            self.not_by_policy += 1;
            return Ok(());
        }
        let rested: RestedOn =
            serde_json::from_slice(raw).map_err(|e| ScanError::record(raw, e))?;
        let Some(set) = sets.get(&rested.policy_hash) else {
            let none = recorded.decision.reason == Reason::NoPolicySet;
            self.not_by_policy += u64::from(none);
            self.without_policies += u64::from(!none);
            return Ok(());
        };
        self.judge(&line, &recorded, set);
        Ok(())
    }

    fn judge(&mut self, line: &Line<'_>, recorded: &Recorded, set: &Candidate) {
        let mut place = Place {
            // The record says itself which state the service was in.
            state: state(recorded.decision.reason),
            http: false,
            tokens: true,
        };
        let mut judged = set.judge_at(recorded, place);
        if judged
            .after
            .as_ref()
            .is_some_and(|after| !is_same(after, &recorded.decision))
        {
            // A connection where HTTP is expected: policies that look at HTTP do not permit it.
            place.http = true;
            judged = set.judge_at(recorded, place);
        }
        match (judged.flip, judged.after) {
            (Flip::NotByPolicy, _) => self.not_by_policy += 1,
            (_, Some(after)) if is_same(&after, &recorded.decision) => self.same += 1,
            (_, Some(after)) => {
                self.different += 1;
                if self.differences.len() < MAX_TOLD {
                    self.differences.push(Difference {
                        id: line.id.to_owned(),
                        time: line.time,
                        was: told(&recorded.decision),
                        is: told(&after),
                    });
                }
            }
            (_, None) => {
                self.undetermined += 1;
                for what in judged.missing {
                    if self.missing.len() < MAX_TOLD || self.missing.contains_key(&what) {
                        *self.missing.entry(what).or_default() += 1;
                    }
                }
            }
        }
    }

    fn add(&mut self, part: Self) {
        self.decisions += part.decisions;
        self.same += part.same;
        self.different += part.different;
        self.undetermined += part.undetermined;
        self.not_by_policy += part.not_by_policy;
        self.without_policies += part.without_policies;
        self.differences.extend(part.differences);
        for (what, count) in part.missing {
            *self.missing.entry(what).or_default() += count;
        }
    }
}

fn state(reason: Reason) -> ServiceState {
    if reason == Reason::ServiceOpen {
        ServiceState::Open
    } else if reason == Reason::ServiceShadow {
        ServiceState::Shadow
    } else {
        ServiceState::Enforced
    }
}

/// The same answer for the same cause.
fn is_same(a: &Decision, b: &Decision) -> bool {
    (a.effect, a.reason, &a.policies) == (b.effect, b.reason, &b.policies)
}

fn told(decision: &Decision) -> String {
    let by: Vec<_> = decision.policies.iter().map(ToString::to_string).collect();
    format!("{} {}", decision.reason.as_str(), by.join(", "))
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests;
