//! Whose certificate it is: alternative names, pins, and what the application may be told of a client's.

use std::{fmt, net::IpAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::PeerRules;

/// Longest subject or name that is told on.
const MAX_TEXT_BYTES: usize = 1024;
/// Most names of one kind that are told on.
const MAX_NAMES: usize = 32;

/// What a client's certificate says, for `x-forwarded-client-cert`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientDetails {
    /// SHA-256 of the certificate, hex.
    pub hash: String,
    /// The certificate as PEM.
    pub pem: String,
    /// The subject (RFC 4514).
    pub subject: String,
    /// URI alternative names.
    pub uris: Vec<String>,
    /// DNS alternative names.
    pub dns: Vec<String>,
}

impl ClientDetails {
    /// Reads the leaf of a chain that was verified; `None` if there is none.
    pub fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let leaf = chain.first()?;
        let (_, parsed) = parse_x509_certificate(leaf).ok()?;
        let names = alternative_names(leaf);
        let of = |kind: Kind| {
            let chosen = names.iter().filter(move |(k, _)| *k == kind);
            let texts = chosen.map(|(_, text)| text.clone());
            texts.filter(|t| t.len() <= MAX_TEXT_BYTES).take(MAX_NAMES)
        };
        let subject = parsed.subject().to_string();
        Some(Self {
            hash: sha256_hex(leaf),
            pem: crate::pem::encode("CERTIFICATE", leaf),
            subject: match subject.len() <= MAX_TEXT_BYTES {
                true => subject,
                false => String::new(),
            },
            uris: of(Kind::Uri).collect(),
            dns: of(Kind::Dns).collect(),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Dns,
    Uri,
    Address,
    Email,
}

fn alternative_names(leaf: &CertificateDer<'_>) -> Vec<(Kind, String)> {
    let Ok((_, parsed)) = parse_x509_certificate(leaf) else {
        return Vec::new();
    };
    let Ok(Some(extension)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(text) => Some((Kind::Dns, text.to_ascii_lowercase())),
        GeneralName::URI(text) => Some((Kind::Uri, (*text).to_owned())),
        GeneralName::RFC822Name(text) => Some((Kind::Email, (*text).to_owned())),
        GeneralName::IPAddress(bytes) => address(bytes).map(|a| (Kind::Address, a.to_string())),
        GeneralName::OtherName(..)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    };
    extension
        .value
        .general_names
        .iter()
        .filter_map(name)
        .collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Whether one of `wanted` is among the certificate's names. A wildcard in the certificate stands for one label.
fn has_one_of(leaf: &CertificateDer<'_>, wanted: &[String]) -> bool {
    let names = alternative_names(leaf);
    let covers = |(kind, name): &(Kind, String), wanted: &str| match kind {
        Kind::Dns => {
            let wanted = wanted.to_ascii_lowercase();
            let below = || wanted.split_once('.').map(|(_, rest)| rest);
            let wildcard = name.strip_prefix("*.");
            *name == wanted || wildcard.is_some_and(|rest| below() == Some(rest))
        }
        Kind::Uri | Kind::Address | Kind::Email => name == wanted,
    };
    wanted
        .iter()
        .any(|wanted| names.iter().any(|name| covers(name, wanted)))
}

fn sha256_hex(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    hex::encode(digest)
}

/// Whether one of `pins` is the certificate's SHA-256 (hex, colons allowed) or its public key's (base64).
fn is_pinned(leaf: &CertificateDer<'_>, pins: &[String]) -> bool {
    let hash = sha256_hex(leaf);
    let Ok((_, parsed)) = parse_x509_certificate(leaf) else {
        return false;
    };
    let key = parsed.public_key().raw;
    let key = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key);
    let key = STANDARD.encode(key.as_ref());
    let matches = |pin: &String| *pin == key || pin.replace(':', "").eq_ignore_ascii_case(&hash);
    pins.iter().any(matches)
}

const NOT_FOR_NAME: Error = Error::InvalidCertificate(CertificateError::NotValidForName);
const NOT_PINNED: Error =
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);

/// Clients whose certificate verifies and has one of the names and pins.
#[derive(Debug)]
pub(super) struct NamedClient {
    inner: Arc<dyn ClientCertVerifier>,
    names: Vec<String>,
    pins: Vec<String>,
}

impl NamedClient {
    pub(super) fn new(inner: Arc<dyn ClientCertVerifier>, rules: &PeerRules) -> Self {
        Self {
            inner,
            names: rules.subject_alt_names.clone(),
            pins: rules.pins.clone(),
        }
    }
}

impl ClientCertVerifier for NamedClient {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(leaf, intermediates, now)?;
        if !self.names.is_empty() && !has_one_of(leaf, &self.names) {
            return Err(NOT_FOR_NAME);
        }
        if !self.pins.is_empty() && !is_pinned(leaf, &self.pins) {
            return Err(NOT_PINNED);
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Servers by name, or anyone.
pub(super) struct NamedServer {
    /// `None` = anyone.
    inner: Option<Arc<WebPkiServerVerifier>>,
    names: Vec<String>,
    provider: Option<Arc<CryptoProvider>>,
}

impl fmt::Debug for NamedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("NamedServer");
        shown.field("names", &self.names).finish_non_exhaustive()
    }
}

impl NamedServer {
    pub(super) fn verified(inner: Arc<WebPkiServerVerifier>, names: Vec<String>) -> Self {
        Self {
            inner: Some(inner),
            names,
            provider: None,
        }
    }

    pub(super) fn anyone(provider: Arc<CryptoProvider>) -> Self {
        Self {
            inner: None,
            names: Vec::new(),
            provider: Some(provider),
        }
    }

    fn algorithms(&self) -> Option<rustls::crypto::WebPkiSupportedAlgorithms> {
        let provider = self.provider.as_ref()?;
        Some(provider.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for NamedServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(inner) = &self.inner else {
            return Ok(ServerCertVerified::assertion());
        };
        if self.names.is_empty() {
            return inner.verify_server_cert(leaf, intermediates, name, ocsp, now);
        }
        // Only the name may be another than the one asked for: the rest must hold.
        let verified = match inner.verify_server_cert(leaf, intermediates, name, ocsp, now) {
            Ok(verified) => verified,
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => ServerCertVerified::assertion(),
            Err(error) => return Err(error),
        };
        match has_one_of(leaf, &self.names) {
            true => Ok(verified),
            false => Err(NOT_FOR_NAME),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match (&self.inner, self.algorithms()) {
            (Some(inner), _) => inner.verify_tls12_signature(message, cert, dss),
            (None, Some(known)) => verify_tls12_signature(message, cert, dss, &known),
            (None, None) => Err(NOT_PINNED),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match (&self.inner, self.algorithms()) {
            (Some(inner), _) => inner.verify_tls13_signature(message, cert, dss),
            (None, Some(known)) => verify_tls13_signature(message, cert, dss, &known),
            (None, None) => Err(NOT_PINNED),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match (&self.inner, self.algorithms()) {
            (Some(inner), _) => inner.supported_verify_schemes(),
            (None, Some(known)) => known.supported_schemes(),
            (None, None) => Vec::new(),
        }
    }
}
