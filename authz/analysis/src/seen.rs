//! How often something was seen, when, and for example.

use reeve_core::UnixTime;
use serde::Serialize;

/// Examples kept of one thing.
const MAX_EXAMPLES: usize = 3;

/// A recorded decision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Example {
    /// When it was recorded.
    pub time: UnixTime,
    /// Its id, as `reeve audit explain` takes it.
    pub id: String,
}

/// What was seen of one thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) count: u64,
    pub(crate) first: UnixTime,
    pub(crate) last: UnixTime,
    /// The newest, newest first.
    pub(crate) examples: Vec<Example>,
}

impl Seen {
    pub(crate) fn add(&mut self, time: UnixTime, id: &str) {
        self.span(time, time, 1);
        self.keep(time, || id.to_owned());
    }

    pub(crate) fn merge(&mut self, other: Self) {
        if other.count > 0 {
            self.span(other.first, other.last, other.count);
        }
        for example in other.examples {
            self.keep(example.time, || example.id);
        }
    }

    fn span(&mut self, first: UnixTime, last: UnixTime, count: u64) {
        if self.count == 0 || first < self.first {
            self.first = first;
        }
        self.last = self.last.max(last);
        self.count += count;
    }

    fn keep(&mut self, time: UnixTime, id: impl FnOnce() -> String) {
        let full = self.examples.len() >= MAX_EXAMPLES;
        let oldest = self.examples.last();
        if full && oldest.is_some_and(|oldest| oldest.time > time) {
            return;
        }
        self.examples.push(Example { time, id: id() });
        self.examples.sort_by(|a, b| b.cmp(a));
        self.examples.truncate(MAX_EXAMPLES);
    }
}
