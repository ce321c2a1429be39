use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
};
use reeve_core::clock::ManualClock;
use reeve_svid::{Purpose, verify_svid};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::SealKey;

const START: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn options(store: Store) -> CaOptions {
    CaOptions {
        trust_domain: TrustDomain::parse("mesh.local").unwrap(),
        root_ttl: HOUR * 24 * 365,
        intermediate_ttl: HOUR * 24 * 30,
        svid_ttl: HOUR * 4,
        consumer_wait: Duration::from_secs(30),
        store,
        vault: None,
        upstream: None,
    }
}

fn reviews() -> Attested {
    Attested::by_itself("spiffe://mesh.local/ns/default/sa/reviews".parse().unwrap())
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(START))
}

fn in_memory(clock: &Arc<ManualClock>) -> Arc<CertificateAuthority> {
    CertificateAuthority::open(options(Store::DangerMemory), Arc::clone(clock) as _).unwrap()
}

fn csr(params: &CertificateParams) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn plain_csr() -> Vec<u8> {
    csr(&CertificateParams::default())
}

fn verifies(ca: &CertificateAuthority, issued: &IssuedSvid, at: UnixTime) -> bool {
    let bundle = Arc::clone(&ca.bundle().borrow());
    let verify = |purpose| verify_svid(&issued.chain_der, &bundle, at, purpose).is_ok();
    verify(Purpose::Client) && verify(Purpose::Server)
}

#[test]
fn an_svid_has_the_standards_form() {
    let ca = in_memory(&clock());
    let issued = ca.issue(&reviews(), &plain_csr()).unwrap();
    assert_eq!(issued.chain_der.len(), 2);
    assert_eq!(issued.not_after, START.plus(HOUR * 4));
    assert!(verifies(&ca, &issued, START));
    let (_, leaf) = X509Certificate::from_der(&issued.chain_der[0]).unwrap();
    assert_eq!(leaf.validity().not_before.timestamp(), 1_800_000_000 - 10);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(
        usage.critical && usage.value.flags == 1,
        "digitalSignature alone"
    );
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(!names.critical && names.value.general_names.len() == 1);
    assert!(
        leaf.subject().iter().next().is_some(),
        "the subject is not empty"
    );
    assert_eq!(leaf.raw_serial().len(), 16);
}

