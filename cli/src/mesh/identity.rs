//! The mesh process's own identity: issued by its own authority, key in memory, renewed at half its life.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use reeve_ca::CertificateAuthority;
use reeve_core::{Clock, SpiffeId};
use reeve_svid::{Credentials, CredentialsWatch};
use tokio::sync::watch;

/// Shortest wait between renewals.
const MIN_WAIT: Duration = Duration::from_millis(500);
/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the identity `id` fresh.
#[derive(Debug)]
pub(super) struct OwnIdentity {
    ca: Arc<CertificateAuthority>,
    id: SpiffeId,
    clock: Arc<dyn Clock>,
    credentials: watch::Sender<Option<Arc<Credentials>>>,
}

impl OwnIdentity {
    /// Gets the first certificate.
    pub(super) fn start(
        ca: Arc<CertificateAuthority>,
        id: SpiffeId,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let identity = Self {
            ca,
            id,
            clock,
            credentials: watch::Sender::new(None),
        };
        identity
            .renew()
            .context("the mesh process cannot issue a certificate to itself")?;
        Ok(identity)
    }

    /// The credentials as they change.
    pub(super) fn credentials(&self) -> CredentialsWatch {
        self.credentials.subscribe()
    }

    /// Renews for ever.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let mut bundle = self.ca.bundle();
        loop {
            let wait = self.half_life();
            // Cancel-safe: a watch's change stays until it is taken, and a sleep starts anew.
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = bundle.changed() => changed.context("the authority is gone")?,
            }
            if let Err(error) = self.renew() {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the mesh process's own certificate is not renewed"
                );
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    fn renew(&self) -> anyhow::Result<()> {
        let svid = self.ca.issue_self(&self.id)?;
        let bundle = self.ca.bundle().borrow().clone();
        self.credentials.send_replace(Some(Arc::new(Credentials {
            svid: Arc::new(svid),
            bundle,
        })));
        Ok(())
    }

    fn half_life(&self) -> Duration {
        let credentials = self.credentials.borrow();
        let left = credentials
            .as_ref()
            .map(|c| c.svid.not_after().since(self.clock.now()));
        (left.unwrap_or_default() / 2).max(MIN_WAIT)
    }
}
