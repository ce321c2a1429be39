use std::collections::BTreeSet;

use super::*;

const DAY: Duration = Duration::from_secs(86400);
const START: UnixTime = UnixTime::from_secs(1_800_000_000);

fn ids(signers: &JwtSigners) -> Vec<String> {
    signers
        .public()
        .iter()
        .map(|key| key.id().to_owned())
        .collect()
}

fn signing(signers: &JwtSigners, now: UnixTime) -> Signed {
    let id = SpiffeId::parse("spiffe://mesh.local/ns/default/sa/reviews").unwrap();
    signers.sign(&id, &["ledger".to_owned()], DAY, now).unwrap()
}

#[test]
fn a_key_is_published_before_it_signs_and_after_it_has_signed() {
    let mut signers = JwtSigners::default();
    let mut published = BTreeSet::new();
    let mut used = BTreeSet::new();
    let mut tokens: Vec<(String, UnixTime)> = Vec::new();
    for hour in 0..24 * 8 {
        let now = START.plus(Duration::from_secs(hour * 3600));
        let known_before: BTreeSet<_> = ids(&signers).into_iter().collect();
        let due = signers.is_due(now);
        let changed = signers.ensure(&Keyring::default(), DAY, now).unwrap();
        assert!(due || !changed, "hour {hour}");
        assert!(!signers.is_due(now), "hour {hour}");
        let signed = signing(&signers, now);
        assert!(
            hour == 0 || known_before.contains(&signed.key_id),
            "hour {hour}"
        );
        tokens.push((signed.key_id.clone(), signed.expires_at));
        for (key, expires_at) in &tokens {
            assert!(
                *expires_at <= now || ids(&signers).contains(key),
                "hour {hour}"
            );
        }
        used.insert(signed.key_id);
        published.extend(ids(&signers));
        assert!(ids(&signers).len() <= 2);
    }
    assert!(used.len() >= 8, "{used:?}");
    assert!(published.is_superset(&used));
}

#[test]
fn after_a_long_sleep_there_is_a_key_again() {
    let mut signers = JwtSigners::default();
    signers.ensure(&Keyring::default(), DAY, START).unwrap();
    let late = START.plus(DAY * 10);
    assert!(signers.is_due(late));
    assert!(signers.ensure(&Keyring::default(), DAY, late).unwrap());
    assert_eq!(ids(&signers).len(), 1);
    assert_eq!(signing(&signers, late).key_id, ids(&signers)[0]);
}

#[test]
fn a_token_lives_five_minutes_and_no_longer_than_its_key() {
    let mut signers = JwtSigners::default();
    signers.ensure(&Keyring::default(), DAY, START).unwrap();
    let signed = signing(&signers, START);
    assert_eq!(signed.expires_at, START.plus(LONGEST));
    let late = START.plus(DAY).minus(Duration::from_secs(60));
    assert_eq!(signing(&signers, late).expires_at, START.plus(DAY));
}
