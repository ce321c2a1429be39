//! What certificates look like. Nothing of a request goes in but its public key.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use reeve_core::{ServiceName, SpiffeId, TrustDomain, UnixTime};

use super::{Attested, CaError};

/// How far back a certificate is dated, for peers whose clock is behind.
pub(super) const BACKDATED: Duration = Duration::from_secs(10);
/// The last second of the year 9999, which is the last that X.509 can express (RFC 5280 section 4.1.2.5).
const LAST_SECOND: u64 = 253_402_300_799;

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
}

/// What an X.509-SVID is to say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf<'a> {
    pub(super) id: &'a SpiffeId,
    pub(super) dns_names: &'a [ServiceName],
    pub(super) life: Life,
    pub(super) standing: Standing,
}

/// What its holder may ask of the authority. The serial number tells: see [`Standing::of_serial`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// To renew it.
    Renews,
    /// Nothing: it was issued under a registration entry, and its agent renews it as long as there is one.
    UnderEntry,
}

/// In the first byte of a serial number: it was issued under a registration entry.
const UNDER_ENTRY: u8 = 0x20;

impl Standing {
    /// By a serial number of ours, in hexadecimal.
    pub(crate) fn of_serial(serial: &str) -> Self {
        let first = serial
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match first.is_some_and(|first| first & UNDER_ENTRY == 0) {
            true => Self::Renews,
            false => Self::UnderEntry,
        }
    }

    /// The first byte of a serial number, of which `random` is kept where there is room: positive, and of full length
    /// (RFC 5280 section 4.1.2.2).
    fn mark(self, random: u8) -> u8 {
        let first = (random & 0x1f) | 0x40;
        match self {
            Self::Renews => first,
            Self::UnderEntry => first | UNDER_ENTRY,
        }
    }
}

impl<'a> Leaf<'a> {
    /// What `caller` gets at `now`: at most `ttl`, and within the issuer's life.
    pub(super) fn of(
        caller: &'a Attested,
        now: UnixTime,
        ttl: Duration,
        issuer_ends: UnixTime,
    ) -> Self {
        let entry = caller.entry.as_deref();
        let shorter = entry.and_then(|entry| entry.x509_ttl);
        Self {
            id: &caller.id,
            dns_names: entry
                .map(|entry| entry.dns_names.as_slice())
                .unwrap_or_default(),
            life: life(
                now,
                shorter.map_or(ttl, |shorter| shorter.min(ttl)),
                issuer_ends,
            ),
            standing: match entry {
                Some(_) => Standing::UnderEntry,
                None => Standing::Renews,
            },
        }
    }
}

/// Which kind of authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Root,
    Intermediate,
}

/// From a little before `now` for `ttl`, but never beyond the end of the issuer. Whole seconds, rounded down.
pub(super) fn life(now: UnixTime, ttl: Duration, issuer_ends: UnixTime) -> Life {
    let whole = |t: UnixTime| UnixTime::from_secs(t.as_secs().min(LAST_SECOND));
    Life {
        not_before: whole(now.minus(BACKDATED)),
        not_after: whole(now.plus(ttl).min(issuer_ends)),
    }
}

/// The X.509-SVID of a workload (SPIFFE X509-SVID sections 2 to 4).
pub(super) fn leaf(meant: &Leaf<'_>) -> Result<CertificateParams, CaError> {
    let mut params = dated(meant.life, meant.standing)?;
    // A subject that is not empty, so that the alternative name need not be critical (RFC 5280 section 4.1.2.6).
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Reeve");
    params.subject_alt_names = vec![uri(meant.id)?];
    for name in meant.dns_names {
        let name = name.as_str().try_into().map_err(CaError::Sign)?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A signing certificate, with a name of its own so that no two authorities are taken for each other.
pub(super) fn authority(
    domain: &TrustDomain,
    tier: Tier,
    life: Life,
) -> Result<CertificateParams, CaError> {
    let mut params = dated(life, Standing::Renews)?;
    let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes);
    let name: String = hex::encode(serial.unwrap_or_default())
        .chars()
        .take(16)
        .collect();
    let (title, below) = match tier {
        Tier::Root => ("Reeve root", BasicConstraints::Constrained(1)),
        Tier::Intermediate => ("Reeve intermediate", BasicConstraints::Constrained(0)),
    };
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{title} {name}"));
    params.subject_alt_names = vec![uri(&domain.id())?];
    params.is_ca = IsCa::Ca(below);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = tier == Tier::Intermediate;
    Ok(params)
}

fn dated(life: Life, standing: Standing) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(life.not_before.as_secs());
    params.not_after = epoch + Duration::from_secs(life.not_after.as_secs());
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(serial(standing)?);
    Ok(params)
}

/// 125 random bits, and the standing.
fn serial(standing: Standing) -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CaError::NoRandom)?;
    if let Some(first) = bytes.first_mut() {
        *first = standing.mark(*first);
    }
    Ok(SerialNumber::from_slice(&bytes))
}

fn uri(id: &SpiffeId) -> Result<SanType, CaError> {
    let name = id.as_str().try_into().map_err(CaError::Sign)?;
    Ok(SanType::URI(name))
}
