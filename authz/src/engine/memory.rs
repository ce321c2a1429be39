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
    collections::hash_map,
    sync::atomic::{AtomicU64, Ordering},
};

use foldhash::HashMap;
use reeve_core::decision::{AccessRequest, Decision, Effect, Reason};

use super::{MAX_CANDIDATES, key, policies::Policies, verdict};
use crate::{
    entities::{Looks, Parties, QuestionError},
    index::Shelf,
};

/// Most triples of principal, action and resource that a thread remembers; beyond it, it forgets all of them.
const MAX_MET: usize = 1024;
/// Most decisions that a thread remembers; beyond it, it forgets everything.
const MAX_DECISIONS: usize = 4096;
/// Longest list of read values that a decision is remembered by, in bytes.
const MAX_KEY_BYTES: usize = 1024;

/// Things forgotten that are given back with each decision.
const MAX_FADING: usize = 8;

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
    /// How many were met since the last were forgotten.
    last: u64,
    decisions: HashMap<Box<[u8]>, Decision>,
    fading: Fading,
    /// Room for keys.
    parties: Vec<u8>,
    values: Vec<u8>,
}

/// A principal, action and resource that were met before.
#[derive(Debug)]
struct Met {
    number: u64,
    parties: Parties,
    shelf: Shelf,
}

/// What was forgotten and is given back little by little: all at once would hold a request up.
#[derive(Debug, Default)]
struct Fading {
    met: Option<hash_map::IntoIter<Box<[u8]>, Met>>,
    decisions: Option<hash_map::IntoIter<Box<[u8]>, Decision>>,
}

impl Fading {
    fn some(&mut self) {
        self.met = self.met.take().and_then(fewer);
        self.decisions = self.decisions.take().and_then(fewer);
    }
}

fn fewer<I: ExactSizeIterator>(mut rest: I) -> Option<I> {
    rest.by_ref().take(MAX_FADING).for_each(drop);
    (rest.len() > 0).then_some(rest)
}

impl Memory {
    fn decide(
        &mut self,
        policies: &Policies,
        request: &AccessRequest,
    ) -> Result<Decision, QuestionError> {
        let full = self.met.len() >= MAX_MET || self.decisions.len() >= MAX_DECISIONS;
        if full || self.engine != policies.number {
            self.engine = policies.number;
            self.last = 0;
            self.fading = Fading {
                met: Some(std::mem::take(&mut self.met).into_iter()),
                decisions: Some(std::mem::take(&mut self.decisions).into_iter()),
            };
        }
        self.fading.some();
        self.parties.clear();
        key::parties(&mut self.parties, request);
        if !self.met.contains_key(self.parties.as_slice()) {
            self.last += 1;
            let met = Met::new(policies, request, self.last)?;
            self.met.insert(self.parties.as_slice().into(), met);
        }
        match self.met.get(self.parties.as_slice()) {
            Some(met) => met.decide(policies, request, &mut self.values, &mut self.decisions),
            // It was put there just now.
            None => Ok(Decision::without_policy(Effect::Deny, Reason::ForbidError)),
        }
    }
}

impl Met {
    fn new(
        policies: &Policies,
        request: &AccessRequest,
        number: u64,
    ) -> Result<Self, QuestionError> {
        Ok(Self {
            number,
            parties: Parties::new(policies.ground(), &policies.reach(), request)?,
            shelf: policies.index.shelf(request, policies.ground()),
        })
    }

    fn decide(
        &self,
        policies: &Policies,
        request: &AccessRequest,
        key: &mut Vec<u8>,
        known: &mut HashMap<Box<[u8]>, Decision>,
    ) -> Result<Decision, QuestionError> {
        let mut candidates = policies
            .index
            .candidates(&self.shelf, request, &policies.store);
        candidates.retain(|policy| policy.is_in_force(request.context.time));
        if candidates.len() > MAX_CANDIDATES {
            let reason = Reason::TooManyPolicies;
            return Ok(Decision::without_policy(Effect::Deny, reason));
        }
        // Only what the candidates look at counts.
        let uses: Vec<_> = candidates.iter().map(|p| &p.checked.uses).collect();
        let looks = Looks(&uses);
        key.clear();
        key.extend(self.number.to_le_bytes());
        let complete = key::values(key, &candidates, looks, request);
        let memorable = complete && key.len() <= MAX_KEY_BYTES;
        if memorable && let Some(decision) = known.get(key.as_slice()) {
            return Ok(decision.clone());
        }
        let (asked, entities) = self.parties.asked(policies.ground(), looks, request)?;
        let decision = verdict::judge(&candidates, asked, &entities);
        if memorable {
            known.insert(key.as_slice().into(), decision.clone());
        }
        Ok(decision)
    }
}
