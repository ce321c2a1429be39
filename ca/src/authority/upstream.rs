//! The operator's own authority: a certificate, its key and its root in files that the operator replaces. It signs our
//! intermediate (as in SPIRE, whose `disk` upstream authority signs the server's own); the intermediate's key is ours.
//!
//! The folder has the names of a Kubernetes secret of type `kubernetes.io/tls`, as cert-manager writes it: `tls.crt`
//! (the signing certificate first, then what is between it and the root), `tls.key`, and `ca.crt` with the root (not
//! needed if the signing certificate is the root). What is there counts once it signs an intermediate under which a
//! workload's certificate verifies; until then the last that did goes on.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{KeyPair, PublicKeyData};
use reeve_core::{UnixTime, error_chain};
use reeve_svid::{
    BundleError, Purpose, SvidError, TrustBundle, certificates_from_pem, verify_svid,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::Serialize;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{
    Attested, CaError, CaOptions,
    slots::{Authority, Slot},
    template,
};
use crate::custody::{AuthorityKey, Keyring};

const CERTIFICATES: &str = "tls.crt";
const KEY: &str = "tls.key";
const ROOTS: &str = "ca.crt";
/// Largest of the files.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// How often files that were refused are judged again: a certificate may become valid.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(10);

/// The operator's authority, judged good.
pub(crate) struct Upstream {
    /// What everybody trusts.
    pub(super) root: CertificateDer<'static>,
    /// The signing certificate and what is between it and the root; empty if it is the root.
    pub(super) above: Vec<CertificateDer<'static>>,
    /// The signing certificate's.
    pub(super) key: AuthorityKey,
    /// When the first of them ends.
    pub(super) not_after: UnixTime,
}

/// Why the operator's files are not used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// A file cannot be read.
    #[error("{path} cannot be read", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// More than 64 KiB.
    #[error("{path} is larger than 64 KiB", path = .0.display())]
    TooLarge(PathBuf),
    /// Others may read the key.
    #[error("others may read {path}; make it private with chmod 600", path = .0.display())]
    KeyNotPrivate(PathBuf),
    /// No certificate in it, or something that is none.
    #[error("{path} holds no certificates in PEM", path = .0.display())]
    NoCertificates(PathBuf),
    /// No private key that signs certificates.
    #[error("{path} holds no private key in PEM that can sign certificates", path = .0.display())]
    NoKey(PathBuf),
    /// The key is another certificate's.
    #[error("the private key is not that of the first certificate of {CERTIFICATES}")]
    KeyOfAnother,
    /// The root cannot be an authority of this trust domain.
    #[error("the root cannot be an authority of this trust domain")]
    Root(#[from] BundleError),
    /// A workload's certificate that it would sign is refused.
    #[error("what it signs would be refused: {0}")]
    Refused(SvidError),
    /// An intermediate cannot be made.
    #[error("it cannot sign an intermediate: {0}")]
    Sign(String),
}

/// How the operator's files stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamStatus {
    /// The folder.
    pub folder: PathBuf,
    /// Since when the present ones are used; none if none are.
    pub since: Option<UnixTime>,
    /// Why what is there now is not used.
    pub refused: Option<String>,
}

/// Follows the operator's files.
pub(super) struct Watch {
    folder: PathBuf,
    seen: Option<Fingerprint>,
    judged: Option<(Fingerprint, UnixTime)>,
    since: Option<UnixTime>,
    refused: Option<String>,
}

/// Inode, time of change and length of each file.
type Fingerprint = [Option<(u64, i64, i64, u64)>; 3];

impl Watch {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            seen: None,
            judged: None,
            since: None,
            refused: None,
        }
    }

    /// What is there, if it has come to rest since it was judged last: files are replaced one after the other.
    pub(super) fn look(&mut self, options: &CaOptions, now: UnixTime) -> Option<Upstream> {
        let found = fingerprint(&self.folder);
        let at_rest = self.seen.replace(found) == Some(found);
        let judged = self.judged.is_some_and(|(judged, at)| {
            judged == found && (self.refused.is_none() || now.since(at) < AGAIN)
        });
        if !at_rest || judged {
            return None;
        }
        self.judge(options, now).ok()
    }

    /// What is there, now.
    pub(super) fn judge(
        &mut self,
        options: &CaOptions,
        now: UnixTime,
    ) -> Result<Upstream, UpstreamError> {
        let found = fingerprint(&self.folder);
        (self.seen, self.judged) = (Some(found), Some((found, now)));
        let judged = Upstream::read(&self.folder, options, now);
        let refused = judged.as_ref().err().map(|error| error_chain(error));
        if let Some(why) = refused.as_ref().filter(|_| refused != self.refused) {
            tracing::error!(folder = %self.folder.display(), why, "the upstream authority is refused; the last good one goes on");
        }
        if judged.is_ok() {
            self.since = Some(now);
        }
        self.refused = refused;
        judged
    }

    pub(super) fn status(&self) -> UpstreamStatus {
        UpstreamStatus {
            folder: self.folder.clone(),
            since: self.since,
            refused: self.refused.clone(),
        }
    }
}

