//! Verifying a chain against a trust bundle, with the exact reason when it is refused.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use reeve_core::{SpiffeId, SpiffeIdError, TrustDomain, UnixTime};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls_pki_types::CertificateDer;
use webpki::{EndEntityCert, Error as PathError, KeyUsage};

use crate::{
    TrustBundle,
    profile::{self, Leaf, Validity},
};

mod memory;

use memory::KnownIssuer;
pub(crate) use memory::Memory;

/// Making a provider anew costs a dozen allocations.
static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
    LazyLock::new(|| aws_lc_rs::default_provider().signature_verification_algorithms);

/// Most certificates in a chain. Ours have two.
const MAX_CHAIN: usize = 8;

/// In which part of TLS the certificate is used (extended key usage, RFC 5280 section 4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The peer is the TLS client.
    Client,
    /// The peer is the TLS server.
    Server,
}

/// A peer whose chain was verified: the only proof of identity in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    id: SpiffeId,
    not_after: UnixTime,
    serial: String,
}

impl VerifiedPeer {
    /// Who the peer is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The last second at which its chain is valid; no connection outlives it.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// The leaf's serial number in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }
}

/// Why a certificate, a chain or a key is refused. Positions count from the leaf, which is 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// No certificate at all.
    #[error("the chain is empty")]
    EmptyChain,
    /// More than 8 certificates.
    #[error("a chain has at most {MAX_CHAIN} certificates, not {found}")]
    ChainTooLong {
        /// How many there were.
        found: usize,
    },
    /// More than 16 KiB.
    #[error("certificate {position} is larger than 16 KiB")]
    CertificateTooLarge {
        /// Which certificate.
        position: usize,
    },
    /// Not a DER-encoded certificate, or an extension in it cannot be read.
    #[error("certificate {position} is not well-formed")]
    Malformed {
        /// Which certificate.
        position: usize,
    },
    /// Bytes after the certificate.
    #[error("certificate {position} is followed by other bytes")]
    TrailingData {
        /// Which certificate.
        position: usize,
    },
    /// X.509 version 1 or 2, which has no names or usages.
    #[error("certificate {position} is not X.509 version 3")]
    NotVersion3 {
        /// Which certificate.
        position: usize,
    },
    /// The same extension twice (RFC 5280 section 4.2).
    #[error("certificate {position} has an extension twice")]
    DuplicateExtension {
        /// Which certificate.
        position: usize,
    },
    /// Not the signature algorithm within that there is without (RFC 5280 section 4.1.1.2).
    #[error("certificate {position} names two signature algorithms")]
    AlgorithmMismatch {
        /// Which certificate.
        position: usize,
    },
    /// A serial number that is zero, negative or longer than 20 octets (RFC 5280 section 4.1.2.2).
    #[error("certificate {position} has an illegal serial number")]
    BadSerial {
        /// Which certificate.
        position: usize,
    },
    /// No URI among the subject's alternative names.
    #[error("the certificate has no URI name, hence no SPIFFE ID")]
    NoUriName,
    /// More than one URI among the subject's alternative names.
    #[error("a certificate has exactly one URI name, not {found}")]
    ManyUriNames {
        /// How many there were.
        found: usize,
    },
    /// The URI is not a SPIFFE ID.
    #[error("the URI name is not a SPIFFE ID")]
    BadSpiffeId(#[source] SpiffeIdError),
    /// The leaf's SPIFFE ID names a trust domain, not a workload.
    #[error("{0} names a trust domain, not a workload")]
    LeafWithoutPath(SpiffeId),
    /// The leaf is a CA.
    #[error("the leaf is a CA certificate")]
    LeafIsCa,
    /// No key usage.
    #[error("the leaf states no key usage")]
    NoKeyUsage,
    /// The leaf's key usage is not marked critical (SPIFFE X509-SVID section 4.3).
    #[error("the leaf's key usage is not critical")]
    KeyUsageNotCritical,
    /// The leaf may sign certificates.
    #[error("the leaf may sign certificates")]
    LeafMaySignCertificates,
    /// The leaf may sign revocation lists.
    #[error("the leaf may sign revocation lists")]
    LeafMaySignCrls,
    /// The leaf may not sign handshakes.
    #[error("the leaf's key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// The extended key usage is for something else.
    #[error("the certificate is not for use as TLS {0}")]
    WrongPurpose(Purpose),
    /// A certificate after the leaf that is not a CA.
    #[error("certificate {position} is not a CA certificate")]
    IssuerIsNotCa {
        /// Which certificate.
        position: usize,
    },
    /// A certificate after the leaf whose key usage lacks keyCertSign.
    #[error("certificate {position} may not sign certificates")]
    IssuerMayNotSign {
        /// Which certificate.
        position: usize,
    },
    /// A signing certificate whose SPIFFE ID names a workload.
    #[error("certificate {position} may sign, but names the workload {id}")]
    IssuerWithPath {
        /// Which certificate.
        position: usize,
        /// What it names.
        id: SpiffeId,
    },
    /// A signing certificate of another trust domain than the leaf's.
    #[error("certificate {position} belongs to trust domain {found}")]
    IssuerOfOtherDomain {
        /// Which certificate.
        position: usize,
        /// Whose it is.
        found: TrustDomain,
    },
    /// Not valid yet.
    #[error("certificate {position} is not valid yet")]
    NotYetValid {
        /// Which certificate.
        position: usize,
        /// From when it is.
        not_before: UnixTime,
    },
    /// Not valid any more.
    #[error("certificate {position} has expired")]
    Expired {
        /// Which certificate.
        position: usize,
        /// Until when it was.
        not_after: UnixTime,
    },
    /// The chain leads to an authority of the bundle that is itself not valid now.
    #[error("the authority that the chain leads to is not valid at this time")]
    AuthorityNotValid,
    /// The bundle is of another trust domain than the leaf.
    #[error("the certificate belongs to trust domain {found}, the bundle to {expected}")]
    ForeignTrustDomain {
        /// The bundle's.
        expected: TrustDomain,
        /// The leaf's.
        found: TrustDomain,
    },
    /// No authority of the bundle issued it.
    #[error("no authority of the trust bundle issued the chain")]
    UnknownIssuer,
    /// A signature in the chain does not verify.
    #[error("a signature in the chain does not verify")]
    BadSignature,
    /// A signature or key algorithm that we do not accept.
    #[error("the chain uses an algorithm that is not accepted")]
    UnsupportedAlgorithm,
    /// A critical extension that we do not know.
    #[error("the chain has a critical extension that is not known")]
    UnknownCriticalExtension,
    /// The chain is longer than one of its issuers allows.
    #[error("the chain is longer than one of its issuers allows")]
    PathTooLong,
    /// A name constraint of an issuer excludes the leaf.
    #[error("a name constraint of an issuer excludes the certificate")]
    NameConstraint,
    /// Any other fault of the path, in webpki's words.
    #[error("the chain does not verify: {0}")]
    Path(PathError),
    /// A valid identity, but not one of those expected here.
    #[error("the peer is {found}, which is not expected here")]
    UnexpectedId {
        /// Who it is.
        found: SpiffeId,
    },
    /// A valid certificate that the operator has revoked, by its serial number.
    #[error("the certificate {serial} of {id} is revoked")]
    RevokedCertificate {
        /// Whose it is.
        id: SpiffeId,
        /// Its serial number.
        serial: String,
    },
    /// A valid certificate of an identity that the operator has revoked.
    #[error("{0} is revoked")]
    RevokedId(SpiffeId),
    /// A private key in another form than PKCS#8.
    #[error("the private key is not in PKCS#8 form")]
    KeyNotPkcs8,
    /// A private key that cannot be read, or of an algorithm that TLS does not use.
    #[error("the private key cannot be used")]
    UnsupportedKey,
    /// The private key belongs to another certificate.
    #[error("the private key is not that of the leaf certificate")]
    KeyMismatch,
}

