//! The operator's files are followed, and what is wrong with them changes nothing.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyUsagePurpose, PKCS_RSA_SHA256,
    SignatureAlgorithm,
};
use reeve_core::{Clock as _, SpiffeId, clock::ManualClock};
use tempfile::TempDir;

use super::*;
use crate::{
    Attested, CertificateAuthority, LogEvents, Rotate, RotateError, SealKey, Store,
    authority::RotationStep,
};

const START: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

/// An operator's root, and what it signs.
struct Operator {
    root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate that may sign, before what is special about it.
fn signing(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params
}

impl Operator {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = signing(name);
        Self {
            root: params.self_signed(&key).unwrap().der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Has an authority below the root sign for the mesh.
    fn put(&self, folder: &Path, params: &CertificateParams) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        write(folder, &[certificate.der()], &key, Some(&self.root));
    }
}

fn write(
    folder: &Path,
    chain: &[&CertificateDer<'_>],
    key: &KeyPair,
    root: Option<&CertificateDer<'_>>,
) {
    let pem = |ders: &[&CertificateDer<'_>]| -> String {
        let block = |der: &&CertificateDer<'_>| pem_text("CERTIFICATE", der);
        ders.iter().map(block).collect()
    };
    fs::write(folder.join(CERTIFICATES), pem(chain)).unwrap();
    fs::write(folder.join(KEY), key.serialize_pem()).unwrap();
    fs::set_permissions(folder.join(KEY), fs::Permissions::from_mode(0o600)).unwrap();
    match root {
        Some(root) => fs::write(folder.join(ROOTS), pem(&[root])).unwrap(),
        None => drop(fs::remove_file(folder.join(ROOTS))),
    }
}

fn pem_text(label: &str, der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(der)
    )
}

struct World {
    dir: TempDir,
    files: TempDir,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            files: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::at(START)),
        }
    }

    fn options(&self) -> CaOptions {
        CaOptions {
            trust_domain: "mesh.local".parse().unwrap(),
            root_ttl: HOUR * 24 * 365,
            intermediate_ttl: HOUR * 24 * 30,
            svid_ttl: HOUR * 4,
            consumer_wait: Duration::from_secs(1),
            store: Store::Sealed {
                dir: self.dir.path().join("ca"),
                key: SealKey::from_hex(&"7".repeat(64)).unwrap(),
            },
            vault: None,
            upstream: Some(self.files.path().to_owned()),
        }
    }

    fn open(&self) -> Arc<CertificateAuthority> {
        CertificateAuthority::open(self.options(), Arc::clone(&self.clock) as _).unwrap()
    }

    /// Judges what is there.
    fn judge(&self) -> Result<Upstream, UpstreamError> {
        Watch::new(self.files.path().to_owned()).judge(&self.options(), self.clock.now())
    }

    /// Lets seconds pass.
    fn pass(&self, ca: &CertificateAuthority, seconds: u32) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            ca.maintain(&LogEvents).unwrap();
        }
    }
}

fn issue(ca: &CertificateAuthority) -> Vec<CertificateDer<'static>> {
    let id = SpiffeId::parse("spiffe://mesh.local/ns/default/sa/a").unwrap();
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    ca.issue(&Attested::by_itself(id), csr.der())
        .unwrap()
        .chain_der
}

