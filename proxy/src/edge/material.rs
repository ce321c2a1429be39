//! Where certificates and keys for the outside come from: secrets that came with the configuration, and files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use reeve_core::{
    Clock,
    model::{AuthoritySource, CertificateSource, SecretName, TlsSecret},
};
use reeve_svid::{Authorities, PublicIdentity, PublicTlsError};
use zeroize::Zeroizing;

use crate::{ledger::lock, limits::MAX_PEM_FILE_BYTES};

/// Why a certificate, key or authority is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MaterialError {
    #[error("there is no secret {0}")]
    NoSecret(SecretName),
    #[error("secret {0} has no authorities")]
    NoAuthorities(SecretName),
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    #[error("{from}: {source}")]
    Unusable {
        from: String,
        source: PublicTlsError,
    },
}

/// What one configuration may take certificates from.
#[derive(Debug)]
pub(crate) struct Material<'a> {
    pub(crate) secrets: &'a BTreeMap<SecretName, Arc<TlsSecret>>,
    pub(crate) clock: &'a Arc<dyn Clock>,
    files: Mutex<BTreeSet<PathBuf>>,
}

impl<'a> Material<'a> {
    /// The secrets of a configuration, and the files of this machine.
    pub(crate) fn new(
        secrets: &'a BTreeMap<SecretName, Arc<TlsSecret>>,
        clock: &'a Arc<dyn Clock>,
    ) -> Self {
        Self {
            secrets,
            clock,
            files: Mutex::default(),
        }
    }

    /// A certificate with its key.
    pub(crate) fn identity(
        &self,
        source: &CertificateSource,
    ) -> Result<PublicIdentity, MaterialError> {
        let unusable = |from: String| |source| MaterialError::Unusable { from, source };
        match source {
            CertificateSource::Secret(name) => {
                let secret = self.secret(name)?;
                let key = secret.private_key.expose();
                let parsed =
                    PublicIdentity::parse(secret.certificate_chain.as_bytes(), key.as_bytes());
                parsed.map_err(unusable(format!("secret {name}")))
            }
            CertificateSource::Files { certificate, key } => {
                let chain = self.read(certificate)?;
                let private = self.read(key)?;
                PublicIdentity::parse(&chain, &private).map_err(unusable(certificate.clone()))
            }
        }
    }

    /// Authorities and what they revoked.
    pub(crate) fn authorities(
        &self,
        source: &AuthoritySource,
    ) -> Result<Authorities, MaterialError> {
        match source {
            AuthoritySource::Secrets(names) => self.authorities_of(names),
            AuthoritySource::File {
                authorities,
                revoked,
            } => {
                let roots = self.read(authorities)?;
                let lists = match revoked {
                    Some(path) => self.read(path)?,
                    None => Zeroizing::default(),
                };
                let unusable = |source| MaterialError::Unusable {
                    from: authorities.clone(),
                    source,
                };
                Authorities::parse(&roots, &lists).map_err(unusable)
            }
        }
    }

    fn authorities_of(&self, names: &[SecretName]) -> Result<Authorities, MaterialError> {
        let there = names.iter().filter_map(|name| self.secrets.get(name));
        let mut with = there.filter(|secret| !secret.authorities.is_empty());
        let Some(secret) = with.next() else {
            let name = names.last().cloned().unwrap_or(SecretName(String::new()));
            return Err(MaterialError::NoAuthorities(name));
        };
        let parsed = Authorities::parse(secret.authorities.as_bytes(), secret.revoked.as_bytes());
        parsed.map_err(|source| MaterialError::Unusable {
            from: format!("secret {}", secret.name),
            source,
        })
    }

    fn secret(&self, name: &SecretName) -> Result<&TlsSecret, MaterialError> {
        let found = self.secrets.get(name).map(Arc::as_ref);
        found.ok_or_else(|| MaterialError::NoSecret(name.clone()))
    }

    fn read(&self, path: &str) -> Result<Zeroizing<Vec<u8>>, MaterialError> {
        lock(&self.files).insert(PathBuf::from(path));
        let failed = |source| MaterialError::File {
            path: path.to_owned(),
            source,
        };
        let bytes = fs::metadata(path).map_err(failed)?.len();
        if bytes > MAX_PEM_FILE_BYTES {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        fs::read(path).map(Zeroizing::new).map_err(failed)
    }

    /// The files that were read or looked for, as they are now.
    pub(crate) fn watched(self) -> WatchedFiles {
        let files = self.files.into_inner().unwrap_or_default();
        WatchedFiles(files.into_iter().map(|f| (seen(&f), f)).collect())
    }
}

/// Files that a snapshot was made from.
#[derive(Debug, Default)]
pub(crate) struct WatchedFiles(Vec<(Option<Seen>, PathBuf)>);

/// Inode, size, and time of change.
type Seen = (u64, u64, i64, i64);

impl WatchedFiles {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of them is another now.
    pub(crate) fn have_changed(&self) -> bool {
        self.0.iter().any(|(before, path)| seen(path) != *before)
    }
}

fn seen(path: &Path) -> Option<Seen> {
    let found = fs::metadata(path).ok()?;
    Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}
