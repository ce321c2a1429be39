//! X.509-SVIDs, trust bundles and the TLS that rests on them.
//!
//! Flow: the agent parses what the CA issued into an [`X509Svid`], pairs it with the [`TrustBundle`] as
//! [`Credentials`], and publishes them. Each new version makes a new [`MeshTls`], whose configurations have session
//! storage of their own, so that nothing resumes across a change. Both verifiers and `reeve identity verify` go
//! through [`verify_svid`], and only it makes a [`VerifiedPeer`].
//!
//! Nothing here issues certificates.

pub mod alpn;
mod bundle;
mod profile;
mod svid;
mod tls;
mod verify;

pub use bundle::{BundleError, MAX_AUTHORITIES, TrustBundle};
pub use profile::SvidProfile;
pub use svid::{Credentials, CredentialsWatch, X509Svid};
pub use tls::{MeshTls, TlsError, peer_of};
pub use verify::{Purpose, SvidError, VerifiedPeer, verify_svid};
