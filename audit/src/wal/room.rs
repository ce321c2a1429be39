//! The room that all workers of a log share.

use std::sync::atomic::{AtomicU64, Ordering};

use super::AppendError;

/// What a worker takes at once, at most: so much of the room may stand unused for each worker.
const MAX_SHARE: u64 = 64 * 1024;
/// Kept free of everything but records that say that others are missing.
const GAP_BYTES: u64 = 16 * 1024;

/// What room is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A record, or a segment's header.
    Record,
    /// A record that says that others are missing, and the header of the segment that it needs.
    Gap,
}

/// The bytes that the segments of all workers may use, counted exactly and without a lock.
#[derive(Debug)]
pub(crate) struct Room {
    used: AtomicU64,
    max: u64,
    kept_free: u64,
}

impl Room {
    pub(crate) fn new(max: u64) -> Self {
        Self {
            used: AtomicU64::new(0),
            max,
            kept_free: GAP_BYTES.min(max / 64),
        }
    }

    /// Takes at least `wanted` bytes and says how many: more than that, where there is room, so that the next records
    /// need not come back.
    pub(crate) fn take(&self, wanted: u64, purpose: Purpose) -> Result<u64, AppendError> {
        let max = match purpose {
            Purpose::Record => self.max.saturating_sub(self.kept_free),
            Purpose::Gap => self.max,
        };
        let share = wanted.max(MAX_SHARE.min(self.max / 64));
        for bytes in [share, wanted] {
            let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= max);
            let taken = self
                .used
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
            if taken.is_ok() {
                return Ok(bytes);
            }
        }
        Err(AppendError::Full {
            max_bytes: self.max,
        })
    }

    /// Notes bytes that are there already, whether there is room or not.
    pub(crate) fn occupy(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives bytes back.
    pub(crate) fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn left(&self) -> u64 {
        self.max.saturating_sub(self.used.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_together_never_take_more_than_there_is_and_all_of_it() {
        let room = Room::new(100_000);
        let taken: u64 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        std::iter::from_fn(|| room.take(100, Purpose::Record).ok()).sum::<u64>()
                    })
                })
                .collect();
            workers.into_iter().map(|w| w.join().unwrap()).sum()
        });
        let most = 100_000 - room.kept_free;
        assert!(taken <= most && taken > most - 100, "{taken}");
        assert!(matches!(
            room.take(100, Purpose::Record),
            Err(AppendError::Full { max_bytes: 100_000 })
        ));
        room.give(100);
        assert_eq!(room.take(100, Purpose::Record).unwrap(), 100);
        assert!(room.take(100, Purpose::Gap).is_ok(), "what is kept free");
    }
}
