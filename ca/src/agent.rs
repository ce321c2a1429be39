//! The agent: holds a workload's SVID in memory and renews it in time.

use std::{fmt, sync::Arc, time::Duration};

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use reeve_core::{Clock, InstanceName, SpiffeId, UnixTime};
use reeve_svid::{
    Credentials, CredentialsWatch, Purpose, SvidError, TrustBundle, X509Svid, verify_svid,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use zeroize::{Zeroize, Zeroizing};

mod channel;
mod client;
mod follow;
mod jwt;
mod schedule;

pub use channel::{ChannelError, IssuerChannel};
pub(crate) use client::EntryStream;
pub use client::{
    BundleStream, GrpcIssuer, Issued, IssuerClient, JwtIssued, LocalIssuer, ReportStream,
    TrustStream,
};
pub use jwt::JwtSource;

use schedule::{Backoff, Step};

/// What an agent is to hold.
#[derive(Clone)]
pub struct AgentOptions {
    /// The identity to ask for.
    pub id: SpiffeId,
    /// The join token for the first issuance, if the issuer does not know this process otherwise.
    pub join_token: Option<Zeroizing<String>>,
    /// The instance, as a rotation of the root knows it.
    pub instance: InstanceName,
    /// What new connections use, if that can lag behind what the agent holds. The authority is told this.
    pub installed: Option<CredentialsWatch>,
}

/// Gets an SVID and keeps it fresh.
pub struct Agent {
    options: AgentOptions,
    issuer: Arc<dyn IssuerClient>,
    clock: Arc<dyn Clock>,
    credentials: watch::Sender<Option<Arc<Credentials>>>,
    status: watch::Sender<AgentStatus>,
    /// Serial number of the newest certificate, and the renewal that it was issued for.
    serial: String,
    renewal: u64,
    leaving: watch::Receiver<bool>,
}

/// The running agent. It stops when this is dropped.
#[derive(Debug)]
pub struct AgentHandle {
    status: watch::Receiver<AgentStatus>,
    leaving: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// How an agent is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStatus {
    /// How often a certificate was replaced by its successor; the first one does not count.
    pub rotations: u64,
    /// When the present certificate was issued.
    pub issued_at: Option<UnixTime>,
    /// Until when it is valid.
    pub not_after: Option<UnixTime>,
    /// Failures since the last success.
    pub failures: u32,
    /// What the last attempt failed of, if it did.
    pub last_error: Option<String>,
}

/// How urgently a certificate has to be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// There is time, or there was no certificate yet.
    None,
    /// Less than a quarter of its life is left.
    Late,
    /// It has ended.
    Over,
}

impl AgentStatus {
    /// How urgently the certificate has to be renewed.
    pub fn urgency(&self, now: UnixTime) -> Urgency {
        let (Some(issued_at), Some(not_after)) = (self.issued_at, self.not_after) else {
            return Urgency::None;
        };
        match not_after.since(now) {
            left if left.is_zero() => Urgency::Over,
            left if left < not_after.since(issued_at) / 4 => Urgency::Late,
            _ => Urgency::None,
        }
    }
}

