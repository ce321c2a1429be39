//! Trust bundles of other trust domains, which vouch for the workloads of those alone (SPIFFE Federation).

use std::{collections::BTreeMap, sync::Arc};

use reeve_core::TrustDomain;

use crate::{BundleError, TrustBundle};

/// Most trust domains that one is federated with.
pub const MAX_FEDERATED: usize = 32;

/// The bundles of other trust domains, by domain.
#[derive(Clone, Debug, Default)]
pub struct Federated(BTreeMap<TrustDomain, Arc<TrustBundle>>);

impl Federated {
    /// These bundles; at most [`MAX_FEDERATED`], and one of each trust domain.
    pub fn new(bundles: impl IntoIterator<Item = Arc<TrustBundle>>) -> Result<Self, BundleError> {
        let mut by_domain = BTreeMap::new();
        for bundle in bundles {
            let domain = bundle.trust_domain().clone();
            if by_domain.insert(domain.clone(), bundle).is_some() {
                return Err(BundleError::FederatedTwice(domain));
            }
        }
        match by_domain.len() > MAX_FEDERATED {
            true => Err(BundleError::TooManyFederated(by_domain.len())),
            false => Ok(Self(by_domain)),
        }
    }

    /// The bundle of `domain`.
    pub fn get(&self, domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        self.0.get(domain)
    }

    /// All of them, in order of their trust domains.
    pub fn bundles(&self) -> impl ExactSizeIterator<Item = &Arc<TrustBundle>> {
        self.0.values()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `other` admits the same peers.
    pub(crate) fn admits_as(&self, other: &Self) -> bool {
        let pairs = || self.bundles().zip(other.bundles());
        self.0.len() == other.0.len()
            && pairs().all(|(a, b)| a.trust_domain() == b.trust_domain() && a.admits_as(b))
    }

    /// Whether `other` has the same authorities and keys.
    pub fn says_as(&self, other: &Self) -> bool {
        let mut pairs = self.bundles().zip(other.bundles());
        self.admits_as(other) && pairs.all(|(a, b)| a.jwt_keys() == b.jwt_keys())
    }
}

#[cfg(test)]
mod tests;
