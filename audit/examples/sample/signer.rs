//! Signing and verifying batches without certificates.

use std::sync::Arc;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
        UnparsedPublicKey,
    },
};
use reeve_audit::{BatchKey, BatchSigner, BatchVerifier, SigningIdentity, batch::BoxError};
use reeve_core::{SpiffeId, UnixTime};

/// Whose batches they are.
pub(crate) const ID: &str = "spiffe://mesh.local/ns/default/sa/reviews";

/// Signs as a proxy does; its "certificate" is the public key.
pub(crate) struct Signer(Arc<Key>);

struct Key(EcdsaKeyPair);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    pub(crate) fn new() -> Result<Arc<Self>, BoxError> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        Ok(Arc::new(Self(Arc::new(Key(key)))))
    }
}

impl BatchKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, BoxError> {
        let signature = self.0.sign(&SystemRandom::new(), message)?;
        Ok(signature.as_ref().to_vec())
    }
}

impl BatchSigner for Signer {
    fn identity(&self) -> Option<SigningIdentity> {
        Some(SigningIdentity {
            chain_der: vec![self.0.0.public_key().as_ref().to_vec()],
            key: self.0.clone(),
        })
    }
}

/// Verifies what a [`Signer`] signed.
#[derive(Debug)]
pub(crate) struct Verifier;

impl BatchVerifier for Verifier {
    fn verify(
        &self,
        chain_der: &[Vec<u8>],
        message: &[u8],
        signature: &[u8],
        _at: UnixTime,
    ) -> Result<SpiffeId, BoxError> {
        let key = chain_der.first().ok_or("no key")?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(message, signature)?;
        Ok(ID.parse()?)
    }
}
