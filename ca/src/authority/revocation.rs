//! What is refused though it verifies: kept with the authorities, and told to everybody with the trust bundle.

use std::{sync::Arc, time::Duration};

use reeve_core::{SpiffeId, UnixTime};
use reeve_svid::Revoked;
use serde::{Deserialize, Serialize};

use super::{CaError, CertificateAuthority, State};
use crate::{IdentityEvents, RevocationEnd, RevocationEvent};

/// Most that is revoked at one time; every proxy holds the list.
const MAX_REVOKED: usize = 1_000;
/// Longest reason, in bytes.
const MAX_WHY: usize = 256;
/// Longest serial number: 20 bytes (RFC 5280 section 4.1.2.2) in hexadecimal.
const MAX_REVOKED_SERIAL: usize = 40;
/// How much longer a serial number is kept than a certificate lives, for clocks that are behind.
const BEYOND: Duration = Duration::from_secs(60 * 60);

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokeTarget {
    /// Every certificate of this identity, and it gets no other.
    Id(SpiffeId),
    /// The certificate of this serial number, in hexadecimal.
    Serial(String),
}

/// Something that is refused though it verifies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// What.
    #[serde(flatten)]
    pub target: RevokeTarget,
    /// Why, in the operator's words.
    pub why: String,
    /// Since when.
    pub since: UnixTime,
    /// Until when; none = until it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
}

/// Why nothing is revoked, or taken back.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// It is already.
    #[error("it is revoked already")]
    Already,
    /// It is not.
    #[error("it is not revoked")]
    NotRevoked,
    /// No more room.
    #[error("{MAX_REVOKED} are revoked already; take some back, or replace the root")]
    Full,
    /// Of a trust domain that nobody here knows, or of no workload.
    #[error(
        "{0} is not an identity of a workload of this trust domain or of one that is federated with it"
    )]
    NotOurs(SpiffeId),
    /// Not a serial number.
    #[error("a serial number has 1 to {MAX_REVOKED_SERIAL} hexadecimal digits")]
    Serial,
    /// A reason that is too long.
    #[error("a reason has at most {MAX_WHY} bytes")]
    Why,
    /// An end that is over.
    #[error("the end has passed already")]
    Past,
    /// Our fault.
    #[error("it could not be done")]
    Authority(#[from] CaError),
}

impl RevokeTarget {
    /// As it is kept.
    fn normal(self) -> Result<Self, RevokeError> {
        match self {
            Self::Id(id) => Ok(Self::Id(id)),
            Self::Serial(serial) => Self::serial(&serial),
        }
    }

    /// A serial number as people write it: colons, capitals and leading zeros make no difference.
    pub fn serial(text: &str) -> Result<Self, RevokeError> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let digits = digits.to_ascii_lowercase();
        let digits = digits.strip_prefix("0x").unwrap_or(&digits);
        let hexadecimal = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit());
        // As in certificates: whole bytes, and one of zero where the first bit would make it negative.
        let bare = digits.trim_start_matches('0');
        let mut padded = match bare.len() % 2 {
            0 => bare.to_owned(),
            _ => format!("0{bare}"),
        };
        if padded.chars().next().is_some_and(|c| c >= '8') {
            padded.insert_str(0, "00");
        }
        match hexadecimal && !bare.is_empty() && padded.len() <= MAX_REVOKED_SERIAL {
            true => Ok(Self::Serial(padded)),
            false => Err(RevokeError::Serial),
        }
    }
}

/// The list as verifiers use it.
pub(super) fn list(revocations: &[Revocation]) -> Revoked {
    let ids = revocations.iter().filter_map(|r| match &r.target {
        RevokeTarget::Id(id) => Some(id.clone()),
        RevokeTarget::Serial(_) => None,
    });
    let serials = revocations.iter().filter_map(|r| match &r.target {
        RevokeTarget::Serial(serial) => Some(serial.clone()),
        RevokeTarget::Id(_) => None,
    });
    Revoked::new(ids, serials)
}

