//! Trust bundles: the authorities of one trust domain (SPIFFE Trust Domain and Bundle, X509-SVID section 5).

use std::sync::Arc;

use reeve_core::{TrustDomain, UnixTime};
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::{
    Federated, JwtKey, Revoked, SvidError,
    federated::MAX_FEDERATED,
    jwt::{JwtKeys, MAX_JWT_KEYS},
    pem,
    profile::{self, Validity},
    verify::Memory,
};

/// Most authorities in a bundle. A root rotation needs two.
const MAX_AUTHORITIES: usize = 64;

/// The authorities of one trust domain. Never empty; each authority is a CA that may sign.
#[derive(Clone, Debug)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    authorities: Vec<CertificateDer<'static>>,
    anchors: Vec<(Validity, TrustAnchor<'static>)>,
    jwt: Arc<JwtKeys>,
    sequence: u64,
    revoked: Arc<Revoked>,
    federated: Arc<Federated>,
    verified: Memory,
}

/// Why a set of certificates is not a trust bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// No authority at all: such a bundle would trust nobody.
    #[error("a trust bundle has at least one authority")]
    Empty,
    /// More than 64 authorities.
    #[error("a trust bundle has at most {MAX_AUTHORITIES} authorities, not {0}")]
    TooMany(usize),
    /// More than 64 keys that sign JWT-SVIDs.
    #[error("a trust bundle has at most {MAX_JWT_KEYS} keys that sign JWT-SVIDs, not {0}")]
    TooManyJwtKeys(usize),
    /// The text is not PEM.
    #[error("the text is not PEM")]
    NotPem,
    /// A certificate that cannot be an authority.
    #[error("authority {position} cannot sign certificates")]
    BadAuthority {
        /// Which one, from 0.
        position: usize,
        /// What is wrong with it.
        #[source]
        source: SvidError,
    },
    /// An authority that names another trust domain.
    #[error("authority {position} belongs to {found}")]
    ForeignAuthority {
        /// Which one, from 0.
        position: usize,
        /// Whose it is.
        found: TrustDomain,
    },
    /// More than 32 other trust domains.
    #[error("a trust domain is federated with at most {MAX_FEDERATED} others, not {0}")]
    TooManyFederated(usize),
    /// Two bundles of one trust domain, or one of the domain itself among the others.
    #[error("{0} has two trust bundles")]
    FederatedTwice(TrustDomain),
}

