//! The server's side of mesh mTLS.

use std::{net::SocketAddr, sync::Arc};

use reeve_audit::{AuthenticatedBy, EventKind, EventRecord};
use reeve_core::decision::Principal;
use reeve_svid::{alpn, peer_of, why_refused};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::Spoken;
use crate::{
    ahead::ReadAhead, connect::limit_life, credentials::Epoch, introduction, io::Line, judge::Peer,
    limits::HANDSHAKE_TIMEOUT, net::Socket, peer_info::PeerInfo, proxy::Shared, trust::Chain,
    worker::Worker,
};

/// A connection whose peer proved by mTLS who it is.
#[derive(Debug)]
pub(crate) struct Shaken {
    pub(crate) stream: TlsStream<ReadAhead<Line<Socket>>>,
    pub(crate) peer: Peer,
    pub(crate) spoken: Spoken,
    /// What the caller's proxy said of the caller, before bytes.
    pub(crate) told: Option<Arc<PeerInfo>>,
    /// Cancelled when it should drain, since the certificates are about to end.
    pub(crate) old: CancellationToken,
    pub(crate) epoch: Arc<Epoch>,
    pub(crate) gone: CancellationToken,
}

/// A peer whose handshake failed: recorded with the reason, up to a rate; beyond it counted.
fn refuse_handshake(worker: &Worker, address: SocketAddr, reason: &str) {
    worker.proxy.metrics.handshake_failed("server");
    if worker.proxy.strangers.certificate_refused() {
        let snapshot = worker.proxy.snapshot();
        let shown =
            snapshot.map_or_else(String::new, |snapshot| snapshot.redaction.client(address));
        let event = EventRecord::new(EventKind::HandshakeRefused)
            .with("address", shown)
            .with("reason", reason);
        worker.ledger.event(&event);
    }
}

/// The server's side of mesh mTLS; `None` for a peer that is turned away, which is counted.
pub(crate) async fn shake_hands(
    worker: &Worker,
    line: Line<Socket>,
    address: SocketAddr,
    http: bool,
) -> Option<Shaken> {
    let proxy = &worker.proxy;
    let Some(epoch) = proxy.epoch() else {
        proxy.metrics.handshake_failed("no_credentials");
        return None;
    };
    let config = if http {
        &epoch.http_server
    } else {
        &epoch.tcp_server
    };
    let (gone, cut) = (line.gone(), line.cut());
    let handshake = TlsAcceptor::from(config.clone()).accept(ReadAhead::new(line));
    let shaken = timeout(HANDSHAKE_TIMEOUT, handshake).await;
    if shaken.is_err() {
        proxy.metrics.limit_hit("handshake_timeout");
    }
    let mut stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            refuse_handshake(worker, address, &why_refused(&error));
            return None;
        }
        Err(_) => {
            refuse_handshake(worker, address, "it took too long");
            return None;
        }
    };
    let (_, connection) = stream.get_ref();
    let now = proxy.clock.now();
    let peer = peer_of(connection, epoch.judges(), now);
    let Some(verified) = peer else {
        refuse_handshake(worker, address, "the certificate is not valid any more");
        return None;
    };
    let chain = Chain::of(connection);
    let spoken = match connection.alpn_protocol() {
        Some(alpn::H2) => Spoken::Http2,
        Some(alpn::HTTP1) => Spoken::Http1,
        _ => Spoken::Bytes,
    };
    let peer = Peer {
        principal: Principal::Workload(verified.id().clone()),
        authenticated_by: AuthenticatedBy::Mtls,
        ..Peer::stranger(address.ip()).asking_for(connection.server_name())
    };
    let (until, trust) = (verified.not_after(), proxy.trust());
    let named = connection.alpn_protocol() == Some(alpn::NAMED_TCP);
    let old = limit_life(&epoch, until, chain, trust, cut, gone.clone());
    let told = match named {
        false => None,
        true => match timeout(HANDSHAKE_TIMEOUT, introduction::hear(&mut stream)).await {
            Ok(Ok(told)) => told.map(Arc::new),
            Ok(Err(_)) | Err(_) => {
                proxy.metrics.handshake_failed("introduction");
                return None;
            }
        },
    };
    Some(Shaken {
        stream,
        peer,
        spoken,
        told,
        old,
        epoch,
        gone,
    })
}

/// Credentials that a connection was made with.
impl Shared {
    /// Ready when other credentials than those of `epoch` are in force.
    pub(crate) async fn epoch_after(&self, epoch: &Epoch) {
        let mut watch = self.epochs.clone();
        let newer =
            |now: &Option<Arc<Epoch>>| now.as_ref().is_some_and(|now| now.number > epoch.number);
        if watch.wait_for(newer).await.is_err() {
            // No more credentials will come; the connection's own lifetime ends it.
            std::future::pending::<()>().await;
        }
    }
}
