//! The certificate authority: one root, one intermediate, and the certificates it signs.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rcgen::{CertificateParams, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use reeve_core::{Clock, SpiffeId, TrustDomain, UnixTime};
use reeve_svid::{BundleError, Purpose, SvidError, TrustBundle, X509Svid, verify_svid};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::{
    CsrError, SealError, SealKey, csr,
    store::{SealedFolder, StoredAuthorities, StoredAuthority},
    template::{self, Validity},
};

/// How the CA issues and where it keeps its keys.
#[derive(Clone, Debug)]
pub struct CaOptions {
    /// The trust domain it is the authority of.
    pub trust_domain: TrustDomain,
    /// Life of a root.
    pub root_ttl: Duration,
    /// Life of an intermediate.
    pub intermediate_ttl: Duration,
    /// Life of an X.509-SVID; at least 2 s.
    pub svid_ttl: Duration,
    /// Where keys are kept.
    pub store: Store,
}

/// Where the CA's keys are kept.
#[derive(Clone, Debug)]
pub enum Store {
    /// In a folder, in a file sealed with `key`.
    Sealed {
        /// The folder.
        dir: PathBuf,
        /// The sealing key.
        key: SealKey,
    },
    /// In memory only: a restart makes a new CA, and every certificate issued before is worth nothing.
    DangerMemory,
}

