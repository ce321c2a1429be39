//! The write-ahead log as the data path uses it: decisions before anything moves, outcomes beside.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use reeve_audit::{
    AggregateRecord, AppendError, DecisionRecord, Entry, EventKind, EventRecord, OutcomeRecord, Wal,
};
use reeve_core::{Clock, RecordId, UnixTime};

use crate::{
    limits::{OUTCOME_QUEUE, REFUSALS_PER_SECOND},
    metrics::Metrics,
};

/// Appends to the write-ahead log.
#[derive(Debug)]
pub(crate) struct Ledger {
    wal: Arc<Wal>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    later: SyncSender<Entry>,
    strangers: Mutex<Strangers>,
}

/// Refusals of peers without identity, counted (they must never take a permit's room).
#[derive(Debug, Default)]
struct Strangers {
    second: u64,
    in_second: u32,
    since: Option<UnixTime>,
    plaintext: u64,
    handshakes: u64,
}

impl Ledger {
    /// Starts the thread that writes what nothing waits for.
    pub(crate) fn start(
        wal: Arc<Wal>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (later, entries) = sync_channel::<Entry>(OUTCOME_QUEUE);
        let (log, failed) = (wal.clone(), metrics.clone());
        std::thread::Builder::new()
            .name("outcomes".to_owned())
            .spawn(move || {
                for entry in entries {
                    if log.append(entry).is_err() {
                        failed.wal_failed("outcome");
                    }
                }
            })?;
        Ok(Self {
            wal,
            clock,
            metrics,
            later,
            strangers: Mutex::default(),
        })
    }

    /// Records a decision. Only when this returned `Ok` may what was decided go on.
    pub(crate) fn decision(&self, record: DecisionRecord) -> Result<RecordId, AppendError> {
        self.metrics.decided(&record.decision);
        self.wal.append(record).inspect_err(|error| {
            self.metrics.wal_failed("decision");
            tracing::error!(%error, "a decision could not be recorded; denied");
        })
    }

    /// Records what came of it; holds nothing up.
    pub(crate) fn outcome(&self, record: OutcomeRecord) {
        self.later(record.into());
    }

    /// Records an event; holds nothing up.
    pub(crate) fn event(&self, record: EventRecord) {
        self.later(record.into());
    }

    fn later(&self, entry: Entry) {
        match self.later.try_send(entry) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.metrics.wal_failed("outcome_dropped");
            }
        }
    }

    /// Whether a stranger's refusal may have a record of its own; else it is counted.
    pub(crate) fn plaintext_refused(&self) -> bool {
        let now = self.clock.now();
        let mut strangers = lock(&self.strangers);
        if strangers.second != now.as_secs() {
            strangers.second = now.as_secs();
            strangers.in_second = 0;
        }
        strangers.in_second = strangers.in_second.saturating_add(1);
        if strangers.in_second <= REFUSALS_PER_SECOND {
            return true;
        }
        strangers.since.get_or_insert(now);
        strangers.plaintext = strangers.plaintext.saturating_add(1);
        false
    }

    /// Counts a failed TLS handshake.
    pub(crate) fn handshake_refused(&self) {
        let now = self.clock.now();
        let mut strangers = lock(&self.strangers);
        strangers.since.get_or_insert(now);
        strangers.handshakes = strangers.handshakes.saturating_add(1);
    }

    /// Writes down what was counted.
    pub(crate) fn flush_strangers(&self) {
        let until = self.clock.now();
        let (since, counts) = {
            let mut strangers = lock(&self.strangers);
            let Some(since) = strangers.since.take() else {
                return;
            };
            let plaintext = std::mem::take(&mut strangers.plaintext);
            let handshakes = std::mem::take(&mut strangers.handshakes);
            let counts = [
                (EventKind::PlaintextRefused, plaintext),
                (EventKind::HandshakeRefused, handshakes),
            ];
            (since, counts)
        };
        for (event, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            let detail = std::collections::BTreeMap::new();
            self.later(
                AggregateRecord {
                    event,
                    count,
                    since,
                    until,
                    detail,
                }
                .into(),
            );
        }
    }

    /// How the log stands.
    pub(crate) fn status(&self) -> reeve_audit::WalStatus {
        self.wal.status()
    }

    /// The time.
    pub(crate) fn now(&self) -> UnixTime {
        self.clock.now()
    }
}

/// Locks; a thread that panicked while holding it left nothing half-done that matters here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Microseconds, saturating.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
