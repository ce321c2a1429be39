//! What would come out otherwise: counted, grouped, with examples.

use std::collections::BTreeMap;

use foldhash::HashMap;
use reeve_core::{
    PolicyId, UnixTime,
    decision::{AccessRequest, Decision},
};
use serde::Serialize;

use crate::{
    candidate::{Flip, Judged},
    line::{Line, Recorded},
    seen::{Example, Seen},
    shape::{self, Shapes},
};

/// Most groups that a thread keeps apart; what goes beyond is counted without its path.
const MAX_GROUPS: usize = 20_000;
/// More routes than these of one caller to one service by one method are generalised.
const MAX_ROUTES: usize = 20;

/// What a path counts under when there are too many groups.
const OTHER_PATHS: &str = "(other paths)";

/// The answer of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WhatIf {
    /// Decisions that were looked at.
    pub decisions: u64,
    /// Of these: allowed, and would be denied.
    pub newly_denied: u64,
    /// Denied, and would be allowed.
    pub newly_permitted: u64,
    /// It depends on what the records lack.
    pub undetermined: u64,
    /// As before.
    pub same: u64,
    /// As before, since policies do not decide them.
    pub not_by_policy: u64,
    /// How often the candidate was asked: equal questions count once per thread.
    pub asked: u64,
    /// What would come out otherwise, or may: by kind, then the most frequent first.
    pub groups: Vec<Group>,
}

/// Like decisions that would come out otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// What becomes of them.
    pub outcome: Flip,
    /// Who asked.
    pub caller: String,
    /// Whom: services, else the workload, else the address.
    pub service: String,
    /// HTTP method, or `connect`.
    pub method: String,
    /// The path's shape, or the port of a connection.
    pub route: String,
    /// How many.
    pub count: u64,
    /// When the first was made.
    pub first: UnixTime,
    /// When the last was made.
    pub last: UnixTime,
    /// What was answered.
    pub before: Answer,
    /// What would be answered; absent where that is undetermined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Answer>,
    /// What the records lack.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// The newest of them.
    pub examples: Vec<Example>,
}

/// An answer and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Answer {
    /// In one word.
    pub reason: &'static str,
    /// The policies that decided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyId>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    outcome: Flip,
    caller: String,
    service: String,
    method: String,
    before: Answer,
    after: Option<Answer>,
    missing: Vec<String>,
    route: String,
}

/// One thread's counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) asked: u64,
    flips: [u64; 5],
    groups: Vec<Seen>,
    index: HashMap<Key, usize>,
}

impl Tally {
    /// The group of such a decision.
    pub(crate) fn group(&mut self, recorded: &Recorded, judged: &Judged) -> usize {
        let mut key = Key::of(recorded, judged);
        if self.groups.len() >= MAX_GROUPS && !self.index.contains_key(&key) {
            OTHER_PATHS.clone_into(&mut key.route);
        }
        let groups = &mut self.groups;
        *self.index.entry(key).or_insert_with(|| {
            groups.push(Seen::default());
            groups.len() - 1
        })
    }

    /// Counts a decision.
    pub(crate) fn count(&mut self, flip: Flip, group: Option<usize>, line: &Line<'_>) {
        if let Some(count) = self.flips.get_mut(flip as usize) {
            *count += 1;
        }
        if let Some(group) = group.and_then(|at| self.groups.get_mut(at)) {
            group.add(line.time, line.id);
        }
    }
}

impl Key {
    fn of(recorded: &Recorded, judged: &Judged) -> Self {
        let request = &recorded.request;
        let http = request.context.http.as_ref();
        Self {
            outcome: judged.flip,
            caller: request.principal.to_string(),
            service: asked(request),
            method: http.map_or_else(|| "connect".to_owned(), |http| http.method.clone()),
            route: http.map_or_else(
                || format!("port {}", request.context.port),
                |http| shape::template(&http.path),
            ),
            before: Answer::of(&recorded.decision),
            after: judged.after.as_ref().map(Answer::of),
            missing: judged.missing.clone(),
        }
    }
}

/// Whom a request is for, in words.
pub(crate) fn asked(request: &AccessRequest) -> String {
    let resource = &request.resource;
    let services: Vec<_> = resource.services.iter().map(ToString::to_string).collect();
    if !services.is_empty() {
        return services.join(", ");
    }
    let workload = resource.workload.as_ref().map(ToString::to_string);
    let address = || resource.address.map(|address| address.to_string());
    workload.or_else(address).unwrap_or_default()
}

impl Answer {
    fn of(decision: &Decision) -> Self {
        Self {
            reason: decision.reason.as_str(),
            policies: decision.policies.clone(),
        }
    }
}

impl WhatIf {
    pub(crate) fn of(tallies: Vec<Tally>) -> Self {
        let mut this = Self::default();
        let mut groups = BTreeMap::<Key, Seen>::new();
        for tally in tallies {
            this.asked += tally.asked;
            let [denied, permitted, undetermined, same, not_by_policy] = tally.flips;
            this.newly_denied += denied;
            this.newly_permitted += permitted;
            this.undetermined += undetermined;
            this.same += same;
            this.not_by_policy += not_by_policy;
            this.decisions += tally.flips.iter().sum::<u64>();
            let mut counted = tally.groups;
            for (key, at) in tally.index {
                let group = counted.get_mut(at).map(std::mem::take).unwrap_or_default();
                groups.entry(key).or_default().merge(group);
            }
        }
        this.groups = generalised(groups)
            .into_iter()
            .filter(|(_, counted)| counted.count > 0)
            .map(|(key, counted)| Group::of(key, counted))
            .collect();
        let order = |g: &Group| (g.outcome, std::cmp::Reverse(g.count));
        this.groups.sort_by_key(order);
        this
    }
}

/// Routes that differ in nothing else are put together where there are many of them.
fn generalised(groups: BTreeMap<Key, Seen>) -> BTreeMap<Key, Seen> {
    let alike = |key: &Key| Key {
        route: String::new(),
        ..key.clone()
    };
    let mut routes = BTreeMap::<Key, (usize, Shapes)>::new();
    for (key, counted) in &groups {
        let (number, shapes) = routes.entry(alike(key)).or_default();
        *number += 1;
        shapes.add(&key.route, counted.count);
    }
    routes.retain(|_, (number, _)| *number > MAX_ROUTES);
    for (_, shapes) in routes.values_mut() {
        shapes.generalise();
    }
    let mut merged = BTreeMap::<Key, Seen>::new();
    for (mut key, counted) in groups {
        if let Some((_, shapes)) = routes.get(&alike(&key)) {
            key.route = shapes.of(&key.route);
        }
        merged.entry(key).or_default().merge(counted);
    }
    merged
}

impl Group {
    fn of(key: Key, counted: Seen) -> Self {
        let Key {
            outcome,
            caller,
            service,
            method,
            before,
            after,
            missing,
            route,
        } = key;
        let Seen {
            count,
            first,
            last,
            examples,
        } = counted;
        Self {
            outcome,
            caller,
            service,
            method,
            route,
            count,
            first,
            last,
            before,
            after,
            missing,
            examples,
        }
    }
}
