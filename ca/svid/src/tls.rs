//! rustls configurations for mesh connections: TLS 1.3, certificates of both sides verified as SVIDs.

use std::{fmt, sync::Arc};

use reeve_core::{Clock, SpiffeId, UnixTime};
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, Error,
    ServerConfig, SignatureScheme,
    client::Resumption,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    time_provider::TimeProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime as PkiTime};

use crate::{Credentials, Purpose, SvidError, TrustBundle, VerifiedPeer, verify_svid};

/// Why no configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refuses the certificate, the key or the protocol versions.
    #[error("rustls refuses the credentials")]
    Rustls(#[from] Error),
}

/// TLS for one version of the credentials. Make a new one for each: session storage is never shared between them.
#[derive(Clone)]
pub struct MeshTls {
    credentials: Arc<Credentials>,
    clock: Arc<dyn Clock>,
    provider: Arc<CryptoProvider>,
}

impl MeshTls {
    /// For these credentials.
    pub fn new(credentials: Arc<Credentials>, clock: Arc<dyn Clock>) -> Self {
        Self {
            credentials,
            clock,
            provider: Arc::new(aws_lc_rs::default_provider()),
        }
    }

    /// The credentials it was made for.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// A server that demands a client certificate of the mesh.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
        self.server(alpn, ClientAuth::Required)
    }

    /// A server that verifies a client certificate if there is one, for peers that come to get their first.
    pub fn server_config_optional_client(
        &self,
        alpn: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, TlsError> {
        self.server(alpn, ClientAuth::Optional)
    }

    fn server(&self, alpn: &[&[u8]], auth: ClientAuth) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier = self.verifier(Expected::Anyone, auth);
        let svid = &self.credentials.svid;
        let mut config = ServerConfig::builder_with_details(
            self.provider.clone(),
            Arc::new(PkiClock(self.clock.clone())),
        )
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(svid.chain().to_vec(), svid.key_for_tls())?;
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        // SECURITY: a resumed session is never verified again; no tickets, no session.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    /// A client that presents its certificate and accepts a server with one of the `expected` identities.
    pub fn client_config(
        &self,
        expected: &[SpiffeId],
        alpn: &[&[u8]],
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier = self.verifier(Expected::OneOf(expected.into()), ClientAuth::Required);
        let svid = &self.credentials.svid;
        let config = client_builder(&self.provider, &self.clock)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(svid.chain().to_vec(), svid.key_for_tls())?;
        Ok(finish_client(config, alpn))
    }

    /// A client without a certificate, which comes to get its first, and knows the bundle from elsewhere.
    pub fn joining_client_config(
        bundle: Arc<TrustBundle>,
        expected: &[SpiffeId],
        clock: Arc<dyn Clock>,
        alpn: &[&[u8]],
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = SvidVerifier {
            bundle,
            expected: Expected::OneOf(expected.into()),
            auth: ClientAuth::Required,
            algorithms: provider.signature_verification_algorithms,
        };
        let config = client_builder(&provider, &clock)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(finish_client(config, alpn))
    }

    fn verifier(&self, expected: Expected, auth: ClientAuth) -> SvidVerifier {
        SvidVerifier {
            bundle: self.credentials.bundle.clone(),
            expected,
            auth,
            algorithms: self.provider.signature_verification_algorithms,
        }
    }
}

impl fmt::Debug for MeshTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshTls")
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

/// Who is at the other end of a finished handshake. `at` and `bundle` are those of the handshake's configuration.
pub fn peer_of(
    connection: &CommonState,
    bundle: &TrustBundle,
    at: UnixTime,
    purpose: Purpose,
) -> Option<Result<VerifiedPeer, SvidError>> {
    let chain = connection.peer_certificates()?;
    Some(verify_svid(chain, bundle, at, purpose))
}

fn client_builder(
    provider: &Arc<CryptoProvider>,
    clock: &Arc<dyn Clock>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TlsError> {
    let clock = Arc::new(PkiClock(clock.clone()));
    Ok(ClientConfig::builder_with_details(provider.clone(), clock)
        .with_protocol_versions(&[&rustls::version::TLS13])?)
}

fn finish_client(mut config: ClientConfig, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    // SECURITY: as on the server's side, each connection is verified anew.
    config.resumption = Resumption::disabled();
    // The server is known by its SPIFFE ID; the name in the address means nothing.
    config.enable_sni = false;
    Arc::new(config)
}

#[derive(Debug)]
struct PkiClock(Arc<dyn Clock>);

impl TimeProvider for PkiClock {
    fn current_time(&self) -> Option<PkiTime> {
        let since_epoch = self.0.now().since(UnixTime::default());
        Some(PkiTime::since_unix_epoch(since_epoch))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientAuth {
    Required,
    Optional,
}

#[derive(Debug)]
enum Expected {
    Anyone,
    OneOf(Vec<SpiffeId>),
}

impl Expected {
    fn allows(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Anyone => true,
            Self::OneOf(ids) => ids.contains(id),
        }
    }
}

/// Verifies the other end as an SVID of the bundle's trust domain.
#[derive(Debug)]
struct SvidVerifier {
    bundle: Arc<TrustBundle>,
    expected: Expected,
    auth: ClientAuth,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SvidVerifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: PkiTime,
        purpose: Purpose,
    ) -> Result<(), Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf)
            .chain(intermediates)
            .map(|c| CertificateDer::from(c.as_ref()))
            .collect();
        let at = UnixTime::from_secs(now.as_secs());
        let peer = verify_svid(&chain, &self.bundle, at, purpose).map_err(tls_error)?;
        if self.expected.allows(peer.id()) {
            Ok(())
        } else {
            Err(Error::InvalidCertificate(CertificateError::NotValidForName))
        }
    }
}

/// The alert the peer gets; the reason itself goes to our own log.
fn tls_error(error: SvidError) -> Error {
    use CertificateError as Alert;
    let alert = if error == SvidError::Expired {
        Alert::Expired
    } else if error == SvidError::NotYetValid {
        Alert::NotValidYet
    } else if error == SvidError::BadSignature {
        Alert::BadSignature
    } else if error == SvidError::UnknownIssuer {
        Alert::UnknownIssuer
    } else {
        Alert::Other(rustls::OtherError(Arc::new(error)))
    };
    Error::InvalidCertificate(alert)
}

impl ServerCertVerifier for SvidVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: PkiTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now, Purpose::Server)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for SvidVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.auth == ClientAuth::Required
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: PkiTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now, Purpose::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn tls12() -> Error {
    Error::General("the mesh speaks TLS 1.3 only".to_owned())
}
