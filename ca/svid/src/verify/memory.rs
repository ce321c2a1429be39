//! Chains that a bundle has verified, so that a peer who connects again costs no signatures but its own: that it holds
//! the key is proved in every handshake.
//!
//! INVARIANT: a remembered verdict is the one that would be reached again. It holds for the very same bytes and
//! purpose, under the very same bundle, not before the time it was reached, and only until something on the path or
//! any authority of the bundle begins or ceases to be valid. Refusals are not remembered.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use reeve_core::UnixTime;
use rustls_pki_types::CertificateDer;

use super::{Purpose, VerifiedPeer};

/// Most chains that a bundle remembers; beyond it, it forgets all of them.
const MAX_REMEMBERED: usize = 1024;

/// SHA-256 of a chain and what it is for.
pub(super) type Key = [u8; SHA256_OUTPUT_LEN];

/// What a bundle remembers. A copy of the bundle remembers nothing.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<HashMap<Key, Known>>);

#[derive(Debug)]
struct Known {
    peer: VerifiedPeer,
    /// When it was verified.
    from: UnixTime,
    /// Before this, the verdict stays.
    until: UnixTime,
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// The key of a chain.
pub(super) fn key(chain: &[CertificateDer<'_>], purpose: Purpose) -> Key {
    let mut context = Context::new(&SHA256);
    context.update(match purpose {
        Purpose::Client => b"client",
        Purpose::Server => b"server",
    });
    for certificate in chain {
        let length = u64::try_from(certificate.len()).unwrap_or(u64::MAX);
        context.update(&length.to_be_bytes());
        context.update(certificate);
    }
    let mut key = [0; SHA256_OUTPUT_LEN];
    // A SHA-256 digest has exactly this length.
    key.copy_from_slice(context.finish().as_ref());
    key
}

impl Memory {
    /// The peer that `key` stands for, if the verdict still holds at `at`.
    pub(super) fn recall(&self, key: &Key, at: UnixTime) -> Option<VerifiedPeer> {
        let known = self.known();
        let known = known.get(key)?;
        (known.from <= at && at < known.until).then(|| known.peer.clone())
    }

    /// Remembers that `key` was verified at `from`, which stays true before `until`.
    pub(super) fn remember(&self, key: Key, peer: &VerifiedPeer, from: UnixTime, until: UnixTime) {
        let mut known = self.known();
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        let peer = peer.clone();
        known.insert(key, Known { peer, from, until });
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
