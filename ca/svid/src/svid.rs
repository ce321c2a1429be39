//! An X.509-SVID of our own: the chain and its private key.

use std::{fmt, sync::Arc};

use reeve_core::{SpiffeId, UnixTime};
use rustls::{
    SignatureScheme,
    crypto::aws_lc_rs,
    sign::{CertifiedKey, SigningKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::{SvidError, pem, profile::Leaf, verify};

/// A certificate chain that proves a SPIFFE ID, with the key that belongs to it. The key stays in memory.
pub struct X509Svid {
    leaf: Leaf,
    certified: Arc<CertifiedKey>,
    pkcs8: Zeroizing<Vec<u8>>,
}

/// The key cannot make the signature asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The key is not an ECDSA P-256 key.
    #[error("the key of this SVID is not an ECDSA P-256 key")]
    NotP256,
    /// The cryptographic library failed.
    #[error("signing failed")]
    Failed,
}

impl X509Svid {
    /// Takes a chain (leaf first) and its PKCS#8 key: every certificate must fit the SPIFFE profile and the key must be
    /// the leaf's. Whether somebody trusts the chain is for [`verify_svid`](crate::verify_svid).
    pub fn parse(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'_>,
    ) -> Result<Self, SvidError> {
        let leaf = verify::check_profile(&chain)?;
        let PrivateKeyDer::Pkcs8(key) = key else {
            return Err(SvidError::KeyNotPkcs8);
        };
        let pkcs8 = Zeroizing::new(key.secret_pkcs8_der().to_vec());
        let signing = signing_key(&pkcs8)?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|_| SvidError::KeyMismatch)?;
        Ok(Self {
            leaf,
            certified: Arc::new(certified),
            pkcs8,
        })
    }

    /// Who this proves to be.
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// Leaf first, then intermediates; never the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The chain as PEM.
    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(self.chain())
    }

    /// From when the leaf is valid.
    pub fn not_before(&self) -> UnixTime {
        self.leaf.validity.not_before
    }

    /// The last second at which the leaf is valid.
    pub fn not_after(&self) -> UnixTime {
        self.leaf.validity.not_after
    }

    /// The leaf's serial number in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.leaf.serial
    }

    /// Signs with ECDSA P-256 and SHA-256; the signature is ASN.1 DER (RFC 3279 section 2.2.3).
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let scheme = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let signer = self
            .certified
            .key
            .choose_scheme(&scheme)
            .ok_or(SignError::NotP256)?;
        signer.sign(message).map_err(|_| SignError::Failed)
    }

    // SECURITY: the two ways by which a private key leaves this type. Only the Workload API and SDS servers, which
    // must hand it to the workload itself, may call them.

    /// The private key in PKCS#8, for the Workload API's answer and nothing else.
    pub fn key_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        self.pkcs8.clone()
    }

    /// The private key as PEM, for the SDS answer and nothing else.
    pub fn key_pkcs8_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem::encode("PRIVATE KEY", &self.pkcs8))
    }

    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("id", self.id())
            .field("serial", &self.serial())
            .field("not_before", &self.not_before())
            .field("not_after", &self.not_after())
            .finish_non_exhaustive()
    }
}

fn signing_key(pkcs8: &[u8]) -> Result<Arc<dyn SigningKey>, SvidError> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
    aws_lc_rs::sign::any_supported_type(&key).map_err(|_| SvidError::UnsupportedKey)
}

#[cfg(test)]
mod tests;
