//! Where other proxies ask: addresses, Unix sockets, TLS, and the connections that are open.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use reeve_ext_authz::{Judge, Spoken, limits::MAX_ASKERS, serve_connection};
use reeve_proxy::Seldom;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::output;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long nobody is accepted when that failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Door {
    /// Whether only this machine can reach it.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for Door {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let address = text.parse();
        let address =
            address.map_err(|_| format!("{text:?} is neither ADDRESS:PORT nor unix:PATH"));
        address.map(Self::Tcp)
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A server's TLS; with `client_ca`, for those alone who have a certificate of it.
pub(super) fn tls(
    cert: &Path,
    key: &Path,
    client_ca: Option<&Path>,
) -> anyhow::Result<Arc<ServerConfig>> {
    let certificates = |path: &Path| {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| path.display().to_string())
    };
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| key.display().to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let mut config = builder
        .with_single_cert(certificates(cert)?, key)
        .with_context(|| format!("the certificate in {}", cert.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The listeners, and the connections that are open.
pub(super) struct Open {
    judge: Arc<Judge>,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
    slots: Arc<Semaphore>,
    listening: JoinSet<()>,
    connections: TaskTracker,
    warnings: Arc<Warnings>,
}

/// What those who ask can bring about.
#[derive(Default)]
struct Warnings {
    too_many: Seldom,
    handshakes: Seldom,
}

/// What each connection is served with.
#[derive(Clone)]
struct Serving {
    judge: Arc<Judge>,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
    slots: Arc<Semaphore>,
    connections: TaskTracker,
    warnings: Arc<Warnings>,
    spoken: Spoken,
}

impl Open {
    pub(super) fn new(
        judge: Arc<Judge>,
        tls: Option<Arc<ServerConfig>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            judge,
            tls: tls.map(TlsAcceptor::from),
            stop,
            slots: Arc::new(Semaphore::new(MAX_ASKERS)),
            listening: JoinSet::new(),
            connections: TaskTracker::new(),
            warnings: Arc::default(),
        }
    }

    /// Listens at `door`, and serves whoever comes.
    pub(super) async fn serve(
        &mut self,
        door: &Door,
        spoken: Spoken,
        what: &str,
    ) -> anyhow::Result<()> {
        let serving = Serving {
            judge: Arc::clone(&self.judge),
            tls: self.tls.clone(),
            stop: self.stop.clone(),
            slots: Arc::clone(&self.slots),
            connections: self.connections.clone(),
            warnings: Arc::clone(&self.warnings),
            spoken,
        };
        match door {
            Door::Tcp(address) => {
                let listener = TcpListener::bind(address)
                    .await
                    .with_context(|| format!("cannot listen on {address}"))?;
                output::note(&format!("{what} on {}", listener.local_addr()?));
                self.listening.spawn(serving.accept_tcp(listener));
            }
            Door::Unix(path) => {
                let listener = reeve_sidecar::socket::bind(path, what)?;
                output::note(&format!("{what} on {door}"));
                self.listening.spawn(serving.accept_unix(listener));
            }
        }
        Ok(())
    }

    /// Returns when a listener has ended, which it should not.
    pub(super) async fn ended(&mut self) -> anyhow::Result<()> {
        match self.listening.join_next().await {
            Some(ended) => ended.context("a listener failed"),
            None => Ok(()),
        }
    }

    /// Accepts nobody any more, and waits for what is under way.
    pub(super) async fn drain(mut self, patience: Duration) {
        self.stop.cancel();
        self.listening.shutdown().await;
        self.connections.close();
        if timeout(patience, self.connections.wait()).await.is_err() {
            tracing::warn!("connections are given up");
        }
    }
}

impl Serving {
    async fn accept_tcp(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "TCP_NODELAY");
                    }
                    self.begin(stream, address.ip().to_canonical());
                }
                Err(error) => pause(&error).await,
            }
        }
    }

    async fn accept_unix(self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.begin(stream, IpAddr::V4(Ipv4Addr::LOCALHOST)),
                Err(error) => pause(&error).await,
            }
        }
    }

    /// Serves a connection; one too many is closed.
    fn begin<IO>(&self, io: IO, address: IpAddr)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            if let Some(connections) = self.warnings.too_many.due() {
                tracing::warn!(%address, connections, "too many connections: closed");
            }
            return;
        };
        let serving = self.clone();
        self.connections.spawn(async move {
            let _slot = slot;
            let Serving {
                judge,
                tls,
                stop,
                spoken,
                warnings,
                ..
            } = serving;
            let served = match tls {
                None => serve_connection(io, address, spoken, judge, stop).await,
                Some(tls) => match timeout(HANDSHAKE, tls.accept(io)).await {
                    Ok(Ok(io)) => serve_connection(io, address, spoken, judge, stop).await,
                    Ok(Err(error)) => {
                        if let Some(handshakes) = warnings.handshakes.due() {
                            tracing::info!(%address, %error, handshakes, "handshakes failed");
                        }
                        Ok(())
                    }
                    Err(_) => Ok(()),
                },
            };
            if let Err(error) = served {
                tracing::debug!(%address, %error, "a connection ended");
            }
        });
    }
}

async fn pause(error: &std::io::Error) {
    tracing::warn!(%error, "nobody can be accepted for now");
    tokio::time::sleep(PAUSE).await;
}