impl TrustBundle {
    /// A bundle of these authorities. `sequence` grows with each change that the issuer makes.
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
        let anchor = |(position, der)| anchor(&trust_domain, position, der);
        let anchors = authorities.iter().enumerate().map(anchor);
        Ok(Self {
            anchors: anchors.collect::<Result<_, _>>()?,
            trust_domain,
            authorities,
            jwt: Arc::default(),
            sequence,
            revoked: Arc::default(),
            federated: Arc::default(),
            verified: Memory::default(),
        })
    }

    /// The same authorities, and what is refused though they issued it.
    #[must_use]
    pub fn with_revoked(self, revoked: Arc<Revoked>) -> Self {
        Self {
            revoked,
            verified: Memory::default(),
            ..self
        }
    }

    /// What is refused though the authorities issued it.
    pub fn revoked(&self) -> &Arc<Revoked> {
        &self.revoked
    }

    /// The same authorities, and those of other trust domains, whose peers [`verify_peer`](crate::verify_peer) admits too.
    pub fn with_federated(self, federated: Arc<Federated>) -> Result<Self, BundleError> {
        match federated.get(&self.trust_domain) {
            Some(_) => Err(BundleError::FederatedTwice(self.trust_domain)),
            None => Ok(Self { federated, ..self }),
        }
    }

    /// The bundles of other trust domains.
    pub fn federated(&self) -> &Arc<Federated> {
        &self.federated
    }

    /// The bundle that vouches for the workloads of `domain`: this one, or one of the others.
    pub fn of(&self, domain: &TrustDomain) -> Option<&Self> {
        match *domain == self.trust_domain {
            true => Some(self),
            false => self.federated.get(domain).map(Arc::as_ref),
        }
    }

    /// This one, then those of other trust domains.
    pub fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.federated.bundles().map(Arc::as_ref))
    }

    /// Whether `other` admits the same peers.
    pub fn admits_as(&self, other: &Self) -> bool {
        self.authorities == other.authorities
            && self.revoked == other.revoked
            && self.federated.admits_as(&other.federated)
    }

    /// The same authorities, and these keys that sign JWT-SVIDs.
    pub fn with_jwt_keys(self, keys: Vec<JwtKey>) -> Result<Self, BundleError> {
        Ok(Self {
            jwt: Arc::new(JwtKeys::new(keys)?),
            ..self
        })
    }

    /// Reads the authorities from PEM.
    pub fn from_pem(
        trust_domain: TrustDomain,
        text: &[u8],
        sequence: u64,
    ) -> Result<Self, BundleError> {
        let authorities = pem::certificates_from_pem(text).map_err(|_| BundleError::NotPem)?;
        Self::new(trust_domain, authorities, sequence)
    }

    /// The authorities as PEM.
    pub fn to_pem(&self) -> String {
        pem::encode_certificates(&self.authorities)
    }

    /// Whose authorities these are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authorities' certificates.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// The keys that sign JWT-SVIDs.
    pub fn jwt_keys(&self) -> &[JwtKey] {
        self.jwt.all()
    }

    /// The keys that sign JWT-SVIDs as a JWK set (RFC 7517 section 5).
    pub fn jwks(&self) -> String {
        self.jwt.document()
    }

    pub(crate) fn jwt(&self) -> &JwtKeys {
        &self.jwt
    }

    /// The issuer's count of changes.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The authorities that are valid at `at`, as anchors, and whether some were left out.
    pub(crate) fn anchors_at(&self, at: UnixTime) -> (Vec<TrustAnchor<'_>>, bool) {
        let valid = self
            .anchors
            .iter()
            .filter(|(validity, _)| validity.covers(at));
        let valid: Vec<_> = valid.map(|(_, anchor)| anchor.clone()).collect();
        let some_left_out = valid.len() < self.anchors.len();
        (valid, some_left_out)
    }

    /// The earliest time after `at` at which an authority begins or ceases to be valid.
    pub(crate) fn steady_until(&self, at: UnixTime) -> UnixTime {
        let bounds = self.anchors.iter();
        let bounds = bounds.flat_map(|(validity, _)| [validity.not_before, validity.not_after]);
        let next = bounds.filter(|bound| *bound > at).min();
        next.unwrap_or(UnixTime::from_millis(u64::MAX))
    }

    /// The chains that verified against this bundle.
    pub(crate) fn verified(&self) -> &Memory {
        &self.verified
    }

    /// All authorities as anchors, valid or not: only to say why a chain is refused.
    pub(crate) fn anchors_of_any_time(&self) -> Vec<TrustAnchor<'_>> {
        self.anchors
            .iter()
            .map(|(_, anchor)| anchor.clone())
            .collect()
    }
}

fn anchor(
    trust_domain: &TrustDomain,
    position: usize,
    der: &CertificateDer<'static>,
) -> Result<(Validity, TrustAnchor<'static>), BundleError> {
    let bad = |source| BundleError::BadAuthority { position, source };
    let (validity, id) = profile::check_signing(position, der).map_err(bad)?;
    if let Some(id) = id.filter(|id| !id.is_member_of(trust_domain)) {
        let found = id.trust_domain();
        return Err(BundleError::ForeignAuthority { position, found });
    }
    let anchor = webpki::anchor_from_trusted_cert(der);
    let anchor = anchor.map_err(|_| bad(SvidError::Malformed { position }))?;
    Ok((validity, anchor.to_owned()))
}