fn verifies(chain: &[CertificateDer<'static>], root: &CertificateDer<'static>) -> bool {
    let bundle = TrustBundle::new("mesh.local".parse().unwrap(), vec![root.clone()], 0).unwrap();
    verify_svid(
        chain,
        &bundle,
        START.plus(Duration::from_secs(60)),
        Purpose::Client,
    )
    .is_ok()
}

#[test]
fn the_operators_authority_signs_the_intermediate_whose_key_is_ours() {
    let (world, operator) = (World::new(), Operator::new("root one"));
    operator.put(world.files.path(), &signing("for the mesh"));
    let ca = world.open();
    let chain = issue(&ca);
    assert_eq!(chain.len(), 3, "leaf, our intermediate, the operator's");
    assert!(verifies(&chain, &operator.root));
    assert_eq!(
        ca.bundle().borrow().authorities(),
        std::slice::from_ref(&operator.root)
    );
    let status = ca.status();
    let keys: Vec<_> = status.authorities.iter().map(|a| (a.kind, a.key)).collect();
    assert_eq!(keys, [("root", "upstream"), ("intermediate", "memory")]);
    let upstream = status.custody.upstream.unwrap();
    assert_eq!((upstream.since, upstream.refused), (Some(START), None));

    drop(ca);
    let again = world.open();
    assert_eq!(issue(&again)[1], chain[1], "a restart goes on");
}

#[test]
fn a_root_may_sign_directly_and_with_other_algorithms() {
    let world = World::new();
    for algorithm in [
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &PKCS_RSA_SHA256 as &SignatureAlgorithm,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let root = signing("alone").self_signed(&key).unwrap();
        write(world.files.path(), &[root.der()], &key, None);
        let upstream = world.judge().unwrap();
        assert_eq!(&upstream.root, root.der());
        assert!(upstream.above.is_empty());
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_is_wrong_is_refused_with_its_reason() {
    let operator = Operator::new("root");
    let other = Operator::new("other root");
    type Fault = Box<dyn Fn(&Path)>;
    let put = |params: CertificateParams| -> Fault {
        let issuer = Operator {
            root: operator.root.clone(),
            issuer: Issuer::new(
                signing("root"),
                KeyPair::from_pem(&operator.issuer.key().serialize_pem()).unwrap(),
            ),
        };
        Box::new(move |dir| issuer.put(dir, &params))
    };
    let with = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = signing("for the mesh");
        change(&mut params);
        params
    };
    let (of_other, spare) = (
        other.root.clone(),
        KeyPair::generate().unwrap().serialize_pem(),
    );
    let cases: Vec<(&str, Fault)> = vec![
        (
            "cannot be read",
            Box::new(|dir| fs::remove_file(dir.join(CERTIFICATES)).unwrap()),
        ),
        (
            "holds no certificates",
            Box::new(|dir| fs::write(dir.join(CERTIFICATES), "x").unwrap()),
        ),
        (
            "holds no private key",
            Box::new(|dir| fs::write(dir.join(KEY), "x").unwrap()),
        ),
        (
            "others may read",
            Box::new(|dir| {
                fs::set_permissions(dir.join(KEY), fs::Permissions::from_mode(0o644)).unwrap()
            }),
        ),
        (
            "larger than 64 KiB",
            Box::new(|dir| fs::write(dir.join(KEY), vec![b' '; 70_000]).unwrap()),
        ),
        (
            "not that of the first certificate",
            Box::new(move |dir| fs::write(dir.join(KEY), &spare).unwrap()),
        ),
        (
            "no authority of the trust bundle",
            Box::new(move |dir| {
                fs::write(dir.join(ROOTS), pem_text("CERTIFICATE", &of_other)).unwrap()
            }),
        ),
        (
            "longer than one of its issuers allows",
            put(with(&|p| {
                p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))
            })),
        ),
        ("is not a CA", put(with(&|p| p.is_ca = IsCa::NoCa))),
        (
            "has expired",
            put(with(&|p| p.not_after = rcgen::date_time_ymd(2021, 1, 1))),
        ),
        (
            "not valid yet",
            put(with(&|p| p.not_before = rcgen::date_time_ymd(2039, 1, 1))),
        ),
        (
            "may not sign",
            put(with(&|p| {
                p.key_usages = vec![KeyUsagePurpose::DigitalSignature]
            })),
        ),
        (
            "belongs to trust domain other.local",
            put(with(&|p| {
                p.subject_alt_names = vec![rcgen::SanType::URI(
                    "spiffe://other.local".try_into().unwrap(),
                )]
            })),
        ),
    ];
    for (why, spoil) in cases {
        let world = World::new();
        operator.put(world.files.path(), &signing("for the mesh"));
        let ca = world.open();
        let before = issue(&ca);
        spoil(world.files.path());
        let error = error_chain(&world.judge().err().unwrap());
        assert!(error.contains(why), "{why}: {error}");
        world.pass(&ca, 5);
        let refused = ca.status().custody.upstream.unwrap().refused.unwrap();
        assert!(refused.contains(why), "{why}: {refused}");
        assert_eq!(
            issue(&ca)[1..],
            before[1..],
            "{why}: the last good one goes on"
        );
    }
}

