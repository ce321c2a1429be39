//! Identities for workloads: the certificate authority that issues them, and the agent that holds one.
//!
//! Flow: [`CertificateAuthority`] keeps a root and an intermediate in a sealed file and signs what [`IssuerService`]
//! asks for, once an [`Attestor`], a join token or an earlier SVID has said who the caller is. [`Agent`] makes a key in
//! memory, gets it certified, renews it at half-life, and publishes [`Credentials`](reeve_svid::Credentials).
//! [`serve_agent_socket`] hands them on over a Unix socket: SPIFFE Workload API and Envoy SDS. A [`NodeAgent`] does so for
//! processes that [registration entries](Entries) speak of.
//!
//! Invariants: a certificate is built from our template alone, never from what the request asks for but its public key,
//! and is checked again before it leaves; a leaf never outlives its issuer; a workload's key touches no disk; every
//! refusal is reported to [`IdentityEvents`].

mod address;
mod agent;
mod attest;
mod authority;
mod codec;
mod csr;
mod custody;
mod entries;
mod events;
mod faults;
mod follow;
mod identities;
mod issuer;
#[cfg(test)]
mod joining;
mod listen;
mod members;
mod node;
pub mod proto;
mod queue;
mod seal;
mod socket;
mod token;

pub use address::{MeshAddress, MeshAddressError, MeshListener, MeshStream};
pub use agent::{
    Agent, AgentError, AgentHandle, AgentOptions, AgentStatus, BundleStream, ChannelError,
    GrpcIssuer, Issued, IssuerChannel, IssuerClient, JwtIssued, JwtSource, LocalIssuer,
    ReportStream, TrustStream, Urgency,
};
pub use attest::{AttestError, Attestation, Attestor, Attestors, Evidence, UnixAttestor, UnixPeer};
pub use authority::{
    Attested, AuthorityEnd, AuthorityStatus, CaError, CaOptions, CertificateAuthority, ClockStep,
    CustodyStatus, IssueError, IssuedJwt, IssuedSvid, Revocation, RevokeError, RevokeTarget,
    Rotate, RotateError, Rotation, RotationCause, RotationStatus, RotationStep, Store,
    UpstreamError, UpstreamStatus, Waiting,
};
pub use csr::CsrError;
pub use custody::{KeyName, KeyVault, SIGNATURE_BYTES, VaultError, VaultKey, VaultName};
pub use entries::{Entries, EntryList, EntryStatus, EntryUse};
pub use events::{
    Caller, Credential, IdentityEvents, IssuedIdentity, LogEvents, RefusalReason, RefusedIdentity,
    RevocationEnd, RevocationEvent, RotationEvent, ToldRefusal,
};
pub use faults::{
    AuthorityFault, FaultRefused, Faults, HeldFault, MAX_FAULT_LEASE, MAX_FAULT_TIME, MAX_SKEW,
};
pub use follow::{Report, Trust};
pub use identities::{Identities, IdentitySource, OneIdentity};
pub use issuer::{IssuerDoor, IssuerService};
pub use listen::{TlsConnection, TlsPeer, UnixConnection, tls_incoming, unix_incoming};
pub use members::{Holding, MemberName, MemberStatus};
pub use node::{NodeAgent, ToldEvents};
pub use seal::{SealError, SealKey};
pub use socket::{SocketError, serve_agent_socket};
pub use token::{JoinTokens, TokenError};
