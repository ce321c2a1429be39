//! Whether a mesh connection's peer is still vouched for. A bundle that changes – a root is retired, an identity or a
//! certificate is revoked, another trust domain is no longer federated with ours – ends the connections whose certificates
//! it no longer verifies, whatever runs on them.

use std::sync::Arc;

use reeve_core::{Clock, UnixTime};
use reeve_svid::TrustBundle;
use rustls::CommonState;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use crate::{
    credentials::{Epoch, REALM},
    net::Net,
    proxy::Shared,
};

/// What a worker needs to meet peers and to judge them by: the network, the time, and the credentials as they change.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    pub(crate) net: Net,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) epochs: watch::Receiver<Option<Arc<Epoch>>>,
}

/// A peer's certificates, to be verified again.
#[derive(Debug)]
pub(crate) struct Chain(Vec<CertificateDer<'static>>);

impl Chain {
    /// Those of a finished handshake.
    pub(crate) fn of(connection: &CommonState) -> Self {
        let chain = connection.peer_certificates().unwrap_or_default();
        Self(chain.iter().map(|der| der.clone().into_owned()).collect())
    }

    fn is_vouched_for(&self, bundle: &TrustBundle, at: UnixTime) -> bool {
        REALM.vouches_for(&self.0, bundle, at).is_some()
    }
}

impl Trust {
    /// Ready when a later bundle than that of `made` no longer verifies `chain`. Cancel-safe.
    pub(crate) async fn lost(mut self, chain: Chain, made: Arc<TrustBundle>) {
        let clock = self.clock.clone();
        let distrusts = |now: &Option<Arc<Epoch>>| {
            let bundle = now.as_ref().map(|now| &now.credentials.bundle);
            // A renewed certificate alone changes nothing for its peers.
            let changed = bundle.filter(|bundle| !bundle.admits_as(&made));
            changed.is_some_and(|bundle| !chain.is_vouched_for(bundle, clock.now()))
        };
        if self.epochs.wait_for(distrusts).await.is_err() {
            // No more credentials will come; the certificates' own ends remain.
            std::future::pending::<()>().await;
        }
    }
}

impl Shared {
    /// What peers are judged by.
    pub(crate) fn trust(&self) -> Trust {
        Trust {
            net: self.net.clone(),
            clock: self.clock.clone(),
            epochs: self.epochs.clone(),
        }
    }
}
