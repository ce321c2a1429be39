//! The certificate authority: root → intermediate → X.509-SVID.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rcgen::{KeyPair, PublicKeyData};
use reeve_core::{Clock, SpiffeId, TrustDomain, UnixTime};
use reeve_svid::{BundleError, SvidError, TrustBundle, X509Svid};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::{CsrError, SealError, SealKey, csr};

mod journal;
mod recheck;
mod slots;
mod template;

use journal::Journal;
use slots::Slots;

/// How a [`CertificateAuthority`] is set up.
#[derive(Clone, Debug)]
pub struct CaOptions {
    /// Whose identities it issues.
    pub trust_domain: TrustDomain,
    /// Life of a root.
    pub root_ttl: Duration,
    /// Life of an intermediate.
    pub intermediate_ttl: Duration,
    /// Life of an X.509-SVID.
    pub svid_ttl: Duration,
    /// Where its keys are kept.
    pub store: Store,
}

/// Where the keys of the authorities are kept.
#[derive(Clone, Debug)]
pub enum Store {
    /// In a sealed file in this folder.
    Sealed {
        /// The folder; made if it is not there.
        dir: PathBuf,
        /// The key that seals the file.
        key: SealKey,
    },
    /// In memory only: all identities end with the process.
    DangerMemory,
}

/// Signs X.509-SVIDs for one trust domain.
pub struct CertificateAuthority {
    options: CaOptions,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    bundle: watch::Sender<Arc<TrustBundle>>,
}

struct State {
    slots: Slots,
    journal: Journal,
    issued: u64,
}

/// A caller that was attested: what it is entitled to. Making one asserts that the check was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The identity to issue.
    pub id: SpiffeId,
}

/// An X.509-SVID, ready to be handed to whoever has its key.
#[derive(Clone, Debug)]
pub struct IssuedSvid {
    /// Leaf first, then the intermediate.
    pub chain_der: Vec<CertificateDer<'static>>,
    /// The last second at which it is valid.
    pub not_after: UnixTime,
    /// The leaf's serial number in hexadecimal.
    pub serial: String,
}

/// What an operator may know of the authority.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct AuthorityStatus {
    /// Whose identities it issues.
    pub trust_domain: TrustDomain,
    /// Sequence of the trust bundle.
    pub bundle_sequence: u64,
    /// How many roots the bundle holds.
    pub roots: usize,
    /// End of the root that signs.
    pub root_not_after: UnixTime,
    /// End of the intermediate that signs.
    pub intermediate_not_after: UnixTime,
    /// Certificates issued since the start of this process.
    pub issued: u64,
}

