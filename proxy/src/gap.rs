//! Decisions that stand although they could not be recorded, where the configuration prefers that to denying.
//!
//! The first of them puts an event into the log, for which room is kept free; when the log takes records again, an aggregate
//! says how many there were. Both are shipped in batches that the proxy signs. Should the process die between them, the
//! event says that some are missing.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use reeve_audit::{AggregateRecord, AppendError, EventKind, EventRecord};
use reeve_core::{RecordId, UnixTime, decision::Decision};

use crate::ledger::{Ledger, lock};

/// What one worker lost.
#[derive(Debug, Default)]
pub(crate) struct Gap {
    open: AtomicBool,
    lost: Mutex<Option<Lost>>,
}

#[derive(Debug)]
struct Lost {
    since: UnixTime,
    allowed: u64,
    denied: u64,
    cause: String,
}

impl Gap {
    /// Counts a decision as lost; the answer stands for its record's id.
    pub(crate) fn lose(&self, ledger: &Ledger, decision: &Decision, why: &AppendError) -> RecordId {
        ledger.passed_unrecorded();
        let mut open = lock(&self.lost);
        let lost = open.get_or_insert_with(|| {
            let cause = chain(why);
            tracing::error!(
                cause,
                "decisions cannot be recorded, and stand all the same (dangerPassUnrecorded)"
            );
            let began = EventRecord::new(EventKind::RecordsLost).with("cause", cause.as_str());
            if let Err(error) = ledger.writer().append_gap(&began) {
                tracing::error!(%error, "not even that can be recorded");
            }
            Lost {
                since: ledger.now(),
                allowed: 0,
                denied: 0,
                cause,
            }
        });
        match decision.is_allow() {
            true => lost.allowed += 1,
            false => lost.denied += 1,
        }
        self.open.store(true, Ordering::Relaxed);
        ledger.writer().no_record()
    }

    /// Says how many were lost, as soon as that can be written.
    pub(crate) fn close(&self, ledger: &Ledger) {
        if !self.open.load(Ordering::Relaxed) {
            return;
        }
        let mut open = lock(&self.lost);
        let Some(lost) = &*open else { return };
        let detail = [
            ("allowed", lost.allowed.to_string()),
            ("denied", lost.denied.to_string()),
            ("cause", lost.cause.clone()),
        ];
        let aggregate = AggregateRecord {
            event: EventKind::RecordsLost,
            count: lost.allowed + lost.denied,
            since: lost.since,
            until: ledger.now(),
            detail: BTreeMap::from(detail.map(|(name, value)| (name.to_owned(), value))),
        };
        // Not from the room that is kept free: what may be written again is told by whether this may.
        if let Ok(record) = ledger.writer().append(&aggregate) {
            tracing::warn!(%record, lost = aggregate.count, "decisions are recorded again");
            *open = None;
            self.open.store(false, Ordering::Relaxed);
        }
    }
}

fn chain(error: &AppendError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
