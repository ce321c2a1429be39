//! The authorities: which root is spread, which signs, which is only still trusted.

use std::sync::Arc;

use rcgen::Issuer;
use reeve_core::{TrustDomain, UnixTime};
use reeve_svid::TrustBundle;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::{
    AuthorityEnd, CaError, CaOptions,
    jwt::JwtSigners,
    revocation::{self, Revocation},
    rotation::Rotation,
    template,
    upstream::Upstream,
};
use crate::custody::{AuthorityKey, KeyName, Keyring};

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
#[derive(Clone, Default)]
pub(super) struct Slots {
    /// Makes and opens keys.
    pub(super) ring: Keyring,
    /// The operator's own authority as its files last were in order, where roots are not ours to make.
    pub(super) upstream: Option<Arc<Upstream>>,
    /// Whether roots are the operator's to make, in order or not.
    pub(super) follows_upstream: bool,
    /// Keys of authorities that are no more, which their vault is still to end.
    pub(super) doomed: Vec<KeyName>,
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
#[derive(Clone)]
pub(super) struct Authority {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) issuer: Arc<Issuer<'static, AuthorityKey>>,
    pub(super) slot: Slot,
    /// When we made it.
    pub(super) made_at: UnixTime,
    pub(super) not_after: UnixTime,
    /// The root that signed it, for an intermediate.
    pub(super) root: Option<CertificateDer<'static>>,
    /// What stands between what it signs and the root, itself apart: certificates of the operator's authority.
    pub(super) above: Vec<CertificateDer<'static>>,
}

impl Authority {
    /// An authority from its certificate and key; `made_at` and `not_after` are `times`.
    pub(super) fn reopen(
        certificate: CertificateDer<'static>,
        key: AuthorityKey,
        slot: Slot,
        times: [UnixTime; 2],
        root: Option<CertificateDer<'static>>,
        above: Vec<CertificateDer<'static>>,
    ) -> Result<Self, CaError> {
        // An operator's root may sign through authorities below it.
        let signing = match root {
            None => above.first().unwrap_or(&certificate),
            Some(_) => &certificate,
        };
        let issuer = Issuer::from_ca_cert_der(signing, key).map_err(|_| CaError::Content)?;
        let [made_at, not_after] = times;
        Ok(Self {
            issuer: Arc::new(issuer),
            certificate,
            slot,
            made_at,
            not_after,
            root,
            above,
        })
    }

    /// Its key.
    pub(super) fn key(&self) -> &AuthorityKey {
        self.issuer.key()
    }

    /// Whether it is to be replaced: half of its life is over, or it is not valid yet, as the clock was set back.
    pub(super) fn is_due(&self, now: UnixTime) -> bool {
        let half = self.made_at.plus(self.not_after.since(self.made_at) / 2);
        half <= now || self.is_of_the_future(now)
    }

    fn is_of_the_future(&self, now: UnixTime) -> bool {
        now < self.made_at.minus(template::BACKDATED)
    }

    fn new_root(
        ring: &Keyring,
        options: &CaOptions,
        now: UnixTime,
        slot: Slot,
    ) -> Result<Self, CaError> {
        let life = template::life(now, options.root_ttl, UnixTime::from_millis(u64::MAX));
        let template = template::authority(&options.trust_domain, template::Tier::Root, life)?;
        ring.with_new(|key| {
            let certificate = template.self_signed(key).map_err(|e| key.explain(e))?;
            let der = certificate.der().clone();
            let times = [now, life.not_after];
            Self::reopen(der, key.clone(), slot, times, None, Vec::new())
        })
    }

    /// The operator's root, which signs by the operator's key.
    pub(super) fn of_upstream(
        upstream: &Upstream,
        now: UnixTime,
        slot: Slot,
    ) -> Result<Self, CaError> {
        let (root, key) = (upstream.root.clone(), upstream.key.clone());
        let times = [now, upstream.not_after];
        Self::reopen(root, key, slot, times, None, upstream.above.clone())
    }

    /// The same root of the operator's, as its files are now.
    pub(super) fn with_upstream(&self, upstream: &Upstream) -> Result<Self, CaError> {
        Self::of_upstream(upstream, self.made_at, self.slot)
    }