/// Verifies a chain (leaf first) for use at `at`: the SPIFFE profile of each certificate, validity, and the path to an
/// authority of the bundle. A bundle remembers the chains that it verified.
pub fn verify_svid(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    at: UnixTime,
    purpose: Purpose,
) -> Result<VerifiedPeer, SvidError> {
    if chain.len() > MAX_CHAIN {
        return Err(SvidError::ChainTooLong { found: chain.len() });
    }
    let key = memory::key(chain, purpose);
    let known = &bundle.verified().chains;
    if let Some(peer) = known.recall(&key, at) {
        return Ok(peer);
    }
    let peer = match by_known_issuer(chain, bundle, at, purpose) {
        Some(peer) => peer,
        None => verify_path(chain, bundle, at, purpose)?,
    };
    check_revoked(&peer, bundle)?;
    let until = peer.not_after.min(bundle.steady_until(at));
    known.remember(key, peer.clone(), at, until);
    Ok(peer)
}

/// The peer, if its issuer is remembered and all is well. Otherwise nothing is said: the whole path gives the reason.
fn by_known_issuer(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    at: UnixTime,
    purpose: Purpose,
) -> Option<VerifiedPeer> {
    let (first, issuers) = chain.split_first()?;
    let key = memory::key(issuers, purpose);
    let issuer = bundle.verified().issuers.recall(&key, at)?;
    let leaf = profile::check_leaf(first).ok()?;
    let anchor = std::slice::from_ref(&issuer.anchor);
    let alone = std::slice::from_ref(first);
    check_path(alone, anchor, at, purpose).ok()?;
    let ours = leaf.id.is_member_of(bundle.trust_domain());
    (ours && leaf.validity.covers(at)).then(|| VerifiedPeer {
        not_after: issuer.not_after.min(leaf.validity.not_after),
        id: leaf.id,
        serial: leaf.serial,
    })
}

