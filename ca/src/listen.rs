//! Accepting connections in such a way that the services behind know who is calling.
//!
//! `tonic` puts the connection's [`UnixPeer`] or [`TlsPeer`] into the extensions of every request.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use reeve_core::Clock;
use reeve_svid::{
    Credentials, CredentialsWatch, MeshTls, Realm, TrustBundle, VerifiedPeer, peer_of,
};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::either::Either;
use tonic::transport::server::Connected;

use crate::{
    UnixPeer,
    address::{MeshListener, MeshStream},
};

mod authority;

/// Connections that one listener keeps open; beyond it, callers wait to be accepted.
const MAX_CONNECTIONS: usize = 16_384;
/// Of these, TLS connections of those who have shown no certificate: who comes with a join token needs one for a moment.
const MAX_STRANGERS: usize = 256;
/// Longest life of such a connection.
const STRANGER_LIFE: Duration = Duration::from_secs(30);
/// Handshakes at one time.
const MAX_HANDSHAKES: usize = 64;
/// Bound on one handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that wait for the server to take them.
const QUEUE: usize = 16;
/// Pause after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection over a Unix socket whose other end is known.
#[derive(Debug)]
pub struct UnixConnection {
    stream: UnixStream,
    peer: UnixPeer,
    mender: authority::Mender,
    _room: OwnedSemaphorePermit,
}

/// A TLS connection. It ends with the peer's certificate, and when that is revoked or its root retired.
#[derive(Debug)]
pub struct TlsConnection {
    stream: Box<TlsStream<MeshStream>>,
    peer: TlsPeer,
    end: End,
    _room: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

/// Ready when the peer's certificate has ended, or is not vouched for any more.
struct End(Pin<Box<dyn Future<Output = ()> + Send>>);

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("End")
    }
}

/// Who is at the other end of a [`TlsConnection`].
#[derive(Clone, Debug)]
pub struct TlsPeer {
    /// From where: an address and port, or a process and its user.
    pub from: String,
    /// Who, if it showed a certificate (which then verified).
    pub verified: Option<VerifiedPeer>,
}

/// The connections that come in over a Unix socket.
pub fn unix_incoming(listener: UnixListener) -> ReceiverStream<io::Result<UnixConnection>> {
    let (send, receive) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(room) = Arc::clone(&connections).acquire_owned().await else {
                return;
            };
            // Cancel safety: both branches are; nothing is lost when one is dropped.
            let accepted = tokio::select! {
                () = send.closed() => return,
                accepted = listener.accept() => accepted,
            };
            let known = accepted.and_then(|(stream, _)| {
                let peer = UnixPeer::of(&stream)?;
                Ok(UnixConnection {
                    stream,
                    peer,
                    mender: authority::Mender::default(),
                    _room: room,
                })
            });
            match known {
                Ok(connection) => {
                    if send.send(Ok(connection)).await.is_err() {
                        return;
                    }
                }
                Err(error) => pause(&error).await,
            }
        }
    });
    ReceiverStream::new(receive)
}

/// The connections that come in over TLS, once their handshake is done. Each handshake uses the credentials of its
/// moment; a client certificate is optional, but must verify if it is there.
pub fn tls_incoming(
    listener: impl Into<MeshListener>,
    credentials: CredentialsWatch,
    clock: Arc<dyn Clock>,
) -> ReceiverStream<io::Result<TlsConnection>> {
    let (send, receive) = mpsc::channel(QUEUE);
    let listener = listener.into();
    tokio::spawn(async move {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
        loop {
            let Ok(room) = Arc::clone(&connections).acquire_owned().await else {
                return;
            };
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
                return;
            };
            // Cancel safety: both branches are; nothing is lost when one is dropped.
            let accepted = tokio::select! {
                () = send.closed() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause(&error).await;
                    continue;
                }
            };
            let credentials = credentials.clone();
            let (send, clock) = (send.clone(), Arc::clone(&clock));
            let strangers = Arc::clone(&strangers);
            tokio::spawn(async move {
                let _permit = permit;
                let handshake = handshake(stream, &from, credentials, clock, (room, strangers));
                match timeout(HANDSHAKE_TIMEOUT, handshake).await {
                    // The server is gone, and with it whoever would want the connection.
                    Ok(Ok(connection)) => drop(send.send(Ok(connection)).await),
                    Ok(Err(error)) => tracing::debug!(from, %error, "handshake failed"),
                    Err(_) => tracing::debug!(from, "handshake took too long"),
                }
            });
        }
    });
    ReceiverStream::new(receive)
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    sleep(ACCEPT_PAUSE).await;
}

