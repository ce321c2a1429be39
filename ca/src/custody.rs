//! Where the authority's private keys are, behind one seam: a [`KeyVault`] makes, finds and destroys them, a [`VaultKey`]
//! signs. What this process never holds it cannot lose.
//!
//! Here are keys in this process's memory (kept in the sealed file, if there is one); keys in a PKCS#11 token are another
//! package's, which implements the two traits.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::CaError;

pub(crate) mod memory;

use memory::MemoryKey;

/// Bytes of a signature: r and s, 32 bytes each (FIPS 186-5, P-256).
pub const SIGNATURE_BYTES: usize = 64;

/// A private key of the authority, wherever it is: ECDSA on P-256 with SHA-256.
pub trait VaultKey: fmt::Debug + Send + Sync {
    /// The public key, an uncompressed point (SEC 1 section 2.3.3).
    fn public_key(&self) -> &[u8];

    /// Signs; the signature is r and s, in that order.
    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], VaultError>;

    /// Whether the key can be used now.
    fn check(&self) -> Result<(), VaultError> {
        Ok(())
    }
}

/// Where keys are made and kept outside this process.
pub trait KeyVault: fmt::Debug + Send + Sync {
    /// The kind of vault and its name, for people.
    fn describe(&self) -> VaultName;

    /// Makes a key that never leaves the vault.
    fn make(&self) -> Result<(KeyName, Arc<dyn VaultKey>), VaultError>;

    /// The key of that name. The vault may be away: then the key is, too.
    fn find(&self, name: &KeyName) -> Result<Arc<dyn VaultKey>, VaultError>;

    /// Ends a key for good. One that is not there is no error.
    fn destroy(&self, name: &KeyName) -> Result<(), VaultError>;
}

/// What a vault is, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VaultName {
    /// `pkcs11`.
    pub kind: &'static str,
    /// Which one.
    pub name: String,
}

/// How a vault finds a key again. No secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyName {
    /// The key's identifier, in hexadecimal.
    pub id: String,
    /// Its public key, an uncompressed point in hexadecimal.
    pub public_key: String,
}

/// A key cannot be used. No variant holds any secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The vault does not answer, or refuses us; it is asked again.
    #[error("the keys in {vault} are away: {why}")]
    Away {
        /// Which vault.
        vault: String,
        /// What it said.
        why: String,
    },
    /// The vault is there, and has no such key.
    #[error("{vault} has no key {id}; bring it back, or rotate")]
    NoSuchKey {
        /// Which vault.
        vault: String,
        /// The key.
        id: String,
    },
    /// The vault made a key that could leave it, or signed with another one.
    #[error("{vault} does not do what it must: {why}")]
    Unfit {
        /// Which vault.
        vault: String,
        /// What it did.
        why: String,
    },
    /// The key is in a vault, and no vault was named.
    #[error("the key {0} is in a token that was not named; start with --authority-keys")]
    NoVault(String),
    /// The key is the operator's, in files that have another one now, or none.
    #[error("the key of the upstream authority is not there any more")]
    UpstreamGone,
    /// Our own library failed.
    #[error("a key in memory cannot be made or used")]
    Memory,
}

/// A key as the journal keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum KeptKey {
    /// PKCS#8 in base64, in the sealed file.
    Sealed(Secret),
    /// In a vault.
    Vault(KeyName),
    /// In the operator's files.
    Upstream {
        /// Always `true`.
        upstream: bool,
    },
}

/// Text that is wiped when dropped and never shown.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Makes keys where the authority's are to be, and opens those that it has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keyring {
    vault: Option<Arc<dyn KeyVault>>,
}

/// A key of the authority.
#[derive(Clone, Debug)]
pub(crate) struct AuthorityKey {
    pub(crate) kept: KeptKey,
    signer: Signer,
    /// Why it last did not sign: rcgen's error cannot say.
    failure: Arc<Mutex<Option<VaultError>>>,
}

#[derive(Clone)]
enum Signer {
    Vault(Arc<dyn VaultKey>),
    /// The operator's, of any algorithm.
    Upstream(Arc<KeyPair>),
    /// The operator's, which is not there (any more); nothing of it is known.
    Gone,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vault(_) => "Vault(..)",
            Self::Upstream(_) => "Upstream(..)",
            Self::Gone => "Gone",
        })
    }
}

impl Keyring {
    pub(crate) fn new(vault: Option<Arc<dyn KeyVault>>) -> Self {
        Self { vault }
    }

    /// A new key.
    pub(crate) fn make(&self) -> Result<AuthorityKey, VaultError> {
        match &self.vault {
            Some(vault) => {
                let (name, key) = vault.make()?;
                Ok(AuthorityKey::new(KeptKey::Vault(name), Signer::Vault(key)))
            }
            None => {
                let (pkcs8, key) = MemoryKey::make()?;
                Ok(AuthorityKey::new(
                    memory::kept(&pkcs8),
                    Signer::Vault(Arc::new(key)),
                ))
            }
        }
    }

    /// What `build` makes of a new key, which ends if nothing comes of it.
    pub(crate) fn with_new<T>(
        &self,
        build: impl FnOnce(&AuthorityKey) -> Result<T, CaError>,
    ) -> Result<T, CaError> {
        let key = self.make()?;
        build(&key).inspect_err(|_| {
            if let Some(name) = key.in_vault()
                && let Err(error) = self.destroy(name)
            {
                tracing::warn!(%error, key = name.id, "a key without use stays in its vault");
            }
        })
    }