/// Verifies a chain as [`verify_svid`] does, by the bundle of the trust domain that its leaf names: `bundle` itself or one
/// that is federated with it. An identity that `bundle` revokes is refused whoever vouches for it.
///
/// SECURITY: one bundle alone judges a chain: no trust domain's authorities speak for another's workloads.
pub fn verify_peer(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    at: UnixTime,
    purpose: Purpose,
) -> Result<VerifiedPeer, SvidError> {
    if bundle.federated().is_empty() {
        return verify_svid(chain, bundle, at, purpose);
    }
    let leaf = profile::check_leaf(chain.first().ok_or(SvidError::EmptyChain)?)?;
    let judge = bundle.of(&leaf.id.trust_domain()).unwrap_or(bundle);
    let peer = verify_svid(chain, judge, at, purpose)?;
    match bundle.revoked().covers_id(&peer.id) {
        true => Err(SvidError::RevokedId(peer.id)),
        false => Ok(peer),
    }
}

fn verify_path(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    at: UnixTime,
    purpose: Purpose,
) -> Result<VerifiedPeer, SvidError> {
    let leaf = check_profile(chain)?;
    if !leaf.id.is_member_of(bundle.trust_domain()) {
        return Err(SvidError::ForeignTrustDomain {
            expected: bundle.trust_domain().clone(),
            found: leaf.id.trust_domain(),
        });
    }
    leaf.validity.check(0, at)?;
    let (anchors, some_left_out) = bundle.anchors_at(at);
    let (not_after, issuer) = match check_path(chain, &anchors, at, purpose) {
        Err(SvidError::UnknownIssuer) if some_left_out => {
            check_path(chain, &bundle.anchors_of_any_time(), at, purpose)?;
            return Err(SvidError::AuthorityNotValid);
        }
        result => result?,
    };
    if let (Some(issuer), Some((_, issuers))) = (issuer, chain.split_first()) {
        let key = memory::key(issuers, purpose);
        let until = not_after.min(bundle.steady_until(at));
        let known = &bundle.verified().issuers;
        known.remember(key, Arc::new(issuer), at, until);
    }
    Ok(VerifiedPeer {
        not_after: not_after.min(leaf.validity.not_after),
        id: leaf.id,
        serial: leaf.serial,
    })
}

