//! Keys of token rules: fetched ones, and those of trust domains.

use std::sync::Arc;

use reeve_core::{SpiffeId, TrustDomain, model::JwtRule};
use reeve_svid::{BundleDocument, Federated, Revoked, TrustBundle};

use super::*;
use crate::{index::DomainKeys, mesh::KeyPlace, resolve::tests::bundle_text};

/// A bundle of `domain` with one JWT key of this id.
fn bundle(domain: &str, key_id: &str) -> TrustBundle {
    let document = BundleDocument::parse(domain.parse().unwrap(), &bundle_text(key_id));
    document.unwrap().bundle
}

fn key_ids(rule: &JwtRule) -> Vec<&str> {
    let json = rule.jwks.as_ref().map_or("", |jwks| &jwks.json);
    let known = ["ours", "others", "thirds"].into_iter();
    known.filter(|id| json.contains(id)).collect()
}

/// The rules of `page`, with `bundle` in force.
fn rules_of(rules: &str, bundle: &TrustBundle) -> Vec<JwtRule> {
    let (mesh, instances) = running(&document("RequestAuthentication", "r", rules));
    let keys = TokenKeys {
        domains: DomainKeys::of(bundle),
        ..TokenKeys::default()
    };
    let config = mesh.proxy_config(&instances, &keys, &name("page-0"));
    config.unwrap().workload.jwt_rules.clone()
}

#[test]
fn fetched_keys_reach_the_rules_that_name_their_url() {
    let rules = document(
        "RequestAuthentication",
        "r",
        "  jwtRules: [{issuer: a, jwksUri: 'https://k/a'}, {issuer: b, jwksUri: 'https://k/b'}]",
    );
    let (mesh, instances) = running(&rules);
    let key = (
        KeyPlace::Uri("https://k/a".to_owned()),
        Arc::new(crate::jwks::document("{}")),
    );
    let keys = TokenKeys {
        fetched: FetchedKeys::from([key]),
        ..TokenKeys::default()
    };
    let config = mesh
        .proxy_config(&instances, &keys, &name("page-0"))
        .unwrap();
    let [a, b] = config.workload.jwt_rules.as_slice() else {
        panic!("{:?}", config.workload.jwt_rules);
    };
    assert_eq!((a.jwks.is_some(), b.jwks.is_some()), (true, false));
    assert_eq!(a.name, "default/r/0");
    assert_eq!((&a.svids, &b.svids), (&None, &None));
}

#[test]
fn a_trust_domains_keys_reach_the_rules_of_that_domain_alone() {
    let rules = "  jwtRules:\n    - {issuer: 'spiffe://other.org', audiences: [a]}\n    - {issuer: 'https://oidc.other.org', jwksUri: 'spiffe://other.org', audiences: [a]}\n    - {issuer: 'spiffe://mesh.local', audiences: [a]}\n    - {issuer: 'spiffe://third.net', audiences: [a]}";
    let id = |text: &str| text.parse::<SpiffeId>().unwrap();
    let revoked = Revoked::new(
        [id("spiffe://other.org/x"), id("spiffe://mesh.local/y")],
        [],
    );
    let other = Arc::new(bundle("other.org", "others"));
    let bundle = bundle("mesh.local", "ours")
        .with_revoked(Arc::new(revoked))
        .with_federated(Arc::new(Federated::new([other]).unwrap()))
        .unwrap();
    let rules = rules_of(rules, &bundle);
    let told: Vec<_> = rules.iter().map(key_ids).collect();
    assert_eq!(told, [vec!["others"], vec!["others"], vec!["ours"], vec![]]);
    let of = |at: usize| {
        let svids = rules[at].svids.as_ref().unwrap();
        let revoked = svids.revoked.iter().map(ToString::to_string);
        (svids.trust_domain.to_string(), revoked.collect::<Vec<_>>())
    };
    let other = (
        "other.org".to_owned(),
        vec!["spiffe://other.org/x".to_owned()],
    );
    assert_eq!(of(0), other);
    assert_eq!(of(1), other);
    assert_eq!(of(2).1, ["spiffe://mesh.local/y"]);
    assert_eq!(of(3), ("third.net".to_owned(), vec![]));
}

#[test]
fn another_key_is_another_generation_of_keys() {
    let domain = TrustDomain::parse("mesh.local").unwrap();
    let keys = |id| DomainKeys::of(&bundle("mesh.local", id));
    assert_eq!(keys("ours"), keys("ours"));
    assert_ne!(keys("ours").get(&domain), keys("thirds").get(&domain));
}
