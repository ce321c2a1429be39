use rcgen::KeyPair;
use reeve_core::SpiffeId;

use super::*;
use crate::{
    Purpose, Revoked, SvidError,
    forge::{Forge, NOW, leaf},
    verify_peer, verify_svid,
};

const OURS: &str = "spiffe://mesh.local/ns/default/sa/reviews";
const THEIRS: &str = "spiffe://other.org/ns/default/sa/reviews";

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn bundle_of(name: &str, forge: &Forge) -> TrustBundle {
    TrustBundle::new(domain(name), vec![forge.root.clone()], 1).unwrap()
}

/// Two trust domains' authorities, and the bundle of the first with the second federated.
fn two() -> (Forge, Forge, TrustBundle) {
    let (ours, theirs) = (Forge::new("mesh.local"), Forge::new("other.org"));
    let other = Arc::new(bundle_of("other.org", &theirs));
    let federated = Arc::new(Federated::new([other]).unwrap());
    let bundle = bundle_of("mesh.local", &ours).with_federated(federated);
    (ours, theirs, bundle.unwrap())
}

#[test]
fn a_peer_is_verified_by_its_own_trust_domains_bundle() {
    let (ours, theirs, bundle) = two();
    for (forge, id) in [(&ours, OURS), (&theirs, THEIRS)] {
        let chain = forge.chain(&leaf(id));
        for purpose in [Purpose::Client, Purpose::Server] {
            // Twice: the second time the bundle remembers.
            for _ in 0..2 {
                let peer = verify_peer(&chain, &bundle, NOW, purpose).unwrap();
                assert_eq!(peer.id().as_str(), id);
            }
        }
    }
}

#[test]
fn no_authority_speaks_for_another_trust_domain() {
    let (ours, theirs, bundle) = two();
    for (forge, id, signer) in [(&ours, THEIRS, "mesh.local"), (&theirs, OURS, "other.org")] {
        let refused = verify_peer(&forge.chain(&leaf(id)), &bundle, NOW, Purpose::Client);
        let found = domain(signer);
        assert_eq!(
            refused.unwrap_err(),
            SvidError::IssuerOfOtherDomain { position: 1, found },
            "by an intermediate"
        );
        // By an intermediate without a name, only the path tells.
        let mut params = crate::forge::signing("intermediate", signer);
        params.subject_alt_names.clear();
        let nameless = Forge::with_intermediate(signer, params);
        let (mesh, other) = match signer {
            "mesh.local" => (&nameless, &theirs),
            _ => (&ours, &nameless),
        };
        let federated = Federated::new([Arc::new(bundle_of("other.org", other))]).unwrap();
        let bundle = bundle_of("mesh.local", mesh).with_federated(Arc::new(federated));
        let chain = nameless.chain(&leaf(id));
        let refused = verify_peer(&chain, &bundle.unwrap(), NOW, Purpose::Client);
        assert_eq!(refused.unwrap_err(), SvidError::UnknownIssuer, "{id}");
    }
}

#[test]
fn a_trust_domain_that_is_not_federated_is_foreign() {
    let (_, theirs, bundle) = two();
    let stranger = Forge::new("third.net");
    let chain = stranger.chain(&leaf("spiffe://third.net/x"));
    let foreign = |found: &str| SvidError::ForeignTrustDomain {
        expected: domain("mesh.local"),
        found: domain(found),
    };
    let refused = verify_peer(&chain, &bundle, NOW, Purpose::Client).unwrap_err();
    assert_eq!(refused, foreign("third.net"));
    // The mesh itself is run by its own members alone.
    let chain = theirs.chain(&leaf(THEIRS));
    let refused = verify_svid(&chain, &bundle, NOW, Purpose::Client).unwrap_err();
    assert_eq!(refused, foreign("other.org"));
    let withdrawn = bundle.with_federated(Arc::default()).unwrap();
    let refused = verify_peer(&chain, &withdrawn, NOW, Purpose::Client).unwrap_err();
    assert_eq!(refused, foreign("other.org"));
    assert_eq!(
        verify_peer(&[], &withdrawn, NOW, Purpose::Client).unwrap_err(),
        SvidError::EmptyChain
    );
}

#[test]
fn an_identity_that_we_revoke_is_refused_whoever_vouches_for_it() {
    let (_, theirs, bundle) = two();
    let id: SpiffeId = THEIRS.parse().unwrap();
    let revoked = Revoked::new([id.clone()], []);
    let bundle = bundle.with_revoked(Arc::new(revoked));
    let refused = verify_peer(&theirs.chain(&leaf(THEIRS)), &bundle, NOW, Purpose::Server);
    assert_eq!(refused.unwrap_err(), SvidError::RevokedId(id));
}

#[test]
fn each_trust_domain_has_one_bundle_and_there_are_not_too_many() {
    let (ours, theirs, bundle) = two();
    let other = || Arc::new(bundle_of("other.org", &theirs));
    let twice = BundleError::FederatedTwice(domain("other.org"));
    assert_eq!(Federated::new([other(), other()]).unwrap_err(), twice);
    let own = Arc::new(bundle_of("mesh.local", &ours));
    let own = Arc::new(Federated::new([own]).unwrap());
    let twice = BundleError::FederatedTwice(domain("mesh.local"));
    assert_eq!(bundle.with_federated(own).unwrap_err(), twice);
    // A root without a name can be anybody's.
    let mut params = crate::forge::signing("root", "mesh.local");
    params.subject_alt_names.clear();
    let root = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let many = (0..=MAX_FEDERATED).map(|n| {
        let name = domain(&format!("d{n}.org"));
        Arc::new(TrustBundle::new(name, vec![root.der().clone()], 1).unwrap())
    });
    let refused = Federated::new(many).unwrap_err();
    assert_eq!(refused, BundleError::TooManyFederated(MAX_FEDERATED + 1));
}

#[test]
fn a_change_of_a_federated_bundle_is_a_change_of_whom_we_admit() {
    let (_, theirs, bundle) = two();
    assert!(bundle.admits_as(&bundle.clone()));
    let federated = |forge: &Forge| {
        let other = Arc::new(bundle_of("other.org", forge));
        let federated = Arc::new(Federated::new([other]).unwrap());
        bundle.clone().with_federated(federated).unwrap()
    };
    assert!(bundle.admits_as(&federated(&theirs)));
    assert!(!bundle.admits_as(&federated(&Forge::new("other.org"))));
    assert!(!bundle.admits_as(&bundle.clone().with_federated(Arc::default()).unwrap()));
}
