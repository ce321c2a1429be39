//! Mutual TLS 1.3 between workloads.

use std::{fmt, net::Ipv4Addr, sync::Arc};

use reeve_core::{Clock, SpiffeId, UnixTime, model::EcdhCurve};
use rustls::{
    ClientConfig, CommonState, ConfigBuilder, ServerConfig, WantsVerifier,
    client::Resumption,
    crypto::{
        CryptoProvider, SupportedKxGroup,
        aws_lc_rs::{self, cipher_suite},
    },
    server::NoServerSessionStorage,
    time_provider::TimeProvider,
};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::{
    Credentials, Purpose, SvidError, TrustBundle, VerifiedPeer, X509Svid, verify_peer, verify_svid,
};

mod verifier;

use verifier::{ClientVerifier, Presence, ServerVerifier};

/// TLS configurations of one version of credentials. Make a new one whenever they change: nothing is carried over.
#[derive(Clone, Debug)]
pub struct MeshTls {
    credentials: Arc<Credentials>,
    clock: Arc<dyn Clock>,
    provider: Arc<CryptoProvider>,
    realm: Realm,
}

/// Of which trust domains peers may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Realm {
    /// Of our own: what the mesh itself is run by.
    #[default]
    Own,
    /// Of our own and of those that are federated with it, each judged by its own bundle: the traffic of workloads.
    Federated,
}

/// The TLS library refused our parameters: a fault of this build, not of a peer.
#[derive(Debug, thiserror::Error)]
#[error("TLS 1.3 cannot be set up")]
pub struct TlsError(#[source] rustls::Error);

impl MeshTls {
    /// Configurations that prove `credentials` and judge peers by them.
    pub fn new(credentials: Arc<Credentials>, clock: Arc<dyn Clock>) -> Self {
        Self {
            credentials,
            clock,
            provider: provider(),
            realm: Realm::Own,
        }
    }

    /// The same with peers of this realm.
    pub fn with_realm(self, realm: Realm) -> Self {
        Self { realm, ..self }
    }

    /// The same with these key exchanges alone, the preferred one first; with none named, with all that there are.
    pub fn with_curves(mut self, curves: &[EcdhCurve]) -> Self {
        if !curves.is_empty() {
            let kx_groups = curves.iter().map(|curve| group(*curve)).collect();
            self.provider = Arc::new(CryptoProvider {
                kx_groups,
                ..CryptoProvider::clone(&provider())
            });
        }
        self
    }

    /// The credentials these configurations are of.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// For a server that talks only to workloads of the mesh: a client certificate is required.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
        self.server(Presence::Required, alpn)
    }

    /// For a server that also talks to those who come to get a certificate. A certificate that is there must verify.
    pub fn server_config_optional_client(
        &self,
        alpn: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, TlsError> {
        self.server(Presence::Optional, alpn)
    }

    /// For a client: the server must be one of `expected`. With none expected every server is refused.
    pub fn client_config(
        &self,
        expected: &[SpiffeId],
        alpn: &[&[u8]],
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier = ServerVerifier::new(self.trusted(), Arc::clone(&self.clock), expected);
        let key = self.credentials.svid.certified_key();
        let config = client_builder(&self.clock, self.provider.clone())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertificate(key)));
        Ok(Arc::new(finish_client(config, alpn)))
    }

    fn server(&self, presence: Presence, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier = ClientVerifier::new(self.trusted(), Arc::clone(&self.clock), presence);
        let key = self.credentials.svid.certified_key();
        let config = server_builder(&self.clock, self.provider.clone())?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertificate(key)));
        Ok(Arc::new(finish_server(config, alpn)))
    }

    fn trusted(&self) -> (Arc<TrustBundle>, Realm) {
        (Arc::clone(&self.credentials.bundle), self.realm)
    }
}

