use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

use super::*;
use crate::forge::{Forge, ID, NOW, leaf, self_signed, signing, uri, valid};

mod fuzzed;
mod leaf_faults;
mod malformed;

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

fn verify(forge: &Forge, chain: &[CertificateDer<'_>]) -> Result<VerifiedPeer, SvidError> {
    verify_svid(chain, &forge.bundle(), NOW, Purpose::Client)
}

#[test]
fn a_good_chain_verifies_for_both_purposes() {
    let forge = Forge::new("mesh.local");
    let chain = forge.chain(&leaf(ID));
    for purpose in [Purpose::Client, Purpose::Server] {
        let peer = verify_svid(&chain, &forge.bundle(), NOW, purpose).unwrap();
        assert_eq!(peer.id().as_str(), ID);
        assert_eq!(peer.not_after(), NOW.plus(HOUR));
        assert_eq!(peer.serial(), "2a");
    }
}

#[test]
fn an_intermediate_with_one_fault_is_refused_for_exactly_that_fault() {
    type Spoil = fn(&mut CertificateParams);
    let rows: Vec<(&str, Spoil, SvidError)> = vec![
        (
            "not a CA",
            |p| p.is_ca = IsCa::NoCa,
            SvidError::IssuerIsNotCa { position: 1 },
        ),
        (
            "explicitly not a CA",
            |p| p.is_ca = IsCa::ExplicitNoCa,
            SvidError::IssuerIsNotCa { position: 1 },
        ),
        (
            "no keyCertSign",
            |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            SvidError::IssuerMayNotSign { position: 1 },
        ),
        (
            "no key usage",
            |p| p.key_usages.clear(),
            SvidError::IssuerMayNotSign { position: 1 },
        ),
        (
            "names a workload",
            |p| p.subject_alt_names = vec![uri(ID)],
            SvidError::IssuerWithPath {
                position: 1,
                id: ID.parse().unwrap(),
            },
        ),
        (
            "of another trust domain",
            |p| p.subject_alt_names = vec![uri("spiffe://other.local")],
            SvidError::IssuerOfOtherDomain {
                position: 1,
                found: "other.local".parse().unwrap(),
            },
        ),
        (
            "expired",
            |p| valid(p, NOW.minus(HOUR * 2), NOW.minus(HOUR)),
            SvidError::Expired {
                position: 1,
                not_after: NOW.minus(HOUR),
            },
        ),
        (
            "not yet valid",
            |p| valid(p, NOW.plus(HOUR), NOW.plus(HOUR * 2)),
            SvidError::NotYetValid {
                position: 1,
                not_before: NOW.plus(HOUR),
            },
        ),
    ];
    for (what, spoil, reason) in rows {
        let mut params = signing("intermediate", "mesh.local");
        spoil(&mut params);
        let forge = Forge::with_intermediate("mesh.local", params);
        assert_eq!(
            verify(&forge, &forge.chain(&leaf(ID))).unwrap_err(),
            reason,
            "{what}"
        );
    }
}

#[test]
fn an_intermediate_without_a_name_is_legal() {
    let mut params = signing("intermediate", "mesh.local");
    params.subject_alt_names.clear();
    let forge = Forge::with_intermediate("mesh.local", params);
    assert!(verify(&forge, &forge.chain(&leaf(ID))).is_ok());
}

#[test]
fn chains_that_are_no_chains_are_refused() {
    let forge = Forge::new("mesh.local");
    let good = forge.chain(&leaf(ID));
    assert_eq!(verify(&forge, &[]).unwrap_err(), SvidError::EmptyChain);
    let long = vec![good[0].clone(); 9];
    assert_eq!(
        verify(&forge, &long).unwrap_err(),
        SvidError::ChainTooLong { found: 9 }
    );
    let alone = &good[..1];
    assert_eq!(verify(&forge, alone).unwrap_err(), SvidError::UnknownIssuer);
    let twice = [good[0].clone(), good[0].clone()];
    assert_eq!(
        verify(&forge, &twice).unwrap_err(),
        SvidError::IssuerIsNotCa { position: 1 }
    );
    let mut followed = good[0].to_vec();
    followed.push(0);
    let followed = [CertificateDer::from(followed), good[1].clone()];
    assert_eq!(
        verify(&forge, &followed).unwrap_err(),
        SvidError::TrailingData { position: 0 }
    );
    let huge = [CertificateDer::from(vec![0x30; 16 * 1024 + 1])];
    assert_eq!(
        verify(&forge, &huge).unwrap_err(),
        SvidError::CertificateTooLarge { position: 0 }
    );
    let reversed = [good[1].clone(), good[0].clone()];
    assert!(verify(&forge, &reversed).is_err());
}

#[test]
fn strangers_are_refused() {
    let forge = Forge::new("mesh.local");
    let stranger = Forge::new("mesh.local");
    let chain = stranger.chain(&leaf(ID));
    let refused = verify(&forge, &chain).unwrap_err();
    assert!(
        matches!(refused, SvidError::UnknownIssuer | SvidError::BadSignature),
        "{refused:?}"
    );

    let (root, issuer) = self_signed(signing("root", "other.local"));
    let key = KeyPair::generate().unwrap();
    let other = leaf("spiffe://other.local/x")
        .signed_by(&key, &issuer)
        .unwrap();
    let refused = verify(&forge, &[other.der().clone()]).unwrap_err();
    let expected = forge.bundle().trust_domain().clone();
    let found = "other.local".parse().unwrap();
    assert_eq!(refused, SvidError::ForeignTrustDomain { expected, found });
    drop(root);

    // Signed by nobody but itself.
    let alone = leaf(ID).self_signed(&key).unwrap();
    assert_eq!(
        verify(&forge, &[alone.der().clone()]).unwrap_err(),
        SvidError::UnknownIssuer
    );
}

#[test]
fn a_leaf_must_not_sign_another() {
    let forge = Forge::new("mesh.local");
    let (chain, _) = forge.issue(&leaf(ID));
    let key = KeyPair::generate().unwrap();
    let params = leaf("spiffe://mesh.local/ns/default/sa/admin");
    let thief = rcgen::Issuer::new(leaf(ID), KeyPair::generate().unwrap());
    let forged = params.signed_by(&key, &thief).unwrap();
    let forged = [forged.der().clone(), chain[0].clone(), chain[1].clone()];
    assert_eq!(
        verify(&forge, &forged).unwrap_err(),
        SvidError::IssuerIsNotCa { position: 1 }
    );
}

#[test]
fn a_length_constraint_holds() {
    let mut params = signing("intermediate", "mesh.local");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let forge = Forge::with_intermediate("mesh.local", params);
    assert!(
        verify(&forge, &forge.chain(&leaf(ID))).is_ok(),
        "directly below it is well"
    );
    let below = signing("below", "mesh.local");
    let key = KeyPair::generate().unwrap();
    let certificate = below.signed_by(&key, &forge.issuer).unwrap();
    let issuer = rcgen::Issuer::new(below, key);
    let key = KeyPair::generate().unwrap();
    let end = leaf(ID).signed_by(&key, &issuer).unwrap();
    let chain = [
        end.der().clone(),
        certificate.der().clone(),
        forge.intermediate.clone(),
    ];
    assert_eq!(verify(&forge, &chain).unwrap_err(), SvidError::PathTooLong);
}

#[test]
fn an_authority_out_of_time_is_not_trusted() {
    let mut params = signing("root", "mesh.local");
    valid(&mut params, NOW.minus(HOUR * 3), NOW.minus(HOUR));
    let (root, issuer) = self_signed(params);
    let key = KeyPair::generate().unwrap();
    let end = leaf(ID).signed_by(&key, &issuer).unwrap();
    let domain: TrustDomain = "mesh.local".parse().unwrap();
    let bundle = TrustBundle::new(domain, vec![root], 1).unwrap();
    let verdict = verify_svid(&[end.der().clone()], &bundle, NOW, Purpose::Client);
    assert_eq!(verdict.unwrap_err(), SvidError::AuthorityNotValid);
}

#[test]
fn a_peer_ends_with_the_first_certificate_of_its_path() {
    let mut params = signing("intermediate", "mesh.local");
    valid(&mut params, NOW.minus(HOUR), NOW.plus(HOUR / 2));
    let forge = Forge::with_intermediate("mesh.local", params);
    let peer = verify(&forge, &forge.chain(&leaf(ID))).unwrap();
    assert_eq!(peer.not_after(), NOW.plus(HOUR / 2));
}

#[test]
fn both_roots_of_a_rotation_are_trusted() {
    let (old, new) = (Forge::new("mesh.local"), Forge::new("mesh.local"));
    let domain = "mesh.local".parse().unwrap();
    let bundle = TrustBundle::new(domain, vec![old.root.clone(), new.root.clone()], 2).unwrap();
    for forge in [&old, &new] {
        let chain = forge.chain(&leaf(ID));
        assert!(verify_svid(&chain, &bundle, NOW, Purpose::Server).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let forge = forge();
        let chain = [CertificateDer::from(bytes)];
        prop_assert!(verify(forge, &chain).is_err());
    }

    /// A chain with one bit flipped anywhere never verifies.
    #[test]
    fn no_flipped_bit_verifies(which in 0..2usize, at: prop::sample::Index, bit in 0..8u8) {
        let forge = forge();
        let mut chain = good().clone();
        let mut bytes = chain[which].to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        chain[which] = CertificateDer::from(bytes);
        prop_assert!(verify(forge, &chain).is_err(), "byte {} of certificate {}", at, which);
    }

    #[test]
    fn no_cut_chain_verifies(cut: prop::sample::Index) {
        let forge = forge();
        let mut chain = good().clone();
        let bytes = chain[0].to_vec();
        chain[0] = CertificateDer::from(bytes[..cut.index(bytes.len())].to_vec());
        prop_assert!(verify(forge, &chain).is_err());
    }
}

fn forge() -> &'static Forge {
    static FORGE: std::sync::OnceLock<Forge> = std::sync::OnceLock::new();
    FORGE.get_or_init(|| Forge::new("mesh.local"))
}

fn good() -> &'static Vec<CertificateDer<'static>> {
    static GOOD: std::sync::OnceLock<Vec<CertificateDer<'static>>> = std::sync::OnceLock::new();
    GOOD.get_or_init(|| forge().chain(&leaf(ID)))
}
