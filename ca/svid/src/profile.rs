//! What an X.509-SVID must look like (X509-SVID standard, sections 2 to 5), read from a leaf certificate.

use aws_lc_rs::signature::{EcdsaKeyPair, KeyPair};
use reeve_core::{SpiffeId, UnixTime};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use crate::{Purpose, SvidError};

/// The facts of a leaf certificate that has the form of an X.509-SVID. Its signature is not checked here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SvidProfile {
    /// The one URI SAN.
    pub id: SpiffeId,
    /// Start of validity.
    pub not_before: UnixTime,
    /// End of validity.
    pub not_after: UnixTime,
    /// Serial number, lower-case hex.
    pub serial: String,
    /// Extended key usage allows TLS clients.
    pub client_auth: bool,
    /// Extended key usage allows TLS servers.
    pub server_auth: bool,
}

impl SvidProfile {
    /// Reads a leaf certificate.
    pub fn parse(der: &[u8]) -> Result<Self, SvidError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| SvidError::Malformed)?;
        if !rest.is_empty() {
            return Err(SvidError::TrailingData);
        }
        check_leaf(&certificate)?;
        let (client_auth, server_auth) = extended_usage(&certificate)?;
        let validity = certificate.validity();
        Ok(Self {
            id: uri_san(&certificate)?,
            not_before: unix_time(validity.not_before.timestamp()),
            not_after: unix_time(validity.not_after.timestamp()),
            serial: certificate
                .raw_serial()
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect(),
            client_auth,
            server_auth,
        })
    }

    /// Whether the certificate may be used for `purpose`.
    pub fn allows(&self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Client => self.client_auth,
            Purpose::Server => self.server_auth,
        }
    }
}

/// A leaf is no CA, may sign handshakes, and may sign neither certificates nor CRLs (sections 4.1 and 4.3).
fn check_leaf(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| SvidError::Malformed)?;
    if constraints.is_some_and(|c| c.value.ca) {
        return Err(SvidError::LeafIsCa);
    }
    let usage = certificate.key_usage().map_err(|_| SvidError::Malformed)?;
    let usage = usage.ok_or(SvidError::NoKeyUsage)?.value;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(SvidError::LeafMaySign);
    }
    if !usage.digital_signature() {
        return Err(SvidError::NoDigitalSignature);
    }
    Ok(())
}

/// Exactly one URI SAN; other kinds of names are allowed and mean nothing (section 2).
fn uri_san(certificate: &X509Certificate<'_>) -> Result<SpiffeId, SvidError> {
    let mut uris = Vec::new();
    for extension in certificate.extensions() {
        if let ParsedExtension::ParseError { .. } = extension.parsed_extension() {
            return Err(SvidError::Malformed);
        }
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            continue;
        };
        for name in &names.general_names {
            if let GeneralName::Invalid(..) = name {
                return Err(SvidError::Malformed);
            }
            if let GeneralName::URI(uri) = name {
                uris.push(*uri);
            }
        }
    }
    match uris.as_slice() {
        [] => Err(SvidError::NoUri),
        [uri] => {
            let id = SpiffeId::parse(uri).map_err(SvidError::BadId)?;
            if id.path().is_empty() {
                return Err(SvidError::NoPath);
            }
            Ok(id)
        }
        many => Err(SvidError::SeveralUris(many.len())),
    }
}

/// Client and server use; a certificate without the extension is good for both (section 4.4).
fn extended_usage(certificate: &X509Certificate<'_>) -> Result<(bool, bool), SvidError> {
    let usage = certificate
        .extended_key_usage()
        .map_err(|_| SvidError::Malformed)?;
    Ok(usage.map_or((true, true), |u| {
        (
            u.value.any || u.value.client_auth,
            u.value.any || u.value.server_auth,
        )
    }))
}

/// Whether the certificate's public key is that of `signer`.
pub(crate) fn public_key_is(der: &[u8], signer: &EcdsaKeyPair) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
        certificate.public_key().subject_public_key.data.as_ref() == signer.public_key().as_ref()
    })
}

/// A time before 1970 becomes 1970: long past either way.
fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::from_secs(u64::try_from(seconds).unwrap_or(0))
}
