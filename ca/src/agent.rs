//! The agent: holds a workload's SVID in memory and renews it in time.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::StreamExt;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use reeve_core::{Clock, SpiffeId, UnixTime};
use reeve_svid::{
    Credentials, CredentialsWatch, Purpose, SvidError, TrustBundle, X509Svid, verify_svid,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use zeroize::{Zeroize, Zeroizing};

mod channel;
mod client;
mod schedule;

pub use channel::{ChannelError, IssuerChannel};
pub use client::{BundleStream, GrpcIssuer, Issued, IssuerClient, LocalIssuer};

use schedule::Backoff;

/// What an agent is to hold.
#[derive(Clone)]
pub struct AgentOptions {
    /// The identity to ask for.
    pub id: SpiffeId,
    /// The join token for the first issuance, if the issuer does not know this process otherwise.
    pub join_token: Option<Zeroizing<String>>,
}

/// Gets an SVID and keeps it fresh.
pub struct Agent {
    options: AgentOptions,
    issuer: Arc<dyn IssuerClient>,
    clock: Arc<dyn Clock>,
    credentials: watch::Sender<Option<Arc<Credentials>>>,
    status: watch::Sender<AgentStatus>,
}

/// The running agent. It stops when this is dropped.
#[derive(Debug)]
pub struct AgentHandle {
    status: watch::Receiver<AgentStatus>,
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

/// Why an attempt to get a certificate failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No connection to the issuer.
    #[error("the issuer cannot be reached")]
    Unreachable(#[source] ChannelError),
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
        let agent = Self {
            options,
            issuer,
            clock,
            credentials,
            status,
        };
        let handle = AgentHandle {
            status: status_watched,
            task: tokio::spawn(agent.run()),
        };
        (watched, handle)
    }

    async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let pause = match self.renew().await {
                Ok(svid) => {
                    backoff.reset();
                    schedule::until_renewal(svid.not_after().since(self.clock.now()))
                }
                Err(error) => {
                    let left = self.not_after().map(|end| end.since(self.clock.now()));
                    self.note_failure(&error);
                    backoff.next(left)
                }
            };
            self.follow_bundle(pause).await;
        }
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
        tracing::warn!(id = %self.options.id, error = text, "no certificate; trying again");
        self.status.send_modify(|status| {
            status.failures = status.failures.saturating_add(1);
            status.last_error = Some(text);
        });
    }

    fn not_after(&self) -> Option<UnixTime> {
        self.status.borrow().not_after
    }

    /// Takes bundles that are pushed, until `pause` is over.
    async fn follow_bundle(&self, pause: Duration) {
        let over = sleep(pause);
        tokio::pin!(over);
        let held = self.credentials.borrow().clone();
        if held.is_none() {
            return over.await;
        }
        let mut backoff = Backoff::default();
        loop {
            let follow = self.take_bundles(&mut backoff);
            // Cancel safety: a bundle is either taken as a whole or will be pushed again.
            tokio::select! {
                () = &mut over => return,
                () = follow => {}
            }
            // Cancel safety: nothing is held.
            tokio::select! {
                () = &mut over => return,
                () = sleep(backoff.next(None)) => {}
            }
        }
    }

    /// Takes bundles until the stream breaks.
    async fn take_bundles(&self, backoff: &mut Backoff) {
        let held = self.credentials.borrow().clone();
        let mut bundles = match self.issuer.watch_bundle(held).await {
            Ok(bundles) => bundles,
            Err(error) => return tracing::debug!(%error, "bundles cannot be followed"),
        };
        while let Some(bundle) = bundles.next().await {
            match bundle {
                Ok(bundle) => {
                    backoff.reset();
                    self.take_bundle(bundle);
                }
                Err(error) => return tracing::debug!(%error, "bundles cannot be followed"),
            }
        }
    }

    fn take_bundle(&self, bundle: TrustBundle) {
        self.credentials.send_if_modified(|held| {
            let Some(now) = held else {
                return false;
            };
            let ours = bundle.trust_domain() == now.bundle.trust_domain();
            if !ours || bundle.sequence() <= now.bundle.sequence() {
                return false;
            }
            tracing::info!(sequence = bundle.sequence(), "trust bundle installed");
            let svid = Arc::clone(&now.svid);
            let bundle = Arc::new(bundle);
            *held = Some(Arc::new(Credentials { svid, bundle }));
            true
        });
    }
}

impl AgentHandle {
    /// How the agent is doing.
    pub fn status(&self) -> AgentStatus {
        self.status.borrow().clone()
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
