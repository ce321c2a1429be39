use std::time::Duration;

use proptest::prelude::*;

use super::{super::verify_svid, *};
use crate::{
    SvidError, TrustBundle,
    forge::{Forge, ID, NOW, leaf, self_signed, signing, valid},
};

fn remembered(bundle: &TrustBundle) -> usize {
    bundle.verified().known().len()
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
            .remember(key, &peer, NOW, NOW.plus(Duration::from_secs(9)));
        assert!(remembered(&bundle) <= MAX_REMEMBERED);
        assert_eq!(bundle.verified().recall(&key, NOW).as_ref(), Some(&peer));
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
        let chain = forge.chain(&leaf(ID));
        let now = i64::try_from(NOW.since(UnixTime::default()).as_secs()).unwrap();
        let secs = |offset: i64| u64::try_from(now + offset).unwrap();
        let bundle = two_authorities(&forge, secs(span.0), secs(span.0 + span.1));
        for offset in offsets {
            let at = UnixTime::from_secs(secs(offset));
            for purpose in [Purpose::Client, Purpose::Server] {
                prop_assert_eq!(
                    verify_svid(&chain, &bundle, at, purpose),
                    verify_svid(&chain, &bundle.clone(), at, purpose)
                );
            }
        }
    }
}