/// The certificate authority cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A life that is shorter than that of what it signs, or shorter than a second.
    #[error("lives must satisfy 1 s <= certificate <= intermediate <= root <= 100 years")]
    Lives,
    /// The sealed file cannot be used.
    #[error("the keys of the certificate authority cannot be read or written")]
    Seal(#[from] SealError),
    /// The sealed file opens, but what it holds is not ours.
    #[error("the sealed file does not hold the keys of a certificate authority")]
    Content,
    /// The sealed file belongs to another trust domain.
    #[error("the sealed file belongs to trust domain {found}, not {expected}")]
    OtherTrustDomain {
        /// Configured.
        expected: TrustDomain,
        /// Found.
        found: TrustDomain,
    },
    /// Signing failed.
    #[error("an authority cannot be made")]
    Sign(#[source] rcgen::Error),
    /// Random numbers or keys cannot be made.
    #[error("no random numbers")]
    NoRandom,
    /// The roots do not form a trust bundle.
    #[error("the roots do not form a trust bundle")]
    Bundle(#[from] BundleError),
}

/// A certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request's fault.
    #[error("the certificate request is refused")]
    Request(#[from] CsrError),
    /// The identity is of another trust domain, or names no workload.
    #[error("{0} is not an identity of a workload of this trust domain")]
    NotOurs(SpiffeId),
    /// Our fault: no authority is able to sign.
    #[error("no authority can sign")]
    Authority(#[from] CaError),
    /// Our fault: what was signed is not what may leave.
    #[error("the certificate failed the check before release")]
    Recheck(#[source] Recheck),
}

/// What the check before release found.
#[derive(Debug, thiserror::Error)]
pub enum Recheck {
    /// It does not verify against our own bundle.
    #[error("it does not verify")]
    Verify(#[from] SvidError),
    /// It departs from the template.
    #[error("its {0} is not the template's")]
    Departs(&'static str),
}

impl CertificateAuthority {
    /// Opens the authority: from its sealed file if there is one, else with a new root and intermediate.
    pub fn open(options: CaOptions, clock: Arc<dyn Clock>) -> Result<Arc<Self>, CaError> {
        check_lives(&options)?;
        let journal = Journal::open(&options.store)?;
        let mut slots = journal.load(&options.trust_domain)?.unwrap_or_default();
        if slots.advance(&options, clock.now())? {
            journal.save(&options.trust_domain, &slots)?;
        }
        let bundle = Arc::new(slots.bundle(&options.trust_domain)?);
        let state = State {
            slots,
            journal,
            issued: 0,
        };
        Ok(Arc::new(Self {
            options,
            clock,
            state: Mutex::new(state),
            bundle: watch::Sender::new(bundle),
        }))
    }

    /// The trust bundle, now and as it changes.
    pub fn bundle(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.bundle.subscribe()
    }

    /// Whose identities are issued here.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.options.trust_domain
    }

    /// Issues to an attested caller. Of the request only the proven public key counts.
    pub fn issue(&self, caller: &Attested, csr_der: &[u8]) -> Result<IssuedSvid, IssueError> {
        let proven = csr::proven_key(csr_der)?;
        self.sign(&caller.id, &proven.key, &proven.spki_der)
    }

    /// Issues to this process itself; the key is made here and stays in memory.
    pub fn issue_self(&self, id: &SpiffeId) -> Result<X509Svid, IssueError> {
        let key = KeyPair::generate().map_err(CaError::Sign)?;
        let issued = self.sign(id, &key, &key.subject_public_key_info())?;
        let pkcs8 = Zeroizing::new(key.serialize_der());
        let svid = X509Svid::parse(
            issued.chain_der,
            PrivatePkcs8KeyDer::from(pkcs8.as_slice()).into(),
        );
        svid.map_err(|error| IssueError::Recheck(error.into()))
    }

    /// Replaces authorities whose time has come. Issuing does it too; a timer should for a CA that nobody asks.
    pub fn maintain(&self) -> Result<(), CaError> {
        self.advance(&mut self.lock())
    }

    /// What an operator may know.
    pub fn status(&self) -> AuthorityStatus {
        let state = self.lock();
        let end = |a: Option<&slots::Authority>| a.map(|a| a.not_after).unwrap_or_default();
        AuthorityStatus {
            trust_domain: self.options.trust_domain.clone(),
            bundle_sequence: state.slots.sequence,
            roots: state.slots.roots.len(),
            root_not_after: end(state.slots.signing_root()),
            intermediate_not_after: end(state.slots.intermediate.as_ref()),
            issued: state.issued,
        }
    }

    fn sign(
        &self,
        id: &SpiffeId,
        key: &impl PublicKeyData,
        spki_der: &[u8],
    ) -> Result<IssuedSvid, IssueError> {
        if !id.is_member_of(&self.options.trust_domain) || id.path().is_empty() {
            return Err(IssueError::NotOurs(id.clone()));
        }
        let mut state = self.lock();
        self.advance(&mut state)?;
        let now = self.clock.now();
        let bundle = Arc::clone(&self.bundle.borrow());
        let issuer = state.slots.intermediate.as_ref().ok_or(CaError::Content)?;
        let life = template::life(now, self.options.svid_ttl, issuer.not_after);
        let leaf = template::leaf(id, life)?
            .signed_by(key, &issuer.issuer)
            .map_err(CaError::Sign)?;
        let chain_der = vec![leaf.der().clone(), issuer.certificate.clone()];
        let serial = recheck::before_release(&chain_der, &bundle, id, spki_der, life, now)
            .map_err(IssueError::Recheck)?;
        state.issued = state.issued.saturating_add(1);
        Ok(IssuedSvid {
            chain_der,
            not_after: life.not_after,
            serial,
        })
    }

    /// Moves the slots on, keeps them, then shows them: in this order, so that a crash forgets nothing that was seen.
    fn advance(&self, state: &mut State) -> Result<(), CaError> {
        let now = self.clock.now();
        if !state.slots.is_due(now) {
            return Ok(());
        }
        match self.replace(state, now) {
            Err(error) if state.slots.can_sign(now) => {
                tracing::error!(%error, "authorities are due for replacement; the present ones go on");
                Ok(())
            }
            result => result,
        }
    }

    fn replace(&self, state: &mut State, now: UnixTime) -> Result<(), CaError> {
        let mut next = state.slots.reopened()?;
        next.advance(&self.options, now)?;
        let bundle = Arc::new(next.bundle(&self.options.trust_domain)?);
        state.journal.save(&self.options.trust_domain, &next)?;
        state.slots = next;
        self.bundle.send_if_modified(|shown| {
            let newer = bundle.sequence() > shown.sequence();
            if newer {
                *shown = bundle;
            }
            newer
        });
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("trust_domain", &self.options.trust_domain)
            .finish_non_exhaustive()
    }
}

fn check_lives(options: &CaOptions) -> Result<(), CaError> {
    const SHORTEST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);
    let lives = [
        SHORTEST,
        options.svid_ttl,
        options.intermediate_ttl,
        options.root_ttl,
        LONGEST,
    ];
    match lives.is_sorted() {
        true => Ok(()),
        false => Err(CaError::Lives),
    }
}

#[cfg(test)]
mod tests;