impl Upstream {
    fn read(folder: &Path, options: &CaOptions, now: UnixTime) -> Result<Self, UpstreamError> {
        let chain = certificates(&folder.join(CERTIFICATES))?;
        let pair = Arc::new(key(&folder.join(KEY))?);
        let first = chain.first().map(AsRef::as_ref).unwrap_or_default();
        let (_, signing) = X509Certificate::from_der(first)
            .map_err(|_| UpstreamError::Refused(SvidError::Malformed { position: 0 }))?;
        if signing.public_key().raw != pair.subject_public_key_info() {
            return Err(UpstreamError::KeyOfAnother);
        }
        let roots = match folder.join(ROOTS) {
            path if path.exists() => certificates(&path)?,
            _ => chain.last().cloned().into_iter().collect(),
        };
        let mut refused = UpstreamError::Refused(SvidError::UnknownIssuer);
        for root in roots {
            let above: Vec<_> = chain.iter().filter(|c| **c != root).cloned().collect();
            let not_after = above.iter().chain([&root]).map(end_of).min();
            let upstream = Self {
                not_after: not_after.unwrap_or_default(),
                key: AuthorityKey::upstream(Arc::clone(&pair)),
                root,
                above,
            };
            match upstream.prove(options, now) {
                Ok(()) => return Ok(upstream),
                Err(why) => refused = why,
            }
        }
        Err(refused)
    }

    /// Signs an intermediate for nobody, and with that a certificate for nobody, which must verify.
    fn prove(&self, options: &CaOptions, now: UnixTime) -> Result<(), UpstreamError> {
        let roots = vec![self.root.clone()];
        let bundle = TrustBundle::new(options.trust_domain.clone(), roots, 0)?;
        let chain = self.chain_for_nobody(options, now);
        let chain = chain.map_err(|error| UpstreamError::Sign(error_chain(&error)))?;
        for purpose in [Purpose::Client, Purpose::Server] {
            verify_svid(&chain, &bundle, now, purpose).map_err(UpstreamError::Refused)?;
        }
        Ok(())
    }

    fn chain_for_nobody(
        &self,
        options: &CaOptions,
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let ring = Keyring::default();
        let root = Authority::of_upstream(self, now, Slot::Active)?;
        let intermediate = Authority::new_intermediate(&ring, options, &root, now)?;
        let id = options.trust_domain.id().as_str().to_owned() + "/nobody";
        let id = reeve_core::SpiffeId::parse(&id).map_err(|_| CaError::Content)?;
        let nobody = Attested::by_itself(id);
        let meant = template::Leaf::of(&nobody, now, options.svid_ttl, intermediate.not_after);
        let leaf = template::leaf(&meant)?.signed_by(&ring.make()?, &intermediate.issuer);
        let leaf = leaf.map_err(CaError::Sign)?;
        Ok([
            &[leaf.der().clone(), intermediate.certificate],
            &*self.above,
        ]
        .concat())
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, UpstreamError> {
    let none = || UpstreamError::NoCertificates(path.to_owned());
    let certificates = certificates_from_pem(&read(path)?).map_err(|_| none())?;
    match certificates.is_empty() {
        true => Err(none()),
        false => Ok(certificates),
    }
}

fn key(path: &Path) -> Result<KeyPair, UpstreamError> {
    let metadata = fs::metadata(path).map_err(unreadable(path))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(UpstreamError::KeyNotPrivate(path.to_owned()));
    }
    let none = || UpstreamError::NoKey(path.to_owned());
    let der = PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| none())?;
    KeyPair::try_from(&der).map_err(|_| none())
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, UpstreamError> {
    let metadata = fs::metadata(path).map_err(unreadable(path))?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(UpstreamError::TooLarge(path.to_owned()));
    }
    Ok(Zeroizing::new(fs::read(path).map_err(unreadable(path))?))
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> UpstreamError {
    let path = path.to_owned();
    move |source| UpstreamError::Read { path, source }
}

/// The last second of a certificate; the first of all time if it is none.
fn end_of(der: &CertificateDer<'_>) -> UnixTime {
    let parsed = X509Certificate::from_der(der);
    let end = parsed.map(|(_, certificate)| certificate.validity().not_after.timestamp());
    UnixTime::from_secs(
        end.ok()
            .and_then(|end| u64::try_from(end).ok())
            .unwrap_or_default(),
    )
}

fn fingerprint(folder: &Path) -> Fingerprint {
    [CERTIFICATES, KEY, ROOTS].map(|name| {
        let metadata = fs::metadata(folder.join(name)).ok()?;
        Some((
            metadata.ino(),
            metadata.ctime(),
            metadata.ctime_nsec(),
            metadata.len(),
        ))
    })
}

#[cfg(test)]
mod tests;
