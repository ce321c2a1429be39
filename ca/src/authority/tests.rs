use rcgen::{BasicConstraints, IsCa, SanType};
use reeve_core::clock::ManualClock;

use super::*;

const START: UnixTime = UnixTime::from_secs(1_800_000_000);

fn options(store: Store) -> CaOptions {
    CaOptions {
        trust_domain: TrustDomain::parse("mesh.local").unwrap(),
        root_ttl: Duration::from_hours(24 * 365),
        intermediate_ttl: Duration::from_hours(24 * 30),
        svid_ttl: Duration::from_hours(4),
        store,
    }
}

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://mesh.local/ns/default/sa/{name}")).unwrap()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(START))
}

fn in_memory(clock: Arc<ManualClock>) -> Arc<CertificateAuthority> {
    CertificateAuthority::open(options(Store::DangerMemory), clock).unwrap()
}

fn csr(params: CertificateParams) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

#[test]
fn an_svid_has_the_standards_form() {
    let ca = in_memory(clock());
    let issued = ca
        .issue(&id("reviews"), &csr(CertificateParams::default()))
        .unwrap();
    assert_eq!(issued.chain.len(), 2);
    assert_eq!(issued.not_after, START.plus(Duration::from_hours(4)));
    let (_, leaf) = x509_parser::parse_x509_certificate(&issued.chain[0]).unwrap();
    assert_eq!(leaf.validity().not_before.timestamp(), 1_800_000_000 - 10);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    assert!(leaf.raw_serial().len() >= 16);
    let bundle = ca.bundle().borrow().clone();
    for purpose in [Purpose::Client, Purpose::Server] {
        let peer = verify_svid(&issued.chain, &bundle, START, purpose).unwrap();
        assert_eq!(peer.id(), &id("reviews"));
    }
}

#[test]
fn a_signing_request_contributes_its_key_and_nothing_else() {
    let ca = in_memory(clock());
    let mut greedy = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    greedy
        .subject_alt_names
        .push(SanType::URI(id("admin").as_str().try_into().unwrap()));
    greedy
        .subject_alt_names
        .push(SanType::URI(id("root").as_str().try_into().unwrap()));
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.not_after = rcgen::date_time_ymd(2050, 1, 1);
    let issued = ca.issue(&id("reviews"), &csr(greedy)).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&issued.chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    assert!(!leaf.is_ca());
    assert_eq!(issued.id, id("reviews"));
    assert_eq!(issued.not_after, START.plus(Duration::from_hours(4)));
}

