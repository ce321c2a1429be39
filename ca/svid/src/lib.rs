//! SVIDs: holding one, verifying a peer's, and mutual TLS between workloads that have them.
//!
//! Nothing here issues. Flow: the agent in `reeve-ca` puts [`Credentials`] into a [`CredentialsWatch`]; whoever speaks
//! TLS makes one [`MeshTls`] of each version and takes its configurations; after a handshake [`peer_of`] says who the
//! peer is. The rules are those of the SPIFFE X509-SVID standard, and each refusal has its own [`SvidError`].
//!
//! Invariants: a [`VerifiedPeer`] comes only from [`verify_svid`], by the bundle of the trust domain that it names; a
//! private key is zeroed when dropped and never printed; no session is resumed, so that every connection is judged by the
//! credentials and the clock of its moment.

mod bundle;
mod credentials;
mod der;
mod document;
mod federated;
mod jwt;
mod pem;
mod profile;
mod public;
mod revoked;
mod summary;
mod svid;
mod tls;
mod verify;

pub use bundle::{BundleError, TrustBundle};
pub use credentials::{Credentials, CredentialsWatch};
pub use document::{BundleDocument, DocumentError, MAX_DOCUMENT_BYTES};
pub use federated::{Federated, MAX_FEDERATED};
pub use jwt::{JwtKey, JwtSvid, JwtSvidError, verify_jwt_svid};
pub use pem::certificates_from_pem;
pub use public::{
    Authorities, ClientDetails, PeerRules, PublicIdentity, PublicTlsError, ServerCheck, Spoken,
    public_client, public_server,
};
pub use revoked::Revoked;
pub use summary::CertificateSummary;
pub use svid::{SignError, X509Svid};
pub use tls::{
    MeshTls, Realm, TlsError, anonymous_client_config, open_server_config, peer_of, refusal_of,
    server_name, why_refused,
};
pub use verify::{Purpose, SvidError, VerifiedPeer, verify_peer, verify_svid};

/// What a mesh connection carries inside TLS, named by ALPN. A ClientHello with one of these, and only that, is mesh
/// mTLS; an application's own TLS passes through.
pub mod alpn {
    /// HTTP/2.
    pub const H2: &[u8] = b"reeve-h2";
    /// HTTP/1.1.
    pub const HTTP1: &[u8] = b"reeve-http/1.1";
    /// Opaque TCP.
    pub const TCP: &[u8] = b"reeve-tcp";
    /// The same, after the caller's proxy has said whose connection it is.
    pub const NAMED_TCP: &[u8] = b"reeve-tcp-named";
    /// gRPC of the mesh's own services (ALPN `h2`, RFC 9113 section 3.2), which is not a hop between workloads.
    pub const GRPC: &[u8] = b"h2";
}

#[cfg(test)]
mod forge;
#[cfg(test)]
mod surgery;
