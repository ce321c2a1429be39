//! The keys that sign JWT-SVIDs: the next one is published before it signs, the last one after it has signed.

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reeve_core::{SpiffeId, UnixTime};
use reeve_svid::{JwtKey, verify_jwt_svid};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{CaError, CertificateAuthority, IssueError, Recheck, slots::Slot};
use crate::{
    Attested,
    custody::{AuthorityKey, Keyring},
};

/// Longest life of a JWT-SVID. Who holds one can use it: it is bearer.
const LONGEST: Duration = Duration::from_secs(300);

/// Most audiences of one JWT-SVID.
pub(super) const MAX_AUDIENCES: usize = 8;
/// Longest of them.
pub(super) const MAX_AUDIENCE_BYTES: usize = 256;

/// A JWT-SVID, ready to be handed to whom it names.
#[derive(Clone)]
pub struct IssuedJwt {
    /// The token: who has it can use it.
    pub token: Zeroizing<String>,
    /// The last second at which it is good.
    pub expires_at: UnixTime,
    /// The key that signed it.
    pub key_id: String,
}

/// A key that signs JWT-SVIDs with ES256.
#[derive(Clone)]
pub(super) struct JwtSigner {
    pub(super) key_id: String,
    pub(super) key: AuthorityKey,
    public: JwtKey,
    pub(super) slot: Slot,
    pub(super) made_at: UnixTime,
    pub(super) not_after: UnixTime,
}

/// Every key there is, oldest first; at most one of them is prepared, and one active.
#[derive(Clone, Default)]
pub(super) struct JwtSigners(pub(super) Vec<JwtSigner>);

/// A token as it was signed.
pub(super) struct Signed {
    pub(super) token: String,
    pub(super) expires_at: UnixTime,
    pub(super) key_id: String,
}

impl CertificateAuthority {
    /// Issues a JWT-SVID to an attested caller, for these audiences and no longer than five minutes (SPIFFE JWT-SVID
    /// section 3).
    pub fn issue_jwt(
        &self,
        caller: &Attested,
        audience: &[String],
    ) -> Result<IssuedJwt, IssueError> {
        let fits = |audience: &String| (1..=MAX_AUDIENCE_BYTES).contains(&audience.len());
        let first = audience.first().filter(|_| audience.iter().all(fits));
        let first = first.filter(|_| audience.len() <= MAX_AUDIENCES);
        let first = first.ok_or(IssueError::Audience)?;
        let entry = caller.entry.as_deref();
        let for_anybody = entry.is_none_or(|entry| entry.jwt_audiences.is_empty());
        let allowed = |audience: &String| {
            for_anybody || entry.is_some_and(|entry| entry.jwt_audiences.contains(audience))
        };
        if !audience.iter().all(allowed) {
            return Err(IssueError::AudienceNotAllowed);
        }
        let ttl = entry.and_then(|entry| entry.jwt_ttl).unwrap_or(LONGEST);
        let ttl = ttl.min(self.options.svid_ttl);
        let id = self.ours(&caller.id)?;
        let mut state = self.lock();
        self.ensure(&mut state)?;
        if self.bundle.borrow().revoked().covers_id(id) {
            return Err(IssueError::Revoked(id.clone()));
        }
        let now = self.clock.now();
        let signed = state.slots.jwt.sign(id, audience, ttl, now)?;
        drop(state);
        let bundle = Arc::clone(&self.bundle.borrow());
        let read = verify_jwt_svid(&signed.token, first, |_| Some(&bundle), now);
        let read = read.map_err(|error| IssueError::Recheck(error.into()))?;
        if read.id != *id || read.expires_at != signed.expires_at {
            return Err(IssueError::Recheck(Recheck::Departs("identity or end")));
        }
        Ok(IssuedJwt {
            token: Zeroizing::new(signed.token),
            expires_at: signed.expires_at,
            key_id: signed.key_id,
        })
    }
}

