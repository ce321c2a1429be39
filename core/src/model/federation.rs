//! Federation with other trust domains (SPIFFE Federation): whose bundles are fetched from where, and where ours is served.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    SpiffeId, TrustDomain,
    model::{SecretName, TlsSecret},
};

/// Another trust domain whose workloads are known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederatedDomain {
    /// Its name.
    pub trust_domain: TrustDomain,
    /// Where its bundle is fetched from; without it, the bundle below stays.
    pub endpoint: Option<BundleEndpoint>,
    /// The bundle to begin with: a SPIFFE bundle document, or certificates in PEM.
    pub bundle: Option<Arc<str>>,
}

/// A bundle endpoint of another trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleEndpoint {
    /// An `https` URL.
    pub url: String,
    /// How it is known.
    pub profile: EndpointProfile,
}

/// How a bundle endpoint is known (SPIFFE Federation, section 5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointProfile {
    /// `https_web`: by a certificate of the web for its name.
    Web,
    /// `https_spiffe`: by an X.509-SVID with this SPIFFE ID.
    Spiffe(SpiffeId),
}

impl fmt::Display for EndpointProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Web => "https_web",
            Self::Spiffe(_) => "https_spiffe",
        })
    }
}

/// Mesh-wide settings of federation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FederationSettings {
    /// Where our own bundle is served, if anywhere.
    pub serving: Option<BundleServing>,
    /// Authorities that endpoints of profile `https_web` are judged by in place of the public ones: PEM.
    pub authorities: Option<String>,
    /// Whether endpoints may be at loopback and link-local addresses.
    pub danger_allow_internal_endpoints: bool,
}

/// Where our own bundle is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleServing {
    /// The address.
    pub address: SocketAddr,
    /// The secret with the web's certificate (`https_web`); none: the mesh's own SVID is shown (`https_spiffe`).
    pub certificate: Option<SecretName>,
    /// How often those who read it are to look for a newer one, in whole seconds.
    pub refresh_hint: Duration,
}

/// What federation is to be, as one value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Federation {
    /// Mesh-wide settings.
    pub settings: FederationSettings,
    /// The certificate that `settings.serving` names.
    pub certificate: Option<Arc<TlsSecret>>,
    /// The other trust domains, ordered by name.
    pub domains: Vec<FederatedDomain>,
}