/// Whatever a request asks for, the answer is our template around its key.
#[test]
fn issuing_cannot_be_cheated() {
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    type Ask = Box<dyn Fn(&mut CertificateParams)>;
    let rows: Vec<(&str, Ask)> = vec![
        (
            "a CA",
            Box::new(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        (
            "signing certificates",
            Box::new(|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
        ),
        (
            "another identity",
            Box::new(move |p| {
                p.subject_alt_names = vec![uri("spiffe://mesh.local/ns/default/sa/admin")]
            }),
        ),
        (
            "two identities",
            Box::new(move |p| {
                p.subject_alt_names =
                    vec![uri("spiffe://mesh.local/a"), uri("spiffe://mesh.local/b")]
            }),
        ),
        (
            "a DNS name",
            Box::new(|p| {
                p.subject_alt_names = vec![SanType::DnsName("example.com".try_into().unwrap())]
            }),
        ),
        (
            "ten years",
            Box::new(|p| p.not_after = rcgen::date_time_ymd(2037, 1, 1)),
        ),
        (
            "a subject",
            Box::new(|p| {
                p.distinguished_name
                    .push(rcgen::DnType::CommonName, "admin")
            }),
        ),
        (
            "an extension",
            Box::new(|p| {
                p.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(
                    &[1, 2, 3, 4],
                    vec![5, 0],
                )]
            }),
        ),
    ];
    let ca = in_memory(&clock());
    for (what, ask) in rows {
        let mut params = CertificateParams::default();
        ask(&mut params);
        let issued = ca.issue(&reviews(), &csr(&params)).unwrap();
        let bundle = Arc::clone(&ca.bundle().borrow());
        let peer = verify_svid(&issued.chain_der, &bundle, START, Purpose::Client).unwrap();
        assert_eq!(peer.id(), &reviews().id, "{what}");
        assert_eq!(peer.not_after(), START.plus(HOUR * 4), "{what}");
        let (_, leaf) = X509Certificate::from_der(&issued.chain_der[0]).unwrap();
        assert_eq!(leaf.subject().to_string(), "O=Reeve", "{what}");
        assert_eq!(leaf.extensions().len(), 6, "{what}");
    }
}

#[test]
fn serials_are_random() {
    let ca = in_memory(&clock());
    let serials: std::collections::BTreeSet<_> = (0..50)
        .map(|_| ca.issue(&reviews(), &plain_csr()).unwrap().serial)
        .collect();
    assert_eq!(serials.len(), 50);
    assert_eq!(ca.status().issued, 50);
}

#[test]
fn identities_of_others_are_not_issued() {
    let ca = in_memory(&clock());
    for id in [
        "spiffe://other.local/ns/default/sa/reviews",
        "spiffe://mesh.local",
    ] {
        let id: SpiffeId = id.parse().unwrap();
        let error = ca
            .issue(&Attested::by_itself(id.clone()), &plain_csr())
            .unwrap_err();
        assert!(matches!(error, IssueError::NotOurs(found) if found == id));
    }
}

fn sealed(dir: &std::path::Path, digit: &str) -> Store {
    Store::Sealed {
        dir: dir.join("ca"),
        key: SealKey::from_hex(&digit.repeat(64)).unwrap(),
    }
}

#[test]
fn reopened_it_goes_on_with_the_same_authorities() {
    let folder = tempfile::tempdir().unwrap();
    let open = || CertificateAuthority::open(options(sealed(folder.path(), "7")), clock()).unwrap();
    let first = open();
    let issued = first.issue(&reviews(), &plain_csr()).unwrap();
    let bundle = Arc::clone(&first.bundle().borrow());
    drop(first);
    let again = open();
    assert_eq!(again.bundle().borrow().authorities(), bundle.authorities());
    assert_eq!(again.bundle().borrow().sequence(), bundle.sequence());
    assert!(verifies(&again, &issued, START));
    let next = again.issue(&reviews(), &plain_csr()).unwrap();
    assert_eq!(
        next.chain_der[1], issued.chain_der[1],
        "the same intermediate"
    );
}

#[test]
fn a_sealed_file_that_was_altered_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let open = |digit| CertificateAuthority::open(options(sealed(folder.path(), digit)), clock());
    drop(open("7").unwrap());
    assert!(matches!(
        open("8").unwrap_err(),
        CaError::Seal(crate::SealError::Refused(_))
    ));
    let path = folder.path().join("ca/authorities.sealed");
    let good = std::fs::read(&path).unwrap();
    for at in [0, 20, 40, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, bad).unwrap();
        assert!(matches!(
            open("7").unwrap_err(),
            CaError::Seal(crate::SealError::Refused(_) | crate::SealError::NotSealed(_))
        ));
    }
    for cut in [0, 10, good.len() - 1] {
        std::fs::write(&path, &good[..cut]).unwrap();
        assert!(open("7").is_err(), "cut to {cut}");
    }
    std::fs::write(&path, &good).unwrap();
    assert!(open("7").is_ok());
}

#[test]
fn another_trust_domains_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(CertificateAuthority::open(options(sealed(folder.path(), "7")), clock()).unwrap());
    let mut other = options(sealed(folder.path(), "7"));
    other.trust_domain = TrustDomain::parse("other.local").unwrap();
    let error = CertificateAuthority::open(other, clock()).unwrap_err();
    assert!(matches!(error, CaError::OtherTrustDomain { .. }));
}

