//! Join tokens: how an agent on another machine gets its first certificate.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reeve_core::{Clock, SpiffeId, UnixTime};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Most tokens that may be outstanding.
const MAX_TOKENS: usize = 10_000;
/// Longest life of a token.
const MAX_TTL: Duration = Duration::from_hours(24);
/// Random bytes in a token.
const TOKEN_BYTES: usize = 32;

/// Why a token is not made or not taken. Callers are told no more than that it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Never made, or used before, or removed.
    #[error("the join token is unknown or was used before")]
    Unknown,
    /// Its time is over.
    #[error("the join token has expired")]
    Expired,
    /// It was made for another identity.
    #[error("the join token was made for another identity")]
    OtherIdentity,
    /// 10,000 are outstanding.
    #[error("there are 10000 unused join tokens: wait until some expire")]
    TooMany,
    /// Longer than 24 h, or zero.
    #[error("a join token lives between 1 s and 24 h")]
    BadTtl,
}

/// The outstanding tokens. Only hashes are kept, in memory: after a restart, tokens are made anew.
#[derive(Debug)]
pub struct JoinTokens {
    clock: Arc<dyn Clock>,
    tokens: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    hash: [u8; 32],
    id: SpiffeId,
    expires: UnixTime,
}

impl JoinTokens {
    /// None yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            tokens: Mutex::default(),
        }
    }

    /// Makes a token that is good once, for `id`, within `ttl`.
    pub fn create(&self, id: SpiffeId, ttl: Duration) -> Result<Zeroizing<String>, JoinError> {
        if ttl < Duration::from_secs(1) || ttl > MAX_TTL {
            return Err(JoinError::BadTtl);
        }
        let now = self.clock.now();
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|entry| entry.expires > now);
        if tokens.len() >= MAX_TOKENS {
            return Err(JoinError::TooMany);
        }
        let secret = Zeroizing::new(rand::random::<[u8; TOKEN_BYTES]>());
        let token = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.as_slice()));
        tokens.push(Entry {
            hash: hash(&token),
            id,
            expires: now.plus(ttl),
        });
        Ok(token)
    }

    /// Takes a token for `id`. It is used up whatever the answer.
    pub fn redeem(&self, token: &str, id: &SpiffeId) -> Result<(), JoinError> {
        let hash = hash(token);
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        // SECURITY: every entry is compared, each in constant time.
        let mut found = None;
        for (i, entry) in tokens.iter().enumerate() {
            if bool::from(entry.hash.ct_eq(&hash)) {
                found = Some(i);
            }
        }
        let entry = found
            .map(|i| tokens.swap_remove(i))
            .ok_or(JoinError::Unknown)?;
        if entry.expires <= self.clock.now() {
            return Err(JoinError::Expired);
        }
        if entry.id != *id {
            return Err(JoinError::OtherIdentity);
        }
        Ok(())
    }
}

fn hash(token: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use reeve_core::clock::ManualClock;

    use super::*;

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://mesh.local/ns/default/sa/{name}")).unwrap()
    }

    fn tokens() -> (Arc<ManualClock>, JoinTokens) {
        let clock = Arc::new(ManualClock::at(UnixTime::from_secs(1_000)));
        (clock.clone(), JoinTokens::new(clock))
    }

    #[test]
    fn a_token_is_good_once() {
        let (_, tokens) = tokens();
        let token = tokens.create(id("a"), Duration::from_secs(60)).unwrap();
        assert_eq!(tokens.redeem(&token, &id("a")), Ok(()));
        assert_eq!(tokens.redeem(&token, &id("a")), Err(JoinError::Unknown));
    }

    #[test]
    fn a_token_ends_with_its_time() {
        let (clock, tokens) = tokens();
        let token = tokens.create(id("a"), Duration::from_secs(60)).unwrap();
        clock.advance(Duration::from_secs(60));
        assert_eq!(tokens.redeem(&token, &id("a")), Err(JoinError::Expired));
    }

    #[test]
    fn a_token_tried_for_another_identity_is_refused_and_used_up() {
        let (_, tokens) = tokens();
        let token = tokens.create(id("a"), Duration::from_secs(60)).unwrap();
        assert_eq!(
            tokens.redeem(&token, &id("b")),
            Err(JoinError::OtherIdentity)
        );
        assert_eq!(tokens.redeem(&token, &id("a")), Err(JoinError::Unknown));
        assert_eq!(tokens.redeem("", &id("a")), Err(JoinError::Unknown));
    }

    #[test]
    fn lives_and_numbers_are_bounded() {
        let (clock, tokens) = tokens();
        for ttl in [Duration::ZERO, Duration::from_hours(25)] {
            assert_eq!(tokens.create(id("a"), ttl).unwrap_err(), JoinError::BadTtl);
        }
        for _ in 0..MAX_TOKENS {
            tokens.create(id("a"), Duration::from_secs(1)).unwrap();
        }
        assert_eq!(
            tokens.create(id("a"), Duration::from_secs(1)).unwrap_err(),
            JoinError::TooMany
        );
        clock.advance(Duration::from_secs(2));
        assert!(
            tokens.create(id("a"), Duration::from_secs(1)).is_ok(),
            "expired ones make room"
        );
    }
}
