//! What is counted of a connection or call while it is open. Nothing runs for it: whoever asks for the figures has what
//! is open counted up to then, and its end counts the rest.

use std::sync::Arc;

use foldhash::HashMap;

use super::traffic::{Ends, Figures, Key, Meters, Shard};
use crate::{io::Flow, ledger::lock};

/// What a flow carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes of a TCP connection.
    Bytes,
    /// Messages of a gRPC call.
    Messages,
}

/// Something open, as its worker's counts know it.
#[derive(Debug)]
pub(super) struct Open {
    key: Key,
    unit: Unit,
    flow: Arc<Flow>,
    /// What is counted already.
    counted: (u64, u64),
}

/// Keeps something open counted; the rest is counted when it goes.
#[derive(Debug)]
pub(crate) struct Live {
    shard: Shard,
    number: u64,
}

impl Meters {
    /// Counts one more connection or call, and from now on what passes through `flow`.
    pub(crate) fn watch(&self, ends: &Ends, unit: Unit, flow: Arc<Flow>) -> Live {
        let key = self.begin(ends, |figures| match unit {
            Unit::Bytes => figures.opened += 1,
            Unit::Messages => figures.calls += 1,
        });
        let mut counts = lock(&self.shard);
        let number = counts.next;
        counts.next += 1;
        let open = Open {
            key,
            unit,
            flow,
            counted: (0, 0),
        };
        counts.open.insert(number, open);
        drop(counts);
        Live {
            shard: self.shard.clone(),
            number,
        }
    }
}

impl Open {
    /// Counts what has passed since the last time.
    pub(super) fn settle(&mut self, series: &mut HashMap<Key, Figures>) {
        let now = self.flow.passed();
        let (read, written) = (
            now.0.saturating_sub(self.counted.0),
            now.1.saturating_sub(self.counted.1),
        );
        self.counted = now;
        // It was made when this was opened.
        let Some(figures) = series.get_mut(&self.key) else {
            return;
        };
        match self.unit {
            Unit::Bytes => {
                figures.bytes_in += read;
                figures.bytes_out += written;
            }
            Unit::Messages => {
                figures.messages_in += read;
                figures.messages_out += written;
            }
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let counts = &mut *lock(&self.shard);
        if let Some(mut open) = counts.open.remove(&self.number) {
            open.settle(&mut counts.series);
        }
    }
}