#[test]
fn no_key_lies_on_the_disk_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let ca = CertificateAuthority::open(options(sealed(folder.path(), "7")), clock()).unwrap();
    let state = ca.lock();
    let kept = serde_json::to_string(&state.slots.roots[0].key().kept).unwrap();
    let secret = STANDARD.decode(kept.trim_matches('"')).unwrap();
    let bytes = std::fs::read(folder.path().join("ca/authorities.sealed")).unwrap();
    let shows = |needle: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
    assert!(!secret.windows(16).any(shows));
    assert!(!shows(b"certificate"), "not even the JSON shows");
}

#[test]
fn the_intermediate_is_replaced_at_half_life_and_old_leaves_stay_good() {
    let clock = clock();
    let ca = in_memory(&clock);
    let old = ca.issue(&reviews(), &plain_csr()).unwrap();
    clock.advance(HOUR * 24 * 15 - HOUR);
    let same = ca.issue(&reviews(), &plain_csr()).unwrap();
    assert_eq!(old.chain_der[1], same.chain_der[1]);
    clock.advance(HOUR);
    let new = ca.issue(&reviews(), &plain_csr()).unwrap();
    assert_ne!(old.chain_der[1], new.chain_der[1]);
    assert!(verifies(&ca, &same, clock.now()) && verifies(&ca, &new, clock.now()));
    assert_eq!(ca.status().roots, 1, "the roots have not changed");
}

#[test]
fn a_new_root_is_known_before_it_signs_and_the_old_one_trusted_until_it_ends() {
    let clock = clock();
    let ca = in_memory(&clock);
    let mut bundles = ca.bundle();
    clock.advance(HOUR * 24 * 365 / 2);
    ca.maintain(&crate::LogEvents).unwrap();
    assert!(bundles.has_changed().unwrap());
    let both = Arc::clone(&bundles.borrow_and_update());
    assert_eq!(both.authorities().len(), 2);
    let before = ca.issue(&reviews(), &plain_csr()).unwrap();
    let old_root = TrustBundle::new(
        "mesh.local".parse().unwrap(),
        both.authorities()[..1].to_vec(),
        1,
    )
    .unwrap();
    let by_old = |issued: &IssuedSvid| {
        verify_svid(&issued.chain_der, &old_root, clock.now(), Purpose::Client).is_ok()
    };
    assert!(by_old(&before), "the new root does not sign yet");
    clock.advance(HOUR * 4);
    ca.maintain(&crate::LogEvents).unwrap();
    let after = ca.issue(&reviews(), &plain_csr()).unwrap();
    assert!(!by_old(&after), "now it does");
    assert!(verifies(&ca, &before, clock.now()) && verifies(&ca, &after, clock.now()));
    clock.advance(HOUR * 4);
    ca.maintain(&crate::LogEvents).unwrap();
    let left = Arc::clone(&ca.bundle().borrow());
    assert_eq!(
        left.authorities(),
        &both.authorities()[1..],
        "the old root is gone"
    );
}

#[test]
fn no_certificate_outlives_its_issuer() {
    let clock = clock();
    let ends = UnixTime::from_secs(1_800_000_005);
    assert_eq!(template::life(START, HOUR, ends).not_after, ends);
    let all_alike = CaOptions {
        root_ttl: HOUR,
        intermediate_ttl: HOUR,
        svid_ttl: HOUR,
        ..options(Store::DangerMemory)
    };
    let ca = CertificateAuthority::open(all_alike, Arc::clone(&clock) as _).unwrap();
    for _ in 0..40 {
        let issued = ca.issue(&reviews(), &plain_csr()).unwrap();
        let (_, leaf) = X509Certificate::from_der(&issued.chain_der[0]).unwrap();
        let (_, issuer) = X509Certificate::from_der(&issued.chain_der[1]).unwrap();
        assert!(leaf.validity().not_after <= issuer.validity().not_after);
        assert!(verifies(&ca, &issued, clock.now()));
        clock.advance(Duration::from_secs(313));
    }
}

