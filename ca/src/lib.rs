//! The certificate authority and the agents that get certificates from it.
//!
//! Server: [`CertificateAuthority`] keeps root and intermediate in a sealed file and issues X.509-SVIDs – template,
//! sign, check before release. [`IssuerService`] answers agents over gRPC once an [`Attestor`] has said who they are.
//!
//! Agent: [`Agent`] makes a key in memory, asks for a certificate, renews it at half its life and publishes
//! [`reeve_svid::Credentials`]. [`serve_agent_socket`] hands them to the workload itself by the SPIFFE Workload API
//! and Envoy's SDS.
//!
//! Invariants: a signing request contributes its public key and nothing else; an identity is issued only to a caller
//! whom an attestor entitled to it; a workload's private key never leaves the agent's process but to the attested workload.

mod agent;
mod agent_socket;
mod attest;
mod authority;
mod csr;
mod issuer;
mod join;
mod sds;
mod seal;
mod store;
mod template;
mod unix_peer;
mod workload_api;

/// Generated from `proto/`.
#[expect(
    missing_docs,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated code"
)]
pub mod proto {
    /// Issuing.
    pub mod issuer {
        tonic::include_proto!("reeve.ca.v1");
    }
    /// The SPIFFE Workload API.
    pub mod workload {
        tonic::include_proto!("_");
    }
}

pub use agent::{Agent, AgentHandle, AgentOptions, AgentStatus, ChannelFactory};
pub use agent_socket::{AgentSocketError, serve_agent_socket};
pub use attest::{
    AttestError, Attestor, CallerEvidence, IdentityEvents, PeerAttestor, RefusedIdentity,
};
pub use authority::{CaError, CaOptions, CertificateAuthority, IssueError, IssuedSvid, Store};
pub use csr::CsrError;
pub use issuer::IssuerService;
pub use join::{JoinError, JoinTokens};
pub use seal::{SealError, SealKey};
pub use unix_peer::{PeerStream, UnixPeer, accept_peers};
