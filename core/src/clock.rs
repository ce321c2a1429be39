//! Time as data. Everything that needs "now" takes a [`Clock`], so that tests and simulations own it.

use std::{
    fmt,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixTime(u64);

impl UnixTime {
    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the epoch.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// How much later `self` is than `earlier`; zero if it is not.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This time plus `by`, saturating.
    pub fn plus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// This time minus `by`, saturating at the epoch.
    pub fn minus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

/// Where "now" comes from.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The present time.
    fn now(&self) -> UnixTime;

    /// How much time has passed since some moment, whatever the clock was set to meanwhile. What a machine sleeps may be
    /// missing.
    fn passed(&self) -> Duration {
        self.now().since(UnixTime::default())
    }
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the system's clock"
    )]
    fn now(&self) -> UnixTime {
        let since_epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        UnixTime::default().plus(since_epoch)
    }

    fn passed(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }
}

/// A clock that stands still until it is told to move; for tests.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: AtomicU64,
    passed: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `time`.
    pub fn at(time: UnixTime) -> Self {
        Self {
            now: AtomicU64::new(time.as_millis()),
            passed: AtomicU64::new(0),
        }
    }

    /// Time passes.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.now.fetch_add(by, Ordering::SeqCst);
        self.passed.fetch_add(by, Ordering::SeqCst);
    }

    /// Sets the clock, forward or back, without any time passing.
    pub fn set(&self, time: UnixTime) {
        self.now.store(time.as_millis(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixTime {
        UnixTime::from_millis(self.now.load(Ordering::SeqCst))
    }

    fn passed(&self) -> Duration {
        Duration::from_millis(self.passed.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let t = UnixTime::from_secs(10);
        assert_eq!(t.since(UnixTime::from_secs(11)), Duration::ZERO);
        assert_eq!(t.minus(Duration::from_secs(60)), UnixTime::default());
        assert_eq!(t.plus(Duration::MAX), UnixTime::from_millis(u64::MAX));
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::at(UnixTime::from_secs(1));
        assert_eq!(clock.now(), clock.now());
        clock.advance(Duration::from_millis(5));
        assert_eq!(clock.now(), UnixTime::from_millis(1005));
        clock.set(UnixTime::from_secs(1));
        assert_eq!(clock.now(), UnixTime::from_secs(1));
        assert_eq!(clock.passed(), Duration::from_millis(5), "set, not passed");
    }
}
