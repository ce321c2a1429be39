//! Making connections: plaintext, or mesh mTLS with the server's identity checked.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use reeve_core::{SpiffeId, UnixTime, model::TcpKeepalive};
use reeve_svid::{alpn, peer_of};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::{
    ahead::ReadAhead,
    capture,
    credentials::{Epoch, Lifetime},
    edge::Originated,
    introduction,
    io::{Io, Line},
    net::{Net, Socket},
    peer_info::PeerInfo,
    trust::{Chain, Trust},
};

/// A connection of any kind, which can be cut.
pub(crate) type Upstream = Line<Box<dyn Io>>;

/// How a connection is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dial<'d> {
    /// How long it may take.
    pub(crate) patience: Duration,
    /// Probes of the operating system.
    pub(crate) keepalive: Option<&'d TcpKeepalive>,
}

impl From<Duration> for Dial<'_> {
    fn from(patience: Duration) -> Self {
        Self {
            patience,
            keepalive: None,
        }
    }
}

/// Why there is no connection. Nothing of the request was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no connection within the time allowed")]
    Timeout,
    #[error("the connection failed")]
    Io(#[source] io::Error),
    #[error("the proxy has no credentials yet")]
    NoCredentials,
    #[error("no TLS configuration")]
    Config(#[from] reeve_svid::TlsError),
    #[error("the server's identity could not be verified")]
    Peer,
    #[error("the server does not speak the mesh's protocol")]
    Protocol,
    #[error("the endpoint is not in the mesh, and mTLS is demanded")]
    NotInMesh,
    #[error("the HTTP connection could not be set up")]
    Http(#[source] hyper::Error),
}

/// Connects in plaintext.
pub(crate) async fn plain(
    net: &Net,
    address: SocketAddr,
    dial: impl Into<Dial<'_>>,
) -> Result<Upstream, ConnectError> {
    let stream = tcp(net, address, dial.into()).await?;
    let io: Box<dyn Io> = Box::new(stream);
    Ok(Line::new(io, Bytes::new(), CancellationToken::new()))
}

/// Connects to the workload's own application, for a connection that came in at `arrived`.
pub(crate) async fn app(
    net: &Net,
    address: SocketAddr,
    arrived: SocketAddr,
    patience: Duration,
) -> Result<Upstream, ConnectError> {
    if address != arrived {
        return plain(net, address, patience).await;
    }
    let stream = timeout(patience, capture::connect_past_the_rules(address)).await;
    let stream = stream
        .map_err(|_| ConnectError::Timeout)?
        .map_err(ConnectError::Io)?;
    stream.set_nodelay(true).map_err(ConnectError::Io)?;
    let io: Box<dyn Io> = Box::new(stream);
    Ok(Line::new(io, Bytes::new(), CancellationToken::new()))
}

/// Connects by mesh mTLS; the server must show one of the `expected` identities. The connection is cut when the
/// earlier of the two certificates ends; the returned token is cancelled a little before, when it should drain.
pub(crate) async fn mesh(
    address: SocketAddr,
    expected: &Arc<[SpiffeId]>,
    protocol: &'static [u8],
    epoch: &Epoch,
    trust: &Trust,
    dial: Dial<'_>,
) -> Result<(Upstream, CancellationToken), ConnectError> {
    let (line, drain, agreed) =
        shake_hands(address, expected, protocol, epoch, trust, dial).await?;
    match agreed.as_deref() == Some(protocol) {
        true => Ok((line, drain)),
        false => Err(ConnectError::Protocol),
    }
}

/// The same for bytes; the server's proxy is told whose they are, if it listens to that.
pub(crate) async fn mesh_bytes(
    address: SocketAddr,
    expected: &Arc<[SpiffeId]>,
    own: &PeerInfo,
    epoch: &Epoch,
    trust: &Trust,
    dial: Dial<'_>,
) -> Result<Upstream, ConnectError> {
    let (mut line, _drain, agreed) =
        shake_hands(address, expected, alpn::TCP, epoch, trust, dial).await?;
    match agreed.as_deref() {
        Some(alpn::TCP) => {}
        Some(alpn::NAMED_TCP) => {
            let introducing = introduction::say(&mut line, own);
            timeout(dial.patience, introducing)
                .await
                .map_err(|_| ConnectError::Timeout)?
                .map_err(ConnectError::Io)?;
        }
        _ => return Err(ConnectError::Protocol),
    }
    Ok(line)
}

/// A connection, the token that is cancelled when it should drain, and what was agreed on to speak.
type Shaken = (Upstream, CancellationToken, Option<Vec<u8>>);

async fn shake_hands(
    address: SocketAddr,
    expected: &Arc<[SpiffeId]>,
    protocol: &'static [u8],
    epoch: &Epoch,
    trust: &Trust,
    dial: Dial<'_>,
) -> Result<Shaken, ConnectError> {
    let config = epoch.client(expected, protocol)?;
    let name = ServerName::IpAddress(address.ip().into());
    let handshake = async {
        let stream = tcp(&trust.net, address, dial).await?;
        let connector = TlsConnector::from(config);
        connector
            .connect(name, ReadAhead::new(stream))
            .await
            .map_err(ConnectError::Io)
    };
    let stream = timeout(dial.patience, handshake)
        .await
        .map_err(|_| ConnectError::Timeout)??;
    let (_, connection) = stream.get_ref();
    let agreed = connection.alpn_protocol().map(<[u8]>::to_vec);
    let now = trust.clock.now();
    let peer = peer_of(connection, epoch.judges(), now);
    let Some(peer) = peer else {
        return Err(ConnectError::Peer);
    };
    let chain = Chain::of(connection);
    let io: Box<dyn Io> = Box::new(stream);
    let cut = CancellationToken::new();
    let line = Line::new(io, Bytes::new(), cut.clone());
    let until = peer.not_after();
    let drain = limit_life(epoch, until, chain, trust.clone(), cut, line.gone());
    Ok((line, drain, agreed))
}

/// Watches over a connection's life, which ends with the certificates or when the peer's is no longer vouched for;
/// returns the token that is cancelled when it should drain.
pub(crate) fn limit_life(
    epoch: &Epoch,
    peer_not_after: UnixTime,
    peer: Chain,
    trust: Trust,
    cut: CancellationToken,
    gone: CancellationToken,
) -> CancellationToken {
    let now = trust.clock.now();
    let lost = trust.lost(peer, epoch.credentials.bundle.clone());
    let life = Lifetime::of(epoch.credentials.svid.not_after(), peer_not_after, now);
    let drain = CancellationToken::new();
    let draining = drain.clone();
    tokio::spawn(async move {
        // Cancel-safe: tokens and timers only.
        let ending = async {
            tokio::time::sleep(life.drain).await;
            draining.cancel();
            tokio::time::sleep(life.end.saturating_sub(life.drain)).await;
            cut.cancel();
        };
        let lost = async {
            lost.await;
            cut.cancel();
        };
        tokio::select! {
            () = ending => {}
            () = lost => {}
            () = gone.cancelled() => {}
        }
    });
    drain
}

/// Connects by TLS as anyone speaks it, by one of the configurations of `tls`.
pub(crate) async fn outside(
    net: &Net,
    address: SocketAddr,
    tls: &Originated,
    config: &Arc<ClientConfig>,
    dial: Dial<'_>,
) -> Result<Upstream, ConnectError> {
    let handshake = async {
        let stream = tcp(net, address, dial).await?;
        let connector = TlsConnector::from(config.clone());
        let connecting = connector.connect(tls.name.clone(), ReadAhead::new(stream));
        connecting.await.map_err(ConnectError::Io)
    };
    let stream = timeout(dial.patience, handshake)
        .await
        .map_err(|_| ConnectError::Timeout)??;
    let agreed = stream.get_ref().1.alpn_protocol();
    if Arc::ptr_eq(config, &tls.http2) && agreed != Some(b"h2") {
        return Err(ConnectError::Protocol);
    }
    let io: Box<dyn Io> = Box::new(stream);
    Ok(Line::new(io, Bytes::new(), CancellationToken::new()))
}

async fn tcp(net: &Net, address: SocketAddr, dial: Dial<'_>) -> Result<Socket, ConnectError> {
    let stream = timeout(dial.patience, net.connect(address)).await;
    let stream = stream
        .map_err(|_| ConnectError::Timeout)?
        .map_err(ConnectError::Io)?;
    stream.set_nodelay().map_err(ConnectError::Io)?;
    if let Some(keepalive) = dial.keepalive {
        keep_alive(&stream, keepalive).map_err(ConnectError::Io)?;
    }
    Ok(stream)
}

fn keep_alive(stream: &Socket, wanted: &TcpKeepalive) -> io::Result<()> {
    let Some(stream) = stream.os() else {
        return Ok(());
    };
    let mut keepalive = socket2::TcpKeepalive::new();
    if let Some(probes) = wanted.probes {
        keepalive = keepalive.with_retries(probes);
    }
    if let Some(time) = wanted.time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = wanted.interval {
        keepalive = keepalive.with_interval(interval);
    }
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
