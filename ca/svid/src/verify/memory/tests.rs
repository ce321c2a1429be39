use std::time::Duration;

use proptest::prelude::*;

use super::{super::verify_svid, *};
use crate::{
    SvidError, TrustBundle,
    forge::{Forge, ID, NOW, leaf, self_signed, signing, valid},
};

fn remembered(bundle: &TrustBundle) -> usize {
    bundle.verified().chains.known().len()
}

#[test]
fn a_chain_is_remembered_for_its_bytes_and_purpose_alone() {
    let forge = Forge::new("mesh.local");
    let (bundle, chain) = (forge.bundle(), forge.chain(&leaf(ID)));
    for _ in 0..3 {
        verify_svid(&chain, &bundle, NOW, Purpose::Client).unwrap();
    }
    assert_eq!(remembered(&bundle), 1);
    verify_svid(&chain, &bundle, NOW, Purpose::Server).unwrap();
    assert_eq!(remembered(&bundle), 2);
    assert_eq!(remembered(&bundle.clone()), 0, "a copy remembers nothing");

    let mut spoiled = chain.clone();
    let mut der = spoiled[0].to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    spoiled[0] = der.into();
    assert!(verify_svid(&spoiled, &bundle, NOW, Purpose::Client).is_err());
    assert_eq!(remembered(&bundle), 2, "only what verified");
    let stranger = Forge::new("mesh.local").bundle();
    let verdict = verify_svid(&chain, &stranger, NOW, Purpose::Client);
    assert!(verdict.is_err(), "another bundle knows nothing of it");
}

#[test]
fn a_remembered_chain_still_expires_and_a_clock_that_went_back_is_asked_again() {
    let forge = Forge::new("mesh.local");
    let (bundle, chain) = (forge.bundle(), forge.chain(&leaf(ID)));
    let end = verify_svid(&chain, &bundle, NOW, Purpose::Client)
        .unwrap()
        .not_after();
    assert!(verify_svid(&chain, &bundle, end, Purpose::Client).is_ok());
    let late = verify_svid(
        &chain,
        &bundle,
        end.plus(Duration::from_secs(1)),
        Purpose::Client,
    );
    assert!(matches!(late, Err(SvidError::Expired { .. })), "{late:?}");
    let early = verify_svid(&chain, &bundle, UnixTime::from_secs(1), Purpose::Client);
    assert!(
        matches!(early, Err(SvidError::NotYetValid { .. })),
        "{early:?}"
    );
}

fn issuers(bundle: &TrustBundle) -> usize {
    bundle.verified().issuers.known().len()
}

/// Another leaf than [`leaf`]'s.
fn second_leaf() -> rcgen::CertificateParams {
    leaf("spiffe://mesh.local/ns/default/sa/ratings")
}

#[test]
fn an_issuer_is_remembered_and_judges_no_leaf_otherwise() {
    let forge = Forge::new("mesh.local");
    let bundle = forge.bundle();
    verify_svid(&forge.chain(&leaf(ID)), &bundle, NOW, Purpose::Client).unwrap();
    assert_eq!(issuers(&bundle), 1);
    let by_known = |chain: &[CertificateDer<'_>], at| {
        super::super::by_known_issuer(chain, &bundle, at, Purpose::Client)
    };
    let good = forge.chain(&second_leaf());
    let known = by_known(&good, NOW).expect("the issuer is known");
    let anew = verify_svid(&good, &forge.bundle(), NOW, Purpose::Client);
    assert_eq!(Ok(known), anew, "the same verdict");
    assert!(
        super::super::by_known_issuer(&good, &bundle, NOW, Purpose::Server).is_none(),
        "for that purpose alone"
    );
    assert!(
        by_known(&Forge::new("mesh.local").chain(&leaf(ID)), NOW).is_none(),
        "another issuer of the same name is another one"
    );

    let foreign = forge.chain(&leaf("spiffe://other.local/ns/default/sa/reviews"));
    let mut ended = leaf(ID);
    valid(
        &mut ended,
        NOW.minus(Duration::from_secs(9)),
        NOW.minus(Duration::from_secs(1)),
    );
    let mut forged = good.clone();
    let mut der = forged[0].to_vec();
    *der.last_mut().unwrap() ^= 1;
    forged[0] = der.into();
    for chain in [foreign, forge.chain(&ended), forged] {
        let judged = verify_svid(&chain, &bundle, NOW, Purpose::Client);
        let anew = verify_svid(&chain, &forge.bundle(), NOW, Purpose::Client);
        assert!(judged.is_err());
        assert_eq!(judged, anew, "the exact reason");
    }
}