/// Why the CA cannot be opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The sealed file.
    #[error("the CA's sealed file")]
    Seal(#[from] SealError),
    /// The sealed file opened, but its content makes no sense.
    #[error("the CA's sealed file holds {0} that cannot be read")]
    Damaged(&'static str),
    /// The sealed file belongs to another trust domain.
    #[error(
        "the CA's folder belongs to trust domain {found}, but the configuration says {expected}: use another state folder"
    )]
    WrongTrustDomain {
        /// The stored one.
        found: TrustDomain,
        /// The configured one.
        expected: TrustDomain,
    },
    /// A life that makes no sense.
    #[error("{0}")]
    BadTtl(&'static str),
    /// The root is about to end; no certificate can be issued under it.
    #[error("the root certificate has expired: rotate the root")]
    RootExpired,
    /// Signing failed.
    #[error("signing failed")]
    Sign(#[from] rcgen::Error),
    /// The bundle cannot be made.
    #[error("the trust bundle")]
    Bundle(#[from] BundleError),
}

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The signing request.
    #[error("the signing request is refused: {0}")]
    Csr(#[from] CsrError),
    /// The identity belongs to another trust domain.
    #[error("{0} is not of this trust domain")]
    WrongTrustDomain(SpiffeId),
    /// The CA itself.
    #[error("the CA cannot issue")]
    Ca(#[from] CaError),
    /// What was signed is not what was meant; nothing was released.
    #[error("the signed certificate failed its check before release: {0}")]
    Recheck(SvidError),
}

impl From<rcgen::Error> for IssueError {
    fn from(error: rcgen::Error) -> Self {
        Self::Ca(CaError::Sign(error))
    }
}

/// A certificate that passed the check before release.
#[derive(Clone, Debug)]
pub struct IssuedSvid {
    /// Leaf first, then the intermediate.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whose it is.
    pub id: SpiffeId,
    /// Serial number, lower-case hex.
    pub serial: String,
    /// When it ends.
    pub not_after: UnixTime,
}

/// The authority of a trust domain.
pub struct CertificateAuthority {
    options: CaOptions,
    clock: Arc<dyn Clock>,
    folder: Option<SealedFolder>,
    authorities: Mutex<Authorities>,
    bundle: watch::Sender<Arc<TrustBundle>>,
}

struct Authorities {
    root: Authority,
    intermediate: Authority,
    sequence: u64,
}

/// A CA certificate with its key.
struct Authority {
    certificate: CertificateDer<'static>,
    not_after: UnixTime,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// Opens the CA, with the authorities it had before if there are any.
    pub fn open(options: CaOptions, clock: Arc<dyn Clock>) -> Result<Arc<Self>, CaError> {
        check_ttls(&options)?;
        let folder = match &options.store {
            Store::Sealed { dir, key } => Some(SealedFolder::open(dir.clone(), key.clone())?),
            Store::DangerMemory => None,
        };
        let stored = folder
            .as_ref()
            .map(SealedFolder::load)
            .transpose()?
            .flatten();
        let authorities = match stored {
            Some(stored) => Authorities::restore(&stored, &options.trust_domain)?,
            None => {
                let made = Authorities::generate(&options, clock.now())?;
                save(folder.as_ref(), &options.trust_domain, &made)?;
                made
            }
        };
        let bundle = Arc::new(authorities.bundle(&options.trust_domain)?);
        Ok(Arc::new(Self {
            options,
            clock,
            folder,
            authorities: Mutex::new(authorities),
            bundle: watch::Sender::new(bundle),
        }))
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.options.trust_domain
    }

    /// The trust bundle, as it changes.
    pub fn bundle(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.bundle.subscribe()
    }

    /// When the root and the intermediate end.
    pub fn ends(&self) -> (UnixTime, UnixTime) {
        let authorities = self
            .authorities
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (
            authorities.root.not_after,
            authorities.intermediate.not_after,
        )
    }

    /// Issues an SVID for `id` to the key of a signing request. The caller must be entitled to `id`.
    pub fn issue(&self, id: &SpiffeId, csr: &[u8]) -> Result<IssuedSvid, IssueError> {
        let key = csr::proven_key(csr)?;
        self.sign(id, &key)
    }

    /// Issues an SVID whose key is made here, for the mesh process's own servers.
    pub fn issue_self(&self, id: &SpiffeId) -> Result<X509Svid, IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let issued = self.sign(id, &key)?;
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        X509Svid::parse(issued.chain, der.into()).map_err(IssueError::Recheck)
    }

    fn sign(&self, id: &SpiffeId, key: &impl PublicKeyData) -> Result<IssuedSvid, IssueError> {
        if !id.is_member_of(&self.options.trust_domain) {
            return Err(IssueError::WrongTrustDomain(id.clone()));
        }
        let now = self.clock.now();
        let mut authorities = self
            .authorities
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.renew_intermediate(&mut authorities, now)?;
        let issuer = &authorities.intermediate;
        let not_after = now.plus(self.options.svid_ttl).min(issuer.not_after);
        let params = template::svid(id, Validity { now, not_after })?;
        let leaf = params.signed_by(key, &issuer.issuer)?;
        let chain = vec![leaf.der().clone(), issuer.certificate.clone()];
        self.release(id, chain, now)
    }

    /// Nothing leaves before it was verified as a peer would.
    fn release(
        &self,
        id: &SpiffeId,
        chain: Vec<CertificateDer<'static>>,
        now: UnixTime,
    ) -> Result<IssuedSvid, IssueError> {
        let bundle = self.bundle.borrow().clone();
        let peer = [Purpose::Client, Purpose::Server]
            .map(|purpose| verify_svid(&chain, &bundle, now, purpose).map_err(IssueError::Recheck));
        let [client, server] = peer;
        let (peer, _) = (client?, server?);
        if peer.id() != id {
            return Err(IssueError::Recheck(SvidError::Malformed { position: 0 }));
        }
        Ok(IssuedSvid {
            id: id.clone(),
            serial: peer.serial().to_owned(),
            not_after: peer.not_after(),
            chain,
        })
    }

    /// A new intermediate takes over when the present one could not cover a whole SVID's life any more.
    fn renew_intermediate(
        &self,
        authorities: &mut Authorities,
        now: UnixTime,
    ) -> Result<(), CaError> {
        if authorities.intermediate.not_after >= now.plus(self.options.svid_ttl) {
            return Ok(());
        }
        if authorities.root.not_after <= now {
            return Err(CaError::RootExpired);
        }
        let root_end = authorities.root.not_after;
        if authorities.intermediate.not_after == root_end && now < root_end {
            return Ok(());
        }
        let not_after = now.plus(self.options.intermediate_ttl).min(root_end);
        let params =
            template::intermediate(&self.options.trust_domain, Validity { now, not_after })?;
        authorities.intermediate = Authority::signed(params, &authorities.root, not_after)?;
        save(
            self.folder.as_ref(),
            &self.options.trust_domain,
            authorities,
        )
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

fn check_ttls(options: &CaOptions) -> Result<(), CaError> {
    if options.svid_ttl < Duration::from_secs(2) {
        return Err(CaError::BadTtl("certificateTtl is at least 2s"));
    }
    if options.intermediate_ttl < options.svid_ttl {
        return Err(CaError::BadTtl(
            "intermediateTtl is at least certificateTtl",
        ));
    }
    if options.root_ttl < options.intermediate_ttl {
        return Err(CaError::BadTtl("rootTtl is at least intermediateTtl"));
    }
    Ok(())
}

fn save(
    folder: Option<&SealedFolder>,
    domain: &TrustDomain,
    authorities: &Authorities,
) -> Result<(), CaError> {
    match folder {
        Some(folder) => folder.save(&authorities.stored(domain)),
        None => Ok(()),
    }
}

impl Authorities {
    fn generate(options: &CaOptions, now: UnixTime) -> Result<Self, CaError> {
        let domain = &options.trust_domain;
        let not_after = now.plus(options.root_ttl);
        let root = Authority::self_signed(
            template::root(domain, Validity { now, not_after })?,
            not_after,
        )?;
        let not_after = now.plus(options.intermediate_ttl).min(not_after);
        let params = template::intermediate(domain, Validity { now, not_after })?;
        let intermediate = Authority::signed(params, &root, not_after)?;
        Ok(Self {
            root,
            intermediate,
            sequence: 1,
        })
    }

    fn restore(stored: &StoredAuthorities, expected: &TrustDomain) -> Result<Self, CaError> {
        if stored.trust_domain != *expected {
            return Err(CaError::WrongTrustDomain {
                found: stored.trust_domain.clone(),
                expected: expected.clone(),
            });
        }
        Ok(Self {
            root: Authority::restore(&stored.root)?,
            intermediate: Authority::restore(&stored.intermediate)?,
            sequence: stored.sequence,
        })
    }

    fn stored(&self, domain: &TrustDomain) -> StoredAuthorities {
        let (root, intermediate) = (self.root.stored(), self.intermediate.stored());
        StoredAuthorities::new(domain.clone(), self.sequence, root, intermediate)
    }

    fn bundle(&self, domain: &TrustDomain) -> Result<TrustBundle, BundleError> {
        let roots = vec![self.root.certificate.clone()];
        TrustBundle::new(domain.clone(), roots, self.sequence)
    }
}

impl Authority {
    fn self_signed(params: CertificateParams, not_after: UnixTime) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?.der().clone();
        Self::new(certificate, key, not_after)
    }

    fn signed(params: CertificateParams, by: &Self, not_after: UnixTime) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &by.issuer)?.der().clone();
        Self::new(certificate, key, not_after)
    }

    fn new(
        certificate: CertificateDer<'static>,
        key: KeyPair,
        not_after: UnixTime,
    ) -> Result<Self, CaError> {
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            certificate,
            not_after,
            issuer,
        })
    }

    fn restore(stored: &StoredAuthority) -> Result<Self, CaError> {
        let der = stored.key()?;
        let der = PrivatePkcs8KeyDer::from(der.as_slice());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)?;
        let certificate = CertificateDer::from(stored.certificate()?);
        let not_after = end_of(&certificate).ok_or(CaError::Damaged("a certificate"))?;
        Self::new(certificate, key, not_after)
    }

    fn stored(&self) -> StoredAuthority {
        let key = Zeroizing::new(self.issuer.key().serialize_der());
        StoredAuthority::new(&self.certificate, &key)
    }
}

/// `notAfter` of a certificate.
fn end_of(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(UnixTime::from_secs(seconds))
}

#[cfg(test)]
mod tests;
