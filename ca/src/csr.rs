//! Certificate signing requests (PKCS #10, RFC 2986): the public key, proved to be the sender's, and nothing else.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::SubjectPublicKeyInfo;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

/// Largest request that is read.
const MAX_BYTES: usize = 16 * 1024;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// More than 16 KiB.
    #[error("the signing request is larger than 16 KiB")]
    TooLarge,
    /// Not PKCS #10 in DER.
    #[error("the signing request is not PKCS #10 in DER")]
    Malformed,
    /// The key is not ECDSA P-256, signed with SHA-256.
    #[error("the signing request's key is not ECDSA P-256")]
    UnsupportedKey,
    /// The signature does not match the key: the sender does not hold it.
    #[error("the signing request is not signed by its own key")]
    BadSignature,
}

/// The public key of a request whose signature proves that the sender holds the private one.
pub(crate) fn proven_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, CsrError> {
    if der.len() > MAX_BYTES {
        return Err(CsrError::TooLarge);
    }
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let key = &request.certification_request_info.subject_pki;
    let spki = SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| CsrError::UnsupportedKey)?;
    if rcgen::PublicKeyData::algorithm(&spki) != &rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(CsrError::UnsupportedKey);
    }
    let point = key.subject_public_key.data.as_ref();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(
            request.certification_request_info.raw,
            request.signature_value.data.as_ref(),
        )
        .map_err(|_| CsrError::BadSignature)?;
    Ok(spki)
}
