//! The bundle endpoint (SPIFFE Federation, section 5): our trust bundle, to whoever asks.

use std::{convert::Infallible, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use reeve_core::{
    Clock, error_chain,
    model::{Federation, TlsVersion},
};
use reeve_svid::{
    BundleDocument, CredentialsWatch, PublicIdentity, PublicTlsError, Spoken, TlsError,
    TrustBundle, open_server_config, public_server,
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::{TICK, Wanted, fetch::ALPN};

/// Connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// Bound on all of a connection.
const CONNECTION_LIFE: Duration = Duration::from_secs(10);
/// How long after a failure the address is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Serves our bundle where, and as, the configuration says.
#[derive(Clone)]
pub struct BundleEndpoint {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where it is to be served, if anywhere.
    pub wanted: Wanted,
    /// What is served.
    pub bundle: watch::Receiver<Arc<TrustBundle>>,
    /// Our own SVID, which is shown with `https_spiffe`.
    pub credentials: CredentialsWatch,
}

/// Why a connection was not served.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("there is no certificate to show yet")]
    NoCertificate,
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error("TLS cannot be set up")]
    PublicTls(#[from] PublicTlsError),
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the connection broke")]
    Http(#[from] hyper::Error),
}

impl BundleEndpoint {
    /// Serves without end.
    pub async fn run(self) {
        let this = Arc::new(self);
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut bound: Option<(SocketAddr, TcpListener)> = None;
        loop {
            let wanted = (this.wanted)().unwrap_or_default();
            let address = wanted.settings.serving.as_ref().map(|s| s.address);
            if bound.as_ref().map(|(address, _)| *address) != address {
                drop(bound.take());
                bound = bind(address).await;
            }
            let Some((_, listener)) = &bound else {
                tokio::time::sleep(TICK).await;
                continue;
            };
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            // Cancel-safe: an accept that is dropped has accepted nothing.
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = tokio::time::sleep(TICK) => continue,
            };
            match accepted {
                Ok((stream, from)) => {
                    let this = Arc::clone(&this);
                    tokio::spawn(async move {
                        let _permit = permit;
                        match timeout(CONNECTION_LIFE, this.serve(stream, wanted)).await {
                            Ok(Ok(())) | Err(_) => {}
                            Ok(Err(error)) => {
                                let error = error_chain(&error);
                                tracing::debug!(%from, error, "the bundle was not served");
                            }
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the bundle endpoint cannot accept a connection");
                    tokio::time::sleep(TICK).await;
                }
            }
        }
    }

    async fn serve(&self, stream: TcpStream, wanted: Federation) -> Result<(), ServeError> {
        let tls = TlsAcceptor::from(self.tls(&wanted)?);
        let stream = tls.accept(stream).await.map_err(ServeError::Handshake)?;
        let hint = wanted.settings.serving.map(|serving| serving.refresh_hint);
        let document = BundleDocument {
            bundle: TrustBundle::clone(&self.bundle.borrow()),
            refresh_hint: hint,
        };
        let text = Bytes::from(document.to_json());
        let service = service_fn(move |request| {
            std::future::ready(Ok::<_, Infallible>(answer(&request, &text)))
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        Ok(served.await?)
    }

    fn tls(&self, wanted: &Federation) -> Result<Arc<ServerConfig>, ServeError> {
        let serving = wanted.settings.serving.as_ref();
        let by_web = serving.is_some_and(|serving| serving.certificate.is_some());
        if !by_web {
            let held = self.credentials.borrow().clone();
            let held = held.ok_or(ServeError::NoCertificate)?;
            return Ok(open_server_config(&held.svid, &[ALPN], &self.clock)?);
        }
        let secret = wanted.certificate.as_ref();
        let secret = secret.ok_or(ServeError::NoCertificate)?;
        let (chain, key) = (&secret.certificate_chain, secret.private_key.expose());
        let identity = PublicIdentity::parse(chain.as_bytes(), key.as_bytes())?;
        let spoken = Spoken {
            min: TlsVersion::V1_2,
            max: TlsVersion::V1_3,
            cipher_suites: Vec::new(),
            alpn: vec![ALPN.to_vec()],
        };
        Ok(public_server(vec![identity], None, &spoken, &self.clock)?)
    }
}

async fn bind(address: Option<SocketAddr>) -> Option<(SocketAddr, TcpListener)> {
    let address = address?;
    match TcpListener::bind(address).await {
        Ok(listener) => {
            tracing::info!(%address, "the trust bundle is served");
            Some((address, listener))
        }
        Err(error) => {
            tracing::error!(%address, %error, "the trust bundle cannot be served");
            tokio::time::sleep(RETRY).await;
            None
        }
    }
}

fn answer(request: &Request<Incoming>, document: &Bytes) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/") => (StatusCode::OK, document.clone()),
        (_, "/") => (StatusCode::METHOD_NOT_ALLOWED, Bytes::new()),
        _ => (StatusCode::NOT_FOUND, Bytes::new()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

impl fmt::Debug for BundleEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleEndpoint").finish_non_exhaustive()
    }
}
