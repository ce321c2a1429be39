//! Sealed files: AES-256-GCM under the key of `seal.key`.

use std::{fmt, path::Path};

use zeroize::Zeroizing;

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
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}