/// Why an attempt to get a certificate failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No connection to the issuer.
    #[error("the issuer cannot be reached")]
    Unreachable(#[source] ChannelError),
    /// The issuer has too much to do.
    #[error("the issuer is overloaded, and wants to be asked again after {} ms", .0.as_millis())]
    Overloaded(Duration),
    /// The token to be known by cannot be read.
    #[error("there is no token to be known by: {0}")]
    NoToken(String),
    /// The issuer refused.
    #[error("the issuer refused: {0}")]
    Refused(String),
    /// The issuer's answer cannot be used.
    #[error("the issuer's answer cannot be used: {0}")]
    BadAnswer(&'static str),
    /// The certificate issued does not verify, or is not what was asked for.
    #[error("the certificate issued is not acceptable")]
    BadCertificate(#[from] SvidError),
    /// A key or a request cannot be made.
    #[error("no key or request can be made")]
    Key(#[source] rcgen::Error),
}

impl Agent {
    /// Starts an agent. The watch shows nothing until the first certificate is there, and keeps the old one until
    /// there is a new one.
    pub fn start(
        options: AgentOptions,
        issuer: Arc<dyn IssuerClient>,
        clock: Arc<dyn Clock>,
    ) -> (CredentialsWatch, AgentHandle) {
        let (credentials, watched) = watch::channel(None);
        let (status, status_watched) = watch::channel(AgentStatus::default());
        let (leaving, leaves) = watch::channel(false);
        let agent = Self {
            options,
            issuer,
            clock,
            credentials,
            status,
            serial: String::new(),
            renewal: 0,
            leaving: leaves,
        };
        let handle = AgentHandle {
            status: status_watched,
            leaving,
            task: tokio::spawn(agent.run()),
        };
        (watched, handle)
    }

    async fn run(mut self) {
        let mut backoff = Backoff::default();
        while !*self.leaving.borrow() {
            let mut reachable = true;
            let pause = match self.renew().await {
                Ok(svid) => {
                    backoff.reset();
                    schedule::until_renewal(svid.not_after().since(self.clock.now()))
                }
                Err(error) => {
                    reachable = !matches!(error, AgentError::Unreachable(_));
                    let left = self.not_after().map(|end| end.since(self.clock.now()));
                    self.note_failure(&error);
                    let pause = backoff.next(left);
                    // Spread, so that those who were sent away do not come back together.
                    match error {
                        AgentError::Overloaded(after) => {
                            pause.max(after.mul_f64(rand::random_range(1.0..=2.0)))
                        }
                        AgentError::Unreachable(_)
                        | AgentError::NoToken(_)
                        | AgentError::Refused(_)
                        | AgentError::BadAnswer(_)
                        | AgentError::BadCertificate(_)
                        | AgentError::Key(_) => pause,
                    }
                }
            };
            // Cancel safety: what was told is taken as a whole.
            tokio::select! {
                () = self.follow(pause), if reachable => {}
                // Another connection would fail as well, and be one more that the authority has to look at.
                () = sleep(pause), if !reachable => {}
                step = schedule::clock_step(&*self.clock) => self.catch_up(step).await,
            }
        }
    }

    /// After a sleep of the machine, or when its clock was set: less is left of the certificate than was reckoned with, or it
    /// is not valid yet. It is renewed now; at once if it has ended.
    async fn catch_up(&self, step: Step) {
        tracing::warn!(?step, "the clock made a step; the certificate is renewed");
        let left = self.not_after().map(|end| end.since(self.clock.now()));
        sleep(schedule::after_a_step(left.unwrap_or_default())).await;
    }

    /// One attempt: new key, request, certificate, check, publish.
    async fn renew(&mut self) -> Result<Arc<X509Svid>, AgentError> {
        let (pkcs8, csr) = new_request()?;
        let held = self.credentials.borrow().clone();
        let token = self.options.join_token.as_deref().map(String::as_str);
        let issued = self
            .issuer
            .issue(&self.options.id, &csr, token, held)
            .await?;
        let key = PrivatePkcs8KeyDer::from(pkcs8.as_slice()).into();
        let svid = Arc::new(self.accept(issued.chain, key, &issued.bundle)?);
        // A token is good once; from now on the certificate speaks for us.
        self.options.join_token = None;
        (self.serial, self.renewal) = (svid.serial().to_owned(), issued.renewal);
        self.publish(&svid, issued.bundle);
        Ok(svid)
    }

    fn accept(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: rustls_pki_types::PrivateKeyDer<'_>,
        bundle: &TrustBundle,
    ) -> Result<X509Svid, AgentError> {
        let svid = X509Svid::parse(chain, key)?;
        if *svid.id() != self.options.id {
            let found = svid.id().clone();
            return Err(SvidError::UnexpectedId { found }.into());
        }
        let now = self.clock.now();
        verify_svid(svid.chain(), bundle, now, Purpose::Client)?;
        verify_svid(svid.chain(), bundle, now, Purpose::Server)?;
        Ok(svid)
    }

    fn publish(&self, svid: &Arc<X509Svid>, bundle: Arc<TrustBundle>) {
        let now = self.clock.now();
        self.status.send_modify(|status| {
            let renewed = u64::from(status.issued_at.is_some());
            *status = AgentStatus {
                rotations: status.rotations.saturating_add(renewed),
                issued_at: Some(now),
                not_after: Some(svid.not_after()),
                failures: 0,
                last_error: None,
            };
        });
        tracing::info!(id = %svid.id(), serial = svid.serial(), "certificate installed");
        let svid = Arc::clone(svid);
        self.credentials
            .send_replace(Some(Arc::new(Credentials { svid, bundle })));
    }

    fn note_failure(&self, error: &AgentError) {
        let text = reeve_core::error_chain(error);
        let id = &self.options.id;
        match self.urgency() {
            Urgency::None => {
                tracing::warn!(%id, error = text, "no certificate; trying again");
            }
            Urgency::Late => tracing::error!(
                %id,
                error = text,
                "less than a quarter of the certificate's life is left, and it cannot be renewed"
            ),
            Urgency::Over => tracing::error!(
                %id,
                error = text,
                "the certificate has ended: peers refuse every connection until there is another one"
            ),
        }
        self.status.send_modify(|status| {
            status.failures = status.failures.saturating_add(1);
            status.last_error = Some(text);
        });
    }

    fn urgency(&self) -> Urgency {
        self.status.borrow().urgency(self.clock.now())
    }

    fn not_after(&self) -> Option<UnixTime> {
        self.status.borrow().not_after
    }
}

impl AgentHandle {
    /// How the agent is doing.
    pub fn status(&self) -> AgentStatus {
        self.status.borrow().clone()
    }

    /// Tells the authority that this process ends, so that no rotation waits for it; gives up after half a second.
    pub async fn leave(&self) {
        const PATIENCE: Duration = Duration::from_millis(500);
        self.leaving.send_replace(true);
        let mut status = self.status.clone();
        let over = async { while status.changed().await.is_ok() {} };
        if timeout(PATIENCE, over).await.is_err() {
            tracing::debug!("the authority was not told that this process ends");
        }
    }

    /// How the agent is doing, as it changes.
    pub fn watch_status(&self) -> watch::Receiver<AgentStatus> {
        self.status.clone()
    }
}

impl Drop for AgentHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for AgentOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentOptions")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A fresh P-256 key (PKCS#8) and a request signed with it, which says nothing but the key.
fn new_request() -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), AgentError> {
    let mut key = KeyPair::generate().map_err(AgentError::Key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(AgentError::Key)?;
    let pkcs8 = Zeroizing::new(key.serialize_der());
    key.zeroize();
    Ok((pkcs8, request.der().to_vec()))
}

#[cfg(test)]
mod tests;
