use reeve_core::clock::ManualClock;
use reeve_svid::TrustBundle;
use std::time::Duration;

use crate::{CaOptions, CertificateAuthority, LogEvents, RevokeError, RevokeTarget, Rotate, Store};

use super::*;

fn authority(domain: &str) -> Arc<CertificateAuthority> {
    let hours = |n: u64| Duration::from_secs(n * 3600);
    let options = CaOptions {
        trust_domain: domain.parse().unwrap(),
        root_ttl: hours(72),
        intermediate_ttl: hours(48),
        svid_ttl: hours(1),
        consumer_wait: Duration::ZERO,
        store: Store::DangerMemory,
        vault: None,
        upstream: None,
    };
    let clock = ManualClock::at(reeve_core::UnixTime::from_secs(1_800_000_000));
    CertificateAuthority::open(options, Arc::new(clock)).unwrap()
}

fn bundle(ca: &CertificateAuthority) -> Arc<TrustBundle> {
    Arc::clone(&ca.bundle().borrow())
}

fn federated(of: &CertificateAuthority) -> Arc<Federated> {
    Arc::new(Federated::new([bundle(of)]).unwrap())
}

#[test]
fn members_are_told_of_each_change_and_of_nothing_else() {
    let (ours, theirs) = (authority("mesh.local"), authority("other.org"));
    let before = bundle(&ours).sequence();
    ours.federate(federated(&theirs)).unwrap();
    let told = bundle(&ours);
    assert_eq!(told.sequence(), before + 1);
    let other = told.of(theirs.trust_domain()).unwrap();
    assert_eq!(other.authorities(), bundle(&theirs).authorities());
    ours.federate(federated(&theirs)).unwrap();
    assert_eq!(bundle(&ours).sequence(), before + 1, "the same again");
    theirs.rotate(Rotate::Root, &LogEvents).unwrap();
    ours.federate(federated(&theirs)).unwrap();
    let told = bundle(&ours);
    assert_eq!(told.sequence(), before + 2);
    let other = told.of(theirs.trust_domain()).unwrap();
    assert_eq!(other.authorities().len(), 2, "its rotation has begun");
    ours.federate(Arc::default()).unwrap();
    assert!(bundle(&ours).of(theirs.trust_domain()).is_none());
}

#[test]
fn a_rotation_of_ours_keeps_what_is_federated() {
    let (ours, theirs) = (authority("mesh.local"), authority("other.org"));
    ours.federate(federated(&theirs)).unwrap();
    ours.rotate(Rotate::Emergency, &LogEvents).unwrap();
    assert!(bundle(&ours).of(theirs.trust_domain()).is_some());
}

#[test]
fn nobody_is_federated_with_oneself() {
    let ours = authority("mesh.local");
    let before = bundle(&ours).sequence();
    assert!(ours.federate(federated(&authority("mesh.local"))).is_err());
    assert_eq!(bundle(&ours).sequence(), before);
    ours.federate(Arc::default()).unwrap();
}

#[test]
fn an_identity_of_a_federated_trust_domain_can_be_revoked_here_and_of_no_other() {
    let (ours, theirs) = (authority("mesh.local"), authority("other.org"));
    let target = |id: &str| RevokeTarget::Id(id.parse().unwrap());
    let revoke = |id: &str| ours.revoke(target(id), "stolen", None, &LogEvents);
    let of_theirs = "spiffe://other.org/ns/pay/sa/ledger";
    let refused = revoke(of_theirs).unwrap_err();
    assert!(matches!(refused, RevokeError::NotOurs(_)), "{refused}");
    ours.federate(federated(&theirs)).unwrap();
    revoke(of_theirs).unwrap();
    let id = of_theirs.parse().unwrap();
    assert!(bundle(&ours).revoked().covers_id(&id));
    let domain = revoke("spiffe://other.org").unwrap_err();
    assert!(matches!(domain, RevokeError::NotOurs(_)), "{domain}");
    // It can be taken back when the domain is gone, too.
    ours.federate(Arc::default()).unwrap();
    ours.unrevoke(target(of_theirs), &LogEvents).unwrap();
    assert!(!bundle(&ours).revoked().covers_id(&id));
}
