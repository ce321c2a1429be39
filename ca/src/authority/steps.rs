//! Steps of the clock. A root that was replaced, or a revocation that was forgotten, because a clock stood a year ahead
//! for a minute does not come back with the right time; so nothing of that kind is done until the clock has kept its
//! pace for a while, or was set right again.

use std::time::Duration;

use reeve_core::{Clock, UnixTime};
use serde::Serialize;

/// A clock that departs by more than this from the time that passed made a step: it was set, or the machine has slept.
const STEP: Duration = Duration::from_secs(10);
/// How long the authority is careful after it.
const HOLD: Duration = Duration::from_secs(600);

/// A step of the clock, of a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ClockStep {
    /// By how many milliseconds the clock is ahead of where it was, or behind.
    pub ahead_ms: i64,
    /// Until when no root is replaced or retired, and no revocation ends, by the clock.
    pub held_until: UnixTime,
}

/// Compares the clock with the time that passes.
#[derive(Debug)]
pub(super) struct Steps {
    now: UnixTime,
    passed: Duration,
    /// The steps lately, added up, and when that is over by the time that passes.
    lately: Option<(i64, Duration)>,
}

impl Steps {
    /// From now on.
    pub(super) fn of(clock: &dyn Clock) -> Self {
        Self {
            now: clock.now(),
            passed: clock.passed(),
            lately: None,
        }
    }

    /// To be called before anything is done by the clock; whether the authority is careful.
    pub(super) fn look(&mut self, clock: &dyn Clock) -> bool {
        let (now, passed) = (clock.now(), clock.passed());
        let expected = self.now.plus(passed.saturating_sub(self.passed));
        (self.now, self.passed) = (now, passed);
        self.lately = self.lately.filter(|(_, over)| passed < *over);
        let ahead = millis(now.since(expected)).saturating_sub(millis(expected.since(now)));
        if is_pace(ahead) {
            return self.lately.is_some();
        }
        let before = self.lately.map_or(0, |(ahead, _)| ahead);
        let sum = before.saturating_add(ahead);
        let right_again = is_pace(sum);
        self.lately = (!right_again).then(|| (sum, passed.saturating_add(HOLD)));
        match right_again {
            true => tracing::warn!("the clock was set back to where it would be"),
            false => tracing::error!(
                ahead_ms = sum,
                "the clock made a step; no root is replaced or retired for a while"
            ),
        }
        self.lately.is_some()
    }

    /// For those who ask.
    pub(super) fn status(&self) -> Option<ClockStep> {
        let (ahead_ms, over) = self.lately?;
        let held_until = self.now.plus(over.saturating_sub(self.passed));
        Some(ClockStep {
            ahead_ms,
            held_until,
        })
    }
}

/// What clocks are corrected by without anybody noticing.
fn is_pace(ahead_ms: i64) -> bool {
    Duration::from_millis(ahead_ms.unsigned_abs()) <= STEP
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
