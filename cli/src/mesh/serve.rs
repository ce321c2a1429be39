//! The two servers of the mesh process's gRPC: TLS for the mesh, and the Unix socket for local sidecars.

use std::{io, sync::Arc, time::Duration};

use anyhow::Context;
use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use reeve_ca::UnixPeer;
use reeve_core::Clock;
use reeve_sidecar::GRPC_ALPN;
use reeve_svid::{CredentialsWatch, MeshTls, VerifiedPeer, peer_of};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tower::ServiceExt;

/// Most connections of one server.
const MAX_CONNECTIONS: usize = 4096;
/// Most streams of one connection.
const MAX_STREAMS: u32 = 64;
/// Bound on a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often a silent connection is probed, and how long the probe may stay unanswered.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Pause after a failed accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection whose certificate has ended may take to finish.
const GRACE: Duration = Duration::from_secs(1);

/// TLS on the mesh's gRPC port. A client certificate is verified if there is one; the services demand it where they
/// need it.
pub(super) struct TlsServer {
    pub(super) listener: TcpListener,
    pub(super) credentials: CredentialsWatch,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) router: Router,
}

impl TlsServer {
    /// Serves for ever.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let server = Arc::new(self);
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let permit = Arc::clone(&room).acquire_owned().await?;
            let stream = match server.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                if let Err(error) = server.connection(stream).await {
                    tracing::debug!(error = format!("{error:#}"), "a connection ended");
                }
                drop(permit);
            });
        }
    }

    async fn connection(&self, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let (stream, peer) = timeout(HANDSHAKE, self.handshake(stream))
            .await
            .context("the handshake took too long")??;
        let lifetime = peer
            .as_ref()
            .map(|peer| peer.not_after().since(self.clock.now()));
        let router = self.router.clone();
        let service = router.map_request(move |mut request: axum::extract::Request| {
            if let Some(peer) = peer.clone() {
                request.extensions_mut().insert(peer);
            }
            request
        });
        serve_http(stream, service, lifetime).await
    }

    async fn handshake(
        &self,
        stream: TcpStream,
    ) -> anyhow::Result<(TlsStream<TcpStream>, Option<VerifiedPeer>)> {
        let credentials = self.credentials.borrow().clone();
        let credentials = credentials.context("there is no certificate yet")?;
        let bundle = Arc::clone(&credentials.bundle);
        let config = MeshTls::new(credentials, Arc::clone(&self.clock))
            .server_config_optional_client(GRPC_ALPN)?;
        let stream = TlsAcceptor::from(config).accept(stream).await;
        let stream = stream.inspect_err(|error| {
            tracing::warn!(%error, "a handshake with the mesh process failed");
        })?;
        let (_, connection) = stream.get_ref();
        let peer = peer_of(connection, &bundle, self.clock.now());
        Ok((stream, peer))
    }
}

/// The Unix socket; each request knows its [`UnixPeer`].
pub(super) async fn serve_socket(listener: UnixListener, router: Router) -> anyhow::Result<()> {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&room).acquire_owned().await?;
        let accepted = match listener.accept().await {
            Ok((stream, _)) => UnixPeer::of(&stream).map(|peer| (stream, peer)),
            Err(error) => Err(error),
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection to the mesh socket could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = router
            .clone()
            .map_request(move |mut request: axum::extract::Request| {
                request.extensions_mut().insert(peer.clone());
                request
            });
        tokio::spawn(async move {
            if let Err(error) = serve_http(stream, service, None).await {
                tracing::debug!(
                    error = format!("{error:#}"),
                    "a connection to the mesh socket ended"
                );
            }
            drop(permit);
        });
    }
}

/// Serves one connection. INVARIANT: no connection outlives the certificate that it was made with.
async fn serve_http<I, S>(stream: I, service: S, lifetime: Option<Duration>) -> anyhow::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: tower::Service<
            axum::extract::Request,
            Response = axum::response::Response,
            Error = std::convert::Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder.http1().timer(TokioTimer::new());
    let service = service.map_request(|request: hyper::Request<hyper::body::Incoming>| {
        request.map(axum::body::Body::new)
    });
    let service = TowerToHyperService::new(service);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| io::Error::other(e);
    let Some(lifetime) = lifetime else {
        return Ok(connection.await.map_err(failed)?);
    };
    // Cancel-safe: the connection is polled on by reference.
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended.map_err(failed)?),
        () = tokio::time::sleep(lifetime) => {}
    }
    connection.as_mut().graceful_shutdown();
    drop(timeout(GRACE, connection).await);
    Ok(())
}
