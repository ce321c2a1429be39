//! How fast a log fills, for "minutes left".

use std::{collections::VecDeque, time::Duration};

use reeve_core::UnixTime;

const STEP: Duration = Duration::from_secs(10);
const STEPS: usize = 30;

/// Bytes written in the last five minutes, in steps of ten seconds.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    steps: VecDeque<(UnixTime, u64)>,
}

impl Rate {
    pub(crate) fn note(&mut self, now: UnixTime, bytes: u64) {
        match self.steps.back_mut() {
            Some((begun, sum)) if now.since(*begun) < STEP => *sum += bytes,
            _ => {
                if self.steps.len() == STEPS {
                    self.steps.pop_front();
                }
                self.steps.push_back((now, bytes));
            }
        }
    }

    /// Adds what another worker wrote; for [`Rate::minutes_for`] only the sum and the start matter.
    pub(crate) fn add(&mut self, other: &Self) {
        self.steps.extend(&other.steps);
        self.steps.make_contiguous().sort_unstable();
    }

    /// Minutes until `room` is full at that rate.
    pub(crate) fn minutes_for(&self, room: u64, now: UnixTime) -> Option<u64> {
        let (since, _) = self.steps.front()?;
        let seconds = now.since(*since).max(STEP).as_secs();
        let written: u64 = self.steps.iter().map(|(_, bytes)| bytes).sum();
        room.saturating_mul(seconds)
            .checked_div(written)
            .map(|s| s / 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_left_is_told_in_minutes_at_the_present_rate() {
        let mut rate = Rate::default();
        assert_eq!(rate.minutes_for(1000, UnixTime::from_secs(0)), None);
        for second in 0..60 {
            rate.note(UnixTime::from_secs(second), 100);
        }
        assert_eq!(rate.minutes_for(60_000, UnixTime::from_secs(60)), Some(10));
        assert_eq!(rate.minutes_for(0, UnixTime::from_secs(60)), Some(0));
    }
}
