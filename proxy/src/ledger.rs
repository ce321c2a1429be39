//! The write-ahead log as the data path uses it: decisions before anything moves, outcomes beside.

use std::{
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use reeve_audit::{AppendError, DecisionRecord, Entry, EventRecord, OutcomeRecord, Wal};
use reeve_core::{Clock, RecordId, UnixTime};

use crate::{
    limits::MAX_DEFERRED_RECORDS,
    metrics::{Meters, Metrics},
};

/// Appends to the write-ahead log for one worker.
#[derive(Debug)]
pub(crate) struct Ledger {
    wal: Arc<Wal>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    meters: Meters,
    /// What nothing waits for, until the next write.
    deferred: Mutex<Vec<Entry>>,
}

impl Ledger {
    /// A ledger that appends to `wal`.
    pub(crate) fn new(wal: Arc<Wal>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self {
            wal,
            clock,
            meters: metrics.meters(),
            metrics,
            deferred: Mutex::default(),
        }
    }

    /// Records a decision. Only when this returned `Ok` may what was decided go on.
    pub(crate) fn decision(&self, record: DecisionRecord) -> Result<RecordId, AppendError> {
        self.meters.decided(&record.decision);
        self.flush();
        self.wal.append(record).inspect_err(|error| {
            self.metrics.wal_failed("decision");
            tracing::error!(%error, "a decision could not be recorded; denied");
        })
    }

    /// Records what came of it: with the next decision, or when the worker flushes. `true` = the first that waits.
    pub(crate) fn outcome(&self, record: OutcomeRecord) -> bool {
        let waiting = {
            let mut deferred = lock(&self.deferred);
            deferred.push(record.into());
            deferred.len()
        };
        if waiting >= MAX_DEFERRED_RECORDS {
            self.flush();
        }
        waiting == 1
    }

    /// Records an event.
    pub(crate) fn event(&self, record: EventRecord) {
        self.append(record.into());
    }

    /// Writes what waits.
    pub(crate) fn flush(&self) {
        for entry in mem::take(&mut *lock(&self.deferred)) {
            self.append(entry);
        }
    }

    /// Writes what no request waits for.
    pub(crate) fn append(&self, entry: Entry) {
        if self.wal.append(entry).is_err() {
            self.metrics.wal_failed("outcome");
        }
    }

    /// What its worker counts with.
    pub(crate) fn meters(&self) -> &Meters {
        &self.meters
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
