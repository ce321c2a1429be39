//! Trust bundles: the authorities that certificates of one trust domain are checked against.

use reeve_core::TrustDomain;
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// Most authorities one bundle may hold: an active root, its predecessors and successors.
pub const MAX_AUTHORITIES: usize = 32;

/// The authorities of one trust domain, with a number that grows whenever they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    authorities: Vec<CertificateDer<'static>>,
    sequence: u64,
}

/// Why a bundle cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No certificate at all: such a bundle would trust nobody.
    #[error("the bundle holds no certificate")]
    Empty,
    /// More than [`MAX_AUTHORITIES`].
    #[error("the bundle holds {0} certificates; at most {MAX_AUTHORITIES} are allowed")]
    TooMany(usize),
    /// An entry is no X.509 certificate.
    #[error("certificate {index} of the bundle cannot be read")]
    Malformed {
        /// Which one, from 1.
        index: usize,
        /// What the parser said.
        #[source]
        source: webpki::Error,
    },
    /// The text is not PEM.
    #[error("the bundle is not PEM: {0}")]
    Pem(String),
}

impl TrustBundle {
    /// A bundle of DER certificates, each of which must parse.
    pub fn new(
        trust_domain: TrustDomain,
        authorities: Vec<CertificateDer<'static>>,
        sequence: u64,
    ) -> Result<Self, BundleError> {
        if authorities.is_empty() {
            return Err(BundleError::Empty);
        }
        if authorities.len() > MAX_AUTHORITIES {
            return Err(BundleError::TooMany(authorities.len()));
        }
        for (i, authority) in authorities.iter().enumerate() {
            webpki::anchor_from_trusted_cert(authority).map_err(|source| {
                BundleError::Malformed {
                    index: i + 1,
                    source,
                }
            })?;
        }
        Ok(Self {
            trust_domain,
            authorities,
            sequence,
        })
    }

    /// Reads the `CERTIFICATE` blocks of a PEM text.
    pub fn from_pem(
        trust_domain: TrustDomain,
        pem: &str,
        sequence: u64,
    ) -> Result<Self, BundleError> {
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let certificates = certificates.map_err(|e| BundleError::Pem(e.to_string()))?;
        Self::new(trust_domain, certificates, sequence)
    }

    /// The authorities as PEM.
    pub fn to_pem(&self) -> String {
        self.authorities
            .iter()
            .map(|der| crate::svid::pem("CERTIFICATE", der))
            .collect()
    }

    /// Whose bundle it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authorities, DER.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// Grows with every change.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}
