//! Faults of the authority on purpose, for drills. One at a time, each for a while only: whoever wants it longer asks
//! again in time, so that nothing stays broken when a drill dies. Nothing of this is kept over a restart.
//!
//! They concern those who ask over the issuer's door; the process's own identity goes on.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

/// Longest time that a fault holds without being asked for again.
pub const MAX_FAULT_LEASE: Duration = Duration::from_secs(60);
/// Longest time that a fault holds, however often it is asked for: a day, and a bit for the way back.
pub const MAX_FAULT_TIME: Duration = Duration::from_secs(25 * 60 * 60);
/// Farthest that the authority's clock is put forward or back.
pub const MAX_SKEW: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest name of who wants it.
const MAX_HOLDER: usize = 64;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthorityFault {
    /// It answers nobody: no certificate, no bundle, and nobody follows it.
    Away,
    /// It issues nothing; members follow it.
    NoRenewal,
    /// Certificates are dated by a clock that is ahead by so much, or behind.
    Skew {
        /// Milliseconds; negative if it is behind.
        ahead_ms: i64,
    },
}

impl AuthorityFault {
    /// One word for records and people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::NoRenewal => "no-renewal",
            Self::Skew { .. } => "skew",
        }
    }
}

/// A fault that is in, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFault {
    /// Which.
    pub fault: AuthorityFault,
    /// Who wants it.
    pub holder: String,
}

/// Why a fault is not put in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultRefused {
    /// One at a time.
    #[error("{0} holds a fault already; it ends by itself when that drill does")]
    Held(String),
    /// Longer than a lease.
    #[error("a fault is held for 1 ms to {} s at a time", MAX_FAULT_LEASE.as_secs())]
    Lease,
    /// Held for too long altogether.
    #[error("no fault is held for longer than {} h", MAX_FAULT_TIME.as_secs() / 3600)]
    TooLong,
    /// Farther than the farthest.
    #[error("a clock is skewed by at most {} h", MAX_SKEW.as_secs() / 3600)]
    Skew,
    /// No name, or one too long.
    #[error("a drill's id has 1 to {MAX_HOLDER} characters")]
    Holder,
}

/// The fault that is in, if there is one.
#[derive(Debug)]
pub struct Faults {
    state: Mutex<Option<Lease>>,
    changes: watch::Sender<Option<AuthorityFault>>,
}

#[derive(Debug)]
struct Lease {
    held: HeldFault,
    since: Instant,
    until: Instant,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changes: watch::Sender::new(None),
        }
    }
}

impl Faults {
    /// Puts a fault in, or keeps it in; whether it was not in before.
    pub fn hold(&self, wanted: HeldFault, lease: Duration) -> Result<bool, FaultRefused> {
        check(&wanted, lease)?;
        let now = Instant::now();
        let mut state = self.lock();
        let before = state.as_ref().filter(|lease| now < lease.until);
        if let Some(other) = before.filter(|lease| lease.held.holder != wanted.holder) {
            return Err(FaultRefused::Held(other.held.holder.clone()));
        }
        let same = before.filter(|lease| lease.held == wanted);
        let since = same.map_or(now, |lease| lease.since);
        let (fresh, fault) = (same.is_none(), wanted.fault);
        if now + lease > since + MAX_FAULT_TIME {
            return Err(FaultRefused::TooLong);
        }
        *state = Some(Lease {
            held: wanted,
            since,
            until: now + lease,
        });
        self.changes.send_replace(Some(fault));
        Ok(fresh)
    }

    /// Takes the fault out that `holder` has in.
    pub fn release(&self, holder: &str) -> Option<HeldFault> {
        let mut state = self.lock();
        let taken = state.take_if(|lease| lease.held.holder == holder)?;
        self.changes.send_replace(None);
        Some(taken.held)
    }

    /// The fault whose time is over, once. To be asked every second or so.
    pub fn expire(&self) -> Option<HeldFault> {
        let mut state = self.lock();
        let over = state.take_if(|lease| Instant::now() >= lease.until)?;
        self.changes.send_replace(None);
        Some(over.held)
    }

    /// The fault that is in now.
    pub fn now(&self) -> Option<AuthorityFault> {
        let state = self.lock();
        let lease = state.as_ref()?;
        (Instant::now() < lease.until).then_some(lease.held.fault)
    }

    /// Ready when the authority goes away.
    pub(crate) async fn away(&self) {
        let mut changes = self.changes.subscribe();
        let away = |now: &Option<AuthorityFault>| *now == Some(AuthorityFault::Away);
        if changes.wait_for(away).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Lease>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(wanted: &HeldFault, lease: Duration) -> Result<(), FaultRefused> {
    if wanted.holder.is_empty() || wanted.holder.len() > MAX_HOLDER {
        return Err(FaultRefused::Holder);
    }
    if lease.is_zero() || lease > MAX_FAULT_LEASE {
        return Err(FaultRefused::Lease);
    }
    if let AuthorityFault::Skew { ahead_ms } = wanted.fault
        && Duration::from_millis(ahead_ms.unsigned_abs()) > MAX_SKEW
    {
        return Err(FaultRefused::Skew);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn away(holder: &str) -> HeldFault {
        HeldFault {
            fault: AuthorityFault::Away,
            holder: holder.to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_ends_by_itself_when_nobody_asks_again() {
        let faults = Faults::default();
        assert_eq!(faults.hold(away("a"), LEASE), Ok(true));
        tokio::time::advance(LEASE / 2).await;
        assert_eq!(faults.hold(away("a"), LEASE), Ok(false), "it goes on");
        tokio::time::advance(LEASE - Duration::from_millis(1)).await;
        assert_eq!(
            (faults.now(), faults.expire()),
            (Some(AuthorityFault::Away), None)
        );
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(faults.now(), None, "before anybody looks after it");
        assert_eq!((faults.expire(), faults.expire()), (Some(away("a")), None));
    }

    #[tokio::test(start_paused = true)]
    async fn no_fault_is_held_for_ever_or_by_two() {
        let faults = Faults::default();
        assert_eq!(faults.hold(away("a"), LEASE), Ok(true));
        let other = faults.hold(away("b"), LEASE);
        assert_eq!(other, Err(FaultRefused::Held("a".to_owned())));
        assert_eq!(faults.release("b"), None);
        let mut held = Duration::ZERO;
        while faults.hold(away("a"), MAX_FAULT_LEASE).is_ok() {
            tokio::time::advance(MAX_FAULT_LEASE / 2).await;
            held += MAX_FAULT_LEASE / 2;
            assert!(held <= MAX_FAULT_TIME, "held for ever");
        }
        assert_eq!(
            faults.hold(away("a"), MAX_FAULT_LEASE),
            Err(FaultRefused::TooLong)
        );
        assert_eq!(faults.release("a"), Some(away("a")));
        assert_eq!(faults.hold(away("b"), LEASE), Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_bound_is_refused() {
        let faults = Faults::default();
        let hold = |wanted, lease| faults.hold(wanted, lease).unwrap_err();
        assert_eq!(hold(away("a"), Duration::ZERO), FaultRefused::Lease);
        assert_eq!(hold(away("a"), MAX_FAULT_LEASE * 2), FaultRefused::Lease);
        assert_eq!(hold(away(""), LEASE), FaultRefused::Holder);
        assert_eq!(hold(away(&"a".repeat(65)), LEASE), FaultRefused::Holder);
        let skew = HeldFault {
            fault: AuthorityFault::Skew { ahead_ms: i64::MIN },
            holder: "a".to_owned(),
        };
        assert_eq!(hold(skew, LEASE), FaultRefused::Skew);
    }
}
