//! Access in review: who reached what, what was denied and why, what nobody used.

use std::collections::{BTreeMap, BTreeSet};

use reeve_audit::{Reader, ScanError, decision_id};
use reeve_core::{ServiceName, UnixTime};
use serde::Serialize;

use crate::{
    Columns,
    facts::{Fact, facts},
};

/// Different edges, denials and plaintext callers that are told apart; what is beyond is counted only.
pub const MAX_REPORT_ROWS: usize = 50_000;

/// Who has no identity.
const UNAUTHENTICATED: &str = "unauthenticated";

/// What a report is to be about.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Not before.
    pub since: Option<UnixTime>,
    /// Before.
    pub until: Option<UnixTime>,
    /// Edges first used then or later are new; without it none are told.
    pub new_since: Option<UnixTime>,
    /// The permits in force, by id: those that allowed nothing are told.
    pub permits: BTreeSet<String>,
    /// The services of the mesh: those that nobody called are told.
    pub services: Option<BTreeSet<ServiceName>>,
}

/// A report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Not before, in milliseconds since 1970.
    pub since: Option<UnixTime>,
    /// Before.
    pub until: Option<UnixTime>,
    /// Decisions.
    pub decisions: u64,
    /// Those that allowed.
    pub allowed: u64,
    /// Those that denied.
    pub denied: u64,
    /// Who reached what, by caller and service.
    pub edges: Vec<Edge>,
    /// Edges that were first used since the time given; none without one.
    pub new_edges: Vec<Edge>,
    /// Denials by cause.
    pub denials: Vec<Denial>,
    /// Permits that allowed nothing.
    pub unused_permits: Vec<String>,
    /// Plaintext that is still spoken.
    pub plaintext: Vec<Plaintext>,
    /// Services that nobody reached and nobody was denied: nothing in this time speaks against shutting them off.
    pub uncalled_services: Vec<ServiceName>,
    /// Services that everybody who asked was denied.
    pub only_denied_services: Vec<String>,
    /// Decisions that were one row too many.
    pub beyond: u64,
}

/// A caller and what it reached or tried to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// `unauthenticated`, or a SPIFFE ID.
    pub caller: String,
    /// A service, or else the workload asked.
    pub service: String,
    /// How often it was allowed.
    pub allowed: u64,
    /// How often it was denied.
    pub denied: u64,
    /// How often in plaintext.
    pub plaintext: u64,
    /// What it did.
    pub actions: BTreeSet<String>,
    /// When first.
    pub first: UnixTime,
    /// When last.
    pub last: UnixTime,
}

/// Denials of one cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// Why, in one word.
    pub reason: String,
    /// Whom.
    pub caller: String,
    /// What.
    pub service: String,
    /// How often.
    pub count: u64,
    /// The last of them, for `reeve audit explain`.
    pub example: String,
    /// When that was.
    pub last: UnixTime,
}

/// Plaintext from one address to one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plaintext {
    /// The caller's address.
    pub source_ip: String,
    /// What it asked.
    pub service: String,
    /// At which port.
    pub port: i32,
    /// The mTLS mode of that port.
    pub mtls_mode: String,
    /// How often.
    pub count: u64,
    /// When last.
    pub last: UnixTime,
}

/// Puts a report together from every decision in the log.
pub fn report(reader: &Reader, columns: &[Columns], asked: &Asked) -> Result<Report, ScanError> {
    let mut gathered = Gathered::default();
    facts(reader, columns, (asked.since, asked.until), &mut |fact| {
        gathered.add(fact);
    })?;
    let before = match asked.new_since {
        None => BTreeSet::new(),
        Some(split) => used_before(reader, columns, split)?,
    };
    Ok(gathered.into_report(asked, &before))
}

/// The edges that were used before then, as far back as the log goes.
fn used_before(
    reader: &Reader,
    columns: &[Columns],
    split: UnixTime,
) -> Result<BTreeSet<(String, String)>, ScanError> {
    let mut used = BTreeSet::new();
    facts(reader, columns, (None, Some(split)), &mut |fact| {
        for service in targets(fact).filter(|_| fact.effect == "allow") {
            let edge = (fact.principal.to_owned(), service.to_owned());
            if used.len() < MAX_REPORT_ROWS {
                used.insert(edge);
            }
        }
    })?;
    Ok(used)
}

/// What was asked: each service of the workload, or the workload if it has none.
fn targets<'a>(fact: &Fact<'a>) -> impl Iterator<Item = &'a str> {
    let alone = fact
        .services
        .is_empty()
        .then_some(fact.workload.unwrap_or("?"));
    fact.services.clone().into_iter().chain(alone)
}

#[derive(Debug, Default)]
struct Gathered {
    decisions: u64,
    allowed: u64,
    edges: BTreeMap<(String, String), Edge>,
    denials: BTreeMap<(String, String, String), Denial>,
    plaintext: BTreeMap<(String, String, i32), Plaintext>,
    used: BTreeSet<String>,
    beyond: u64,
}

