//! The one verification of certificate chains: handshakes, commands and tests all use it.

use reeve_core::{SpiffeId, SpiffeIdError, TrustDomain, UnixTime};
use rustls_pki_types::{CertificateDer, UnixTime as PkiTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use crate::{SvidProfile, TrustBundle};

/// Longest chain accepted, leaf included.
const MAX_CHAIN: usize = 8;

/// What a certificate is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Its holder connects.
    Client,
    /// Its holder listens.
    Server,
}

/// The one reason why a chain is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// The chain is empty.
    #[error("there is no certificate")]
    NoCertificate,
    /// More than eight certificates.
    #[error("the chain has {0} certificates; at most 8 are allowed")]
    ChainTooLong(usize),
    /// The leaf, or an extension of it, cannot be parsed.
    #[error("the certificate cannot be parsed")]
    Malformed,
    /// Bytes follow the certificate.
    #[error("bytes follow the certificate")]
    TrailingData,
    /// The leaf is a CA certificate.
    #[error("the certificate is a CA certificate, not a leaf")]
    LeafIsCa,
    /// The leaf has no key usage extension.
    #[error("the certificate has no key usage")]
    NoKeyUsage,
    /// The leaf may sign certificates or CRLs.
    #[error("the certificate may sign certificates or CRLs, which a leaf must not")]
    LeafMaySign,
    /// The leaf may not sign handshakes.
    #[error("the certificate's key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// No URI SAN.
    #[error("the certificate has no URI name")]
    NoUri,
    /// More than one URI SAN.
    #[error("the certificate has {0} URI names; an SVID has exactly one")]
    SeveralUris(usize),
    /// The URI SAN is no SPIFFE ID.
    #[error("the certificate's URI is not a SPIFFE ID: {0}")]
    BadId(SpiffeIdError),
    /// The SPIFFE ID names the trust domain itself, which no leaf may.
    #[error("the certificate's SPIFFE ID has no path")]
    NoPath,
    /// The identity belongs to another trust domain than the bundle.
    #[error("{id} is not in trust domain {expected}")]
    WrongTrustDomain {
        /// The certificate's identity.
        id: SpiffeId,
        /// The bundle's trust domain.
        expected: TrustDomain,
    },
    /// Extended key usage excludes the purpose.
    #[error("the certificate may not be used as a TLS {}", match .0 { Purpose::Client => "client", Purpose::Server => "server" })]
    WrongPurpose(Purpose),
    /// Not valid yet.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// Expired.
    #[error("the certificate has expired")]
    Expired,
    /// No authority of the bundle vouches for it.
    #[error("no authority in the bundle issued the certificate")]
    UnknownIssuer,
    /// A signature in the chain is wrong.
    #[error("a signature in the chain is wrong")]
    BadSignature,
    /// The private key is no P-256 key in PKCS#8.
    #[error("the private key is not a P-256 key in PKCS#8")]
    BadKey,
    /// The private key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// Any other fault of the path (RFC 5280, section 6).
    #[error("the chain is not valid: {0}")]
    Path(String),
}

/// A peer whose certificate chain was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    profile: SvidProfile,
}

impl VerifiedPeer {
    /// Who it is.
    pub fn id(&self) -> &SpiffeId {
        &self.profile.id
    }

    /// When its certificate ends; no connection outlives this.
    pub fn not_after(&self) -> UnixTime {
        self.profile.not_after
    }

    /// The certificate's serial number, lower-case hex.
    pub fn serial(&self) -> &str {
        &self.profile.serial
    }
}

/// Verifies a chain, leaf first, against the authorities of its trust domain.
pub fn verify_svid(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    at: UnixTime,
    purpose: Purpose,
) -> Result<VerifiedPeer, SvidError> {
    let (leaf, intermediates) = chain.split_first().ok_or(SvidError::NoCertificate)?;
    if chain.len() > MAX_CHAIN {
        return Err(SvidError::ChainTooLong(chain.len()));
    }
    let profile = SvidProfile::parse(leaf)?;
    if !profile.id.is_member_of(bundle.trust_domain()) {
        return Err(SvidError::WrongTrustDomain {
            id: profile.id,
            expected: bundle.trust_domain().clone(),
        });
    }
    if !profile.allows(purpose) {
        return Err(SvidError::WrongPurpose(purpose));
    }
    if at < profile.not_before {
        return Err(SvidError::NotYetValid);
    }
    if at > profile.not_after {
        return Err(SvidError::Expired);
    }
    verify_path(leaf, intermediates, bundle, at)?;
    Ok(VerifiedPeer { profile })
}

/// RFC 5280 path validation from the leaf to one of the bundle's authorities.
fn verify_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    at: UnixTime,
) -> Result<(), SvidError> {
    let leaf = EndEntityCert::try_from(leaf).map_err(|_| SvidError::Malformed)?;
    let anchors: Result<Vec<_>, _> = bundle
        .authorities()
        .iter()
        .map(webpki::anchor_from_trusted_cert)
        .collect();
    let anchors = anchors.map_err(|e| SvidError::Path(e.to_string()))?;
    let time = PkiTime::since_unix_epoch(at.since(UnixTime::default()));
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        intermediates,
        time,
        AnyUsage,
        None,
        None,
    )
    .map(|_| ())
    .map_err(path_error)
}

fn path_error(error: webpki::Error) -> SvidError {
    if let webpki::Error::CertExpired { .. } = error {
        SvidError::Expired
    } else if let webpki::Error::CertNotValidYet { .. } = error {
        SvidError::NotYetValid
    } else if error == webpki::Error::UnknownIssuer {
        SvidError::UnknownIssuer
    } else if error == webpki::Error::InvalidSignatureForPublicKey {
        SvidError::BadSignature
    } else {
        SvidError::Path(error.to_string())
    }
}

/// The leaf's extended key usage is checked by [`SvidProfile`]; authorities need none.
struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}
