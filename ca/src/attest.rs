//! Who may have which identity: the questions that attestors answer, and the events of refusals.

use std::fmt;

use futures_util::future::BoxFuture;
use reeve_core::SpiffeId;
use reeve_svid::VerifiedPeer;

use crate::UnixPeer;

/// What is known of a caller that asks for a certificate.
#[derive(Clone, Debug)]
pub enum CallerEvidence {
    /// A process of this machine, at the other end of a Unix socket.
    Process(UnixPeer),
    /// Somebody with a join token.
    JoinToken(String),
    /// A peer that proved an identity by mTLS; it may renew that one.
    Svid(VerifiedPeer),
}

/// For records and logs; says nothing of a token's value.
impl fmt::Display for CallerEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(peer) => peer.fmt(f),
            Self::JoinToken(_) => f.write_str("bearer of a join token"),
            Self::Svid(peer) => peer.id().fmt(f),
        }
    }
}

/// Why an attestor entitles a caller to nothing. The text is for the operator's record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AttestError(pub String);

/// Says which identities a caller is entitled to.
pub trait Attestor: fmt::Debug + Send + Sync {
    /// The identities, or why there are none. For a join token, `requested` is what the token is redeemed for.
    fn attest<'a>(
        &'a self,
        evidence: &'a CallerEvidence,
        requested: &'a SpiffeId,
    ) -> BoxFuture<'a, Result<Vec<SpiffeId>, AttestError>>;
}

/// Says whether a local process belongs to the workload whose agent it asks.
pub trait PeerAttestor: fmt::Debug + Send + Sync {
    /// `Ok` if it does.
    fn attest<'a>(&'a self, peer: &'a UnixPeer) -> BoxFuture<'a, Result<(), AttestError>>;
}

/// A request for an identity that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedIdentity {
    /// The caller, in words.
    pub caller: String,
    /// What it asked for.
    pub requested: String,
    /// Why not.
    pub reason: String,
}

/// Takes note of what identities were given and refused.
pub trait IdentityEvents: fmt::Debug + Send + Sync {
    /// A certificate was issued.
    fn issued(&self, caller: &str, id: &SpiffeId, serial: &str);
    /// A request was refused.
    fn refused(&self, event: RefusedIdentity);
}
