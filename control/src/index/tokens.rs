//! Token rules, and the keys that they are given.

use std::{collections::BTreeMap, sync::Arc};

use reeve_core::{
    SpiffeId, TrustDomain,
    model::{JwksDocument, JwtRule, SvidIssuer},
};
use reeve_svid::TrustBundle;

use crate::{
    Mesh, jwks,
    mesh::{Jwks, KeyPlace, RequestAuthentication},
};

/// Keys of token issuers by their URL, as last fetched.
pub type FetchedKeys = BTreeMap<KeyPlace, Arc<JwksDocument>>;

/// The keys of token issuers that stand in no object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenKeys {
    /// Those that are fetched.
    pub(crate) fetched: FetchedKeys,
    /// Those of trust domains.
    pub(crate) domains: BTreeMap<TrustDomain, DomainKeys>,
}

/// What a trust domain's tokens are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DomainKeys {
    keys: JwksDocument,
    revoked: Vec<SpiffeId>,
}

impl DomainKeys {
    /// Of each trust domain that `bundle` knows: its own, and those it is federated with.
    pub(crate) fn of(bundle: &TrustBundle) -> BTreeMap<TrustDomain, Self> {
        let of_domain = |one: &TrustBundle| {
            let domain = one.trust_domain().clone();
            // What we revoked is refused whoever vouches for it.
            let ids = bundle.revoked().ids();
            let revoked = ids.filter(|id| id.is_member_of(&domain)).cloned();
            let keys = Self {
                keys: jwks::document(&one.jwks()),
                revoked: revoked.collect(),
            };
            (domain, keys)
        };
        bundle.all().map(of_domain).collect()
    }
}

/// The token rules of whatever `covers` holds for, with the keys as they are known.
pub(super) fn jwt_rules(
    mesh: &Mesh,
    keys: &TokenKeys,
    covers: impl Fn(&RequestAuthentication) -> bool,
) -> Vec<JwtRule> {
    let all = mesh.request_authentications.iter();
    let rules = all.filter(|r| covers(r)).flat_map(|r| &r.rules);
    rules
        .map(|rule| {
            let mut resolved = rule.rule.clone();
            match &rule.jwks {
                Jwks::Inline => {}
                Jwks::From(source) => {
                    resolved.jwks = keys.fetched.get(&source.place).map(|d| (**d).clone());
                }
                // SECURITY: of that trust domain alone, and there are none once it is known no longer.
                Jwks::Of(domain) => {
                    let known = keys.domains.get(domain);
                    resolved.jwks = known.map(|known| known.keys.clone());
                    resolved.svids = Some(SvidIssuer {
                        trust_domain: domain.clone(),
                        revoked: known.map(|k| k.revoked.clone()).unwrap_or_default(),
                    });
                }
            }
            resolved
        })
        .collect()
}