impl fmt::Debug for IssuedJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedJwt")
            .field("expires_at", &self.expires_at)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl JwtSigner {
    fn new(ring: &Keyring, ttl: Duration, now: UnixTime, slot: Slot) -> Result<Self, CaError> {
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| CaError::NoRandom)?;
        let times = [now, now.plus(ttl)];
        ring.with_new(|key| Self::reopen(hex::encode(id), key.clone(), slot, times))
    }

    /// A key from what was kept of it; `made_at` and `not_after` are `times`.
    pub(super) fn reopen(
        key_id: String,
        key: AuthorityKey,
        slot: Slot,
        times: [UnixTime; 2],
    ) -> Result<Self, CaError> {
        let public = key.point().and_then(|point| public(&key_id, point));
        let public = public.ok_or(CaError::Content)?;
        let [made_at, not_after] = times;
        Ok(Self {
            key_id,
            key,
            public,
            slot,
            made_at,
            not_after,
        })
    }

    /// When `share` quarters of its life are over.
    fn quarter(&self, share: u32) -> UnixTime {
        self.made_at
            .plus(self.not_after.since(self.made_at) / 4 * share)
    }

    fn sign(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl: Duration,
        now: UnixTime,
    ) -> Result<Signed, CaError> {
        let expires_at = now.plus(ttl.min(LONGEST)).min(self.not_after);
        let header = json!({ "alg": "ES256", "kid": self.key_id, "typ": "JWT" });
        let claims = json!({
            "sub": id,
            "aud": audience,
            "iat": now.as_secs(),
            "exp": expires_at.as_secs(),
        });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.key.sign_fixed(signed.as_bytes())?;
        let signature = URL_SAFE_NO_PAD.encode(signature);
        Ok(Signed {
            token: format!("{signed}.{signature}"),
            expires_at: UnixTime::from_secs(expires_at.as_secs()),
            key_id: self.key_id.clone(),
        })
    }
}

impl JwtSigners {
    /// Does what the clock asks for; whether the published keys have changed. A key lives for `ttl`: at half of it the
    /// next one is published, a quarter later that one signs, and at its end it leaves.
    pub(super) fn ensure(
        &mut self,
        ring: &Keyring,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<bool, CaError> {
        let before = self.0.len();
        self.0.retain(|key| key.not_after > now);
        let mut changed = self.0.len() != before;
        let over = self.active().is_none_or(|active| active.quarter(3) <= now);
        if over && self.prepared() {
            self.activate_prepared();
        }
        if self.active().is_none() {
            self.0.push(JwtSigner::new(ring, ttl, now, Slot::Active)?);
            changed = true;
        }
        if !self.prepared() && self.active().is_some_and(|active| active.quarter(2) <= now) {
            self.0.push(JwtSigner::new(ring, ttl, now, Slot::Prepared)?);
            changed = true;
        }
        Ok(changed)
    }

    /// Whether [`ensure`](Self::ensure) has something to do.
    pub(super) fn is_due(&self, now: UnixTime) -> bool {
        let Some(active) = self.active() else {
            return true;
        };
        self.0.iter().any(|key| key.not_after <= now)
            || active.quarter(3) <= now
            || (active.quarter(2) <= now && !self.prepared())
    }

    /// Signs a JWT-SVID of `id` for at most `ttl`.
    pub(super) fn sign(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl: Duration,
        now: UnixTime,
    ) -> Result<Signed, CaError> {
        let active = self.active().ok_or(CaError::Content)?;
        active.sign(id, audience, ttl, now)
    }

    /// What tokens are verified with.
    pub(super) fn public(&self) -> Vec<JwtKey> {
        self.0.iter().map(|key| key.public.clone()).collect()
    }

    fn active(&self) -> Option<&JwtSigner> {
        self.0.iter().find(|key| key.slot == Slot::Active)
    }

    fn prepared(&self) -> bool {
        self.0.iter().any(|key| key.slot == Slot::Prepared)
    }

    fn activate_prepared(&mut self) {
        for key in &mut self.0 {
            key.slot = match key.slot {
                Slot::Prepared => Slot::Active,
                Slot::Active | Slot::Old => Slot::Old,
            };
        }
    }
}

fn public(key_id: &str, point: &[u8]) -> Option<JwtKey> {
    // Uncompressed (SEC 1 section 2.3.3).
    let point = point.strip_prefix(&[4])?;
    let (x, y) = point.split_at_checked(32)?;
    let jwk = json!({
        "kty": "EC",
        "crv": "P-256",
        "kid": key_id,
        "x": URL_SAFE_NO_PAD.encode(x),
        "y": URL_SAFE_NO_PAD.encode(y),
    });
    JwtKey::from_jwk(jwk.as_object()?)
}

#[cfg(test)]
mod tests;
