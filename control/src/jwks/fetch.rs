//! Fetches one key set: bounded in size and time, without redirects, and by default from public addresses only.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, dns::Name},
    },
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tower_service::Service;

use super::{MAX_AUTHORITIES_BYTES, MAX_JWKS_BYTES};
use crate::mesh::{KeyPlace, KeySource};

/// Where an issuer's configuration is (OpenID Connect Discovery 1.0 section 4.1).
pub(crate) const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// Bound on making a connection, beside the bound on all of a fetch.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which addresses may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Not loopback, private, link-local or otherwise internal ones.
    PublicOnly,
    /// All (`dangerAllowInternalJwks`).
    Anywhere,
}

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("not a URL that can be fetched")]
    BadUri,
    #[error("{0} is an internal address; set dangerAllowInternalJwks in MeshConfig to allow it")]
    Internal(IpAddr),
    #[error("no whole answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Connection(String),
    #[error("the answer was {0}")]
    Status(StatusCode),
    #[error("the body cannot be read or has more than {MAX_JWKS_BYTES} bytes")]
    Body,
    #[error("the body is not UTF-8")]
    NotText,
    #[error("the issuer's configuration is not a JSON object with issuer and jwks_uri")]
    NoConfiguration,
    #[error("the configuration is another issuer's: {0:?}")]
    OtherIssuer(String),
    #[error("the issuer's configuration is fetched by https, and names keys without it")]
    Downgrade,
}

type HttpsClient = Client<HttpsConnector<HttpConnector<Guarded>>, Empty<Bytes>>;

/// Fetches key sets.
#[derive(Debug)]
pub(crate) struct Fetcher {
    /// Trusted beside the public authorities, in PEM.
    authorities: Option<String>,
    public: Option<HttpsClient>,
    anywhere: Option<HttpsClient>,
}

impl Fetcher {
    /// One that trusts the public authorities, and those of `authorities`.
    pub(crate) fn new(authorities: Option<&str>) -> Self {
        Self {
            public: client(Reach::PublicOnly, authorities),
            anywhere: client(Reach::Anywhere, authorities),
            authorities: authorities.map(str::to_owned),
        }
    }

    pub(crate) fn authorities(&self) -> Option<&str> {
        self.authorities.as_deref()
    }

    /// The key set of `source`, in the time that it may take.
    pub(crate) async fn fetch(
        &self,
        source: &KeySource,
        reach: Reach,
    ) -> Result<String, FetchError> {
        let work = async {
            match &source.place {
                KeyPlace::Uri(uri) => self.get(uri, reach).await,
                KeyPlace::Discovery(uri) => {
                    let keys = keys_of(uri, &self.get(uri, reach).await?)?;
                    self.get(&keys, reach).await
                }
            }
        };
        let bounded = tokio::time::timeout(source.timeout, work);
        bounded
            .await
            .map_err(|_| FetchError::Timeout(source.timeout))?
    }

    async fn get(&self, uri: &str, reach: Reach) -> Result<String, FetchError> {
        let uri: Uri = uri.parse().map_err(|_| FetchError::BadUri)?;
        // SECURITY: the connector asks the resolver for names only, so that addresses are judged here.
        if let Some(address) = literal(&uri) {
            admit(address, reach)?;
        }
        let client = match reach {
            Reach::PublicOnly => &self.public,
            Reach::Anywhere => &self.anywhere,
        };
        let client = client.as_ref().ok_or(FetchError::BadUri)?;
        let request = Request::get(uri)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "reeve")
            .body(Empty::new())
            .map_err(|_| FetchError::BadUri)?;
        let response = client
            .request(request)
            .await
            .map_err(|e| FetchError::Connection(reeve_core::error_chain(&e)))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_JWKS_BYTES)
            .collect()
            .await;
        let bytes = body.map_err(|_| FetchError::Body)?.to_bytes();
        String::from_utf8(bytes.to_vec()).map_err(|_| FetchError::NotText)
    }
}

