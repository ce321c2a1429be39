//! Asking and timing, one decision at a time.

use std::{hint::black_box, sync::Arc, time::Instant};

use http::request::Parts;
use reeve_authz::Engine;
use reeve_core::{
    decision::{AccessRequest, Action, Decision, Principal, RequestContext, ResourceRef, User},
    model::PathNormalization,
};
use reeve_proxy::HeadReader;

use crate::{
    Outcome,
    shapes::{self, Caller, NOW, Shape},
};

/// Callers that come again and again, the same number at each size: it is policies that are counted.
const KNOWN: usize = 10;
/// Heads that are made before a span is timed.
const BATCH: usize = 1_000;

/// Nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    spans: Vec<u64>,
    pub(crate) allowed: usize,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
}

impl Cost {
    pub(crate) fn take(&mut self, decide: impl FnOnce() -> Decision) -> Decision {
        let started = Instant::now();
        let decision = black_box(decide());
        let span = started.elapsed().as_nanos();
        self.spans.push(u64::try_from(span).unwrap_or(u64::MAX));
        self.allowed += usize::from(decision.is_allow());
        decision
    }

    pub(crate) fn done(mut self) -> Self {
        self.spans.sort_unstable();
        let at = |part: usize| self.spans.get(self.spans.len() * part / 100).copied();
        (self.p50, self.p99) = (at(50).unwrap_or_default(), at(99).unwrap_or_default());
        self
    }
}

/// Makes requests and asks them as a proxy does.
pub(crate) struct Asker {
    shape: Shape,
    size: usize,
    reader: HeadReader,
    known: Vec<Caller>,
    caller: Caller,
    user: Arc<User>,
    number: u64,
    /// The same path as before.
    again: bool,
}

impl Asker {
    pub(crate) fn new(shape: Shape, size: usize, engine: &Engine) -> Outcome<Self> {
        let known: Outcome<Vec<_>> = (0..KNOWN).map(|n| shape.caller(n, size)).collect();
        Ok(Self {
            shape,
            size,
            reader: HeadReader::new(engine.needs(), PathNormalization::RefuseAmbiguous),
            known: known?,
            caller: shape.caller(0, size)?,
            user: Arc::new(shapes::user()),
            number: 0,
            again: false,
        })
    }

    /// One of a few callers, with a path that was never seen before.
    pub(crate) fn known(&mut self) {
        self.again = false;
        self.step();
    }

    /// One of a few callers, with the path that it asks for each time.
    pub(crate) fn again(&mut self) {
        self.again = true;
        self.step();
    }

    fn step(&mut self) {
        self.number += 1;
        // Not in order, so that no caller's part of memory is fetched ahead.
        let at = usize::try_from(self.number.wrapping_mul(0x9E37_79B9) >> 7).unwrap_or_default();
        if let Some(caller) = self.known.get(at % KNOWN) {
            self.caller = caller.clone();
        }
    }

    /// A caller that has not been here before, or not for long.
    pub(crate) fn stranger(&mut self) {
        self.again = false;
        self.number += 1;
        let number = usize::try_from(self.number).unwrap_or_default();
        if let Ok(caller) = self.shape.stranger(number, self.size) {
            self.caller = caller;
        }
    }

    /// Times `count` decisions, each from the head of a request on.
    pub(crate) fn decide(
        &mut self,
        engine: &Engine,
        count: usize,
        next: impl Fn(&mut Self),
    ) -> Outcome<Cost> {
        let mut cost = Cost::default();
        let mut asked = Vec::with_capacity(BATCH);
        // The first are not counted.
        for round in 0..=count / BATCH {
            for _ in 0..BATCH {
                next(self);
                asked.push((self.caller.clone(), self.head()?));
            }
            for (caller, head) in asked.drain(..) {
                let answer = || self.ask(engine, &caller, head);
                if round == 0 {
                    black_box(answer());
                } else {
                    cost.take(answer);
                }
            }
        }
        Ok(cost.done())
    }

    /// From head to answer.
    fn ask(&self, engine: &Engine, caller: &Caller, head: Parts) -> Decision {
        match self.access(caller, head) {
            Some(request) => engine.decide(&request),
            None => Decision::without_policy(
                reeve_core::decision::Effect::Deny,
                reeve_core::decision::Reason::AmbiguousPath,
            ),
        }
    }

    fn access(&self, caller: &Caller, head: Parts) -> Option<AccessRequest> {
        let action = Action::from_method(head.method.as_str());
        let http = self.reader.read(head)?;
        Some(AccessRequest {
            principal: Principal::Workload(caller.id.clone()),
            user: Some(self.user.clone()),
            action,
            resource: ResourceRef::clone(&caller.resource),
            context: RequestContext {
                destination_ip: None,
                remote_ip: None,
                sni: None,
                source_ip: [10, 1, 2, 3].into(),
                port: 9080,
                mtls: true,
                time: NOW,
                http: Some(http),
            },
        })
    }

    /// What the present caller asks.
    pub(crate) fn request(&self) -> Option<AccessRequest> {
        self.access(&self.caller, self.head().ok()?)
    }

    fn head(&self) -> Outcome<Parts> {
        let number = if self.again { 0 } else { self.number };
        shapes::head(&self.caller, number)
    }
}

/// What this process holds of memory, in bytes.
pub(crate) fn resident_bytes() -> Outcome<usize> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = text.split(' ').nth(1).ok_or("no number")?.parse()?;
    Ok(pages * 4096)
}
