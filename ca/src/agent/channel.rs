//! Connections to an issuer: its Unix socket, or TLS.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use reeve_core::{Clock, SpiffeId};
use reeve_svid::{
    Credentials, MeshTls, TrustBundle, alpn, anonymous_client_config, refusal_of, server_name,
};
use tokio::net::UnixStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::address::{MeshAddress, MeshStream};

/// Bound on connecting, handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a quiet connection is probed, and how long an answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// No connection to the issuer.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Connecting failed, or took longer than 5 s.
    #[error("connecting failed")]
    Connect(#[from] tonic::transport::Error),
}

type Open = dyn Fn(Option<Arc<Credentials>>) -> BoxFuture<'static, Result<Channel, ChannelError>>
    + Send
    + Sync;

/// Opens a channel to the issuer, proving oneself with the credentials given, if there are any.
#[derive(Clone)]
pub struct IssuerChannel(Arc<Open>);

impl IssuerChannel {
    /// Channels made by `open`.
    pub fn from_fn<F>(open: impl Fn(Option<Arc<Credentials>>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Channel, ChannelError>> + Send + 'static,
    {
        Self(Arc::new(move |held| Box::pin(open(held))))
    }

    /// Over the issuer's Unix socket. It must be served by our own user or root, else we would tell a stranger's CA
    /// from our own by nothing.
    pub fn unix(path: PathBuf) -> Self {
        Self::from_fn(move |_held| {
            let path = path.clone();
            let connector = service_fn(move |_| {
                let path = path.clone();
                async move { connect_unix(path).await.map(TokioIo::new) }
            });
            async move { Ok(endpoint().connect_with_connector(connector).await?) }
        })
    }

    /// Over TLS to `address`, where the server must show the identity `expected`. `bundle` is what the server is judged
    /// by as long as we have no certificate.
    pub fn tls(
        address: impl Into<MeshAddress>,
        expected: SpiffeId,
        bundle: Arc<TrustBundle>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let target = Arc::new(Target {
            address: address.into(),
            expected,
            bundle,
            clock,
        });
        Self::from_fn(move |held| {
            let target = Arc::clone(&target);
            let connector = service_fn(move |_| {
                let (target, held) = (Arc::clone(&target), held.clone());
                async move { connect_tls(&target, held).await.map(TokioIo::new) }
            });
            async move { Ok(endpoint().connect_with_connector(connector).await?) }
        })
    }

    pub(crate) async fn open(
        &self,
        held: Option<Arc<Credentials>>,
    ) -> Result<Channel, ChannelError> {
        (self.0)(held).await
    }
}

impl fmt::Debug for IssuerChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuerChannel(..)")
    }
}

struct Target {
    address: MeshAddress,
    expected: SpiffeId,
    bundle: Arc<TrustBundle>,
    clock: Arc<dyn Clock>,
}

/// The name is never looked up.
fn endpoint() -> Endpoint {
    Endpoint::from_static("http://issuer")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
}

async fn connect_unix(path: PathBuf) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path).await?;
    let server = stream.peer_cred()?.uid();
    let ours = rustix::process::geteuid().as_raw();
    if server != ours && server != 0 {
        let message = format!("the socket is served by user {server}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(stream)
}

async fn connect_tls(
    target: &Target,
    held: Option<Arc<Credentials>>,
) -> io::Result<TlsStream<MeshStream>> {
    let expected = std::slice::from_ref(&target.expected);
    let now = target.clock.now();
    let config = match held {
        Some(held) if now < held.svid.not_after() => {
            MeshTls::new(held, Arc::clone(&target.clock)).client_config(expected, &[alpn::GRPC])
        }
        held => {
            let bundle = held.map_or_else(|| Arc::clone(&target.bundle), |h| Arc::clone(&h.bundle));
            anonymous_client_config(bundle, expected, &[alpn::GRPC], &target.clock)
        }
    };
    let config = config.map_err(io::Error::other)?;
    let stream = target.address.connect().await?;
    let connected = TlsConnector::from(config)
        .connect(server_name(), stream)
        .await;
    connected.map_err(explain)
}

/// Our own words, if it was we who refused the server.
fn explain(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner.and_then(refusal_of) {
        Some(refusal) => io::Error::new(io::ErrorKind::PermissionDenied, refusal.to_string()),
        None => error,
    }
}
