//! Fetches one bundle: bounded in size and time, without redirects, and not from this machine or its link.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use reeve_core::{Clock, SpiffeId, TrustDomain, model::TlsVersion};
use reeve_svid::{
    Authorities, BundleDocument, DocumentError, PublicTlsError, ServerCheck, Spoken, TlsError,
    TrustBundle, anonymous_client_config, public_client, why_refused,
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Largest document that is taken from another trust domain: 32 of them go to every proxy.
const MAX_FETCHED_BYTES: usize = 256 * 1024;
/// Bound on all of a fetch.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where `https` is served.
const HTTPS: u16 = 443;
/// What is spoken inside TLS.
pub(crate) const ALPN: &[u8] = b"http/1.1";

/// A bundle to fetch.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// Whose.
    pub(crate) trust_domain: TrustDomain,
    /// Where from.
    pub(crate) url: String,
    /// How the endpoint is known.
    pub(crate) judge: Judge,
    /// Whether it may be at an internal address.
    pub(crate) internal: bool,
}

/// How an endpoint is known.
#[derive(Clone, Debug)]
pub(crate) enum Judge {
    /// By its name, which these authorities (PEM) or the public ones vouch for.
    Web(Option<String>),
    /// By its SPIFFE ID, which this bundle vouches for.
    Svid(Arc<TrustBundle>, SpiffeId),
}

/// Why a bundle could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("not an https URL that can be fetched")]
    BadUri,
    #[error(
        "{0} is a loopback or link-local address; set dangerAllowInternalEndpoints in MeshConfig to allow it"
    )]
    Internal(IpAddr),
    #[error("no whole answer within {} s", PATIENCE.as_secs())]
    Timeout,
    #[error("the endpoint cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("the endpoint's name has no address")]
    NoAddress,
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error("TLS cannot be set up")]
    PublicTls(#[from] PublicTlsError),
    #[error("the endpoint is not who it should be: {0}")]
    Handshake(String),
    #[error("the endpoint does not answer in HTTP")]
    Http(#[from] hyper::Error),
    #[error("the answer was {0}, and redirects are not followed")]
    Redirect(StatusCode),
    #[error("the answer was {0}")]
    Status(StatusCode),
    #[error("the body cannot be read or has more than {MAX_FETCHED_BYTES} bytes")]
    Body,
    #[error("the body is not UTF-8")]
    NotText,
    #[error("the body is no trust bundle of the domain")]
    Document(#[from] DocumentError),
}

/// The bundle, if the endpoint is who it should be and gives a bundle of that trust domain.
pub(crate) async fn fetch(
    question: &Question,
    clock: &Arc<dyn Clock>,
) -> Result<BundleDocument, FetchError> {
    let text = tokio::time::timeout(PATIENCE, get(question, clock));
    let text = text.await.map_err(|_| FetchError::Timeout)??;
    Ok(BundleDocument::parse(question.trust_domain.clone(), &text)?)
}

async fn get(question: &Question, clock: &Arc<dyn Clock>) -> Result<String, FetchError> {
    let uri: Uri = question.url.parse().map_err(|_| FetchError::BadUri)?;
    let authority = uri.authority().ok_or(FetchError::BadUri)?.clone();
    if uri.scheme_str() != Some("https") {
        return Err(FetchError::BadUri);
    }
    let stream = connect(question, authority.host(), authority.port_u16(), clock).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority.as_str())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "reeve")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::BadUri)?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status.is_redirection() {
            return Err(FetchError::Redirect(status));
        }
        if status != StatusCode::OK {
            return Err(FetchError::Status(status));
        }
        let body = Limited::new(response.into_body(), MAX_FETCHED_BYTES);
        let bytes = body
            .collect()
            .await
            .map_err(|_| FetchError::Body)?
            .to_bytes();
        String::from_utf8(bytes.to_vec()).map_err(|_| FetchError::NotText)
    };
    tokio::pin!(answer);
    // Cancel-safe: the connection is not needed once there is an answer; what it read before its end is the answer's still.
    tokio::select! {
        answer = &mut answer => answer,
        _ended = connection => answer.await,
    }
}

/// A connection to the endpoint, once it has proved who it is.
async fn connect(
    question: &Question,
    host: &str,
    port: Option<u16>,
    clock: &Arc<dyn Clock>,
) -> Result<TlsStream<TcpStream>, FetchError> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(|_| FetchError::BadUri)?;
    let tls = TlsConnector::from(tls(&question.judge, clock)?);
    let found = lookup_host((host, port.unwrap_or(HTTPS))).await;
    let addresses = admitted(found.map_err(FetchError::Unreachable)?, question.internal)?;
    let mut last = FetchError::NoAddress;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let shaken = tls.connect(name, stream).await;
                return shaken.map_err(|error| FetchError::Handshake(why_refused(&error)));
            }
            Err(error) => last = FetchError::Unreachable(error),
        }
    }
    Err(last)
}

/// SECURITY: what was judged here is what is connected to.
fn admitted(
    found: impl Iterator<Item = SocketAddr>,
    internal: bool,
) -> Result<Vec<SocketAddr>, FetchError> {
    let (refused, admitted): (Vec<_>, Vec<_>) =
        found.partition(|address| !internal && is_internal(address.ip()));
    match refused.first() {
        Some(first) if admitted.is_empty() => Err(FetchError::Internal(first.ip())),
        _ => Ok(admitted),
    }
}

/// Whether an address is this machine's or its link's. Private networks are where meshes federate, and may be asked.
fn is_internal(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.octets().first() == Some(&0)
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
        }
    }
}

fn tls(judge: &Judge, clock: &Arc<dyn Clock>) -> Result<Arc<ClientConfig>, FetchError> {
    match judge {
        Judge::Svid(bundle, id) => {
            let expected = std::slice::from_ref(id);
            Ok(anonymous_client_config(
                Arc::clone(bundle),
                expected,
                &[ALPN],
                clock,
            )?)
        }
        Judge::Web(authorities) => {
            let authorities = authorities.as_ref();
            let authorities = authorities.map(|pem| Authorities::parse(pem.as_bytes(), &[]));
            let check = ServerCheck::Verified {
                authorities: authorities.transpose()?,
                subject_alt_names: Vec::new(),
            };
            let spoken = Spoken {
                min: TlsVersion::V1_2,
                max: TlsVersion::V1_3,
                cipher_suites: Vec::new(),
                alpn: vec![ALPN.to_vec()],
            };
            Ok(public_client(None, &check, &spoken, clock)?)
        }
    }
}

#[cfg(test)]
mod tests;
