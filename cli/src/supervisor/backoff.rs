//! How long to wait before a process is started again.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(100);
/// No wait is longer.
const LONGEST: Duration = Duration::from_secs(5);
/// A process that ran this long starts over at [`FIRST`].
const SETTLED: Duration = Duration::from_secs(10);

/// Doubling waits.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The wait before the next start, after a run of `ran`.
    pub(crate) fn after(&mut self, ran: Duration) -> Duration {
        if ran >= SETTLED {
            self.next = FIRST;
        }
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(LONGEST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_five_seconds() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..8)
            .map(|_| backoff.after(Duration::ZERO).as_millis())
            .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn a_settled_run_starts_over() {
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            backoff.after(Duration::from_millis(9_999));
        }
        assert_eq!(backoff.after(Duration::from_secs(10)), FIRST);
        assert_eq!(backoff.after(Duration::ZERO), FIRST * 2);
    }
}