#[test]
fn a_remembered_issuer_ends_and_a_clock_that_went_back_is_asked_again() {
    let mut params = signing("intermediate", "mesh.local");
    let (from, until) = (
        NOW.minus(Duration::from_secs(60)),
        NOW.plus(Duration::from_secs(60)),
    );
    valid(&mut params, from, until);
    let forge = Forge::with_intermediate("mesh.local", params);
    let bundle = forge.bundle();
    verify_svid(&forge.chain(&leaf(ID)), &bundle, NOW, Purpose::Client).unwrap();
    let chain = forge.chain(&second_leaf());
    let judge = |at| verify_svid(&chain, &bundle, at, Purpose::Client);
    let late = judge(until.plus(Duration::from_secs(1)));
    assert!(
        matches!(late, Err(SvidError::Expired { position: 1, .. })),
        "{late:?}"
    );
    let early = judge(from.minus(Duration::from_secs(1)));
    assert!(
        matches!(early, Err(SvidError::NotYetValid { position: 1, .. })),
        "{early:?}"
    );
    assert_eq!(
        judge(NOW).unwrap().not_after(),
        until,
        "no longer than its issuer"
    );
}

#[test]
fn a_bundle_without_the_root_knows_no_issuer_of_it() {
    let forge = Forge::new("mesh.local");
    let bundle = forge.bundle();
    verify_svid(&forge.chain(&leaf(ID)), &bundle, NOW, Purpose::Client).unwrap();
    let other = Forge::new("mesh.local").bundle().authorities().to_vec();
    let changed = TrustBundle::new("mesh.local".parse().unwrap(), other, 2).unwrap();
    let verdict = verify_svid(&forge.chain(&second_leaf()), &changed, NOW, Purpose::Client);
    assert!(verdict.is_err(), "{verdict:?}");
    assert_eq!(issuers(&changed), 0);
}

#[test]
fn a_path_that_asks_more_of_leaves_than_the_issuer_does_is_not_remembered() {
    // Not the root alone above it: an anchor that constrains names, which its issuer does not repeat.
    let mut root = signing("root", "mesh.local");
    root.name_constraints = Some(rcgen::NameConstraints {
        permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("inside.test".to_owned())],
        excluded_subtrees: Vec::new(),
    });
    let forge = Forge::with_root(root, signing("intermediate", "mesh.local"));
    let bundle = forge.bundle();
    verify_svid(&forge.chain(&leaf(ID)), &bundle, NOW, Purpose::Client).unwrap();
    assert_eq!(issuers(&bundle), 0);
    let mut outside = second_leaf();
    let name = "outside.test".try_into().unwrap();
    outside
        .subject_alt_names
        .push(rcgen::SanType::DnsName(name));
    let verdict = verify_svid(&forge.chain(&outside), &bundle, NOW, Purpose::Client);
    assert_eq!(verdict, Err(SvidError::NameConstraint));
}

#[test]
fn memory_is_bounded() {
    let forge = Forge::new("mesh.local");
    let (bundle, chain) = (forge.bundle(), forge.chain(&leaf(ID)));
    let peer = verify_svid(&chain, &bundle, NOW, Purpose::Client).unwrap();
    for n in 0..2 * MAX_REMEMBERED {
        let mut key = [0; SHA256_OUTPUT_LEN];
        key[..8].copy_from_slice(&n.to_be_bytes());
        bundle
            .verified()
            .chains
            .remember(key, peer.clone(), NOW, NOW.plus(Duration::from_secs(9)));
        assert!(remembered(&bundle) <= MAX_REMEMBERED);
        assert_eq!(
            bundle.verified().chains.recall(&key, NOW).as_ref(),
            Some(&peer)
        );
    }
}

/// A bundle with a second authority that is valid in another span than the first.
fn two_authorities(forge: &Forge, from: u64, until: u64) -> TrustBundle {
    let mut params = signing("other root", "mesh.local");
    valid(
        &mut params,
        UnixTime::from_secs(from),
        UnixTime::from_secs(until),
    );
    let (other, _) = self_signed(params);
    let mut all = forge.bundle().authorities().to_vec();
    all.push(other);
    TrustBundle::new("mesh.local".parse().unwrap(), all, 1).unwrap()
}

proptest! {
    /// Whatever was asked before, the answer is that of a bundle that remembers nothing.
    #[test]
    fn a_bundle_that_remembers_answers_as_one_that_does_not(
        offsets in prop::collection::vec(-4_000_i64..8_000, 1..8),
        span in (-4_000_i64..4_000, 0_i64..4_000),
    ) {
        let forge = Forge::new("mesh.local");
        let chains = [forge.chain(&leaf(ID)), forge.chain(&second_leaf())];
        let now = i64::try_from(NOW.since(UnixTime::default()).as_secs()).unwrap();
        let secs = |offset: i64| u64::try_from(now + offset).unwrap();
        let bundle = two_authorities(&forge, secs(span.0), secs(span.0 + span.1));
        for (offset, chain) in offsets.into_iter().zip(chains.iter().cycle()) {
            let at = UnixTime::from_secs(secs(offset));
            for purpose in [Purpose::Client, Purpose::Server] {
                prop_assert_eq!(
                    verify_svid(chain, &bundle, at, purpose),
                    verify_svid(chain, &bundle.clone(), at, purpose)
                );
            }
        }
    }
}
