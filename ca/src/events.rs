//! What is told about identities: who got one, who was refused one and why.

use std::{fmt, time::Duration};

use reeve_core::{EntryName, SpiffeId, UnixTime};

use crate::{
    AttestError, AuthorityFault, CsrError, Revocation, Rotate, Rotation, TokenError, UnixPeer,
    Waiting, proto::issuer::Refusal,
};

/// Longest piece of a caller's own text that is passed on.
const MAX_TEXT: usize = 256;
/// Most refusals that an agent tells at once.
pub(crate) const MAX_TOLD_AT_ONCE: usize = 64;

/// Where issuing and refusing is reported; the audit log stands behind it. Must not block.
pub trait IdentityEvents: fmt::Debug + Send + Sync {
    /// An identity was refused.
    fn refused(&self, event: RefusedIdentity);
    /// An agent on another machine says that it refused somebody.
    fn refused_elsewhere(&self, agent: &SpiffeId, refusal: &ToldRefusal) {
        tracing::warn!(%agent, ?refusal, "identity refused");
    }
    /// There was no room to wait for a certificate.
    fn overloaded(&self) {}
    /// Nobody was asked who it is: the authority is faulty on purpose.
    fn unavailable(&self, _fault: AuthorityFault) {}
    /// An identity was issued.
    fn issued(&self, event: IssuedIdentity);
    /// Authorities or certificates are rotated.
    fn rotated(&self, event: &RotationEvent);
    /// Something is refused from now on, or no longer.
    fn revoked(&self, event: &RevocationEvent);
}

/// What is rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationEvent {
    /// What the operator asked for; none when a rotation moved on by itself.
    pub asked: Option<Rotate>,
    /// Where the root's rotation stands; none when there is none, or when it is over.
    pub rotation: Option<Rotation>,
    /// Counts the times that everybody was told to renew.
    pub renewal: u64,
    /// Sequence of the trust bundle.
    pub bundle_sequence: u64,
    /// SHA-256 of the root that signs, in hexadecimal.
    pub root_sha256: String,
    /// Who had not followed when the step before was ended by force.
    pub not_waited_for: Waiting,
}

/// What is revoked, or is no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationEvent {
    /// What.
    pub revocation: Revocation,
    /// Why it is refused no longer, if so.
    pub ended: Option<RevocationEnd>,
}

/// Why something is refused no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevocationEnd {
    /// The operator said so.
    Operator,
    /// Its time is over.
    Over,
}

impl RevocationEnd {
    /// One word for records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Over => "over",
        }
    }
}

/// Somebody asked for an identity and did not get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedIdentity {
    /// Who asked.
    pub caller: Caller,
    /// What was asked for, in the caller's own words (cut to 256 bytes).
    pub requested: Option<String>,
    /// Why not.
    pub reason: RefusalReason,
}

/// Somebody was refused by an agent on another machine, as that says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToldRefusal {
    /// One refusal; every text is cut to 256 bytes.
    One {
        /// When, by the agent's clock.
        at: UnixTime,
        /// Who asked.
        caller: String,
        /// What was asked for; empty if nothing was named.
        requested: String,
        /// Why not, in one word.
        reason: String,
        /// Why not.
        text: String,
    },
    /// Further ones that the agent could not keep.
    LeftOut(u64),
}

/// Somebody got an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedIdentity {
    /// Who asked.
    pub caller: Caller,
    /// The identity.
    pub id: SpiffeId,
    /// The registration entry that it was issued under, if so.
    pub entry: Option<EntryName>,
    /// As what.
    pub credential: Credential,
    /// Until when it is valid.
    pub not_after: UnixTime,
    /// How long it took, attestation included.
    pub took: Duration,
}

/// In which form an identity was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A certificate.
    X509 {
        /// The leaf's serial number in hexadecimal.
        serial: String,
    },
    /// A token.
    Jwt {
        /// The key that signed it.
        key_id: String,
        /// For whom it is.
        audience: Vec<String>,
    },
}

/// How a caller is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A local process, as the kernel says.
    Process {
        /// Process id.
        pid: u32,
        /// User id.
        uid: u32,
    },
    /// A workload that proved itself by mutual TLS.
    Workload(SpiffeId),
    /// Somebody elsewhere, known only by address.
    Remote(String),
    /// Nothing is known.
    Unknown,
}

