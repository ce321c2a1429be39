//! The authorities over time: which root is spread, which signs, which is only still trusted.
//!
//! A new root is made when the signing one is half through its life. It first stands in the bundle for as long as a
//! certificate lives, so that everybody knows it, and only then signs. A root leaves the bundle when it ends.

use std::time::Duration;

use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use reeve_core::{TrustDomain, UnixTime};
use reeve_svid::TrustBundle;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::{CaError, CaOptions, template};

/// Every authority there is.
#[derive(Default)]
pub(super) struct Slots {
    /// Oldest first; never more than a handful.
    pub(super) roots: Vec<Authority>,
    /// The one that signs leaves.
    pub(super) intermediate: Option<Authority>,
    /// Counts changes of the roots.
    pub(super) sequence: u64,
}

/// A certificate that signs others, with its key.
pub(super) struct Authority {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) pkcs8: Zeroizing<Vec<u8>>,
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// When we made it.
    pub(super) made_at: UnixTime,
    pub(super) not_after: UnixTime,
    /// From when on it signs.
    pub(super) signs_from: UnixTime,
    /// The root that signed it, for an intermediate.
    pub(super) root: Option<CertificateDer<'static>>,
}

impl Authority {
    /// An authority from what was kept of it.
    pub(super) fn reopen(
        certificate: CertificateDer<'static>,
        pkcs8: Zeroizing<Vec<u8>>,
        times: [UnixTime; 3],
        root: Option<CertificateDer<'static>>,
    ) -> Result<Self, CaError> {
        let der = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256);
        let key = key.map_err(|_| CaError::Content)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| CaError::Content)?;
        let [made_at, signs_from, not_after] = times;
        Ok(Self {
            certificate,
            pkcs8,
            issuer,
            made_at,
            not_after,
            signs_from,
            root,
        })
    }

    pub(super) fn times(&self) -> [UnixTime; 3] {
        [self.made_at, self.signs_from, self.not_after]
    }

    fn copy(&self) -> Result<Self, CaError> {
        let pkcs8 = Zeroizing::new(self.pkcs8.to_vec());
        Self::reopen(
            self.certificate.clone(),
            pkcs8,
            self.times(),
            self.root.clone(),
        )
    }

    fn half_life(&self) -> UnixTime {
        self.made_at.plus(self.not_after.since(self.made_at) / 2)
    }

    fn new_root(options: &CaOptions, now: UnixTime, wait: Duration) -> Result<Self, CaError> {
        let key = KeyPair::generate().map_err(CaError::Sign)?;
        let pkcs8 = Zeroizing::new(key.serialize_der());
        let life = template::life(now, options.root_ttl, UnixTime::from_millis(u64::MAX));
        let template = template::authority(&options.trust_domain, template::Tier::Root, life)?;
        let certificate = template.self_signed(&key).map_err(CaError::Sign)?;
        let times = [now, now.plus(wait), life.not_after];
        Self::reopen(certificate.der().clone(), pkcs8, times, None)
    }

    fn new_intermediate(options: &CaOptions, root: &Self, now: UnixTime) -> Result<Self, CaError> {
        let key = KeyPair::generate().map_err(CaError::Sign)?;
        let pkcs8 = Zeroizing::new(key.serialize_der());
        let life = template::life(now, options.intermediate_ttl, root.not_after);
        let template =
            template::authority(&options.trust_domain, template::Tier::Intermediate, life)?;
        let certificate = template
            .signed_by(&key, &root.issuer)
            .map_err(CaError::Sign)?;
        let times = [now, now, life.not_after];
        let root = Some(root.certificate.clone());
        Self::reopen(certificate.der().clone(), pkcs8, times, root)
    }
}

impl Slots {
    /// Does what is due; tells whether anything changed.
    pub(super) fn advance(&mut self, options: &CaOptions, now: UnixTime) -> Result<bool, CaError> {
        if !self.is_due(now) {
            return Ok(false);
        }
        let before = self.roots.len();
        self.roots.retain(|root| root.not_after > now);
        let mut changed = self.roots.len() != before;
        if self
            .roots
            .last()
            .is_none_or(|newest| newest.half_life() <= now)
        {
            // Nobody has to learn the first root before it signs.
            let known = self.roots.iter().any(|root| root.signs_from <= now);
            let wait = if known {
                options.svid_ttl
            } else {
                Duration::ZERO
            };
            self.roots.push(Authority::new_root(options, now, wait)?);
            changed = true;
        }
        self.sequence = self.sequence.saturating_add(u64::from(changed));
        if self.intermediate_is_due(now) {
            let root = signing_root(&self.roots, now).ok_or(CaError::Content)?;
            self.intermediate = Some(Authority::new_intermediate(options, root, now)?);
        }
        Ok(true)
    }

    /// Whether [`advance`](Self::advance) has something to do.
    pub(super) fn is_due(&self, now: UnixTime) -> bool {
        let newest_is_due = self
            .roots
            .last()
            .is_none_or(|newest| newest.half_life() <= now);
        newest_is_due
            || self.roots.iter().any(|root| root.not_after <= now)
            || self.intermediate_is_due(now)
    }

    fn intermediate_is_due(&self, now: UnixTime) -> bool {
        let Some(intermediate) = &self.intermediate else {
            return true;
        };
        let root = signing_root(&self.roots, now).map(|root| &root.certificate);
        intermediate.half_life() <= now || intermediate.root.as_ref() != root
    }

    /// Whether the present authorities can still sign.
    pub(super) fn can_sign(&self, now: UnixTime) -> bool {
        self.intermediate
            .as_ref()
            .is_some_and(|i| now < i.not_after)
    }

    /// The root that signed the present intermediate.
    pub(super) fn signing_root(&self) -> Option<&Authority> {
        let signed_by = self.intermediate.as_ref()?.root.as_ref()?;
        self.roots
            .iter()
            .find(|root| root.certificate == *signed_by)
    }

    /// A copy to change, so that a failure leaves the original as it was.
    pub(super) fn reopened(&self) -> Result<Self, CaError> {
        Ok(Self {
            roots: self
                .roots
                .iter()
                .map(Authority::copy)
                .collect::<Result<_, _>>()?,
            intermediate: self
                .intermediate
                .as_ref()
                .map(Authority::copy)
                .transpose()?,
            sequence: self.sequence,
        })
    }

    /// The roots as a trust bundle.
    pub(super) fn bundle(&self, trust_domain: &TrustDomain) -> Result<TrustBundle, CaError> {
        let roots = self.roots.iter().map(|root| root.certificate.clone());
        Ok(TrustBundle::new(
            trust_domain.clone(),
            roots.collect(),
            self.sequence,
        )?)
    }
}

/// The newest root that has stood in the bundle long enough; if the others ended before that, the newest.
fn signing_root(roots: &[Authority], now: UnixTime) -> Option<&Authority> {
    let ready = roots.iter().rev().find(|root| root.signs_from <= now);
    ready.or(roots.last())
}
