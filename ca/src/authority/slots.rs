//! The authorities: which root is spread, which signs, which is only still trusted.

use std::sync::Arc;

use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use reeve_core::{TrustDomain, UnixTime};
use reeve_svid::TrustBundle;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    AuthorityEnd, CaError, CaOptions,
    jwt::JwtSigners,
    revocation::{self, Revocation},
    rotation::Rotation,
    template,
};

/// Most retired roots that are kept; at one a year, a lifetime.
const MAX_RETIRED: usize = 60;

/// Where a root stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Slot {
    /// Trusted by those who know it; it signs once all do.
    Prepared,
    /// It signs.
    Active,
    /// It signs no more, and is trusted for the sake of what it has signed.
    Old,
}

impl Slot {
    fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Old => "old",
        }
    }
}

/// Every authority there is.
#[derive(Default)]
pub(super) struct Slots {
    /// Oldest first; at most one in each slot.
    pub(super) roots: Vec<Authority>,
    /// The one that signs leaves.
    pub(super) intermediate: Option<Authority>,
    /// Those that sign JWT-SVIDs.
    pub(super) jwt: JwtSigners,
    /// Roots that are trusted no more, oldest first: what they vouched for stays to be verified.
    pub(super) retired: Vec<CertificateDer<'static>>,
    /// Counts changes of the roots.
    pub(super) sequence: u64,
    /// Counts the times that everybody was told to renew.
    pub(super) renewal: u64,
    /// The rotation of the root under way.
    pub(super) rotation: Option<Rotation>,
    /// What is refused though it verifies, oldest first.
    pub(super) revoked: Vec<Revocation>,
}

/// A certificate that signs others, with its key.
pub(super) struct Authority {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) pkcs8: Zeroizing<Vec<u8>>,
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) slot: Slot,
    /// When we made it.
    pub(super) made_at: UnixTime,
    pub(super) not_after: UnixTime,
    /// The root that signed it, for an intermediate.
    pub(super) root: Option<CertificateDer<'static>>,
}

impl Authority {
    /// An authority from what was kept of it; `made_at` and `not_after` are `times`.
    pub(super) fn reopen(
        certificate: CertificateDer<'static>,
        pkcs8: Zeroizing<Vec<u8>>,
        slot: Slot,
        times: [UnixTime; 2],
        root: Option<CertificateDer<'static>>,
    ) -> Result<Self, CaError> {
        let der = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256);
        let key = key.map_err(|_| CaError::Content)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| CaError::Content)?;
        let [made_at, not_after] = times;
        Ok(Self {
            certificate,
            pkcs8,
            issuer,
            slot,
            made_at,
            not_after,
            root,
        })
    }

    fn copy(&self) -> Result<Self, CaError> {
        Self::reopen(
            self.certificate.clone(),
            Zeroizing::new(self.pkcs8.to_vec()),
            self.slot,
            [self.made_at, self.not_after],
            self.root.clone(),
        )
    }

    /// Whether it is to be replaced: half of its life is over.
    pub(super) fn is_due(&self, now: UnixTime) -> bool {
        self.made_at.plus(self.not_after.since(self.made_at) / 2) <= now
    }

    fn new_root(options: &CaOptions, now: UnixTime, slot: Slot) -> Result<Self, CaError> {
        let key = KeyPair::generate().map_err(CaError::Sign)?;
        let pkcs8 = Zeroizing::new(key.serialize_der());
        let life = template::life(now, options.root_ttl, UnixTime::from_millis(u64::MAX));
        let template = template::authority(&options.trust_domain, template::Tier::Root, life)?;
        let certificate = template.self_signed(&key).map_err(CaError::Sign)?;
        let times = [now, life.not_after];
        Self::reopen(certificate.der().clone(), pkcs8, slot, times, None)
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
        let times = [now, life.not_after];
        let root = Some(root.certificate.clone());
        let der = certificate.der().clone();
        Self::reopen(der, pkcs8, Slot::Active, times, root)
    }
}

impl Slots {
    /// Does what signing needs by the clock alone: ended roots leave, and there is a root and an intermediate that sign.
    pub(super) fn ensure(&mut self, options: &CaOptions, now: UnixTime) -> Result<(), CaError> {
        let mut changed = self.retire(|root| root.not_after <= now);
        if self.root(Slot::Active).is_none() {
            // Who does not know the prepared one yet is no worse off with it than with none.
            if !self.activate_prepared() {
                self.add_root(options, now, Slot::Active)?;
                changed = true;
            }
        }
        changed |= self.jwt.ensure(options.intermediate_ttl, now)?;
        self.sequence = self.sequence.saturating_add(u64::from(changed));
        if self.intermediate_is_due(now) {
            self.renew_intermediate(options, now)?;
        }
        Ok(())
    }

