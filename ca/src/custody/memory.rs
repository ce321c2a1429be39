//! Keys in this process's memory, and in the sealed file where there is one.

use std::fmt;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{KeptKey, SIGNATURE_BYTES, Secret, VaultError, VaultKey, Wiped};
use crate::CaError;

/// A key in memory.
pub(crate) struct MemoryKey(EcdsaKeyPair);

impl MemoryKey {
    /// A new key, and what it is kept as.
    pub(crate) fn make() -> Result<(Wiped, Self), VaultError> {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let pkcs8 = pkcs8.map_err(|_| VaultError::Memory)?;
        let pkcs8 = Zeroizing::new(pkcs8.as_ref().to_vec());
        let key = Self::open(&pkcs8)?;
        Ok((pkcs8, key))
    }

    /// From PKCS#8.
    pub(crate) fn open(pkcs8: &[u8]) -> Result<Self, VaultError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8);
        pair.map(Self).map_err(|_| VaultError::Memory)
    }
}

impl VaultKey for MemoryKey {
    fn public_key(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], VaultError> {
        let signature = self.0.sign(&SystemRandom::new(), message);
        let signature = signature.map_err(|_| VaultError::Memory)?;
        signature
            .as_ref()
            .try_into()
            .map_err(|_| VaultError::Memory)
    }
}

impl fmt::Debug for MemoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryKey(..)")
    }
}

/// As the journal keeps it.
pub(super) fn kept(pkcs8: &[u8]) -> KeptKey {
    KeptKey::Sealed(Secret(STANDARD.encode(pkcs8)))
}

/// What the journal kept.
pub(super) fn pkcs8(secret: &Secret) -> Result<Wiped, CaError> {
    let decoded = STANDARD.decode(&secret.0).map_err(|_| CaError::Content)?;
    Ok(Zeroizing::new(decoded))
}