    /// An intermediate that `root` signs.
    pub(super) fn new_intermediate(
        ring: &Keyring,
        options: &CaOptions,
        root: &Self,
        now: UnixTime,
    ) -> Result<Self, CaError> {
        // Before a key is made for it.
        root.key().check()?;
        let life = template::life(now, options.intermediate_ttl, root.not_after);
        let template =
            template::authority(&options.trust_domain, template::Tier::Intermediate, life)?;
        ring.with_new(|key| {
            let certificate = template.signed_by(key, &root.issuer);
            let certificate = certificate.map_err(|error| root.key().explain(error))?;
            let times = [now, life.not_after];
            let (above, root) = (root.above.clone(), Some(root.certificate.clone()));
            let der = certificate.der().clone();
            Self::reopen(der, key.clone(), Slot::Active, times, root, above)
        })
    }
}

impl Slots {
    /// None yet.
    pub(super) fn new(ring: Keyring) -> Self {
        Self {
            ring,
            ..Self::default()
        }
    }

    /// Whether a root can be had that does not sign yet: ours to make, or the operator's.
    pub(super) fn has_another_root(&self) -> bool {
        let active = self.root(Slot::Active).map(|root| &root.certificate);
        let upstream = self.upstream.as_ref().map(|upstream| &upstream.root);
        !self.follows_upstream || (upstream.is_some() && upstream != active)
    }

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
        changed |= self.jwt.ensure(&self.ring, options.intermediate_ttl, now)?;
        self.sequence = self.sequence.saturating_add(u64::from(changed));
        if self.intermediate_is_due(now) {
            self.renew_intermediate(options, now)?;
        }
        Ok(())
    }

    /// Whether [`ensure`](Self::ensure) has something to do.
    pub(super) fn is_due(&self, now: UnixTime) -> bool {
        self.root(Slot::Active).is_none()
            || self.a_root_has_ended(now)
            || self.intermediate_is_due(now)
            || self.jwt.is_due(now)
    }

    pub(super) fn a_root_has_ended(&self, now: UnixTime) -> bool {
        self.roots.iter().any(|root| root.not_after <= now)
    }

    fn intermediate_is_due(&self, now: UnixTime) -> bool {
        let Some(intermediate) = &self.intermediate else {
            return true;
        };
        let Some(root) = self.root(Slot::Active) else {
            return true;
        };
        let its_own = (intermediate.root.as_ref(), &intermediate.above);
        intermediate.is_due(now) || its_own != (Some(&root.certificate), &root.above)
    }

    /// A new intermediate of the active root; it signs at once.
    pub(super) fn renew_intermediate(
        &mut self,
        options: &CaOptions,
        now: UnixTime,
    ) -> Result<(), CaError> {
        let root = self.root(Slot::Active).ok_or(CaError::Content)?;
        let new = Authority::new_intermediate(&self.ring, options, root, now)?;
        self.intermediate = Some(new);
        Ok(())
    }

    /// A new root, or the operator's, in the bundle from now on unless the caller counts otherwise.
    pub(super) fn add_root(
        &mut self,
        options: &CaOptions,
        now: UnixTime,
        slot: Slot,
    ) -> Result<(), CaError> {
        let root = match &self.upstream {
            Some(upstream) => Authority::of_upstream(upstream, now, slot)?,
            None if self.follows_upstream => return Err(CaError::NoUpstream),
            None => Authority::new_root(&self.ring, options, now, slot)?,
        };
        self.roots.push(root);
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
            .is_some_and(|i| now < i.not_after && !i.is_of_the_future(now))
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
            key: authority.key().place(),
        };
        let roots = self.roots.iter().map(|root| end("root", root));
        let intermediate = self.intermediate.iter().map(|i| end("intermediate", i));
        roots.chain(intermediate).collect()
    }

    /// The keys of all that signs.
    pub(super) fn keys(&self) -> impl Iterator<Item = &AuthorityKey> {
        let authorities = self.roots.iter().chain(&self.intermediate);
        let jwt = self.jwt.0.iter().map(|signer| &signer.key);
        authorities.map(Authority::key).chain(jwt)
    }

    /// The keys in a vault that `other` does not have.
    pub(super) fn beyond(&self, other: &Self) -> Vec<KeyName> {
        let held: Vec<_> = other.keys().filter_map(AuthorityKey::in_vault).collect();
        let own = self.keys().filter_map(AuthorityKey::in_vault);
        own.filter(|name| !held.contains(name)).cloned().collect()
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