/// It signs before its time when the one before has ended: who does not know it yet is no worse off.
#[test]
fn a_prepared_root_takes_over_when_the_active_one_ends() {
    let clock = clock();
    let ca = in_memory(&clock);
    clock.advance(HOUR * 24 * 365 / 2);
    ca.maintain(&crate::LogEvents).unwrap();
    let prepared = ca.bundle().borrow().authorities()[1].clone();
    clock.advance(HOUR * 24 * 365 / 2);
    let issued = ca.issue(&reviews(), &plain_csr()).unwrap();
    assert!(verifies(&ca, &issued, clock.now()));
    assert_eq!(ca.bundle().borrow().authorities(), [prepared]);
}

#[test]
fn after_a_sleep_beyond_every_end_it_begins_anew() {
    let clock = clock();
    let ca = in_memory(&clock);
    clock.advance(HOUR * 24 * 366 * 3);
    let issued = ca.issue(&reviews(), &plain_csr()).unwrap();
    assert!(verifies(&ca, &issued, clock.now()));
    assert_eq!(ca.bundle().borrow().authorities().len(), 1);
}

#[test]
fn lives_that_make_no_sense_are_refused() {
    let base = || options(Store::DangerMemory);
    for bad in [
        CaOptions {
            svid_ttl: Duration::from_millis(999),
            ..base()
        },
        CaOptions {
            svid_ttl: HOUR * 24 * 31,
            ..base()
        },
        CaOptions {
            intermediate_ttl: HOUR * 24 * 366,
            ..base()
        },
        CaOptions {
            root_ttl: HOUR * 24 * 366 * 101,
            ..base()
        },
    ] {
        assert!(matches!(
            CertificateAuthority::open(bad, clock()).unwrap_err(),
            CaError::Lives
        ));
    }
}

#[test]
fn the_process_itself_gets_a_certificate() {
    let ca = in_memory(&clock());
    let id: SpiffeId = "spiffe://mesh.local/ns/reeve-system/sa/control"
        .parse()
        .unwrap();
    let svid = ca.issue_self(&id).unwrap();
    assert_eq!(svid.id(), &id);
    let bundle = Arc::clone(&ca.bundle().borrow());
    assert!(verify_svid(svid.chain(), &bundle, START, Purpose::Server).is_ok());
}

/// The re-check is not for show: it refuses what a broken template would have signed.
#[test]
fn the_check_before_release_refuses_what_departs_from_the_template() {
    let ca = in_memory(&clock());
    let key = KeyPair::generate().unwrap();
    let spki = key.subject_public_key_info();
    let caller = reviews();
    let id = caller.id.clone();
    let meant = template::Leaf::of(&caller, START, HOUR, START.plus(HOUR * 2));
    let state = ca.lock();
    let issuer = state.slots.intermediate.as_ref().unwrap();
    let bundle = Arc::clone(&ca.bundle().borrow());
    let check = |params: &CertificateParams, id: &SpiffeId, spki: &[u8]| {
        let leaf = params.signed_by(&key, &issuer.issuer).unwrap();
        let chain = [leaf.der().clone(), issuer.certificate.clone()];
        let meant = template::Leaf { id, ..meant };
        recheck::before_release(&chain, &bundle, &meant, spki, START).map_err(|e| e.to_string())
    };
    let good = template::leaf(&meant).unwrap();
    assert!(check(&good, &id, &spki).is_ok());
    let other: SpiffeId = "spiffe://mesh.local/other".parse().unwrap();
    let departs = |what: &str| Err(format!("its {what} is not the template's"));
    assert_eq!(check(&good, &other, &spki), departs("identity"));
    let other_key = KeyPair::generate().unwrap().subject_public_key_info();
    assert_eq!(check(&good, &id, &other_key), departs("public key"));
    let mut named = good.clone();
    named
        .subject_alt_names
        .push(SanType::DnsName("a.b".try_into().unwrap()));
    assert_eq!(check(&named, &id, &spki), departs("list of names"));
    let mut extended = good.clone();
    extended
        .custom_extensions
        .push(rcgen::CustomExtension::from_oid_content(
            &[1, 2, 3],
            vec![5, 0],
        ));
    assert_eq!(check(&extended, &id, &spki), departs("set of extensions"));
    let mut longer = good.clone();
    longer.not_after += Duration::from_secs(1);
    assert_eq!(check(&longer, &id, &spki), departs("end"));
    let mut earlier = good.clone();
    earlier.not_before -= Duration::from_secs(1);
    assert_eq!(check(&earlier, &id, &spki), departs("beginning"));
    let mut under_entry = good.clone();
    under_entry.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x60; 16]));
    assert_eq!(check(&under_entry, &id, &spki), departs("serial number"));
    let mut one_way = good.clone();
    one_way.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    assert_eq!(check(&one_way, &id, &spki), departs("set of purposes"));
    let mut signing = good;
    signing.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(
        check(&signing, &id, &spki),
        Err("it does not verify".to_owned())
    );
}