/// Why an identity was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    /// What was asked for is not a SPIFFE ID.
    #[error("the name asked for is not a SPIFFE ID")]
    NotASpiffeId,
    /// The caller could not be attested.
    #[error("the caller was not attested: {0}")]
    NotAttested(#[source] AttestError),
    /// The caller is known, but this identity is not its own.
    #[error("the caller is not entitled to this identity")]
    NotEntitled,
    /// The join token does not open this door.
    #[error("the join token was refused: {0}")]
    Token(#[source] TokenError),
    /// The certificate request is not acceptable.
    #[error("the certificate request was refused: {0}")]
    Request(#[source] CsrError),
    /// A token was asked for without saying for whom, or for too many.
    #[error("the token's audiences are missing, too many or too long")]
    Audience,
    /// The registration entry does not allow tokens for one of the audiences.
    #[error("the registration entry allows no tokens for such an audience")]
    AudienceNotAllowed,
    /// There is no registration entry of that name, or it is another agent's.
    #[error("the caller may not ask under this registration entry")]
    NoSuchEntry,
    /// The certificate that the caller was known by was issued under a registration entry.
    #[error("a certificate issued under a registration entry is renewed by its agent alone")]
    UnderEntry,
    /// Neither a certificate, nor a token, nor a local process.
    #[error("the caller showed nothing to be known by")]
    NoEvidence,
    /// The certificate that the caller was known by has ended since.
    #[error("the certificate that the caller was known by has expired")]
    Expired,
    /// The operator has revoked it.
    #[error("the identity is revoked")]
    Revoked,
    /// The Workload API was called without its security header.
    #[error("the header workload.spiffe.io is missing")]
    NoSecurityHeader,
    /// The certificate authority could not issue.
    #[error("the certificate authority could not issue")]
    IssuerFailed,
}

impl RefusalReason {
    /// One word for records and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NotASpiffeId => "not_a_spiffe_id",
            Self::NotAttested(_) => "not_attested",
            Self::NotEntitled => "not_entitled",
            Self::Token(_) => "token",
            Self::Request(_) => "request",
            Self::Audience => "audience",
            Self::AudienceNotAllowed => "audience_not_allowed",
            Self::NoSuchEntry => "no_such_entry",
            Self::UnderEntry => "under_entry",
            Self::NoEvidence => "no_evidence",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::NoSecurityHeader => "no_security_header",
            Self::IssuerFailed => "issuer_failed",
        }
    }
}

impl From<&UnixPeer> for Caller {
    fn from(peer: &UnixPeer) -> Self {
        Self::Process {
            pid: peer.pid,
            uid: peer.uid,
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, uid } => write!(f, "process {pid} of user {uid}"),
            Self::Workload(id) => id.fmt(f),
            Self::Remote(address) => f.write_str(address),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl RefusedIdentity {
    /// Cuts `requested`, which is a caller's own text, to what may be recorded.
    pub fn new(caller: Caller, requested: Option<&str>, reason: RefusalReason) -> Self {
        Self {
            caller,
            requested: requested.map(cut),
            reason,
        }
    }
}

impl From<Refusal> for ToldRefusal {
    fn from(said: Refusal) -> Self {
        Self::One {
            at: UnixTime::from_millis(said.at_ms),
            caller: cut(&said.caller),
            requested: cut(&said.requested),
            reason: cut(&said.reason),
            text: cut(&said.text),
        }
    }
}

/// As much of somebody else's text as is recorded.
fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_TEXT);
    text.get(..end).unwrap_or_default().to_owned()
}

/// Writes the events to the log and nowhere else.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogEvents;

impl IdentityEvents for LogEvents {
    fn refused(&self, event: RefusedIdentity) {
        let RefusedIdentity {
            caller,
            requested,
            reason,
        } = event;
        tracing::warn!(%caller, requested, %reason, "identity refused");
    }

    fn issued(&self, event: IssuedIdentity) {
        let IssuedIdentity {
            caller,
            id,
            entry,
            credential,
            not_after,
            took,
        } = event;
        tracing::info!(%caller, %id, ?entry, ?credential, not_after_ms = not_after.as_millis(), ?took, "identity issued");
    }

    fn rotated(&self, event: &RotationEvent) {
        tracing::info!(?event, "rotation");
    }

    fn revoked(&self, event: &RevocationEvent) {
        tracing::info!(?event, "revocation");
    }
}
