//! Chains that a bundle has verified, so that a peer who connects again costs no signatures but its own: that it holds
//! the key is proved in every handshake. And issuers of leaves, so that a new leaf of a known one costs one signature.
//!
//! INVARIANT: a remembered verdict is the one that would be reached again. It holds for the very same bytes and
//! purpose, under the very same bundle, not before the time it was reached, and only until something on the path or
//! any authority of the bundle begins or ceases to be valid. Refusals are not remembered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use reeve_core::UnixTime;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::VerifiedPath;

use super::{Purpose, VerifiedPeer};

/// Most chains that a bundle remembers; beyond it, it forgets all of them.
const MAX_REMEMBERED: usize = 1024;
/// The same of issuers. A trust domain has two while it goes from one to the next.
const MAX_ISSUERS: usize = 64;

/// SHA-256 of certificates and what they are for.
pub(super) type Key = [u8; SHA256_OUTPUT_LEN];

/// What a bundle remembers. A copy of the bundle remembers nothing.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Whose a whole chain is.
    pub(super) chains: Remembered<VerifiedPeer, MAX_REMEMBERED>,
    /// What all certificates of a chain but the leaf amount to.
    pub(super) issuers: Remembered<Arc<KnownIssuer>, MAX_ISSUERS>,
}

/// At most `MOST` verdicts.
#[derive(Debug)]
pub(super) struct Remembered<T, const MOST: usize>(Mutex<HashMap<Key, Known<T>>>);

#[derive(Debug)]
struct Known<T> {
    verdict: T,
    /// When it was reached.
    from: UnixTime,
    /// Before this, it stays.
    until: UnixTime,
}

/// The issuer of a leaf, from which the path to an authority of the bundle was verified.
#[derive(Debug)]
pub(super) struct KnownIssuer {
    /// As what it vouches for leaves by itself.
    pub(super) anchor: TrustAnchor<'static>,
    /// The earliest end on its path.
    pub(super) not_after: UnixTime,
}

impl KnownIssuer {
    /// The issuer on `path`, if all that the path demands of another leaf stands in the issuer itself: an authority
    /// beyond it, or an anchor's constraints, would have to be asked again.
    pub(super) fn of(path: &VerifiedPath<'_>, not_after: UnixTime) -> Option<Self> {
        let mut issuers = path.intermediate_certificates();
        let (Some(issuer), None) = (issuers.next(), issuers.next()) else {
            return None;
        };
        let der = issuer.der();
        let anchor = webpki::anchor_from_trusted_cert(&der).ok()?.to_owned();
        let alone = path.anchor().name_constraints.is_none();
        alone.then_some(Self { anchor, not_after })
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// The key of a chain, or of a part of it.
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

impl<T, const MOST: usize> Default for Remembered<T, MOST> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone, const MOST: usize> Remembered<T, MOST> {
    /// What was said of `key`, if that still holds at `at`.
    pub(super) fn recall(&self, key: &Key, at: UnixTime) -> Option<T> {
        let known = self.known();
        let known = known.get(key)?;
        (known.from <= at && at < known.until).then(|| known.verdict.clone())
    }

    /// Remembers what was said of `key` at `from`, which stays true before `until`.
    pub(super) fn remember(&self, key: Key, verdict: T, from: UnixTime, until: UnixTime) {
        let mut known = self.known();
        if known.len() >= MOST {
            known.clear();
        }
        let new = Known {
            verdict,
            from,
            until,
        };
        known.insert(key, new);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Known<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