/// The roots in the published file.
fn published(path: &std::path::Path) -> TrustBundle {
    let pem = std::fs::read(path).unwrap();
    TrustBundle::from_pem("mesh.local".parse().unwrap(), &pem, 1).unwrap()
}

#[test]
fn the_published_bundle_has_a_new_root_before_it_signs_and_loses_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bundle.pem");
    let clock = clock();
    let ca = in_memory(&clock);
    ca.publish_to(file.clone()).unwrap();
    let first = published(&file).authorities().to_vec();
    assert_eq!(first.len(), 1);

    clock.advance(HOUR * 24 * 365 / 2);
    ca.maintain(&crate::LogEvents).unwrap();
    let both = published(&file).authorities().to_vec();
    assert_eq!((both.len(), &both[0]), (2, &first[0]));
    // At every step, what was issued verifies by what stands in the file.
    for _ in 0..12 {
        clock.advance(HOUR);
        ca.maintain(&crate::LogEvents).unwrap();
        let issued = ca.issue(&reviews(), &plain_csr()).unwrap();
        let verified = verify_svid(
            &issued.chain_der,
            &published(&file),
            clock.now(),
            Purpose::Client,
        );
        assert!(verified.is_ok());
    }
    let later = published(&file).authorities().to_vec();
    assert_eq!(later, both[1..], "the old root is gone");
    let history = published(&folder.path().join("roots.pem"));
    assert_eq!(history.authorities(), both, "but not forgotten");
    // A whole set of new authorities at once, after a long sleep.
    clock.advance(HOUR * 24 * 366 * 3);
    let issued = ca.issue(&reviews(), &plain_csr()).unwrap();
    let last = published(&file);
    assert!(verify_svid(&issued.chain_der, &last, clock.now(), Purpose::Client).is_ok());
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 3, "nothing but the three files is left");
}

#[test]
fn no_root_signs_that_could_not_be_published() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("place");
    std::fs::create_dir(&place).unwrap();
    let file = place.join("bundle.pem");
    let clock = clock();
    let ca = in_memory(&clock);
    ca.publish_to(file.clone()).unwrap();
    let before = ca.bundle().borrow().authorities().to_vec();
    for _ in 0..18 {
        clock.advance(HOUR * 24 * 10);
        ca.maintain(&crate::LogEvents).unwrap();
    }
    std::fs::remove_dir_all(&place).unwrap();

    // A new root is due: the present authorities go on, in the bundle and as signers.
    clock.advance(HOUR * 24 * 5);
    let refused = ca.maintain(&crate::LogEvents).unwrap_err();
    assert!(matches!(refused, CaError::Publish { .. }), "{refused:?}");
    assert_eq!(ca.bundle().borrow().authorities(), before);
    assert_eq!(ca.status().rotation, None);
    ca.issue(&reviews(), &plain_csr()).unwrap();
    std::fs::create_dir(&place).unwrap();
    ca.maintain(&crate::LogEvents).unwrap();
    assert_eq!(published(&file).authorities().len(), 2);
    assert_eq!(ca.bundle().borrow().authorities().len(), 2);
}
