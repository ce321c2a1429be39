//! What certificates look like before they are signed (X509-SVID standard, section 4 and appendix A).

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};
use reeve_core::{SpiffeId, TrustDomain, UnixTime};
use time::OffsetDateTime;

/// How far `notBefore` lies in the past, for peers whose clocks are behind.
pub(crate) const BACKDATE: Duration = Duration::from_secs(10);

/// Validity of a certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    pub(crate) now: UnixTime,
    pub(crate) not_after: UnixTime,
}

pub(crate) fn root(
    domain: &TrustDomain,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    authority("root", BasicConstraints::Constrained(1), domain, validity)
}

pub(crate) fn intermediate(
    domain: &TrustDomain,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    authority(
        "intermediate",
        BasicConstraints::Constrained(0),
        domain,
        validity,
    )
}

/// Each authority has a subject and key id of its own, so that chains of a rotation cannot be confused.
fn authority(
    role: &str,
    constraints: BasicConstraints,
    domain: &TrustDomain,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let serial = random_serial();
    let mut params = base(&domain.id(), validity, &serial)?;
    let name = format!("Reeve {role} {}", hex::encode(serial));
    params.distinguished_name.push(DnType::CommonName, name);
    params
        .distinguished_name
        .push(DnType::OrganizationName, domain.as_str());
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A leaf: one URI, no other name, not a CA, for TLS clients and servers.
pub(crate) fn svid(id: &SpiffeId, validity: Validity) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base(id, validity, &random_serial())?;
    params
        .distinguished_name
        .push(DnType::OrganizationName, id.trust_domain().as_str());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    Ok(params)
}

fn base(
    id: &SpiffeId,
    validity: Validity,
    serial: &[u8],
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = offset(validity.now.minus(BACKDATE));
    params.not_after = offset(validity.not_after);
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 127 random bits, positive (RFC 5280, section 4.1.2.2).
fn random_serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    serial
}

fn offset(time: UnixTime) -> OffsetDateTime {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
