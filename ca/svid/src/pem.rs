//! PEM text (RFC 7468) of certificates and keys.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// Characters of base64 on a line (RFC 7468 section 2).
const LINE: usize = 64;

/// Reads every certificate of a PEM text, in order; other blocks are skipped.
pub fn certificates_from_pem(
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, rustls_pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(text).collect()
}

/// One PEM block.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at_checked(LINE).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// The certificates as PEM blocks.
pub(crate) fn encode_certificates(certificates: &[CertificateDer<'_>]) -> String {
    let blocks = certificates.iter();
    blocks.map(|c| encode("CERTIFICATE", c)).collect()
}