/// Where an issuer's configuration says that its keys are.
///
/// SECURITY: the issuer must be the one that was asked for (OpenID Connect Discovery 1.0 section 4.3), and what began with
/// https goes on with it.
pub(super) fn keys_of(asked: &str, configuration: &str) -> Result<String, FetchError> {
    #[derive(serde::Deserialize)]
    struct Configuration {
        issuer: String,
        jwks_uri: String,
    }
    let found: Configuration =
        serde_json::from_str(configuration).map_err(|_| FetchError::NoConfiguration)?;
    if asked.strip_suffix(WELL_KNOWN) != Some(found.issuer.trim_end_matches('/')) {
        return Err(FetchError::OtherIssuer(found.issuer));
    }
    let keys: Uri = found.jwks_uri.parse().map_err(|_| FetchError::BadUri)?;
    match (asked.starts_with("https:"), keys.scheme_str()) {
        (_, Some("https")) | (false, Some("http")) => Ok(found.jwks_uri),
        (true, Some("http")) => Err(FetchError::Downgrade),
        (_, _) => Err(FetchError::BadUri),
    }
}

/// The public authorities, and those that `pem` has.
pub(super) fn roots(pem: &str) -> Result<RootCertStore, String> {
    if pem.len() > MAX_AUTHORITIES_BYTES {
        return Err(format!(
            "more than {MAX_AUTHORITIES_BYTES} bytes of certificates"
        ));
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("not PEM: {error}"))?;
        let added = roots.add(certificate);
        added.map_err(|error| format!("not a certificate of an authority: {error}"))?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in PEM".to_owned());
    }
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    Ok(roots)
}

fn client(reach: Reach, authorities: Option<&str>) -> Option<HttpsClient> {
    let mut http = HttpConnector::new_with_resolver(Guarded(reach));
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let roots = match authorities {
        Some(pem) => roots(pem).ok()?,
        None => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    let mut builder = Client::builder(TokioExecutor::new());
    // Each fetch resolves and judges the address anew.
    builder.pool_max_idle_per_host(0);
    Some(builder.build(https))
}

fn literal(uri: &Uri) -> Option<IpAddr> {
    let host = uri.host()?;
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

fn admit(address: IpAddr, reach: Reach) -> Result<(), FetchError> {
    match reach == Reach::PublicOnly && is_internal(address) {
        true => Err(FetchError::Internal(address)),
        false => Ok(()),
    }
}

/// Whether an address is inside somebody's network rather than on the public Internet (RFC 6890 and its registries).
pub(super) fn is_internal(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_internal_v4(v4),
        IpAddr::V6(v6) => is_internal_v6(v6),
    }
}

fn is_internal_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19))
}

fn is_internal_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, high, low] = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([w, x], [y, z]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(w, x, y, z)
    };
    match [a, b, c, d, e, f] {
        // Mapped, compatible (which holds :: and ::1), NAT64 and 6to4 carry an IPv4 address.
        [0, 0, 0, 0, 0, 0xffff | 0] | [0x64, 0xff9b, 0, 0, 0, 0] => {
            is_internal_v4(embedded(high, low))
        }
        [0x2002, ..] => is_internal_v4(embedded(b, c)),
        // Only 2000::/3 is global unicast; protocol assignments (Teredo among them) and documentation are cut out of it.
        _ => {
            a & 0xe000 != 0x2000
                || (a == 0x2001 && (b < 0x0200 || b == 0x0db8))
                || (a == 0x3fff && b < 0x1000)
        }
    }
}

/// A resolver that leaves out internal addresses, so that what was judged is what is connected to.
#[derive(Clone, Copy, Debug)]
struct Guarded(Reach);

impl Service<Name> for Guarded {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let reach = self.0;
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let mut refused = None;
            let mut admitted = Vec::new();
            for address in found {
                match admit(address.ip(), reach) {
                    Ok(()) => admitted.push(address),
                    Err(error) => refused = Some(error),
                }
            }
            match refused {
                Some(error) if admitted.is_empty() => Err(io::Error::other(error.to_string())),
                _ => Ok(admitted.into_iter()),
            }
        })
    }
}
