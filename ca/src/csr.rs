//! Reading certificate requests (PKCS#10, RFC 2986). Of all that one says, only the proven public key counts.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256},
    prelude::FromDer,
};

/// Longest request that is read; ours has about 250 bytes.
const MAX_BYTES: usize = 8 * 1024;

/// Length of a point of P-256: 4, x, y.
const UNCOMPRESSED_BYTES: usize = 65;

/// A public key whose owner signed the request.
pub(crate) struct ProvenKey {
    point: Vec<u8>,
    pub(crate) spki_der: Vec<u8>,
}

impl PublicKeyData for ProvenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// Why a certificate request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// More than 8 KiB.
    #[error("the request is larger than 8 KiB")]
    TooLarge,
    /// Not DER-encoded PKCS#10, or followed by other bytes.
    #[error("the request is not well-formed")]
    Malformed,
    /// Another key or signature than ECDSA P-256 with SHA-256.
    #[error("only ECDSA P-256 keys, signing with SHA-256, are certified")]
    UnsupportedKey,
    /// The signature is not by the key in the request.
    #[error("the request is not signed by the key it holds")]
    BadSignature,
}

/// Reads a request and checks that its sender has the private key.
pub(crate) fn proven_key(der: &[u8]) -> Result<ProvenKey, CsrError> {
    if der.len() > MAX_BYTES {
        return Err(CsrError::TooLarge);
    }
    let parsed = X509CertificationRequest::from_der(der);
    let (rest, request) = parsed.map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let info = &request.certification_request_info;
    let algorithm = &info.subject_pki.algorithm;
    let curve = algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    let is_p256 =
        algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256.clone());
    if !is_p256 || request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
        return Err(CsrError::UnsupportedKey);
    }
    if request.signature_value.unused_bits != 0 {
        return Err(CsrError::Malformed);
    }
    let point = &info.subject_pki.subject_public_key.data;
    // Uncompressed (SEC 1 section 2.3.3): what every reader of certificates takes (RFC 5480 section 2.2).
    if point.len() != UNCOMPRESSED_BYTES || point.first() != Some(&4) {
        return Err(CsrError::UnsupportedKey);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(info.raw, &request.signature_value.data)
        .map_err(|_| CsrError::BadSignature)?;
    Ok(ProvenKey {
        point: point.to_vec(),
        spki_der: info.subject_pki.raw.to_vec(),
    })
}

#[cfg(test)]
mod tests;
