//! What a thread remembers of the engine that it last asked: who asked for what with which candidates, and decisions.
//!
//! A service is asked for the same by the same few callers again and again. For each principal, action and resource
//! a thread keeps the candidates that the index found and the entities; and for each of these, the decision by
//! [every value that the candidates read](super::key). Nothing is shared between threads, so nothing waits.
//!
//! INVARIANT: a decision depends on principal, action, resource, the candidates, and what they read. A property test
//! asks in changing order and compares with Cedar's own authorizer.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use reeve_core::decision::{AccessRequest, Decision};

use super::{Policies, key, verdict};
use crate::{
    compile::Compiled,
    entities::{Looks, Parties, QuestionError},
    index::Shelf,
};

/// Most triples of principal, action and resource that a thread remembers; beyond it, it forgets all of them.
const MAX_MET: usize = 1024;
/// Most decisions that a thread remembers; beyond it, it forgets everything.
const MAX_DECISIONS: usize = 4096;
/// Longest list of read values that a decision is remembered by, in bytes.
const MAX_KEY_BYTES: usize = 1024;

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// A number that no other engine has.
pub(super) fn next_number() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// Answers one request.
pub(super) fn decide(
    policies: &Policies,
    request: &AccessRequest,
) -> Result<Decision, QuestionError> {
    let remembering = MEMORY.try_with(|memory| {
        let mut memory = memory.try_borrow_mut().ok()?;
        Some(memory.decide(policies, request))
    });
    match remembering {
        Ok(Some(decision)) => decision,
        // The thread ends, and has forgotten.
        Ok(None) | Err(_) => Memory::default().decide(policies, request),
    }
}

#[derive(Debug, Default)]
struct Memory {
    /// The engine's number.
    engine: u64,
    met: HashMap<Box<[u8]>, Met>,
    decisions: usize,
    /// Room for keys.
    parties: Vec<u8>,
    values: Vec<u8>,
}

/// A principal, action and resource that were met before.
#[derive(Debug)]
struct Met {
    parties: Parties,
    shelf: Shelf,
    decisions: HashMap<Box<[u8]>, Decision>,
}

impl Memory {
    fn decide(
        &mut self,
        policies: &Policies,
        request: &AccessRequest,
    ) -> Result<Decision, QuestionError> {
        let full = self.met.len() >= MAX_MET || self.decisions >= MAX_DECISIONS;
        if full || self.engine != policies.number {
            self.engine = policies.number;
            self.met.clear();
            self.decisions = 0;
        }
        self.parties.clear();
        key::parties(&mut self.parties, request);
        if let Some(met) = self.met.get_mut(self.parties.as_slice()) {
            return met.decide(policies, request, &mut self.values, &mut self.decisions);
        }
        let mut met = Met::new(policies, request)?;
        let decision = met.decide(policies, request, &mut self.values, &mut self.decisions);
        self.met.insert(self.parties.as_slice().into(), met);
        decision
    }
}

impl Met {
    fn new(policies: &Policies, request: &AccessRequest) -> Result<Self, QuestionError> {
        let home = policies.home.as_ref();
        let hierarchy = policies.uses.hierarchy;
        Ok(Self {
            parties: Parties::new(policies.mesh, hierarchy, home, request)?,
            shelf: policies.index.shelf(request, home),
            decisions: HashMap::new(),
        })
    }

    fn decide(
        &mut self,
        policies: &Policies,
        request: &AccessRequest,
        values: &mut Vec<u8>,
        remembered: &mut usize,
    ) -> Result<Decision, QuestionError> {
        let positions = policies.index.candidates(&self.shelf, request);
        let candidates: Vec<_> = positions
            .iter()
            .filter_map(|at| Some(policies.all.get(*at as usize)?.as_ref()))
            .collect();
        // Only what the candidates look at counts.
        let uses: Vec<_> = candidates.iter().map(|p| &p.checked.uses).collect();
        values.clear();
        let complete = key::values(values, &positions, Looks(&uses), request);
        let memorable = complete && values.len() <= MAX_KEY_BYTES;
        if memorable && let Some(decision) = self.decisions.get(values.as_slice()) {
            return Ok(decision.clone());
        }
        let decision = judge(policies, &self.parties, &candidates, Looks(&uses), request)?;
        if memorable {
            self.decisions
                .insert(values.as_slice().into(), decision.clone());
            *remembered += 1;
        }
        Ok(decision)
    }
}

fn judge(
    policies: &Policies,
    parties: &Parties,
    candidates: &[&Compiled],
    looks: Looks<'_>,
    request: &AccessRequest,
) -> Result<Decision, QuestionError> {
    let (asked, entities) = parties.asked(policies.mesh, looks, request)?;
    Ok(verdict::judge(candidates, asked, &entities))
}

#[cfg(test)]
mod tests;
