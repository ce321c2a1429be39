//! Leaves with one fault each, and their twins that are odd but legal.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};
use reeve_core::SpiffeIdError;

use super::{HOUR, verify};
use crate::{
    Purpose, SvidError,
    forge::{Forge, ID, NOW, leaf, uri, valid},
};

/// What is wrong, how to spoil a good leaf that way, and the one reason for the refusal.
type Fault = (&'static str, fn(&mut CertificateParams), SvidError);

fn name_faults() -> Vec<Fault> {
    vec![
        (
            "no URI",
            |p| p.subject_alt_names.clear(),
            SvidError::NoUriName,
        ),
        (
            "DNS only",
            |p| p.subject_alt_names = vec![SanType::DnsName("a.b".try_into().unwrap())],
            SvidError::NoUriName,
        ),
        (
            "two URIs",
            |p| p.subject_alt_names.push(uri("spiffe://mesh.local/x")),
            SvidError::ManyUriNames { found: 2 },
        ),
        (
            "a second URI that is no SPIFFE ID",
            |p| p.subject_alt_names.push(uri("https://x")),
            SvidError::ManyUriNames { found: 2 },
        ),
        (
            "another scheme",
            |p| p.subject_alt_names = vec![uri("https://mesh.local/x")],
            SvidError::BadSpiffeId(SpiffeIdError::WrongScheme),
        ),
        (
            "upper-case domain",
            |p| p.subject_alt_names = vec![uri("spiffe://Mesh.local/x")],
            SvidError::BadSpiffeId(SpiffeIdError::BadTrustDomainChar('M')),
        ),
        (
            "query",
            |p| p.subject_alt_names = vec![uri("spiffe://mesh.local/x?y")],
            SvidError::BadSpiffeId(SpiffeIdError::BadPathChar('?')),
        ),
        (
            "dot segment",
            |p| p.subject_alt_names = vec![uri("spiffe://mesh.local/a/../b")],
            SvidError::BadSpiffeId(SpiffeIdError::DotSegment),
        ),
        (
            "no path",
            |p| p.subject_alt_names = vec![uri("spiffe://mesh.local")],
            SvidError::LeafWithoutPath("spiffe://mesh.local".parse().unwrap()),
        ),
        (
            "another trust domain",
            |p| p.subject_alt_names = vec![uri("spiffe://other.local/x")],
            SvidError::IssuerOfOtherDomain {
                position: 1,
                found: "mesh.local".parse().unwrap(),
            },
        ),
    ]
}

fn usage_faults() -> Vec<Fault> {
    vec![
        (
            "a CA",
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            SvidError::LeafIsCa,
        ),
        (
            "a CA of length 0",
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
            SvidError::LeafIsCa,
        ),
        (
            "no key usage",
            |p| p.key_usages.clear(),
            SvidError::NoKeyUsage,
        ),
        (
            "keyCertSign",
            |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
            SvidError::LeafMaySignCertificates,
        ),
        (
            "cRLSign",
            |p| p.key_usages.push(KeyUsagePurpose::CrlSign),
            SvidError::LeafMaySignCrls,
        ),
        (
            "no digitalSignature",
            |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement],
            SvidError::NoDigitalSignature,
        ),
        (
            "for servers only",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            SvidError::WrongPurpose(Purpose::Client),
        ),
        (
            "for code signing",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
            SvidError::WrongPurpose(Purpose::Client),
        ),
    ]
}

fn time_faults() -> Vec<Fault> {
    vec![
        (
            "expired",
            |p| valid(p, NOW.minus(HOUR), NOW.minus(HOUR / 2)),
            SvidError::Expired {
                position: 0,
                not_after: NOW.minus(HOUR / 2),
            },
        ),
        (
            "expired a second ago",
            |p| valid(p, NOW.minus(HOUR), NOW.minus(HOUR / 3600)),
            SvidError::Expired {
                position: 0,
                not_after: NOW.minus(HOUR / 3600),
            },
        ),
        (
            "not yet valid",
            |p| valid(p, NOW.plus(HOUR / 3600), NOW.plus(HOUR)),
            SvidError::NotYetValid {
                position: 0,
                not_before: NOW.plus(HOUR / 3600),
            },
        ),
    ]
}

fn form_faults() -> Vec<Fault> {
    vec![
        (
            "a zero serial",
            |p| p.serial_number = Some(SerialNumber::from_slice(&[0])),
            SvidError::BadSerial { position: 0 },
        ),
        (
            "a long serial",
            |p| p.serial_number = Some(SerialNumber::from_slice(&[1; 21])),
            SvidError::BadSerial { position: 0 },
        ),
        (
            "an unknown critical extension",
            |p| {
                let mut extension =
                    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
                extension.set_criticality(true);
                p.custom_extensions = vec![extension];
            },
            SvidError::UnknownCriticalExtension,
        ),
        (
            "an extension twice",
            |p| {
                let extension =
                    CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]);
                p.custom_extensions = vec![extension];
            },
            SvidError::DuplicateExtension { position: 0 },
        ),
        (
            "a key usage that cannot be read",
            |p| {
                p.key_usages.clear();
                p.custom_extensions = vec![CustomExtension::from_oid_content(
                    &[2, 5, 29, 15],
                    vec![0xff, 0xff],
                )];
            },
            SvidError::Malformed { position: 0 },
        ),
    ]
}

#[test]
fn a_leaf_with_one_fault_is_refused_for_exactly_that_fault() {
    let forge = Forge::new("mesh.local");
    let faults = [name_faults(), usage_faults(), time_faults(), form_faults()];
    for (what, spoil, reason) in faults.into_iter().flatten() {
        let mut params = leaf(ID);
        spoil(&mut params);
        let refused = verify(&forge, &forge.chain(&params)).unwrap_err();
        assert_eq!(refused, reason, "{what}");
    }
}

/// The twin of the table: what looks odd but is legal.
#[test]
fn a_leaf_that_is_odd_but_legal_verifies() {
    type Change = fn(&mut CertificateParams);
    let rows: Vec<(&str, Change)> = vec![
        ("a DNS name beside the URI", |p| {
            p.subject_alt_names
                .push(SanType::DnsName("a.b".try_into().unwrap()))
        }),
        ("more key usages", |p| {
            p.key_usages.push(KeyUsagePurpose::KeyAgreement)
        }),
        ("no extended key usage", |p| p.extended_key_usages.clear()),
        ("no basic constraints", |p| p.is_ca = IsCa::NoCa),
        ("its last second", |p| valid(p, NOW.minus(HOUR), NOW)),
        ("its first second", |p| valid(p, NOW, NOW.plus(HOUR))),
        ("an unknown extension that is not critical", |p| {
            p.custom_extensions = vec![CustomExtension::from_oid_content(
                &[1, 3, 6, 1, 4, 1, 99999, 1],
                vec![5, 0],
            )];
        }),
        ("a path that is not ours", |p| {
            p.subject_alt_names = vec![uri("spiffe://mesh.local/any/thing")]
        }),
        ("a serial of 20 octets", |p| {
            p.serial_number = Some(SerialNumber::from_slice(&[1; 20]))
        }),
    ];
    let forge = Forge::new("mesh.local");
    for (what, change) in rows {
        let mut params = leaf(ID);
        change(&mut params);
        let verdict = verify(&forge, &forge.chain(&params));
        assert!(verdict.is_ok(), "{what}: {verdict:?}");
    }
}
