//! Keeping the authorities: one sealed file that is replaced as a whole.

use std::{fs, os::unix::fs::DirBuilderExt, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reeve_core::{TrustDomain, UnixTime};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{
    CaError, Store,
    slots::{Authority, Slots},
};
use crate::{SealError, SealKey, seal};

const FILE: &str = "authorities.sealed";
const PURPOSE: &str = "authorities";
const VERSION: u32 = 1;

/// Where the slots are kept.
pub(super) enum Journal {
    File { path: PathBuf, key: SealKey },
    Memory,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    trust_domain: TrustDomain,
    sequence: u64,
    roots: Vec<KeptAuthority>,
    intermediate: Option<KeptAuthority>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptAuthority {
    certificate: String,
    key: Secret,
    made_at: UnixTime,
    signs_from: UnixTime,
    not_after: UnixTime,
    root: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Secret(String);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Journal {
    pub(super) fn open(store: &Store) -> Result<Self, CaError> {
        match store {
            Store::Sealed { dir, key } => {
                let made = fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(dir);
                made.map_err(|source| SealError::Io {
                    action: "make",
                    path: dir.clone(),
                    source,
                })?;
                Ok(Self::File {
                    path: dir.join(FILE),
                    key: key.clone(),
                })
            }
            Store::DangerMemory => {
                tracing::warn!("the keys of the certificate authority are kept in memory only");
                Ok(Self::Memory)
            }
        }
    }

    pub(super) fn load(&self, expected: &TrustDomain) -> Result<Option<Slots>, CaError> {
        let Self::File { path, key } = self else {
            return Ok(None);
        };
        let Some(plain) = seal::read(path, key, PURPOSE)? else {
            return Ok(None);
        };
        let kept: Kept = serde_json::from_slice(&plain).map_err(|_| CaError::Content)?;
        if kept.version != VERSION {
            return Err(CaError::Content);
        }
        if kept.trust_domain != *expected {
            return Err(CaError::OtherTrustDomain {
                expected: expected.clone(),
                found: kept.trust_domain,
            });
        }
        let roots = kept.roots.iter().map(KeptAuthority::open);
        Ok(Some(Slots {
            roots: roots.collect::<Result<_, _>>()?,
            intermediate: kept
                .intermediate
                .as_ref()
                .map(KeptAuthority::open)
                .transpose()?,
            sequence: kept.sequence,
        }))
    }

    pub(super) fn save(&self, trust_domain: &TrustDomain, slots: &Slots) -> Result<(), CaError> {
        let Self::File { path, key } = self else {
            return Ok(());
        };
        let kept = Kept {
            version: VERSION,
            trust_domain: trust_domain.clone(),
            sequence: slots.sequence,
            roots: slots.roots.iter().map(KeptAuthority::of).collect(),
            intermediate: slots.intermediate.as_ref().map(KeptAuthority::of),
        };
        let plain = serde_json::to_vec(&kept).map_err(|_| CaError::Content)?;
        Ok(seal::write(path, key, PURPOSE, &Zeroizing::new(plain))?)
    }
}

impl KeptAuthority {
    fn of(authority: &Authority) -> Self {
        let [made_at, signs_from, not_after] = authority.times();
        Self {
            certificate: STANDARD.encode(&authority.certificate),
            key: Secret(STANDARD.encode(&*authority.pkcs8)),
            made_at,
            signs_from,
            not_after,
            root: authority.root.as_ref().map(|root| STANDARD.encode(root)),
        }
    }

    fn open(&self) -> Result<Authority, CaError> {
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| CaError::Content);
        let root = self.root.as_deref().map(decode).transpose()?;
        Authority::reopen(
            CertificateDer::from(decode(&self.certificate)?),
            Zeroizing::new(decode(&self.key.0)?),
            [self.made_at, self.signs_from, self.not_after],
            root.map(CertificateDer::from),
        )
    }
}
