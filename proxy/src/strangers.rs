//! Refusals of peers without identity: a few are recorded one by one, the rest counted, so that they can never take a
//! permit's room in the log.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use reeve_audit::{AggregateRecord, EventKind};
use reeve_core::{Clock, UnixTime};

use crate::{
    ledger::{Ledger, lock},
    limits::REFUSALS_PER_SECOND,
};

/// The strangers of one proxy.
#[derive(Debug)]
pub(crate) struct Strangers {
    clock: Arc<dyn Clock>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    second: u64,
    in_second: u32,
    since: Option<UnixTime>,
    plaintext: u64,
    handshakes: u64,
}

impl Strangers {
    /// None yet.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            counts: Mutex::default(),
        }
    }

    /// Whether the refusal of a stranger's plaintext may have a record of its own; else it is counted.
    pub(crate) fn plaintext_refused(&self) -> bool {
        let now = self.clock.now();
        let mut counts = lock(&self.counts);
        if counts.second != now.as_secs() {
            counts.second = now.as_secs();
            counts.in_second = 0;
        }
        counts.in_second = counts.in_second.saturating_add(1);
        if counts.in_second <= REFUSALS_PER_SECOND {
            return true;
        }
        counts.since.get_or_insert(now);
        counts.plaintext = counts.plaintext.saturating_add(1);
        false
    }

    /// Counts a failed TLS handshake.
    pub(crate) fn handshake_refused(&self) {
        let now = self.clock.now();
        let mut counts = lock(&self.counts);
        counts.since.get_or_insert(now);
        counts.handshakes = counts.handshakes.saturating_add(1);
    }

    /// Writes down what was counted.
    pub(crate) fn flush(&self, ledger: &Ledger) {
        let until = self.clock.now();
        let (since, counts) = {
            let mut counts = lock(&self.counts);
            let Some(since) = counts.since.take() else {
                return;
            };
            let plaintext = std::mem::take(&mut counts.plaintext);
            let handshakes = std::mem::take(&mut counts.handshakes);
            let counts = [
                (EventKind::PlaintextRefused, plaintext),
                (EventKind::HandshakeRefused, handshakes),
            ];
            (since, counts)
        };
        for (event, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            let detail = BTreeMap::new();
            let aggregate = AggregateRecord {
                event,
                count,
                since,
                until,
                detail,
            };
            ledger.aggregate(&aggregate);
        }
    }
}
