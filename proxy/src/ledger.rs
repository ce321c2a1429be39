//! The write-ahead log as the data path uses it: decisions before anything moves, outcomes beside.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use reeve_audit::{
    AggregateRecord, AppendError, DecisionRecordRef, EventRecord, OutcomeRecord, Wal, WalError,
    WalWriter,
};
use reeve_core::{Clock, RecordId, UnixTime, decision::Decision};

use tokio::time::timeout;

use crate::{
    break_glass,
    gap::Gap,
    limits::RECORD_TIMEOUT,
    metrics::{Meters, Metrics},
    seldom::Seldom,
};

/// Appends to the write-ahead log for one worker.
#[derive(Debug)]
pub(crate) struct Ledger {
    wal: Arc<Wal>,
    writer: WalWriter,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    meters: Meters,
    gap: Gap,
    warnings: Seldom,
}

/// What becomes of a decision that cannot be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unrecorded {
    /// It is "no".
    Denied,
    /// It stands, and is counted as lost.
    Passes,
}

impl Ledger {
    /// The end of `wal` that worker `number` appends with.
    pub(crate) fn new(
        wal: Arc<Wal>,
        number: u16,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, WalError> {
        Ok(Self {
            writer: wal.writer(number)?,
            wal,
            clock,
            meters: metrics.meters(),
            metrics,
            gap: Gap::default(),
            warnings: Seldom::default(),
        })
    }

    /// Records a decision, and what waited. Only when this returned `Ok` may what was decided go on.
    pub(crate) async fn decision(
        &self,
        record: DecisionRecordRef<'_>,
        unrecorded: Unrecorded,
    ) -> Result<RecordId, AppendError> {
        self.count(record.decision);
        self.gap.close(self);
        let appended = match self.writer.awaits_disk() {
            true => Box::pin(self.on_disk(record)).await,
            false => self.writer.append_in_turn(record).await,
        };
        appended.or_else(|error| {
            self.metrics.wal_failed("decision");
            match unrecorded {
                Unrecorded::Passes => Ok(self.gap.lose(self, record.decision, &error)),
                Unrecorded::Denied => {
                    if let Some(decisions) = self.warnings.due() {
                        tracing::error!(%error, decisions, "decisions could not be recorded; denied");
                    }
                    Err(error)
                }
            }
        })
    }

    fn count(&self, decision: &Decision) {
        self.meters.decided(decision);
        if break_glass::permits_alone(decision) {
            self.metrics.break_glass_request();
        }
    }

    /// Waits until the disk has the record, and no longer than a caller can be left waiting.
    async fn on_disk(&self, record: DecisionRecordRef<'_>) -> Result<RecordId, AppendError> {
        let appending = self.writer.append_durable(record);
        timeout(RECORD_TIMEOUT, appending)
            .await
            .unwrap_or_else(|_| {
                self.metrics.limit_hit("record_timeout");
                let late = io::Error::new(io::ErrorKind::TimedOut, "the disk is too slow");
                Err(AppendError::Io(late))
            })
    }

    /// Records a denial that nothing waits for: with the next decision, or when the worker flushes.
    pub(crate) fn denial(&self, record: DecisionRecordRef<'_>) {
        self.count(record.decision);
        if self.writer.defer(record).is_err() {
            self.metrics.wal_failed("decision");
        }
    }

    /// Records what came of it: with the next decision, or when the worker flushes.
    pub(crate) fn outcome(&self, record: &OutcomeRecord) {
        // Of a decision that is not on record.
        if record.decision.sequence == 0 {
            return;
        }
        if self.writer.defer(record).is_err() {
            self.metrics.wal_failed("outcome");
        }
    }

    /// Records an event.
    pub(crate) fn event(&self, record: &EventRecord) {
        if self.writer.append(record).is_err() {
            self.metrics.wal_failed("event");
        }
    }

    /// Records an event that something else depends on.
    pub(crate) fn required_event(&self, record: &EventRecord) -> Result<RecordId, AppendError> {
        self.writer
            .append(record)
            .inspect_err(|_| self.metrics.wal_failed("event"))
    }

    /// Records what was counted of strangers.
    pub(crate) fn aggregate(&self, record: &AggregateRecord) {
        if self.writer.append(record).is_err() {
            self.metrics.wal_failed("aggregate");
        }
    }

    /// Whether decisions wait for the next flush, too.
    pub(crate) fn is_buffered(&self) -> bool {
        self.writer.is_buffered()
    }

    /// Writes what waits.
    pub(crate) fn flush(&self) {
        self.gap.close(self);
        if self.writer.flush().is_err() {
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

    /// The worker's end of the log.
    pub(crate) fn writer(&self) -> &WalWriter {
        &self.writer
    }

    /// Counts a decision that stands unrecorded.
    pub(crate) fn passed_unrecorded(&self) {
        self.metrics.wal_failed("passed");
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