    /// Whether [`ensure`](Self::ensure) has something to do.
    pub(super) fn is_due(&self, now: UnixTime) -> bool {
        self.root(Slot::Active).is_none()
            || self.roots.iter().any(|root| root.not_after <= now)
            || self.intermediate_is_due(now)
            || self.jwt.is_due(now)
    }

    fn intermediate_is_due(&self, now: UnixTime) -> bool {
        let Some(intermediate) = &self.intermediate else {
            return true;
        };
        let root = self.root(Slot::Active).map(|root| &root.certificate);
        intermediate.is_due(now) || intermediate.root.as_ref() != root
    }

    /// A new intermediate of the active root; it signs at once.
    pub(super) fn renew_intermediate(
        &mut self,
        options: &CaOptions,
        now: UnixTime,
    ) -> Result<(), CaError> {
        let root = self.root(Slot::Active).ok_or(CaError::Content)?;
        self.intermediate = Some(Authority::new_intermediate(options, root, now)?);
        Ok(())
    }

    /// A new root, in the bundle from now on unless the caller counts otherwise.
    pub(super) fn add_root(
        &mut self,
        options: &CaOptions,
        now: UnixTime,
        slot: Slot,
    ) -> Result<(), CaError> {
        self.roots.push(Authority::new_root(options, now, slot)?);
        Ok(())
    }

    /// The prepared root signs from now on, and the active one no more; `false` if there is none prepared.
    pub(super) fn activate_prepared(&mut self) -> bool {
        if self.root(Slot::Prepared).is_none() {
            return false;
        }
        for root in &mut self.roots {
            root.slot = match root.slot {
                Slot::Prepared => Slot::Active,
                Slot::Active | Slot::Old => Slot::Old,
            };
        }
        true
    }

    /// Takes roots out of the bundle; whether there were any.
    pub(super) fn retire(&mut self, mut is_over: impl FnMut(&Authority) -> bool) -> bool {
        let before = self.roots.len();
        let over = self.roots.extract_if(.., |root| is_over(root));
        self.retired.extend(over.map(|root| root.certificate));
        let too_many = self.retired.len().saturating_sub(MAX_RETIRED);
        self.retired.drain(..too_many);
        self.roots.len() != before
    }

    /// Whether the present authorities can still sign.
    pub(super) fn can_sign(&self, now: UnixTime) -> bool {
        self.intermediate
            .as_ref()
            .is_some_and(|i| now < i.not_after)
    }

    /// The root in a slot.
    pub(super) fn root(&self, slot: Slot) -> Option<&Authority> {
        self.roots.iter().find(|root| root.slot == slot)
    }

    /// Every authority and when it ends.
    pub(super) fn ends(&self) -> Vec<AuthorityEnd> {
        let end = |kind, authority: &Authority| AuthorityEnd {
            kind,
            slot: authority.slot.as_str(),
            not_after: authority.not_after,
        };
        let roots = self.roots.iter().map(|root| end("root", root));
        let intermediate = self.intermediate.iter().map(|i| end("intermediate", i));
        roots.chain(intermediate).collect()
    }

    /// A copy to change, so that a failure leaves the original as it was.
    pub(super) fn reopened(&self) -> Result<Self, CaError> {
        let roots = self.roots.iter().map(Authority::copy);
        let intermediate = self.intermediate.as_ref().map(Authority::copy);
        Ok(Self {
            roots: roots.collect::<Result<_, _>>()?,
            intermediate: intermediate.transpose()?,
            jwt: self.jwt.reopened()?,
            retired: self.retired.clone(),
            sequence: self.sequence,
            renewal: self.renewal,
            rotation: self.rotation.clone(),
            revoked: self.revoked.clone(),
        })
    }

    /// Every root there was, as a trust bundle: not to admit anybody by, but to verify what they once vouched for.
    pub(super) fn history(&self, trust_domain: &TrustDomain) -> Result<TrustBundle, CaError> {
        let roots = self.roots.iter().map(|root| root.certificate.clone());
        Ok(TrustBundle::new(
            trust_domain.clone(),
            self.retired.iter().cloned().chain(roots).collect(),
            self.sequence,
        )?)
    }

    /// The roots, and the keys that sign JWT-SVIDs, as a trust bundle.
    pub(super) fn bundle(&self, trust_domain: &TrustDomain) -> Result<TrustBundle, CaError> {
        let roots = self.roots.iter().map(|root| root.certificate.clone());
        let bundle = TrustBundle::new(trust_domain.clone(), roots.collect(), self.sequence)?;
        let bundle = bundle.with_jwt_keys(self.jwt.public())?;
        Ok(bundle.with_revoked(Arc::new(revocation::list(&self.revoked))))
    }
}
