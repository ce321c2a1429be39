//! Which identities a process gets at an agent's socket: those whose selectors are all known of it.

use std::{fmt, sync::Arc};

use reeve_core::{RegistrationEntry, Selectors};
use reeve_svid::Credentials;
use tokio::{sync::watch, task::JoinHandle};

use crate::{AttestError, Attestor, Evidence, JwtSource, UnixPeer};

/// Says which identities a process gets.
#[tonic::async_trait]
pub trait IdentitySource: fmt::Debug + Send + Sync {
    /// The identities of a process, now and as they change.
    async fn identities(&self, peer: &UnixPeer) -> Result<Identities, AttestError>;
}

/// An identity that an agent serves.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// What must be known of a process that gets it; nothing: it is every admitted process's.
    pub(crate) selectors: Selectors,
    /// What it is for, in the operator's words.
    pub(crate) hint: String,
    /// For whom its tokens may be; empty: for anybody.
    pub(crate) jwt_audiences: Vec<String>,
    pub(crate) credentials: Option<Arc<Credentials>>,
    /// There is none because it cannot be had; otherwise it is awaited.
    pub(crate) failed: bool,
    pub(crate) jwt: Option<Arc<JwtSource>>,
}

/// Everything that an agent serves, in the order in which a process gets several.
pub(crate) type Shown = Arc<Vec<Held>>;

/// The identities of one process, now and as they change.
pub struct Identities {
    shown: watch::Receiver<Shown>,
    known: Selectors,
    /// Dropped when the process is no longer served.
    _session: Option<Box<dyn Send + Sync>>,
    last: Option<String>,
}

/// An identity with its certificate.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) jwt: Arc<JwtSource>,
    pub(crate) hint: String,
    pub(crate) jwt_audiences: Vec<String>,
}

/// What there is for a process.
#[derive(Debug)]
pub(crate) enum Now {
    /// Nothing, and nothing will come.
    Nothing,
    /// Not all of it is there yet.
    Awaited,
    /// Its identities, the default one first; at least one.
    Ready(Vec<Ready>),
}

impl Held {
    /// An identity of `entry` that is awaited.
    pub(crate) fn awaited(entry: &RegistrationEntry) -> Self {
        Self {
            selectors: entry.selectors.clone(),
            hint: entry.hint.clone(),
            jwt_audiences: entry.jwt_audiences.clone(),
            credentials: None,
            failed: false,
            jwt: None,
        }
    }

    fn ready(&self) -> Option<Ready> {
        Some(Ready {
            credentials: self.credentials.clone()?,
            jwt: self.jwt.clone()?,
            hint: self.hint.clone(),
            jwt_audiences: self.jwt_audiences.clone(),
        })
    }
}

impl Ready {
    /// Whether its tokens may be for these.
    pub(crate) fn allows(&self, audience: &[String]) -> bool {
        let allowed = |one| self.jwt_audiences.contains(one);
        self.jwt_audiences.is_empty() || audience.iter().all(allowed)
    }
}

impl Identities {
    /// Of all that is `shown`, what a process gets of whom `known` is known.
    pub(crate) fn new(
        shown: watch::Receiver<Shown>,
        known: Selectors,
        session: Option<Box<dyn Send + Sync>>,
    ) -> Self {
        Self {
            shown,
            known,
            _session: session,
            last: None,
        }
    }

    /// What there is now.
    pub(crate) fn now(&mut self) -> Now {
        let shown = Arc::clone(&self.shown.borrow_and_update());
        let own = shown
            .iter()
            .filter(|held| self.known.have_all_of(&held.selectors));
        let own: Vec<_> = own.collect();
        if own.is_empty() {
            return Now::Nothing;
        }
        let ready: Vec<_> = own.iter().filter_map(|held| held.ready()).collect();
        let settled = own
            .iter()
            .all(|held| held.credentials.is_some() || held.failed);
        match ready.is_empty() || !settled {
            true => Now::Awaited,
            false => Now::Ready(ready),
        }
    }

    /// The identities once they are there; none if there are none.
    pub(crate) async fn ready(&mut self) -> Option<Vec<Ready>> {
        loop {
            match self.now() {
                Now::Ready(ready) => return Some(ready),
                Now::Nothing => return None,
                Now::Awaited => self.changed().await,
            }
        }
    }

    /// The identities, when they are others than last time; none if there are none any more. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Vec<Ready>> {
        loop {
            match self.now() {
                Now::Nothing => return None,
                Now::Ready(ready) => {
                    let version = version(&ready);
                    if self.last.as_ref() != Some(&version) {
                        self.last = Some(version);
                        return Some(ready);
                    }
                }
                Now::Awaited => {}
            }
            self.changed().await;
        }
    }

    /// Other things are shown; never again when the agent ends, which takes nobody's identity away.
    async fn changed(&mut self) {
        if self.shown.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Another text for other identities.
pub(crate) fn version(ready: &[Ready]) -> String {
    let parts = ready.iter().map(|one| {
        let Credentials { svid, bundle } = &*one.credentials;
        format!("{}-{}", svid.serial(), bundle.sequence())
    });
    parts.collect::<Vec<_>>().join(".")
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities")
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

/// One identity, for every process that an attestor admits: a sidecar's.
#[derive(Debug)]
pub struct OneIdentity {
    shown: watch::Receiver<Shown>,
    attestor: Arc<dyn Attestor>,
    follow: JoinHandle<()>,
}

impl OneIdentity {
    /// The identity that `jwt` is of, for whom `attestor` knows anything of.
    pub fn new(jwt: Arc<JwtSource>, attestor: Arc<dyn Attestor>) -> Self {
        let mut credentials = jwt.credentials().clone();
        let held = move |credentials: Option<Arc<Credentials>>| {
            Arc::new(vec![Held {
                selectors: Selectors::default(),
                hint: String::new(),
                jwt_audiences: Vec::new(),
                credentials,
                failed: false,
                jwt: Some(Arc::clone(&jwt)),
            }])
        };
        let first = held(credentials.borrow_and_update().clone());
        let (send, shown) = watch::channel(first);
        let follow = tokio::spawn(async move {
            while credentials.changed().await.is_ok() {
                send.send_replace(held(credentials.borrow_and_update().clone()));
            }
        });
        Self {
            shown,
            attestor,
            follow,
        }
    }
}

#[tonic::async_trait]
impl IdentitySource for OneIdentity {
    async fn identities(&self, peer: &UnixPeer) -> Result<Identities, AttestError> {
        let evidence = Evidence::Process {
            peer,
            hashed: false,
        };
        let known = self.attestor.attest(evidence).await?;
        let known = known.ok_or_else(|| AttestError::Refused(format!("{peer} is a stranger")))?;
        Ok(Identities::new(self.shown.clone(), known.selectors, None))
    }
}

impl Drop for OneIdentity {
    fn drop(&mut self) {
        self.follow.abort();
    }
}
