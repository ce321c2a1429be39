//! The X.509-SVID profile of single certificates (SPIFFE X509-SVID sections 2 to 5), apart from signatures.

use reeve_core::{SpiffeId, UnixTime};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{
    FromDer, GeneralName, KeyUsage, ParsedExtension, X509Certificate, X509Extension, X509Version,
};

use crate::{CertificateSummary, SvidError, der};

/// Longest certificate we read. Ours are about 500 bytes; RSA-4096 chains of others stay below 4 KiB.
pub(crate) const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
/// Most octets of a serial number (RFC 5280 section 4.1.2.2).
const MAX_SERIAL_BYTES: usize = 20;

/// What the profile says about one certificate.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    pub(crate) validity: Validity,
    pub(crate) serial: String,
}

/// When a certificate is valid; both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
}

impl Validity {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let at = |t: x509_parser::time::ASN1Time| {
            UnixTime::from_secs(u64::try_from(t.timestamp()).unwrap_or_default())
        };
        Self {
            not_before: at(certificate.validity().not_before),
            not_after: at(certificate.validity().not_after),
        }
    }

    /// Whether `at` lies within, by whole seconds as X.509 counts.
    pub(crate) fn covers(&self, at: UnixTime) -> bool {
        (self.not_before.as_secs()..=self.not_after.as_secs()).contains(&at.as_secs())
    }

    pub(crate) fn check(&self, position: usize, at: UnixTime) -> Result<(), SvidError> {
        if at.as_secs() < self.not_before.as_secs() {
            let not_before = self.not_before;
            return Err(SvidError::NotYetValid {
                position,
                not_before,
            });
        }
        if at.as_secs() > self.not_after.as_secs() {
            let not_after = self.not_after;
            return Err(SvidError::Expired {
                position,
                not_after,
            });
        }
        Ok(())
    }
}

/// Checks the leaf of a chain: its single SPIFFE ID, that it cannot sign certificates, and that it can sign handshakes.
pub(crate) fn check_leaf(der: &CertificateDer<'_>) -> Result<Leaf, SvidError> {
    let certificate = parse(0, der)?;
    let id = single_uri(&certificate)?;
    if id.path().is_empty() {
        return Err(SvidError::LeafWithoutPath(id));
    }
    if basic_constraints(0, &certificate)?.unwrap_or_default() {
        return Err(SvidError::LeafIsCa);
    }
    // Only a CA constrains names (RFC 5280 section 4.2.1.10); the path's verifier passes over them here.
    if !matches!(certificate.name_constraints(), Ok(None)) {
        return Err(SvidError::Malformed { position: 0 });
    }
    let usage = key_usage(0, &certificate)?.ok_or(SvidError::NoKeyUsage)?;
    if certificate
        .key_usage()
        .is_ok_and(|e| e.is_some_and(|e| !e.critical))
    {
        return Err(SvidError::KeyUsageNotCritical);
    }
    if usage.key_cert_sign() {
        return Err(SvidError::LeafMaySignCertificates);
    }
    if usage.crl_sign() {
        return Err(SvidError::LeafMaySignCrls);
    }
    if !usage.digital_signature() {
        return Err(SvidError::NoDigitalSignature);
    }
    Ok(Leaf {
        id,
        validity: Validity::of(&certificate),
        serial: hex::encode(certificate.raw_serial()),
    })
}

/// Checks a signing certificate: a CA that may sign certificates; a SPIFFE ID, if it has one, is its trust domain's.
pub(crate) fn check_signing(
    position: usize,
    der: &CertificateDer<'_>,
) -> Result<(Validity, Option<SpiffeId>), SvidError> {
    let certificate = parse(position, der)?;
    if !basic_constraints(position, &certificate)?.unwrap_or_default() {
        return Err(SvidError::IssuerIsNotCa { position });
    }
    let usage = key_usage(position, &certificate)?;
    if !usage.is_some_and(|usage| usage.key_cert_sign()) {
        return Err(SvidError::IssuerMayNotSign { position });
    }
    let id = match uris(position, &certificate)?.as_slice() {
        [] => None,
        [uri] => Some(SpiffeId::parse(uri).map_err(SvidError::BadSpiffeId)?),
        many => return Err(SvidError::ManyUriNames { found: many.len() }),
    };
    match id {
        Some(id) if !id.path().is_empty() => Err(SvidError::IssuerWithPath { position, id }),
        id => Ok((Validity::of(&certificate), id)),
    }
}

