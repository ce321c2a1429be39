//! Sealed files: AES-256-GCM under the key of `seal.key`.

use std::{fmt, path::Path};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    error::Unspecified,
};
use zeroize::Zeroizing;

use crate::disk;

const MAGIC: &[u8] = b"reeve sealed file 1\n";
const NONCE_BYTES: usize = 12;

/// The key that sealed files are opened with.
#[derive(Clone)]
pub struct SealKey(Zeroizing<[u8; 32]>);

/// A sealed file or its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key is not 64 hexadecimal digits.
    #[error("a seal key is 64 hexadecimal digits")]
    BadKey,
    /// The file cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file was sealed with another key, or altered.
    #[error("{path} was sealed with another key, or was altered")]
    Refused {
        /// Which file.
        path: String,
    },
    /// The cipher failed.
    #[error("the cipher failed")]
    Crypto,
}

impl SealKey {
    /// From 64 hexadecimal digits (white space around them is dropped).
    pub fn from_hex(text: &str) -> Result<Self, SealError> {
        let mut key = Zeroizing::new([0u8; 32]);
        hex::decode_to_slice(text.trim(), &mut *key).map_err(|_bad| SealError::BadKey)?;
        Ok(Self(key))
    }

    /// From a file such as `<state>/seal.key`.
    pub fn from_file(path: &Path) -> Result<Self, SealError> {
        let text = std::fs::read_to_string(path).map_err(|source| SealError::Io {
            path: path.display().to_string(),
            source,
        })?;
        Self::from_hex(&Zeroizing::new(text))
    }

    /// Writes `secret` to `path`, sealed; `purpose` must be given again to open it.
    pub(crate) fn seal(&self, path: &Path, purpose: &str, secret: &[u8]) -> Result<(), SealError> {
        let mut sealed = Zeroizing::new(secret.to_vec());
        let nonce = self
            .cipher()
            .and_then(|c| c.seal_in_place_append_tag(Aad::from(purpose), &mut *sealed))
            .map_err(|_unspecified| SealError::Crypto)?;
        let bytes = [MAGIC, nonce.as_ref().as_slice(), &sealed].concat();
        let io = |source| SealError::Io {
            path: path.display().to_string(),
            source,
        };
        disk::put(path, &bytes).map_err(io)?;
        disk::sync_dir(path.parent().unwrap_or(Path::new("."))).map_err(io)
    }

    /// Opens what [`SealKey::seal`] wrote.
    pub(crate) fn open(&self, path: &Path, purpose: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let bytes = std::fs::read(path).map_err(|source| SealError::Io {
            path: path.display().to_string(),
            source,
        })?;
        let refused = || SealError::Refused {
            path: path.display().to_string(),
        };
        let body = bytes.strip_prefix(MAGIC).ok_or_else(refused)?;
        let (nonce, sealed) = body
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or_else(refused)?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let cipher = self.cipher().map_err(|_unspecified| SealError::Crypto)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let secret = cipher
            .open_in_place(nonce, Aad::from(purpose), &mut sealed)
            .map_err(|_unspecified| refused())?;
        Ok(Zeroizing::new(secret.to_vec()))
    }

    fn cipher(&self) -> Result<RandomizedNonceKey, Unspecified> {
        RandomizedNonceKey::new(&AES_256_GCM, self.0.as_slice())
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}
