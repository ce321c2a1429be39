//! What the CA keeps: its authorities, in one sealed file.

use std::{fs, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reeve_core::TrustDomain;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::{CaError, SealError, SealKey};

const FILE: &str = "authorities.sealed";
const VERSION: u32 = 1;

/// The authorities as they are stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredAuthorities {
    version: u32,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) sequence: u64,
    pub(crate) root: StoredAuthority,
    pub(crate) intermediate: StoredAuthority,
}

/// One authority: certificate and PKCS#8 key, base64.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredAuthority {
    certificate: String,
    key: String,
}

impl Drop for StoredAuthority {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl StoredAuthorities {
    pub(crate) fn new(
        trust_domain: TrustDomain,
        sequence: u64,
        root: StoredAuthority,
        intermediate: StoredAuthority,
    ) -> Self {
        Self {
            version: VERSION,
            trust_domain,
            sequence,
            root,
            intermediate,
        }
    }
}

impl StoredAuthority {
    pub(crate) fn new(certificate: &[u8], key_pkcs8: &[u8]) -> Self {
        Self {
            certificate: STANDARD.encode(certificate),
            key: STANDARD.encode(key_pkcs8),
        }
    }

    pub(crate) fn certificate(&self) -> Result<Vec<u8>, CaError> {
        STANDARD
            .decode(&self.certificate)
            .map_err(|_| CaError::Damaged("a certificate"))
    }

    pub(crate) fn key(&self) -> Result<Zeroizing<Vec<u8>>, CaError> {
        let key = STANDARD
            .decode(&self.key)
            .map_err(|_| CaError::Damaged("a key"))?;
        Ok(Zeroizing::new(key))
    }
}

/// A folder with the sealed file.
#[derive(Clone, Debug)]
pub(crate) struct SealedFolder {
    path: PathBuf,
    key: SealKey,
}

impl SealedFolder {
    pub(crate) fn open(folder: PathBuf, key: SealKey) -> Result<Self, CaError> {
        fs::create_dir_all(&folder).map_err(|source| {
            CaError::Seal(SealError::Io {
                path: folder.display().to_string(),
                source,
            })
        })?;
        Ok(Self {
            path: folder.join(FILE),
            key,
        })
    }

    pub(crate) fn load(&self) -> Result<Option<StoredAuthorities>, CaError> {
        let Some(plain) = self.key.read(&self.path)? else {
            return Ok(None);
        };
        let stored: StoredAuthorities =
            serde_json::from_slice(&plain).map_err(|_| CaError::Damaged("the journal"))?;
        if stored.version != VERSION {
            return Err(CaError::Damaged("the journal's version"));
        }
        Ok(Some(stored))
    }

    pub(crate) fn save(&self, stored: &StoredAuthorities) -> Result<(), CaError> {
        let plain = serde_json::to_vec(stored).map_err(|_| CaError::Damaged("the journal"))?;
        Ok(self.key.write(&self.path, &Zeroizing::new(plain))?)
    }
}
