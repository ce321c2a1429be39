//! Channels to the mesh process: mutual TLS with the credentials of the moment.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use reeve_core::{Clock, SpiffeId};
use reeve_svid::{Credentials, CredentialsWatch, MeshTls};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

/// What the mesh process's gRPC port speaks.
pub const GRPC_ALPN: &[&[u8]] = &[b"h2"];

/// Bound on connecting, the handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a silent connection is probed.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a probe may stay unanswered.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to the mesh process.
#[derive(Clone, Debug)]
pub struct MeshConnector {
    address: SocketAddr,
    expected: SpiffeId,
    credentials: CredentialsWatch,
    clock: Arc<dyn Clock>,
}

impl MeshConnector {
    /// Connects to `address`, where the server must show the identity `expected`.
    pub fn new(
        address: SocketAddr,
        expected: SpiffeId,
        credentials: CredentialsWatch,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            address,
            expected,
            credentials,
            clock,
        }
    }

    /// A channel that connects when it is first used.
    pub fn channel(&self) -> Channel {
        endpoint().connect_with_connector_lazy(self.service())
    }

    /// A channel that is connected.
    pub async fn connected(&self) -> Result<Channel, tonic::transport::Error> {
        endpoint().connect_with_connector(self.service()).await
    }

    fn service(
        &self,
    ) -> impl tower::Service<
        tonic::transport::Uri,
        Response = TokioIo<TlsStream<TcpStream>>,
        Error = io::Error,
        Future: Send,
    > + Send
    + 'static {
        let connector = self.clone();
        tower::service_fn(move |_| {
            let connector = connector.clone();
            async move { connector.connect().await.map(TokioIo::new) }
        })
    }

    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let result = match timeout(CONNECT_TIMEOUT, self.handshake()).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        if let Err(error) = &result {
            tracing::warn!(address = %self.address, expected = %self.expected, %error, "no connection to the mesh process");
        }
        result
    }

    async fn handshake(&self) -> io::Result<TlsStream<TcpStream>> {
        let credentials = self.credentials.borrow().clone();
        let credentials = credentials.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotConnected, "there is no certificate yet")
        })?;
        let config = MeshTls::new(credentials, Arc::clone(&self.clock))
            .client_config(std::slice::from_ref(&self.expected), GRPC_ALPN)
            .map_err(io::Error::other)?;
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        TlsConnector::from(config).connect(name, stream).await
    }
}

/// Waits for the first credentials.
pub async fn first_credentials(
    credentials: &mut CredentialsWatch,
) -> Result<Arc<Credentials>, watch::error::RecvError> {
    let first = credentials.wait_for(Option::is_some).await?;
    // INVARIANT: `wait_for` returned because the value is there.
    match first.as_ref() {
        Some(credentials) => Ok(Arc::clone(credentials)),
        None => std::future::pending().await,
    }
}

/// The endpoint's settings; its name is never looked up.
pub fn endpoint() -> Endpoint {
    Endpoint::from_static("http://mesh")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}
