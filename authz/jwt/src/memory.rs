//! What a thread remembers of the tokens that it verified: a client that sends one token with every request costs one
//! signature check and one reading of its claims.
//!
//! A token is remembered by its SHA-256, never itself, and only once it was accepted. What it says cannot change;
//! whether it still holds is checked each time. Another verifier (new keys, new rules) makes the thread forget.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use foldhash::{HashMap, HashMapExt as _};
use reeve_core::UnixTime;

use super::{Accepted, JwtVerifier, MAX_TOKEN_BYTES, TokenError};

/// Most tokens that a thread remembers; beyond it, it forgets all of them.
const MAX_REMEMBERED: usize = 1024;

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::new(Memory {
        verifier: 0,
        tokens: HashMap::new(),
    });
}

/// A number that no other verifier has.
pub(super) fn next_number() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// What `verifier` makes of a token that `rules` look for.
pub(super) fn accepted(
    verifier: &JwtVerifier,
    text: &str,
    rules: &[usize],
    now: UnixTime,
) -> Result<Arc<Accepted>, TokenError> {
    if text.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLarge);
    }
    let remembering = MEMORY.try_with(|memory| {
        let mut memory = memory.try_borrow_mut().ok()?;
        Some(memory.accepted(verifier, text, rules, now))
    });
    match remembering {
        Ok(Some(accepted)) => accepted,
        // The thread ends, and has forgotten.
        Ok(None) | Err(_) => Ok(Arc::new(verifier.accept(text, rules, now)?)),
    }
}

struct Memory {
    /// The verifier's number.
    verifier: u64,
    tokens: HashMap<[u8; SHA256_OUTPUT_LEN], Remembered>,
}

struct Remembered {
    /// The rules that looked for it.
    rules: Vec<usize>,
    accepted: Arc<Accepted>,
}

impl Memory {
    fn accepted(
        &mut self,
        verifier: &JwtVerifier,
        text: &str,
        rules: &[usize],
        now: UnixTime,
    ) -> Result<Arc<Accepted>, TokenError> {
        if self.verifier != verifier.number || self.tokens.len() >= MAX_REMEMBERED {
            self.verifier = verifier.number;
            self.tokens.clear();
        }
        let hash = hash(text);
        if let Some(known) = self.tokens.get(&hash).filter(|known| known.rules == rules)
            && known.accepted.valid.check(now).is_ok()
        {
            return Ok(known.accepted.clone());
        }
        let accepted = Arc::new(verifier.accept(text, rules, now)?);
        let remembered = Remembered {
            rules: rules.to_owned(),
            accepted: accepted.clone(),
        };
        self.tokens.insert(hash, remembered);
        Ok(accepted)
    }
}

fn hash(text: &str) -> [u8; SHA256_OUTPUT_LEN] {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    // A SHA-256 digest has exactly this length.
    hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests;
