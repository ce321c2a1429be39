//! When to renew, and when to try again.

use std::time::Duration;

use reeve_core::Clock;
use tokio::time::{Instant, sleep};

/// First pause after a failure.
const FIRST: Duration = Duration::from_millis(100);
/// Longest pause after failures.
const LONGEST: Duration = Duration::from_secs(5);
/// The same when the certificate has ended, and nothing works until there is another one.
const LONGEST_CLOSED: Duration = Duration::from_secs(2);
/// Of the life that a certificate has left, at most this part is spent on one pause.
const PART_OF_LEFT: u32 = 8;
/// How often the clock is compared with the time that passes.
const LOOK: Duration = Duration::from_secs(5);
/// A clock that departs by more than this at once was set, or the machine has slept.
const STEP: Duration = Duration::from_secs(10);
/// Machines that sleep together wake together: over how long they spread.
const SPREAD: Duration = Duration::from_secs(5);

/// Pauses that double from 100 ms to 5 s, with jitter.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.last = None;
    }

    /// The next pause; a short one while little is `left` of the certificate.
    pub(super) fn next(&mut self, left: Option<Duration>) -> Duration {
        let pause = self
            .last
            .map_or(FIRST, |last| last.saturating_mul(2).min(LONGEST));
        self.last = Some(pause);
        let closed = left.is_some_and(|left| left.is_zero());
        let pause = if closed {
            pause.min(LONGEST_CLOSED)
        } else {
            pause
        };
        let urgent = left
            .filter(|left| !left.is_zero())
            .map(|left| left / PART_OF_LEFT);
        let pause = urgent.map_or(pause, |urgent| pause.min(urgent.max(FIRST)));
        pause.mul_f64(rand::random_range(0.75..=1.0))
    }
}

/// Half of what is left, less up to a fifth of it, so that many agents do not come at once and none comes late.
pub(super) fn until_renewal(left: Duration) -> Duration {
    (left / 2).mul_f64(rand::random_range(0.8..=1.0))
}

/// The clock departed from the time that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It was set ahead, or the machine has slept: timers do not run meanwhile.
    Ahead(Duration),
    /// It was set back: what was issued a moment ago may not be valid yet.
    Back(Duration),
}

/// Ready when the clock has made a step.
pub(super) async fn clock_step(clock: &dyn Clock) -> Step {
    loop {
        let (then, began) = (clock.now(), Instant::now());
        sleep(LOOK).await;
        let (now, expected) = (clock.now(), then.plus(began.elapsed()));
        let (ahead, back) = (now.since(expected), expected.since(now));
        if ahead > STEP {
            return Step::Ahead(ahead);
        }
        if back > STEP {
            return Step::Back(back);
        }
    }
}

/// When to renew after that.
pub(super) fn after_a_step(left: Duration) -> Duration {
    (left / PART_OF_LEFT)
        .min(SPREAD)
        .mul_f64(rand::random_range(0.0..=1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn renewal_comes_at_half_life_or_a_little_before(left in 1u64..100_000_000) {
            let left = Duration::from_millis(left);
            let pause = until_renewal(left);
            prop_assert!(pause <= left / 2);
            prop_assert!(pause >= left.mul_f64(0.39));
        }
    }

    #[test]
    fn pauses_grow_to_a_limit_and_start_over() {
        let mut backoff = Backoff::default();
        assert!(backoff.next(None) <= FIRST);
        for _ in 0..10 {
            let _pause = backoff.next(None);
        }
        let longest = backoff.next(None);
        assert!(longest <= LONGEST && longest >= LONGEST.mul_f64(0.7));
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
    }

    #[test]
    fn a_certificate_about_to_end_is_tried_for_more_often() {
        let mut backoff = Backoff {
            last: Some(LONGEST),
        };
        assert!(backoff.next(Some(Duration::from_secs(2))) <= Duration::from_millis(250));
        let closed = backoff.next(Some(Duration::ZERO));
        assert!(
            closed > Duration::from_secs(1) && closed <= LONGEST_CLOSED,
            "it has ended: {closed:?}"
        );
    }
}