impl CertificateAuthority {
    /// Refuses an identity or a certificate from now on, everywhere; open connections end.
    pub fn revoke(
        &self,
        target: RevokeTarget,
        why: &str,
        until: Option<UnixTime>,
        events: &dyn IdentityEvents,
    ) -> Result<(), RevokeError> {
        let now = self.clock.now();
        let target = self.checked(target)?;
        if why.len() > MAX_WHY {
            return Err(RevokeError::Why);
        }
        if until.is_some_and(|until| until <= now) {
            return Err(RevokeError::Past);
        }
        let state = &mut *self.lock();
        if state.slots.revoked.len() >= MAX_REVOKED {
            return Err(RevokeError::Full);
        }
        if state.slots.revoked.iter().any(|r| r.target == target) {
            return Err(RevokeError::Already);
        }
        // A certificate that has ended need not be refused any more.
        let ended = now.plus(state.longest_svid_ttl).plus(BEYOND);
        let until = match (&target, until) {
            (RevokeTarget::Serial(_), None) => Some(ended),
            (_, until) => until,
        };
        let revocation = Revocation {
            target,
            why: why.to_owned(),
            since: now,
            until,
        };
        self.change(state, now, |slots, _| {
            slots.revoked.push(revocation.clone());
            slots.sequence = slots.sequence.saturating_add(1);
            Ok(())
        })?;
        events.revoked(&RevocationEvent {
            revocation,
            ended: None,
        });
        Ok(())
    }

    /// Takes it back.
    pub fn unrevoke(
        &self,
        target: RevokeTarget,
        events: &dyn IdentityEvents,
    ) -> Result<(), RevokeError> {
        let target = target.normal()?;
        let state = &mut *self.lock();
        let now = self.clock.now();
        let listed = state.slots.revoked.iter().find(|r| r.target == target);
        let revocation = listed.cloned().ok_or(RevokeError::NotRevoked)?;
        self.change(state, now, |slots, _| {
            slots.revoked.retain(|r| r.target != target);
            slots.sequence = slots.sequence.saturating_add(1);
            Ok(())
        })?;
        events.revoked(&RevocationEvent {
            revocation,
            ended: Some(RevocationEnd::Operator),
        });
        Ok(())
    }

    /// Everything that is revoked, oldest first.
    pub fn revoked(&self) -> Vec<Revocation> {
        self.lock().slots.revoked.clone()
    }

    /// Whether an identity is.
    pub(crate) fn is_revoked(&self, id: &SpiffeId) -> bool {
        let bundle = Arc::clone(&self.bundle().borrow());
        bundle.revoked().covers_id(id)
    }

    fn checked(&self, target: RevokeTarget) -> Result<RevokeTarget, RevokeError> {
        let bundle = Arc::clone(&self.bundle().borrow());
        let target = target.normal()?;
        if let RevokeTarget::Id(id) = &target
            && (bundle.of(&id.trust_domain()).is_none() || id.path().is_empty())
        {
            return Err(RevokeError::NotOurs(id.clone()));
        }
        Ok(target)
    }

    /// Forgets what was revoked for a time that is over.
    pub(super) fn end_revocations(
        &self,
        state: &mut State,
        events: &dyn IdentityEvents,
        now: UnixTime,
    ) -> Result<(), CaError> {
        let over = |r: &Revocation| r.until.is_some_and(|until| until <= now);
        let ended: Vec<_> = state.slots.revoked.iter().filter(|r| over(r)).collect();
        let ended: Vec<Revocation> = ended.into_iter().cloned().collect();
        if ended.is_empty() {
            return Ok(());
        }
        self.change(state, now, |slots, _| {
            slots.revoked.retain(|r| !over(r));
            slots.sequence = slots.sequence.saturating_add(1);
            Ok(())
        })?;
        for revocation in ended {
            events.revoked(&RevocationEvent {
                revocation,
                ended: Some(RevocationEnd::Over),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_as_in_certificates_however_they_are_written() {
        let serial = |text: &str| match RevokeTarget::serial(text) {
            Ok(RevokeTarget::Serial(serial)) => Some(serial),
            _ => None,
        };
        assert_eq!(serial("0A:bc"), Some("0abc".to_owned()));
        assert_eq!(serial("0xabc"), Some("0abc".to_owned()));
        assert_eq!(serial("00AB"), Some("00ab".to_owned()));
        assert_eq!(serial("ab"), Some("00ab".to_owned()));
        assert_eq!(serial("7f"), Some("7f".to_owned()));
        for bad in ["", "0", "xyz", &"f".repeat(41)] {
            assert_eq!(serial(bad), None, "{bad}");
        }
    }
}