#[test]
fn bad_signing_requests_are_refused_with_the_reason() {
    let ca = in_memory(clock());
    let issue = |csr: &[u8]| match ca.issue(&id("reviews"), csr) {
        Err(IssueError::Csr(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(issue(b""), CsrError::Malformed);
    assert_eq!(issue(&[0x30; 17 * 1024]), CsrError::TooLarge);
    let good = csr(CertificateParams::default());
    let mut trailing = good.clone();
    trailing.push(0);
    assert_eq!(issue(&trailing), CsrError::Malformed);
    let mut forged = good;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(issue(&forged), CsrError::BadSignature);
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let other = CertificateParams::default()
        .serialize_request(&other)
        .unwrap();
    assert_eq!(issue(other.der()), CsrError::UnsupportedKey);
}

#[test]
fn another_trust_domains_identity_is_refused() {
    let ca = in_memory(clock());
    let foreign = SpiffeId::parse("spiffe://other.org/ns/default/sa/reviews").unwrap();
    let answer = ca.issue(&foreign, &csr(CertificateParams::default()));
    assert!(matches!(answer, Err(IssueError::WrongTrustDomain(_))));
}

#[test]
fn reopened_the_ca_goes_on_with_the_same_authorities() {
    let folder = tempfile::tempdir().unwrap();
    let key = SealKey::from_hex(&"7".repeat(64)).unwrap();
    let store = || Store::Sealed {
        dir: folder.path().join("ca"),
        key: key.clone(),
    };
    let first = CertificateAuthority::open(options(store()), clock()).unwrap();
    let issued = first
        .issue(&id("a"), &csr(CertificateParams::default()))
        .unwrap();
    drop(first);
    let again = CertificateAuthority::open(options(store()), clock()).unwrap();
    let bundle = again.bundle().borrow().clone();
    assert!(verify_svid(&issued.chain, &bundle, START, Purpose::Client).is_ok());
    let next = again
        .issue(&id("a"), &csr(CertificateParams::default()))
        .unwrap();
    assert_eq!(next.chain[1], issued.chain[1], "the same intermediate");
}

#[test]
fn a_sealed_store_of_another_key_or_trust_domain_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = |digit: &str| Store::Sealed {
        dir: folder.path().to_owned(),
        key: SealKey::from_hex(&digit.repeat(64)).unwrap(),
    };
    CertificateAuthority::open(options(store("7")), clock()).unwrap();
    let other_key = CertificateAuthority::open(options(store("8")), clock());
    assert!(matches!(
        other_key,
        Err(CaError::Seal(SealError::Tampered(_)))
    ));
    let mut other = options(store("7"));
    other.trust_domain = TrustDomain::parse("other.org").unwrap();
    let other = CertificateAuthority::open(other, clock());
    assert!(matches!(other, Err(CaError::WrongTrustDomain { .. })));
}

#[test]
fn no_key_lies_on_the_disk_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let key = SealKey::from_hex(&"7".repeat(64)).unwrap();
    let store = Store::Sealed {
        dir: folder.path().to_owned(),
        key,
    };
    let ca = CertificateAuthority::open(options(store), clock()).unwrap();
    let secret = ca
        .authorities
        .lock()
        .unwrap()
        .root
        .issuer
        .key()
        .serialize_der();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(
            !bytes
                .windows(32)
                .any(|w| secret.windows(32).any(|s| s == w))
        );
        assert!(
            !bytes.windows(11).any(|w| w == b"certificate"),
            "not even the JSON shows"
        );
    }
}

#[test]
fn the_intermediate_is_renewed_in_time_and_old_leaves_stay_good() {
    let clock = clock();
    let ca = in_memory(clock.clone());
    let old = ca
        .issue(&id("a"), &csr(CertificateParams::default()))
        .unwrap();
    clock.advance(Duration::from_hours(24 * 30 - 3));
    let new = ca
        .issue(&id("a"), &csr(CertificateParams::default()))
        .unwrap();
    assert_ne!(old.chain[1], new.chain[1]);
    assert_eq!(new.not_after, clock.now().plus(Duration::from_hours(4)));
    let bundle = ca.bundle().borrow().clone();
    assert!(verify_svid(&old.chain, &bundle, START, Purpose::Client).is_ok());
}

#[test]
fn no_leaf_outlives_its_issuer_and_none_is_issued_without_a_root() {
    let clock = clock();
    let ca = in_memory(clock.clone());
    clock.advance(Duration::from_hours(24 * 365 - 1));
    let last = ca
        .issue(&id("a"), &csr(CertificateParams::default()))
        .unwrap();
    assert_eq!(last.not_after, START.plus(Duration::from_hours(24 * 365)));
    clock.advance(Duration::from_hours(2));
    let answer = ca.issue(&id("a"), &csr(CertificateParams::default()));
    assert!(
        matches!(answer, Err(IssueError::Ca(CaError::RootExpired))),
        "{answer:?}"
    );
}

#[test]
fn lives_that_make_no_sense_are_refused() {
    let bad = [
        CaOptions {
            svid_ttl: Duration::from_secs(1),
            ..options(Store::DangerMemory)
        },
        CaOptions {
            intermediate_ttl: Duration::from_hours(1),
            ..options(Store::DangerMemory)
        },
        CaOptions {
            root_ttl: Duration::from_hours(1),
            ..options(Store::DangerMemory)
        },
    ];
    for options in bad {
        let answer = CertificateAuthority::open(options, clock());
        assert!(matches!(answer, Err(CaError::BadTtl(_))), "{answer:?}");
    }
}

#[test]
fn the_mesh_process_gets_certificates_of_its_own() {
    let svid = in_memory(clock()).issue_self(&id("control")).unwrap();
    assert_eq!(svid.id(), &id("control"));
    assert!(!format!("{svid:?}").contains("key"));
}