async fn handshake(
    stream: MeshStream,
    from: &str,
    watch: CredentialsWatch,
    clock: Arc<dyn Clock>,
    (room, strangers): (OwnedSemaphorePermit, Arc<Semaphore>),
) -> io::Result<TlsConnection> {
    let missing = || io::Error::new(io::ErrorKind::NotConnected, "no certificate yet");
    let credentials = watch.borrow().clone().ok_or_else(missing)?;
    let bundle = Arc::clone(&credentials.bundle);
    if is_gone(&stream).await {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let config = MeshTls::new(credentials, Arc::clone(&clock))
        .server_config_optional_client(&[reeve_svid::alpn::GRPC])
        .map_err(io::Error::other)?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let (_, session) = stream.get_ref();
    let now = clock.now();
    let verified = peer_of(session, (&bundle, Realm::Own), now);
    if session.peer_certificates().is_some() && verified.is_none() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let chain = session.peer_certificates().unwrap_or_default();
    let chain: Vec<_> = chain.iter().map(|der| der.clone().into_owned()).collect();
    let stranger = match verified.is_none() {
        true => Some(strangers.try_acquire_owned().map_err(io::Error::other)?),
        false => None,
    };
    let end: End = match &verified {
        None => End(Box::pin(sleep(STRANGER_LIFE))),
        Some(peer) => {
            let life = peer.not_after().since(now);
            End(Box::pin(async move {
                // Cancel safety: both branches are.
                tokio::select! {
                    () = sleep(life) => {}
                    () = lost(watch, chain, bundle, clock) => {}
                }
            }))
        }
    };
    Ok(TlsConnection {
        stream: Box::new(stream),
        peer: TlsPeer {
            from: from.to_owned(),
            verified,
        },
        end,
        _room: (room, stranger),
    })
}

/// Whether the peer has hung up already, as many have when all come at once and some wait longer than they will: a handshake
/// with them would keep it from those who still wait.
async fn is_gone(stream: &MeshStream) -> bool {
    let ready = match stream {
        Either::Left(tcp) => tcp.ready(Interest::READABLE).await,
        Either::Right(unix) => unix.ready(Interest::READABLE).await,
    };
    ready.is_ok_and(|ready| ready.is_read_closed())
}

/// Ready when a later bundle than `made` no longer verifies the chain: its root is retired, or it is revoked.
async fn lost(
    mut watch: CredentialsWatch,
    chain: Vec<CertificateDer<'static>>,
    made: Arc<TrustBundle>,
    clock: Arc<dyn Clock>,
) {
    let distrusts = |now: &Option<Arc<Credentials>>| {
        let bundle = now.as_ref().map(|now| &now.bundle);
        let changed = bundle.filter(|bundle| !bundle.admits_as(&made));
        let vouches = |bundle| Realm::Own.vouches_for(&chain, bundle, clock.now());
        changed.is_some_and(|bundle| vouches(bundle).is_none())
    };
    if watch.wait_for(distrusts).await.is_err() {
        // No more bundles will come; the certificate's own end remains.
        std::future::pending::<()>().await;
    }
}

impl Connected for UnixConnection {
    type ConnectInfo = UnixPeer;

    fn connect_info(&self) -> UnixPeer {
        self.peer.clone()
    }
}

impl Connected for TlsConnection {
    type ConnectInfo = TlsPeer;

    fn connect_info(&self) -> TlsPeer {
        self.peer.clone()
    }
}

impl AsyncRead for UnixConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready()
            && let Some(new) = buf.filled_mut().get_mut(before..)
        {
            self.mender.mend(new);
        }
        read
    }
}

impl AsyncWrite for UnixConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // INVARIANT: no connection outlives the certificate that its peer is known by.
        if self.end.0.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn who_has_hung_up_is_known_before_any_handshake() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = MeshListener::from(listener);
        let mut waits = TcpStream::connect(address).await.unwrap();
        waits.write_all(b"hello").await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(!is_gone(&accepted).await);
        waits.shutdown().await.unwrap();
        drop(waits);
        let mut gone = TcpStream::connect(address).await.unwrap();
        gone.write_all(b"hello").await.unwrap();
        drop(gone);
        let (accepted, _) = listener.accept().await.unwrap();
        while !is_gone(&accepted).await {
            tokio::task::yield_now().await;
        }
    }
}