/// What the certificate says, unverified.
pub(crate) fn summary(der: &CertificateDer<'_>) -> Result<CertificateSummary, SvidError> {
    let certificate = parse(0, der)?;
    let Validity {
        not_before,
        not_after,
    } = Validity::of(&certificate);
    Ok(CertificateSummary {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        serial: hex::encode(certificate.raw_serial()),
        uris: uris(0, &certificate)?
            .into_iter()
            .map(str::to_owned)
            .collect(),
        not_before,
        not_after,
    })
}

fn parse<'a>(
    position: usize,
    der: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, SvidError> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(SvidError::CertificateTooLarge { position });
    }
    let malformed = SvidError::Malformed { position };
    let Ok((rest, certificate)) = X509Certificate::from_der(der) else {
        return Err(malformed);
    };
    if !rest.is_empty() {
        return Err(SvidError::TrailingData { position });
    }
    // The arc of RFC 5280's own extensions, whose values are DER.
    let known = |e: &&X509Extension<'_>| e.oid.as_bytes().starts_with(&[0x55, 0x1d]);
    let mut known = certificate.extensions().iter().filter(known);
    if !der::is_strict(der) || !known.all(|e| der::is_strict(e.value)) {
        return Err(malformed);
    }
    if certificate.version() != X509Version::V3 {
        return Err(SvidError::NotVersion3 { position });
    }
    if certificate.signature_algorithm != certificate.tbs_certificate.signature {
        return Err(SvidError::AlgorithmMismatch { position });
    }
    if certificate.extensions_map().is_err() {
        return Err(SvidError::DuplicateExtension { position });
    }
    let unreadable = |e: &ParsedExtension<'_>| matches!(e, ParsedExtension::ParseError { .. });
    if certificate
        .iter_extensions()
        .any(|e| unreadable(e.parsed_extension()))
    {
        return Err(malformed);
    }
    let serial = certificate.raw_serial();
    let negative = serial.first().is_none_or(|first| first & 0x80 != 0);
    if negative || serial.len() > MAX_SERIAL_BYTES || serial.iter().all(|b| *b == 0) {
        return Err(SvidError::BadSerial { position });
    }
    Ok(certificate)
}

/// `cA` of the basic constraints; none when the extension is absent.
fn basic_constraints(
    position: usize,
    certificate: &X509Certificate<'_>,
) -> Result<Option<bool>, SvidError> {
    match certificate.basic_constraints() {
        // Only a CA has a path below it (RFC 5280 section 4.2.1.9).
        Ok(Some(found)) if found.value.path_len_constraint.is_some() && !found.value.ca => {
            Err(SvidError::Malformed { position })
        }
        Ok(found) => Ok(found.map(|extension| extension.value.ca)),
        Err(_) => Err(SvidError::Malformed { position }),
    }
}

fn key_usage<'a>(
    position: usize,
    certificate: &'a X509Certificate<'_>,
) -> Result<Option<&'a KeyUsage>, SvidError> {
    match certificate.key_usage() {
        Ok(found) => Ok(found.map(|extension| extension.value)),
        Err(_) => Err(SvidError::Malformed { position }),
    }
}

fn single_uri(certificate: &X509Certificate<'_>) -> Result<SpiffeId, SvidError> {
    match uris(0, certificate)?.as_slice() {
        [] => Err(SvidError::NoUriName),
        [uri] => SpiffeId::parse(uri).map_err(SvidError::BadSpiffeId),
        many => Err(SvidError::ManyUriNames { found: many.len() }),
    }
}

fn uris<'a>(
    position: usize,
    certificate: &'a X509Certificate<'_>,
) -> Result<Vec<&'a str>, SvidError> {
    let malformed = SvidError::Malformed { position };
    let Ok(names) = certificate.subject_alternative_name() else {
        return Err(malformed);
    };
    let names = names.map(|extension| extension.value.general_names.as_slice());
    let names = names.unwrap_or_default();
    if names
        .iter()
        .any(|name| matches!(name, GeneralName::Invalid(..)))
    {
        return Err(malformed);
    }
    let uri = |name: &GeneralName<'a>| {
        if let GeneralName::URI(uri) = name {
            Some(*uri)
        } else {
            None
        }
    };
    Ok(names.iter().filter_map(uri).collect())
}
