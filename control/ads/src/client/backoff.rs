//! Growing, jittered delays.

use std::time::Duration;

/// Doubles from its first delay to its longest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Default for Backoff {
    /// Between streams: 100 ms to 5 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }
}

impl Backoff {
    /// Between tries of a refused generation: 1 s to 30 s.
    pub(crate) fn for_refused() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(30))
    }

    fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// Back to the first delay.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next delay, within a quarter of its nominal value either way, so that proxies do not return in step.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let nominal = self.next;
        self.next = (nominal * 2).min(self.longest);
        nominal.mul_f64(rand::random_range(0.75..1.25))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_start_over() {
        let mut backoff = Backoff::default();
        let around = |ms: u64, delay: Duration| {
            let ms = Duration::from_millis(ms);
            assert!(
                delay >= ms.mul_f64(0.75) && delay <= ms.mul_f64(1.25),
                "{delay:?}"
            );
        };
        for ms in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            around(ms, backoff.next_delay());
        }
        backoff.reset();
        around(100, backoff.next_delay());
    }
}