    /// The key that was kept so.
    pub(crate) fn open(&self, kept: &KeptKey) -> Result<AuthorityKey, CaError> {
        let signer = match (kept, &self.vault) {
            (KeptKey::Sealed(secret), _) => {
                let pkcs8 = memory::pkcs8(secret)?;
                Signer::Vault(Arc::new(
                    MemoryKey::open(&pkcs8).map_err(|_| CaError::Content)?,
                ))
            }
            (KeptKey::Vault(name), Some(vault)) => Signer::Vault(vault.find(name)?),
            (KeptKey::Vault(name), None) => {
                return Err(VaultError::NoVault(name.id.clone()).into());
            }
            (KeptKey::Upstream { .. }, _) => Signer::Gone,
        };
        Ok(AuthorityKey::new(kept.clone(), signer))
    }

    /// Ends a key for good, where there is something to end.
    pub(crate) fn destroy(&self, name: &KeyName) -> Result<(), VaultError> {
        match &self.vault {
            Some(vault) => vault.destroy(name),
            None => Err(VaultError::NoVault(name.id.clone())),
        }
    }

    /// The vault, if keys are made in one.
    pub(crate) fn name(&self) -> Option<VaultName> {
        self.vault.as_ref().map(|vault| vault.describe())
    }
}

impl AuthorityKey {
    fn new(kept: KeptKey, signer: Signer) -> Self {
        Self {
            kept,
            signer,
            failure: Arc::default(),
        }
    }

    /// The operator's own.
    pub(crate) fn upstream(pair: Arc<KeyPair>) -> Self {
        Self::new(KeptKey::Upstream { upstream: true }, Signer::Upstream(pair))
    }

    /// Where it is, in one word.
    pub(crate) fn place(&self) -> &'static str {
        match &self.kept {
            KeptKey::Sealed(_) => "memory",
            KeptKey::Vault(_) => "token",
            KeptKey::Upstream { .. } => "upstream",
        }
    }

    /// Its name in a vault, if it is in one.
    pub(crate) fn in_vault(&self) -> Option<&KeyName> {
        match &self.kept {
            KeptKey::Vault(name) => Some(name),
            KeptKey::Sealed(_) | KeptKey::Upstream { .. } => None,
        }
    }

    /// The public key as an uncompressed point; none of an operator's.
    pub(crate) fn point(&self) -> Option<&[u8]> {
        match &self.signer {
            Signer::Vault(key) => Some(key.public_key()),
            Signer::Upstream(_) | Signer::Gone => None,
        }
    }

    /// Signs; r and s.
    pub(crate) fn sign_fixed(&self, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], VaultError> {
        match &self.signer {
            Signer::Vault(key) => key.sign(message),
            Signer::Upstream(_) | Signer::Gone => Err(VaultError::UpstreamGone),
        }
    }

    /// Whether it can be used now.
    pub(crate) fn check(&self) -> Result<(), VaultError> {
        match &self.signer {
            Signer::Vault(key) => key.check(),
            Signer::Upstream(_) => Ok(()),
            Signer::Gone => Err(VaultError::UpstreamGone),
        }
    }

    /// Why rcgen could not have something signed.
    pub(crate) fn explain(&self, error: rcgen::Error) -> CaError {
        let failure = self.failure.lock();
        let failure = failure.unwrap_or_else(PoisonError::into_inner);
        // Kept for others who failed at the same time.
        match failure.as_ref() {
            Some(failure) if error == rcgen::Error::RemoteKeyError => failure.clone().into(),
            _ => CaError::Sign(error),
        }
    }
}

impl PublicKeyData for AuthorityKey {
    fn der_bytes(&self) -> &[u8] {
        match &self.signer {
            Signer::Vault(key) => key.public_key(),
            Signer::Upstream(pair) => pair.der_bytes(),
            Signer::Gone => &[],
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match &self.signer {
            Signer::Upstream(pair) => pair.algorithm(),
            Signer::Vault(_) | Signer::Gone => &PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl SigningKey for AuthorityKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        if let Signer::Upstream(pair) = &self.signer {
            return pair.sign(message);
        }
        match self.sign_fixed(message) {
            Ok(signature) => Ok(to_der(&signature)),
            Err(error) => {
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(rcgen::Error::RemoteKeyError)
            }
        }
    }
}

/// Ecdsa-Sig-Value (RFC 3279 section 2.2.3): a sequence of two integers, each as short as can be and positive.
fn to_der(signature: &[u8; SIGNATURE_BYTES]) -> Vec<u8> {
    const INTEGER: u8 = 0x02;
    const SEQUENCE: u8 = 0x30;
    let mut body = Vec::with_capacity(SIGNATURE_BYTES + 6);
    for number in signature.chunks(SIGNATURE_BYTES / 2) {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let digits = number.get(zeros..).unwrap_or_default();
        let sign = digits.first().is_none_or(|first| *first >= 0x80);
        let length = digits.len() + usize::from(sign);
        // At most 33, hence one byte.
        body.extend([INTEGER, u8::try_from(length).unwrap_or_default()]);
        body.extend(sign.then_some(0));
        body.extend(digits);
    }
    let mut der = vec![SEQUENCE, u8::try_from(body.len()).unwrap_or_default()];
    der.append(&mut body);
    der
}

/// Bytes that are wiped when dropped.
type Wiped = Zeroizing<Vec<u8>>;

#[cfg(test)]
mod tests;