impl Realm {
    /// Verifies a chain by the bundle of its trust domain, if the realm has that.
    pub fn verify(
        self,
        chain: &[CertificateDer<'_>],
        bundle: &TrustBundle,
        at: UnixTime,
        purpose: Purpose,
    ) -> Result<VerifiedPeer, SvidError> {
        match self {
            Self::Own => verify_svid(chain, bundle, at, purpose),
            Self::Federated => verify_peer(chain, bundle, at, purpose),
        }
    }

    /// Whether a chain verifies for a client or for a server.
    pub fn vouches_for(
        self,
        chain: &[CertificateDer<'_>],
        bundle: &TrustBundle,
        at: UnixTime,
    ) -> Option<VerifiedPeer> {
        let as_client = self.verify(chain, bundle, at, Purpose::Client);
        let peer = as_client.or_else(|_| self.verify(chain, bundle, at, Purpose::Server));
        peer.ok()
    }
}

/// For a server that shows who it is to anybody and asks nobody: a bundle endpoint (SPIFFE Federation, section 5.2.2).
pub fn open_server_config(
    svid: &X509Svid,
    alpn: &[&[u8]],
    clock: &Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let config = server_builder(clock, provider())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertificate(svid.certified_key())));
    Ok(Arc::new(finish_server(config, alpn)))
}

/// For a client that has no certificate yet and goes to join: it judges the server by a bundle it was given.
pub fn anonymous_client_config(
    bundle: Arc<TrustBundle>,
    expected: &[SpiffeId],
    alpn: &[&[u8]],
    clock: &Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = ServerVerifier::new((bundle, Realm::Own), Arc::clone(clock), expected);
    let config = client_builder(clock, provider())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(finish_client(config, alpn)))
}

/// The name that `rustls` asks for when connecting. It is neither sent nor checked: the SPIFFE ID is.
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(Ipv4Addr::LOCALHOST.into())
}

/// Who of `realm` is at the other end of a finished handshake; none if it showed no certificate, or one that no longer
/// verifies. The handshake has checked the certificate's purpose already.
pub fn peer_of(
    connection: &CommonState,
    (bundle, realm): (&TrustBundle, Realm),
    at: UnixTime,
) -> Option<VerifiedPeer> {
    realm.vouches_for(connection.peer_certificates()?, bundle, at)
}

/// Our reason, if a handshake failed because we refused the peer's certificate.
pub fn refusal_of(error: &rustls::Error) -> Option<&SvidError> {
    let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error else {
        return None;
    };
    other.0.downcast_ref()
}

/// What a handshake failed of, in our own words if it was we who refused the peer's certificate.
pub fn why_refused(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner.and_then(refusal_of) {
        Some(refusal) => refusal.to_string(),
        None => error.to_string(),
    }
}

/// AES-128 first, as the mesh's peers have it: its hash, SHA-256, has instructions of its own in today's processors,
/// which the SHA-384 of the AES-256 suite has not.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    })
}

fn group(curve: EcdhCurve) -> &'static dyn SupportedKxGroup {
    match curve {
        EcdhCurve::X25519MLKEM768 => aws_lc_rs::kx_group::X25519MLKEM768,
        EcdhCurve::X25519 => aws_lc_rs::kx_group::X25519,
        EcdhCurve::P256 => aws_lc_rs::kx_group::SECP256R1,
        EcdhCurve::P384 => aws_lc_rs::kx_group::SECP384R1,
    }
}

fn client_builder(
    clock: &Arc<dyn Clock>,
    provider: Arc<CryptoProvider>,
) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
    let time = Arc::new(RustlsTime(Arc::clone(clock)));
    ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError)
}

fn server_builder(
    clock: &Arc<dyn Clock>,
    provider: Arc<CryptoProvider>,
) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, TlsError> {
    let time = Arc::new(RustlsTime(Arc::clone(clock)));
    ServerConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError)
}

fn finish_server(mut config: ServerConfig, alpn: &[&[u8]]) -> ServerConfig {
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    // SECURITY: a resumed session asks no verifier, so none is.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

fn finish_client(mut config: ClientConfig, alpn: &[&[u8]]) -> ClientConfig {
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    config
}

/// Our clock as `rustls` wants it.
#[derive(Debug)]
pub(crate) struct RustlsTime(Arc<dyn Clock>);

impl RustlsTime {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self(clock)
    }
}

impl TimeProvider for RustlsTime {
    fn current_time(&self) -> Option<rustls_pki_types::UnixTime> {
        let since_epoch = self.0.now().since(UnixTime::default());
        Some(rustls_pki_types::UnixTime::since_unix_epoch(since_epoch))
    }
}

/// Always the one certificate that we have.
struct SingleCertificate(Arc<rustls::sign::CertifiedKey>);

impl fmt::Debug for SingleCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SingleCertificate")
    }
}

impl rustls::client::ResolvesClientCert for SingleCertificate {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for SingleCertificate {
    fn resolve(
        &self,
        _client_hello: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests;
