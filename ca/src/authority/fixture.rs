//! What tests of the authority's parts begin with.

use std::{sync::Arc, time::Duration};

use rcgen::{CertificateParams, KeyPair};
use reeve_core::{TrustDomain, UnixTime, clock::ManualClock};

use super::{Attested, CaOptions, CertificateAuthority, IssueError, IssuedSvid, Store};

pub(super) const START: UnixTime = UnixTime::from_secs(1_800_000_000);
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// An authority that keeps nothing, and its clock.
pub(super) fn authority() -> (Arc<ManualClock>, Arc<CertificateAuthority>) {
    let clock = Arc::new(ManualClock::at(START));
    let options = CaOptions {
        trust_domain: TrustDomain::parse("mesh.local").unwrap(),
        root_ttl: HOUR * 24 * 365,
        intermediate_ttl: HOUR * 24,
        svid_ttl: HOUR * 4,
        consumer_wait: Duration::ZERO,
        store: Store::DangerMemory,
        vault: None,
        upstream: None,
    };
    let ca = CertificateAuthority::open(options, Arc::clone(&clock) as _).unwrap();
    (clock, ca)
}

/// A certificate for `reviews`, whose key is made here.
pub(super) fn issue(ca: &CertificateAuthority) -> Result<IssuedSvid, IssueError> {
    let caller = Attested::by_itself("spiffe://mesh.local/ns/default/sa/reviews".parse().unwrap());
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key);
    ca.issue(&caller, request.unwrap().der())
}