/// Of a chain that verifies: whether it is refused all the same.
fn check_revoked(peer: &VerifiedPeer, bundle: &TrustBundle) -> Result<(), SvidError> {
    let revoked = bundle.revoked();
    if revoked.covers_id(&peer.id) {
        return Err(SvidError::RevokedId(peer.id.clone()));
    }
    match revoked.covers_serial(&peer.serial) {
        true => Err(SvidError::RevokedCertificate {
            id: peer.id.clone(),
            serial: peer.serial.clone(),
        }),
        false => Ok(()),
    }
}

/// The profile of every certificate of a chain.
pub(crate) fn check_profile(chain: &[CertificateDer<'_>]) -> Result<Leaf, SvidError> {
    if chain.len() > MAX_CHAIN {
        return Err(SvidError::ChainTooLong { found: chain.len() });
    }
    let (first, issuers) = chain.split_first().ok_or(SvidError::EmptyChain)?;
    let leaf = profile::check_leaf(first)?;
    let domain = leaf.id.trust_domain();
    for (position, issuer) in (1..).zip(issuers) {
        let (_, id) = profile::check_signing(position, issuer)?;
        if let Some(id) = id.filter(|id| !id.is_member_of(&domain)) {
            let found = id.trust_domain();
            return Err(SvidError::IssuerOfOtherDomain { position, found });
        }
    }
    Ok(leaf)
}

/// Builds the path; returns the earliest end of the intermediates on it, and the leaf's issuer, if that can stand for it.
fn check_path(
    chain: &[CertificateDer<'_>],
    anchors: &[rustls_pki_types::TrustAnchor<'_>],
    at: UnixTime,
    purpose: Purpose,
) -> Result<(UnixTime, Option<KnownIssuer>), SvidError> {
    let (first, issuers) = chain.split_first().ok_or(SvidError::EmptyChain)?;
    let explain = |error| explain(error, issuers, at, purpose);
    let leaf = EndEntityCert::try_from(first).map_err(explain)?;
    let usage = match purpose {
        Purpose::Client => KeyUsage::client_auth(),
        Purpose::Server => KeyUsage::server_auth(),
    };
    let time = rustls_pki_types::UnixTime::since_unix_epoch(at.since(UnixTime::default()));
    let path = leaf
        .verify_for_usage(ALGORITHMS.all, anchors, issuers, time, usage, None, None)
        .map_err(explain)?;
    let mut earliest = UnixTime::from_millis(u64::MAX);
    for issuer in path.intermediate_certificates() {
        let (validity, _) = profile::check_signing(1, &issuer.der())?;
        earliest = earliest.min(validity.not_after);
    }
    Ok((earliest, KnownIssuer::of(&path, earliest)))
}

/// Our reason for webpki's error.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "webpki's error is open-ended; what has no reason of its own keeps webpki's"
)]
fn explain(
    error: PathError,
    issuers: &[CertificateDer<'_>],
    at: UnixTime,
    purpose: Purpose,
) -> SvidError {
    match error {
        PathError::CertExpired { .. } | PathError::CertNotValidYet { .. } => {
            let out_of_time = |(position, der)| {
                let (validity, _): (Validity, _) = profile::check_signing(position, der).ok()?;
                validity.check(position, at).err()
            };
            let found = (1..).zip(issuers).find_map(out_of_time);
            found.unwrap_or(SvidError::UnknownIssuer)
        }
        PathError::UnknownIssuer => SvidError::UnknownIssuer,
        PathError::InvalidSignatureForPublicKey => SvidError::BadSignature,
        PathError::RequiredEkuNotFoundContext(_) | PathError::EmptyEkuExtension => {
            SvidError::WrongPurpose(purpose)
        }
        PathError::UnsupportedCriticalExtension => SvidError::UnknownCriticalExtension,
        PathError::PathLenConstraintViolated | PathError::MaximumPathDepthExceeded => {
            SvidError::PathTooLong
        }
        PathError::NameConstraintViolation => SvidError::NameConstraint,
        PathError::BadDer
        | PathError::BadDerTime
        | PathError::TrailingData(_)
        | PathError::MalformedExtensions => SvidError::Malformed { position: 0 },
        PathError::UnsupportedSignatureAlgorithmContext(_)
        | PathError::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            SvidError::UnsupportedAlgorithm
        }
        other => SvidError::Path(other),
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

#[cfg(test)]
mod tests;
