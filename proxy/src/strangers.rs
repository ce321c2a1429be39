//! Refusals of peers without identity: a few are recorded one by one, the rest counted, so that they can never take a
//! permit's room in the log.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex},
};

use reeve_audit::{AggregateRecord, EventKind};
use reeve_core::{Clock, UnixTime};

use crate::{
    ledger::{Ledger, lock},
    limits::{REFUSALS_PER_SECOND, REFUSED_REQUESTS_PER_SECOND},
};

/// The strangers of one proxy.
#[derive(Debug)]
pub(crate) struct Strangers {
    clock: Arc<dyn Clock>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    since: Option<UnixTime>,
    plaintext: Tally,
    no_route: Tally,
    requests: Tally,
    certificates: Tally,
    handshakes: u64,
}

/// Refusals of one kind.
#[derive(Debug, Default)]
struct Tally {
    second: u64,
    in_second: u32,
    counted: u64,
}

impl Tally {
    /// Whether this one may have a record of its own; else it is counted.
    fn is_recorded(&mut self, now: UnixTime, most: u32) -> bool {
        if self.second != now.as_secs() {
            self.second = now.as_secs();
            self.in_second = 0;
        }
        self.in_second = self.in_second.saturating_add(1);
        let recorded = self.in_second <= most;
        if !recorded {
            self.counted = self.counted.saturating_add(1);
        }
        recorded
    }
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
        self.refused(REFUSALS_PER_SECOND, |counts| &mut counts.plaintext)
    }

    /// The same of a connection that named no server that is known here.
    pub(crate) fn no_route(&self) -> bool {
        self.refused(REFUSALS_PER_SECOND, |counts| &mut counts.no_route)
    }

    /// The same of a request that is refused.
    pub(crate) fn request_refused(&self) -> bool {
        self.refused(REFUSED_REQUESTS_PER_SECOND, |counts| &mut counts.requests)
    }

    /// The same of a handshake that failed at a port of the mesh: the peer's certificate is none of it, as a rule.
    pub(crate) fn certificate_refused(&self) -> bool {
        self.refused(REFUSALS_PER_SECOND, |counts| &mut counts.certificates)
    }

    fn refused(&self, most: u32, tally: impl Fn(&mut Counts) -> &mut Tally) -> bool {
        let now = self.clock.now();
        let mut counts = lock(&self.counts);
        let recorded = tally(&mut counts).is_recorded(now, most);
        if !recorded {
            counts.since.get_or_insert(now);
        }
        recorded
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
            let counts = [
                (
                    EventKind::PlaintextRefused,
                    mem::take(&mut counts.plaintext.counted),
                ),
                (EventKind::NoRoute, mem::take(&mut counts.no_route.counted)),
                (
                    EventKind::RequestRefused,
                    mem::take(&mut counts.requests.counted),
                ),
                (
                    EventKind::HandshakeRefused,
                    mem::take(&mut counts.handshakes) + mem::take(&mut counts.certificates.counted),
                ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_refusals_a_second_are_recorded_and_the_rest_counted_each_kind_by_itself() {
        let mut tally = Tally::default();
        let mut recorded = |second| {
            let now = UnixTime::from_secs(second);
            (0..100)
                .filter(|_| tally.is_recorded(now, REFUSALS_PER_SECOND))
                .count()
        };
        let most = REFUSALS_PER_SECOND as usize;
        assert_eq!([recorded(7), recorded(7), recorded(8)], [most, 0, most]);
        assert_eq!(tally.counted, 300 - 2 * u64::from(REFUSALS_PER_SECOND));

        let strangers = Strangers::new(Arc::new(reeve_core::SystemClock));
        while strangers.plaintext_refused() {}
        assert!(strangers.no_route(), "junk takes nothing of its room");
        assert!(lock(&strangers.counts).since.is_some());
    }
}
