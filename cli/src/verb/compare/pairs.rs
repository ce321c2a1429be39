//! The same request, answered by both.

use std::collections::{BTreeMap, HashMap};

use reeve_audit::{Direction, Entry, OutcomeRecord, query::Found};
use reeve_core::{InstanceName, RecordId, WorkloadName};

/// What one version answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) decision_id: String,
    pub(super) status: u16,
    pub(super) failed: bool,
    pub(super) duration_us: u64,
    pub(super) bytes: u64,
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pair {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) a: Answer,
    pub(super) b: Answer,
}

/// What the log holds of both.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pairs {
    /// Requests that both answered, in the order of the first's ids.
    pub(super) both: Vec<Pair>,
    /// Requests that only one of them answered: not mirrored, or retried.
    pub(super) alone: [usize; 2],
}

/// Trace, method, path.
type Key = (String, String, String);

impl Pairs {
    /// Finds them.
    pub(super) fn of(
        a: &WorkloadName,
        b: &WorkloadName,
        decisions: &[Found],
        outcomes: &[Found],
    ) -> Self {
        let outcomes: HashMap<&RecordId, &OutcomeRecord> = outcomes
            .iter()
            .filter_map(|found| match &found.record.entry {
                Entry::Outcome(outcome) => Some((&outcome.decision, outcome)),
                Entry::Decision(_) | Entry::Event(_) | Entry::Aggregate(_) => None,
            })
            .collect();
        let of_a = answers(a, decisions, &outcomes);
        let mut of_b = answers(b, decisions, &outcomes);
        let mut pairs = Self::default();
        for (key, a) in of_a {
            match of_b.remove(&key) {
                Some(b) => pairs.both.push(Pair {
                    method: key.1,
                    path: key.2,
                    a,
                    b,
                }),
                None => pairs.alone[0] += 1,
            }
        }
        pairs.alone[1] = of_b.len();
        pairs
    }
}

/// The first answer of a workload to each request.
fn answers(
    workload: &WorkloadName,
    decisions: &[Found],
    outcomes: &HashMap<&RecordId, &OutcomeRecord>,
) -> BTreeMap<Key, Answer> {
    let mut answers = BTreeMap::new();
    for found in decisions {
        let Some(decision) = found.record.entry.as_decision() else {
            continue;
        };
        let inbound = decision.direction == Direction::Inbound;
        if !inbound || !is_of(&found.record.id.proxy, workload) {
            continue;
        }
        let http = decision.request.context.http.as_ref();
        let (Some(http), Some(trace)) = (http, &decision.trace_id) else {
            continue;
        };
        let Some(outcome) = outcomes.get(&found.record.id) else {
            continue;
        };
        let Some(status) = outcome.status else {
            continue;
        };
        let method = decision.request.action.to_string();
        let key = (trace.clone(), method, http.path.to_string());
        answers.entry(key).or_insert_with(|| Answer {
            decision_id: found.decision_id.clone(),
            status,
            failed: status >= 500 || outcome.grpc_status.is_some_and(|s| s != 0),
            duration_us: outcome.duration_us,
            bytes: outcome.bytes_out,
        });
    }
    answers
}

/// An instance's name is its workload's and a number.
fn is_of(instance: &InstanceName, workload: &WorkloadName) -> bool {
    let rest = instance.as_str().strip_prefix(workload.as_str());
    rest.and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|number| number.parse::<u32>().is_ok())
}