impl Gathered {
    fn add(&mut self, fact: &Fact<'_>) {
        self.decisions += 1;
        let allow = fact.effect == "allow";
        self.allowed += u64::from(allow);
        let time = UnixTime::from_millis(fact.time);
        if allow {
            for policy in fact
                .policies
                .iter()
                .filter(|p| !self.used.contains(**p))
                .copied()
                .collect::<Vec<_>>()
            {
                self.used.insert(policy.to_owned());
            }
        }
        let plaintext = fact.authenticated_by == "nothing";
        for service in targets(fact) {
            self.edge(fact, service, time, plaintext);
            if !allow {
                self.denial(fact, service, time);
            }
            if plaintext {
                self.plaintext(fact, service, time);
            }
        }
    }

    fn edge(&mut self, fact: &Fact<'_>, service: &str, time: UnixTime, plaintext: bool) {
        let key = (fact.principal.to_owned(), service.to_owned());
        let fresh = || Edge {
            caller: fact.principal.to_owned(),
            service: service.to_owned(),
            first: time,
            ..Edge::default()
        };
        let Some(edge) = entry(&mut self.edges, key, fresh) else {
            self.beyond += 1;
            return;
        };
        let counted = match fact.effect {
            "allow" => &mut edge.allowed,
            _ => &mut edge.denied,
        };
        *counted += 1;
        edge.plaintext += u64::from(plaintext);
        if !edge.actions.contains(fact.action) {
            edge.actions.insert(fact.action.to_owned());
        }
        edge.first = edge.first.min(time);
        edge.last = edge.last.max(time);
    }

    fn denial(&mut self, fact: &Fact<'_>, service: &str, time: UnixTime) {
        let (reason, caller, service) = (
            fact.reason.to_owned(),
            fact.principal.to_owned(),
            service.to_owned(),
        );
        let key = (reason.clone(), caller.clone(), service.clone());
        let fresh = || Denial {
            reason,
            caller,
            service,
            ..Denial::default()
        };
        let Some(denial) = entry(&mut self.denials, key, fresh) else {
            self.beyond += 1;
            return;
        };
        denial.count += 1;
        if time >= denial.last {
            denial.last = time;
            denial.example = fact.id().map(|id| decision_id(&id)).unwrap_or_default();
        }
    }

    fn plaintext(&mut self, fact: &Fact<'_>, service: &str, time: UnixTime) {
        let key = (fact.source_ip.to_owned(), service.to_owned(), fact.port);
        let fresh = || Plaintext {
            source_ip: fact.source_ip.to_owned(),
            service: service.to_owned(),
            port: fact.port,
            ..Plaintext::default()
        };
        let Some(plaintext) = entry(&mut self.plaintext, key, fresh) else {
            self.beyond += 1;
            return;
        };
        plaintext.count += 1;
        if time >= plaintext.last {
            plaintext.last = time;
            plaintext.mtls_mode = fact.mtls_mode.to_owned();
        }
    }

    fn into_report(self, asked: &Asked, before: &BTreeSet<(String, String)>) -> Report {
        let asked_for: BTreeSet<&str> = self.edges.keys().map(|(_, s)| s.as_str()).collect();
        let reached: BTreeSet<&str> = (self.edges.values())
            .filter(|edge| edge.allowed > 0)
            .map(|edge| edge.service.as_str())
            .collect();
        let uncalled = asked.services.iter().flatten();
        let uncalled = uncalled
            .filter(|s| !asked_for.contains(s.as_str()))
            .cloned();
        let only_denied = asked_for.difference(&reached).map(|s| (*s).to_owned());
        let is_new = |edge: &&Edge| {
            let known = before.contains(&(edge.caller.clone(), edge.service.clone()));
            edge.allowed > 0 && !known && asked.new_since.is_some_and(|split| edge.last >= split)
        };
        let mut denials: Vec<_> = self.denials.into_values().collect();
        denials.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.last.cmp(&b.last)));
        Report {
            since: asked.since,
            until: asked.until,
            decisions: self.decisions,
            allowed: self.allowed,
            denied: self.decisions - self.allowed,
            uncalled_services: uncalled.collect(),
            only_denied_services: only_denied.collect(),
            new_edges: self.edges.values().filter(is_new).cloned().collect(),
            unused_permits: asked.permits.difference(&self.used).cloned().collect(),
            edges: self.edges.into_values().collect(),
            denials,
            plaintext: self.plaintext.into_values().collect(),
            beyond: self.beyond,
        }
    }
}

/// The row of that key, if there is one or room for one.
fn entry<K: Ord, V>(
    rows: &mut BTreeMap<K, V>,
    key: K,
    fresh: impl FnOnce() -> V,
) -> Option<&mut V> {
    if rows.len() >= MAX_REPORT_ROWS && !rows.contains_key(&key) {
        return None;
    }
    Some(rows.entry(key).or_insert_with(fresh))
}

impl Edge {
    /// Whether the caller has an identity.
    pub fn is_known(&self) -> bool {
        self.caller != UNAUTHENTICATED
    }
}

#[cfg(test)]
mod tests;
