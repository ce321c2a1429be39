//! Channels to the mesh process: mutual TLS with the credentials of the moment.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use reeve_ca::{MeshAddress, MeshStream};
use reeve_core::{Clock, SpiffeId};
use reeve_svid::{CredentialsWatch, MeshTls, alpn, server_name, why_refused};
use rustls::ClientConfig;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

/// Bound on connecting, the handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a silent connection is probed.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a probe may stay unanswered.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to the mesh process.
#[derive(Clone, Debug)]
pub struct MeshConnector {
    address: MeshAddress,
    expected: SpiffeId,
    credentials: CredentialsWatch,
    clock: Arc<dyn Clock>,
}

impl MeshConnector {
    /// Connects to `address`, where the server must show the identity `expected`.
    pub fn new(
        address: MeshAddress,
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

    /// The same to another address, where a server of another identity is expected.
    #[must_use]
    pub fn elsewhere(&self, address: MeshAddress, expected: SpiffeId) -> Self {
        Self {
            address,
            expected,
            ..self.clone()
        }
    }

    /// A channel that connects when it is first used.
    pub fn channel(&self) -> Channel {
        let connector = self.clone();
        tls_channel(self.address.clone(), move || connector.config())
    }

    /// A channel that is connected.
    pub async fn connected(&self) -> Result<Channel, tonic::transport::Error> {
        let connector = self.clone();
        let service = tls_service(self.address.clone(), move || connector.config());
        endpoint().connect_with_connector(service).await
    }

    fn config(&self) -> io::Result<Arc<ClientConfig>> {
        let credentials = self.credentials.borrow().clone();
        let credentials = credentials.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotConnected, "there is no certificate yet")
        })?;
        MeshTls::new(credentials, Arc::clone(&self.clock))
            .client_config(std::slice::from_ref(&self.expected), &[alpn::GRPC])
            .map_err(io::Error::other)
    }
}

/// A channel over TLS; `config` is asked for each connection.
fn tls_channel(
    address: MeshAddress,
    config: impl Fn() -> io::Result<Arc<ClientConfig>> + Clone + Send + Sync + 'static,
) -> Channel {
    endpoint().connect_with_connector_lazy(tls_service(address, config))
}

fn tls_service(
    address: MeshAddress,
    config: impl Fn() -> io::Result<Arc<ClientConfig>> + Clone + Send + Sync + 'static,
) -> impl tower::Service<
    tonic::transport::Uri,
    Response = TokioIo<TlsStream<MeshStream>>,
    Error = io::Error,
    Future: Send,
> + Send
+ 'static {
    tower::service_fn(move |_| {
        let (address, config) = (address.clone(), config());
        async move { connect(&address, config?).await.map(TokioIo::new) }
    })
}

async fn connect(
    address: &MeshAddress,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<MeshStream>> {
    let handshake = async {
        let stream = address.connect().await?;
        TlsConnector::from(config)
            .connect(server_name(), stream)
            .await
    };
    let result = match timeout(CONNECT_TIMEOUT, handshake).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    result.inspect_err(|error| {
        tracing::warn!(%address, error = why_refused(error), "no connection to the mesh process");
    })
}

/// The endpoint's settings; its name is never looked up.
fn endpoint() -> Endpoint {
    Endpoint::from_static("http://mesh")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}
