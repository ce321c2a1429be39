//! The agent: makes a workload's key, gets its certificate, renews it in time.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use reeve_core::{Clock, SpiffeId, TrustDomain, UnixTime};
use reeve_svid::{
    BundleError, Credentials, CredentialsWatch, Purpose, SvidError, TrustBundle, X509Svid,
    verify_svid,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::{sync::watch, task::JoinHandle};
use tonic::{Status, transport::Channel};

use crate::proto::issuer::{
    Bundle, IssueRequest, IssueResponse, WatchBundleRequest, issuer_client::IssuerClient,
};

/// First wait after a failed renewal; doubled up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Bound on one request to the CA.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(10);
/// Shortest time between two renewals that succeeded.
const MIN_RENEWAL: Duration = Duration::from_millis(500);

/// What the agent asks for.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The identity.
    pub id: SpiffeId,
    /// Sent with the first request, by an agent that has nothing else to show.
    pub join_token: Option<String>,
}

/// Makes the channel for one request to the CA, given the credentials there are by then.
pub type ChannelFactory = Arc<dyn Fn(Option<Arc<Credentials>>) -> Channel + Send + Sync>;

/// How the agent is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStatus {
    /// Certificates taken since the start; the first is 1.
    pub issued: u64,
    /// Renewals that failed since the last success.
    pub failures: u64,
    /// When the certificate in use ends.
    pub not_after: Option<UnixTime>,
    /// The last failure, in words.
    pub last_error: Option<String>,
}

/// The running agent; dropped, it stops.
#[derive(Debug)]
pub struct AgentHandle {
    status: Arc<Mutex<AgentStatus>>,
    tasks: [JoinHandle<()>; 2],
}