#[test]
fn another_certificate_under_the_root_signs_at_once_and_everybody_renews() {
    let (world, operator) = (World::new(), Operator::new("root"));
    operator.put(world.files.path(), &signing("first"));
    let ca = world.open();
    let (before, renewal) = (issue(&ca), *ca.renewal().borrow());
    operator.put(world.files.path(), &signing("second"));
    world.pass(&ca, 3);
    let after = issue(&ca);
    assert_ne!(after[2], before[2]);
    assert!(verifies(&after, &operator.root) && verifies(&before, &operator.root));
    assert_eq!(*ca.renewal().borrow(), renewal + 1);
    assert!(ca.status().rotation.is_none(), "the root is the same");
}

#[test]
fn another_root_is_spread_before_it_signs_and_the_old_one_retired_after() {
    let (world, old, new) = (World::new(), Operator::new("old"), Operator::new("new"));
    old.put(world.files.path(), &signing("of the old"));
    let ca = world.open();
    new.put(world.files.path(), &signing("of the new"));
    world.pass(&ca, 2);
    let bundle = ca.bundle().borrow().authorities().to_vec();
    assert_eq!(bundle, [old.root.clone(), new.root.clone()]);
    assert!(verifies(&issue(&ca), &old.root), "the old one signs");
    assert_eq!(
        ca.status().rotation.unwrap().rotation.step,
        RotationStep::Spread
    );
    // It survives a restart: the old key is nowhere any more, the new one is not yet used.
    drop(ca);
    let ca = world.open();
    assert!(verifies(&issue(&ca), &old.root));
    world.pass(&ca, 30);
    let (chain, status) = (issue(&ca), ca.status());
    assert!(
        verifies(&chain, &new.root) && !verifies(&chain, &old.root),
        "{status:?}"
    );
    world.clock.advance(HOUR * 5);
    world.pass(&ca, 30);
    assert_eq!(
        ca.bundle().borrow().authorities(),
        std::slice::from_ref(&new.root)
    );
    assert!(ca.status().rotation.is_none());
}

#[test]
fn roots_are_the_operators_to_make_also_in_an_emergency() {
    let (world, old, new) = (World::new(), Operator::new("old"), Operator::new("new"));
    old.put(world.files.path(), &signing("of the old"));
    let ca = world.open();
    for what in [Rotate::Root, Rotate::Emergency] {
        let refused = ca.rotate(what, &LogEvents).unwrap_err();
        assert!(
            matches!(refused, RotateError::UpstreamDecides(_)),
            "{refused}"
        );
    }
    new.put(world.files.path(), &signing("of the new"));
    world.pass(&ca, 2);
    ca.rotate(Rotate::Emergency, &LogEvents).unwrap();
    assert_eq!(
        ca.bundle().borrow().authorities(),
        std::slice::from_ref(&new.root)
    );
    assert!(verifies(&issue(&ca), &new.root));
}

#[test]
fn from_an_own_root_to_the_operators_and_back() {
    let (world, operator) = (World::new(), Operator::new("root"));
    let own = || CaOptions {
        upstream: None,
        ..world.options()
    };
    let ca = CertificateAuthority::open(own(), Arc::clone(&world.clock) as _).unwrap();
    issue(&ca);
    drop(ca);
    operator.put(world.files.path(), &signing("for the mesh"));
    let ca = world.open();
    world.pass(&ca, 30);
    assert!(verifies(&issue(&ca), &operator.root));
    world.clock.advance(HOUR * 5);
    world.pass(&ca, 30);
    drop(ca);
    let ca = CertificateAuthority::open(own(), Arc::clone(&world.clock) as _).unwrap();
    world.pass(&ca, 30);
    assert!(!verifies(&issue(&ca), &operator.root), "ours again");
}

#[test]
fn without_the_operators_files_nothing_begins() {
    let world = World::new();
    let error = CertificateAuthority::open(world.options(), Arc::clone(&world.clock) as _);
    let error = error_chain(&error.unwrap_err());
    assert!(
        error.contains("upstream authority") && error.contains("tls.crt"),
        "{error}"
    );
}
