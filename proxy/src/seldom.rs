//! Warnings about what others can bring about as often as they like: one for many, with their number.

use std::sync::Mutex;

use tokio::time::Instant;

use crate::{ledger::lock, limits::WARNING_INTERVAL};

/// When there was a warning last, and what has happened since.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Warned>);

#[derive(Debug, Default)]
struct Warned {
    last: Option<Instant>,
    /// What nobody was told of since then.
    silent: u64,
}

impl Seldom {
    /// Counts one; how many a warning would stand for, if it is time for one.
    pub fn due(&self) -> Option<u64> {
        let now = Instant::now();
        let mut warned = lock(&self.0);
        let recent = |last: Instant| now.saturating_duration_since(last) < WARNING_INTERVAL;
        warned.silent = warned.silent.saturating_add(1);
        if warned.last.is_some_and(recent) {
            return None;
        }
        warned.last = Some(now);
        Some(std::mem::take(&mut warned.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn there_is_one_warning_in_a_while_and_it_says_how_often_it_was() {
        let warnings = Seldom::default();
        assert_eq!(warnings.due(), Some(1));
        for _ in 0..100 {
            assert_eq!(warnings.due(), None);
        }
        tokio::time::advance(WARNING_INTERVAL).await;
        assert_eq!(warnings.due(), Some(101));
        assert_eq!(warnings.due(), None);
    }
}
