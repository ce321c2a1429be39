//! Join tokens: how an agent on another machine is known the first time.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reeve_core::{Clock, SpiffeId, UnixTime};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Most tokens outstanding.
const MAX_TOKENS: usize = 4096;
/// Random bytes in the secret part of a token.
const SECRET_BYTES: usize = 32;
/// Random bytes in the part that names it.
const NAME_BYTES: usize = 9;
/// Longest life of a token.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long a spent or expired token is remembered, to tell why it is refused.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Outstanding join tokens. Each is good for one identity, once, until it expires; only a hash of it is kept.
pub struct JoinTokens {
    clock: Arc<dyn Clock>,
    tokens: Mutex<HashMap<String, Token>>,
}

struct Token {
    secret_hash: [u8; 32],
    id: SpiffeId,
    expires_at: UnixTime,
    /// The same by the time that passes: a clock that is set back makes no token live longer.
    ends: Duration,
    spent: bool,
}

/// Why a join token is refused, or cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No such token.
    #[error("the token is not known")]
    Unknown,
    /// Too old.
    #[error("the token has expired")]
    Expired,
    /// Used before.
    #[error("the token was used before")]
    Spent,
    /// Made for another identity.
    #[error("the token was made for another identity")]
    OtherIdentity,
    /// Too many tokens are outstanding.
    #[error("too many tokens are outstanding; wait until some expire")]
    TooMany,
    /// The random number generator failed.
    #[error("no random numbers")]
    NoRandom,
}

impl JoinTokens {
    /// No tokens yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            tokens: Mutex::default(),
        }
    }

    /// Makes a token for one issuance of `id` within `life` (24 hours at most).
    pub fn create(&self, id: SpiffeId, life: Duration) -> Result<Zeroizing<String>, TokenError> {
        let mut random = Zeroizing::new([0; NAME_BYTES + SECRET_BYTES]);
        aws_lc_rs::rand::fill(&mut *random).map_err(|_| TokenError::NoRandom)?;
        let (name, secret) = random.split_at(NAME_BYTES);
        let name = URL_SAFE_NO_PAD.encode(name);
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret));
        let now = self.clock.now();
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, token| now <= token.expires_at.plus(REMEMBERED));
        if tokens.len() >= MAX_TOKENS {
            // What is only remembered makes room: forgotten, it is refused as unknown.
            tokens.retain(|_, token| !token.spent && now < token.expires_at);
        }
        if tokens.len() >= MAX_TOKENS {
            return Err(TokenError::TooMany);
        }
        let life = life.min(MAX_LIFE);
        let token = Token {
            secret_hash: hash(&secret),
            id,
            expires_at: now.plus(life),
            ends: self.clock.passed().saturating_add(life),
            spent: false,
        };
        let text = Zeroizing::new(format!("{name}.{}", *secret));
        tokens.insert(name, token);
        Ok(text)
    }

    /// Spends a token for `id`. A token shown for another identity stays good for its own.
    pub fn redeem(&self, text: &str, id: &SpiffeId) -> Result<(), TokenError> {
        let (name, secret) = text.split_once('.').ok_or(TokenError::Unknown)?;
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let token = tokens.get_mut(name).ok_or(TokenError::Unknown)?;
        // SECURITY: the secret part is compared by hash and in constant time; only its holder learns more than
        // "unknown".
        if !bool::from(hash(secret).ct_eq(&token.secret_hash)) {
            return Err(TokenError::Unknown);
        }
        if token.spent {
            return Err(TokenError::Spent);
        }
        if self.clock.now() >= token.expires_at || self.clock.passed() >= token.ends {
            return Err(TokenError::Expired);
        }
        if token.id != *id {
            return Err(TokenError::OtherIdentity);
        }
        token.spent = true;
        Ok(())
    }
}

impl fmt::Debug for JoinTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinTokens(..)")
    }
}

fn hash(secret: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    let digest = digest(&SHA256, secret.as_bytes());
    bytes
        .iter_mut()
        .zip(digest.as_ref())
        .for_each(|(to, from)| *to = *from);
    bytes
}

#[cfg(test)]
mod tests;