impl AgentHandle {
    /// How it is doing.
    pub fn status(&self) -> AgentStatus {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for AgentHandle {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Keeps one identity's credentials fresh.
pub struct Agent {
    options: AgentOptions,
    channels: ChannelFactory,
    clock: Arc<dyn Clock>,
    status: Arc<Mutex<AgentStatus>>,
    credentials: watch::Sender<Option<Arc<Credentials>>>,
}

/// Why a renewal failed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("the key or signing request could not be made")]
    Key(#[from] rcgen::Error),
    #[error("the CA answered: {}", .0.message())]
    Refused(Box<Status>),
    #[error("the CA did not answer within 10 s")]
    Timeout,
    #[error("the CA's answer holds no bundle")]
    NoBundle,
    #[error("the CA's bundle")]
    Bundle(#[from] BundleError),
    #[error("the CA's bundle names another trust domain: {0:?}")]
    WrongTrustDomain(String),
    #[error("the CA's certificate: {0}")]
    Svid(#[from] SvidError),
    #[error("the CA issued {0} instead")]
    WrongId(SpiffeId),
}

impl Agent {
    /// Starts the agent. The watch holds `None` until the first certificate is here.
    pub fn start(
        options: AgentOptions,
        channels: ChannelFactory,
        clock: Arc<dyn Clock>,
    ) -> (CredentialsWatch, AgentHandle) {
        let credentials = watch::Sender::new(None);
        let watch = credentials.subscribe();
        let status = Arc::<Mutex<AgentStatus>>::default();
        let agent = Arc::new(Self {
            options,
            channels,
            clock,
            status: status.clone(),
            credentials,
        });
        let renewing = tokio::spawn(agent.clone().renew_forever());
        let following = tokio::spawn(agent.follow_bundle());
        let tasks = [renewing, following];
        (watch, AgentHandle { status, tasks })
    }

    async fn renew_forever(self: Arc<Self>) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let wait = match self.renew().await {
                Ok(not_after) => {
                    backoff = FIRST_BACKOFF;
                    self.note_success(not_after);
                    renewal_wait(not_after.since(self.clock.now()))
                }
                Err(error) => {
                    self.note_failure(&error);
                    let wait = jittered(backoff);
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn renew(&self) -> Result<UnixTime, RenewError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let csr = CertificateParams::default().serialize_request(&key)?;
        let current = self.credentials.borrow().clone();
        let join_token = match current {
            None => self.options.join_token.clone().unwrap_or_default(),
            Some(_) => String::new(),
        };
        let request = IssueRequest {
            csr: csr.der().to_vec(),
            spiffe_id: self.options.id.to_string(),
            join_token,
        };
        let mut client = IssuerClient::new((self.channels)(current));
        let response = tokio::time::timeout(ISSUE_TIMEOUT, client.issue(request))
            .await
            .map_err(|_| RenewError::Timeout)?
            .map_err(|status| RenewError::Refused(Box::new(status)))?;
        let credentials = self.accept(response.into_inner(), &key)?;
        let not_after = credentials.svid.not_after();
        self.credentials.send_replace(Some(Arc::new(credentials)));
        Ok(not_after)
    }

    /// Nothing is used before it was verified as a peer will.
    fn accept(&self, response: IssueResponse, key: &KeyPair) -> Result<Credentials, RenewError> {
        let bundle = self.parse_bundle(response.bundle.ok_or(RenewError::NoBundle)?)?;
        let chain: Vec<_> = response
            .chain
            .into_iter()
            .map(CertificateDer::from)
            .collect();
        verify_svid(&chain, &bundle, self.clock.now(), Purpose::Client)?;
        let svid = X509Svid::parse(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
        if *svid.id() != self.options.id {
            return Err(RenewError::WrongId(svid.id().clone()));
        }
        Ok(Credentials {
            svid: Arc::new(svid),
            bundle: Arc::new(bundle),
        })
    }

    fn parse_bundle(&self, bundle: Bundle) -> Result<TrustBundle, RenewError> {
        let domain = TrustDomain::parse(&bundle.trust_domain)
            .map_err(|_| RenewError::WrongTrustDomain(bundle.trust_domain.clone()))?;
        if !self.options.id.is_member_of(&domain) {
            return Err(RenewError::WrongTrustDomain(bundle.trust_domain));
        }
        let authorities = bundle
            .authorities
            .into_iter()
            .map(CertificateDer::from)
            .collect();
        Ok(TrustBundle::new(domain, authorities, bundle.sequence)?)
    }

    /// Takes new bundles as the CA pushes them, between renewals.
    async fn follow_bundle(self: Arc<Self>) {
        let mut first = self.credentials.subscribe();
        if first.wait_for(Option::is_some).await.is_err() {
            return;
        }
        loop {
            let current = self.credentials.borrow().clone();
            let mut client = IssuerClient::new((self.channels)(current));
            if let Ok(stream) = client.watch_bundle(WatchBundleRequest {}).await {
                let mut stream = stream.into_inner();
                while let Some(Ok(bundle)) = stream.next().await {
                    self.take_bundle(bundle);
                }
            }
            tokio::time::sleep(jittered(Duration::from_secs(2))).await;
        }
    }

    fn take_bundle(&self, bundle: Bundle) {
        let bundle = match self.parse_bundle(bundle) {
            Ok(bundle) => Arc::new(bundle),
            Err(error) => return self.note_failure(&error),
        };
        self.credentials.send_if_modified(|current| match current {
            Some(credentials) if bundle.sequence() > credentials.bundle.sequence() => {
                let svid = credentials.svid.clone();
                *current = Some(Arc::new(Credentials { svid, bundle }));
                true
            }
            _ => false,
        });
    }

    fn note_success(&self, not_after: UnixTime) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.issued += 1;
        status.failures = 0;
        status.not_after = Some(not_after);
        status.last_error = None;
        tracing::info!(id = %self.options.id, issued = status.issued, "took a certificate");
    }

    fn note_failure(&self, error: &RenewError) {
        tracing::warn!(
            id = %self.options.id,
            error = error as &dyn std::error::Error,
            "no new certificate; will try again"
        );
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.failures += 1;
        status.last_error = Some(error.to_string());
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Half of what is left, less up to a tenth of it, so that agents started together do not renew together.
fn renewal_wait(left: Duration) -> Duration {
    (left / 2)
        .mul_f64(rand::random_range(0.9..=1.0))
        .max(MIN_RENEWAL)
}

fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests;
