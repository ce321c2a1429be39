//! Keeping the authorities: one sealed file that is replaced as a whole, and beside it one that names the members.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reeve_core::{TrustDomain, UnixTime};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::{
    CaError, Store,
    jwt::{JwtSigner, JwtSigners},
    revocation::Revocation,
    rotation::Rotation,
    slots::{Authority, Slot, Slots},
};
use crate::{
    MemberStatus, SealError, SealKey,
    custody::{KeptKey, KeyName, Keyring},
    seal,
};

const AUTHORITIES: &str = "authorities";
const MEMBERS: &str = "members";
const VERSION: u32 = 2;

/// Where the slots are kept, and who the members are.
pub(super) enum Journal {
    Folder { dir: PathBuf, key: SealKey },
    Memory,
}

/// What was kept.
pub(super) struct Loaded {
    pub(super) slots: Slots,
    /// The longest that a certificate lived which was issued till then.
    pub(super) longest_svid_ttl: Duration,
    pub(super) members: Vec<MemberStatus>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    trust_domain: TrustDomain,
    sequence: u64,
    renewal: u64,
    rotation: Option<Rotation>,
    longest_svid_ttl: Duration,
    roots: Vec<KeptAuthority>,
    retired: Vec<String>,
    intermediate: Option<KeptAuthority>,
    #[serde(default)]
    revoked: Vec<Revocation>,
    #[serde(default)]
    doomed: Vec<KeyName>,
    jwt: Vec<KeptJwtSigner>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptAuthority {
    certificate: String,
    key: KeptKey,
    slot: Slot,
    made_at: UnixTime,
    not_after: UnixTime,
    root: Option<String>,
    #[serde(default)]
    above: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptJwtSigner {
    key_id: String,
    key: KeptKey,
    slot: Slot,
    made_at: UnixTime,
    not_after: UnixTime,
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
                Ok(Self::Folder {
                    dir: dir.clone(),
                    key: key.clone(),
                })
            }
            Store::DangerMemory => {
                tracing::warn!("the keys of the certificate authority are kept in memory only");
                Ok(Self::Memory)
            }
        }
    }

    pub(super) fn load(
        &self,
        expected: &TrustDomain,
        ring: Keyring,
    ) -> Result<Option<Loaded>, CaError> {
        let Some(kept) = self.read::<Kept>(AUTHORITIES)? else {
            return Ok(None);
        };
        if kept.version != VERSION {
            return Err(CaError::Content);
        }
        if kept.trust_domain != *expected {
            return Err(CaError::OtherTrustDomain {
                expected: expected.clone(),
                found: kept.trust_domain,
            });
        }
        let roots = kept.roots.iter().map(|root| root.open(&ring));
        let intermediate = kept.intermediate.as_ref().map(|kept| kept.open(&ring));
        let jwt = kept.jwt.iter().map(|signer| signer.open(&ring));
        Ok(Some(Loaded {
            slots: Slots {
                roots: roots.collect::<Result<_, _>>()?,
                retired: certificates(&kept.retired)?,
                intermediate: intermediate.transpose()?,
                jwt: JwtSigners(jwt.collect::<Result<_, _>>()?),
                ring,
                upstream: None,
                follows_upstream: false,
                doomed: kept.doomed,
                sequence: kept.sequence,
                renewal: kept.renewal,
                rotation: kept.rotation,
                revoked: kept.revoked,
            },
            longest_svid_ttl: kept.longest_svid_ttl,
            members: self.read(MEMBERS)?.unwrap_or_default(),
        }))
    }

    pub(super) fn save(
        &self,
        trust_domain: &TrustDomain,
        slots: &Slots,
        longest_svid_ttl: Duration,
    ) -> Result<(), CaError> {
        let kept = Kept {
            version: VERSION,
            trust_domain: trust_domain.clone(),
            sequence: slots.sequence,
            renewal: slots.renewal,
            rotation: slots.rotation.clone(),
            revoked: slots.revoked.clone(),
            longest_svid_ttl,
            roots: slots.roots.iter().map(KeptAuthority::of).collect(),
            intermediate: slots.intermediate.as_ref().map(KeptAuthority::of),
            jwt: slots.jwt.0.iter().map(KeptJwtSigner::of).collect(),
            doomed: slots.doomed.clone(),
            retired: texts(&slots.retired),
        };
        self.write(AUTHORITIES, &kept)
    }

    /// Keeps who the members are, so that a rotation goes on waiting for them after a restart.
    pub(super) fn save_members(&self, members: &[MemberStatus]) -> Result<(), CaError> {
        self.write(MEMBERS, members)
    }

    fn read<T: DeserializeOwned>(&self, what: &str) -> Result<Option<T>, CaError> {
        let Self::Folder { dir, key } = self else {
            return Ok(None);
        };
        let Some(plain) = seal::read(&file(dir, what), key, what)? else {
            return Ok(None);
        };
        serde_json::from_slice(&plain).map_err(|_| CaError::Content)
    }

    fn write<T: Serialize + ?Sized>(&self, what: &str, value: &T) -> Result<(), CaError> {
        let Self::Folder { dir, key } = self else {
            return Ok(());
        };
        let plain = Zeroizing::new(serde_json::to_vec(value).map_err(|_| CaError::Content)?);
        Ok(seal::write(&file(dir, what), key, what, &plain)?)
    }
}

fn decode(text: &str) -> Result<Vec<u8>, CaError> {
    STANDARD.decode(text).map_err(|_| CaError::Content)
}

fn certificates(texts: &[String]) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let decoded = texts.iter().map(|text| Ok(decode(text)?.into()));
    decoded.collect()
}

fn texts(certificates: &[CertificateDer<'_>]) -> Vec<String> {
    let encoded = certificates.iter().map(|der| STANDARD.encode(der));
    encoded.collect()
}

fn file(dir: &Path, what: &str) -> PathBuf {
    dir.join(format!("{what}.sealed"))
}

impl KeptAuthority {
    fn of(authority: &Authority) -> Self {
        Self {
            certificate: STANDARD.encode(&authority.certificate),
            key: authority.key().kept.clone(),
            slot: authority.slot,
            made_at: authority.made_at,
            not_after: authority.not_after,
            root: authority.root.as_ref().map(|root| STANDARD.encode(root)),
            above: texts(&authority.above),
        }
    }

    fn open(&self, ring: &Keyring) -> Result<Authority, CaError> {
        let root = self.root.as_deref().map(decode).transpose()?;
        Authority::reopen(
            CertificateDer::from(decode(&self.certificate)?),
            ring.open(&self.key)?,
            self.slot,
            [self.made_at, self.not_after],
            root.map(CertificateDer::from),
            certificates(&self.above)?,
        )
    }
}

impl KeptJwtSigner {
    fn of(signer: &JwtSigner) -> Self {
        Self {
            key_id: signer.key_id.clone(),
            key: signer.key.kept.clone(),
            slot: signer.slot,
            made_at: signer.made_at,
            not_after: signer.not_after,
        }
    }

    fn open(&self, ring: &Keyring) -> Result<JwtSigner, CaError> {
        JwtSigner::reopen(
            self.key_id.clone(),
            ring.open(&self.key)?,
            self.slot,
            [self.made_at, self.not_after],
        )
    }
}
