//! The SPIFFE bundle format: a trust bundle as a JWK set (SPIFFE Trust Domain and Bundle, section 4).

use std::time::Duration;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use reeve_core::TrustDomain;
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use x509_parser::{
    oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521},
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

use crate::{BundleError, JwtKey, TrustBundle};

/// Longest document that is read.
pub const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

/// A bundle and what its publisher says about it.
#[derive(Clone, Debug)]
pub struct BundleDocument {
    /// The authorities and keys.
    pub bundle: TrustBundle,
    /// How often to look for a newer one, if the publisher says.
    pub refresh_hint: Option<Duration>,
}

/// Why a text is no bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// More than [`MAX_DOCUMENT_BYTES`].
    #[error("a bundle is at most 1 MiB long")]
    TooLarge,
    /// Not a JSON object with an array `keys`.
    #[error("a bundle is a JSON object with an array `keys`")]
    Shape,
    /// `spiffe_sequence` or `spiffe_refresh_hint` is no whole number.
    #[error("{0} is not a whole number")]
    Number(&'static str),
    /// `x5c` is not the one certificate of an authority in base64 (section 4.2.3).
    #[error("key {position}: x5c is not one certificate in base64")]
    Certificate {
        /// Which key, from 0.
        position: usize,
    },
    /// A JWT key without `kid`, or one that cannot be used (section 4.2.2).
    #[error("key {position}: not a JWT key with a kid that signatures can be checked with")]
    JwtKey {
        /// Which key, from 0.
        position: usize,
    },
    /// Its authorities form no bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

impl BundleDocument {
    /// Reads a document that was published for `trust_domain`. Keys of a use that is not known are passed over, as the
    /// standard wants.
    pub fn parse(trust_domain: TrustDomain, text: &str) -> Result<Self, DocumentError> {
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLarge);
        }
        let document: Value = serde_json::from_str(text).map_err(|_| DocumentError::Shape)?;
        let keys = document.get("keys").and_then(Value::as_array);
        let mut authorities = Vec::new();
        let mut jwt_keys = Vec::new();
        for (position, key) in keys.ok_or(DocumentError::Shape)?.iter().enumerate() {
            let key = key.as_object().ok_or(DocumentError::Shape)?;
            match key.get("use").and_then(Value::as_str) {
                Some("x509-svid") => {
                    let der = certificate(key).ok_or(DocumentError::Certificate { position })?;
                    authorities.push(der);
                }
                Some("jwt-svid") => {
                    let key = JwtKey::from_jwk(key).ok_or(DocumentError::JwtKey { position })?;
                    jwt_keys.push(key);
                }
                Some(_) | None => {}
            }
        }
        let sequence = number(&document, "spiffe_sequence")?.unwrap_or_default();
        let hint = number(&document, "spiffe_refresh_hint")?;
        let bundle = TrustBundle::new(trust_domain, authorities, sequence)?;
        Ok(Self {
            bundle: bundle.with_jwt_keys(jwt_keys)?,
            refresh_hint: hint.map(Duration::from_secs),
        })
    }

    /// Reads a document, or certificates in PEM, as a person may have either.
    pub fn parse_any(trust_domain: TrustDomain, text: &str) -> Result<Self, DocumentError> {
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(DocumentError::TooLarge);
        }
        match text.contains("-----BEGIN ") {
            true => Ok(Self {
                bundle: TrustBundle::from_pem(trust_domain, text.as_bytes(), 0)?,
                refresh_hint: None,
            }),
            false => Self::parse(trust_domain, text),
        }
    }

    /// The document as text.
    pub fn to_json(&self) -> String {
        let authorities = self.bundle.authorities().iter().map(authority);
        let jwt_keys = self.bundle.jwt_keys().iter().map(|key| {
            let mut jwk = key.jwk().clone();
            jwk.insert("use".to_owned(), "jwt-svid".into());
            Value::Object(jwk)
        });
        let keys: Vec<_> = authorities.chain(jwt_keys).collect();
        let mut document = json!({ "spiffe_sequence": self.bundle.sequence(), "keys": keys });
        if let (Some(hint), Some(members)) = (self.refresh_hint, document.as_object_mut()) {
            members.insert("spiffe_refresh_hint".to_owned(), hint.as_secs().into());
        }
        document.to_string()
    }
}

fn number(document: &Value, name: &'static str) -> Result<Option<u64>, DocumentError> {
    match document.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(DocumentError::Number(name)),
    }
}

fn certificate(key: &Map<String, Value>) -> Option<CertificateDer<'static>> {
    let chain = key.get("x5c")?.as_array()?;
    match chain.as_slice() {
        [one] => Some(STANDARD.decode(one.as_str()?).ok()?.into()),
        _ => None,
    }
}

fn authority(der: &CertificateDer<'_>) -> Value {
    let parsed = X509Certificate::from_der(der).ok();
    let mut jwk = parsed
        .and_then(|(_, certificate)| public_jwk(certificate.public_key()))
        .unwrap_or_default();
    jwk.insert("use".to_owned(), "x509-svid".into());
    jwk.insert("x5c".to_owned(), json!([STANDARD.encode(der)]));
    Value::Object(jwk)
}

/// A public key as a JWK (RFC 7518 section 6); `None` for one of another kind than RSA and the NIST curves.
fn public_jwk(key: &SubjectPublicKeyInfo<'_>) -> Option<Map<String, Value>> {
    let members = match key.parsed().ok()? {
        PublicKey::EC(point) => {
            let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
            let curve = [
                (OID_EC_P256, "P-256"),
                (OID_NIST_EC_P384, "P-384"),
                (OID_NIST_EC_P521, "P-521"),
            ]
            .into_iter()
            .find(|(oid, _)| *oid == curve)?;
            // Uncompressed (SEC 1 section 2.3.3).
            let coordinates = point.data().strip_prefix(&[4])?;
            let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
            json!({
                "kty": "EC",
                "crv": curve.1,
                "x": URL_SAFE_NO_PAD.encode(x),
                "y": URL_SAFE_NO_PAD.encode(y),
            })
        }
        PublicKey::RSA(rsa) => {
            let number = |bytes: &[u8]| {
                let significant = bytes.iter().skip_while(|byte| **byte == 0);
                URL_SAFE_NO_PAD.encode(significant.copied().collect::<Vec<_>>())
            };
            json!({ "kty": "RSA", "n": number(rsa.modulus), "e": number(rsa.exponent) })
        }
        PublicKey::DSA(_)
        | PublicKey::GostR3410(_)
        | PublicKey::GostR3410_2012(_)
        | PublicKey::Unknown(_) => return None,
    };
    members.as_object().cloned()
}

#[cfg(test)]
mod tests;
