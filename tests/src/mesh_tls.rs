//! The mesh's mTLS as a client of the test's own speaks it, so that raw bytes can be sent inside it.

use std::{fmt, sync::Arc};

use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs::default_provider},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// An identity to speak mTLS with, or none.
#[derive(Clone)]
pub struct MeshTls {
    chain: Vec<CertificateDer<'static>>,
    key: Option<Arc<PrivateKeyDer<'static>>>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for MeshTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshTls").finish_non_exhaustive()
    }
}

impl MeshTls {
    /// A client without a certificate.
    pub fn nobody() -> Self {
        Self {
            chain: Vec::new(),
            key: None,
            provider: Arc::new(default_provider()),
        }
    }

    /// From `{"key": PKCS#8, "chain": [certificate, …]}`, DER in base64.
    pub fn from_json(value: &Value) -> Self {
        let der = |value: &Value| {
            let text = value.as_str().expect("base64");
            BASE64_STANDARD.decode(text).expect("base64")
        };
        let chain = value["chain"].as_array().expect("a chain");
        let key = PrivateKeyDer::try_from(der(&value["key"])).expect("a key");
        Self {
            chain: chain.iter().map(|cert| der(cert).into()).collect(),
            key: Some(Arc::new(key)),
            ..Self::nobody()
        }
    }

    /// The name that it asks for; no proxy looks at it.
    pub fn server_name() -> ServerName<'static> {
        ServerName::try_from("mesh.invalid").expect("a name")
    }

    /// The ClientHello of a handshake that offers this ALPN protocol.
    pub fn client_hello(&self, alpn: &[u8]) -> Result<Vec<u8>> {
        let name = Self::server_name();
        let mut connection = ClientConnection::new(Arc::new(self.config(alpn)?), name)?;
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes)?;
        Ok(bytes)
    }

    /// A handshake that offers this ALPN protocol.
    pub async fn connect(&self, stream: TcpStream, alpn: &[u8]) -> Result<TlsStream<TcpStream>> {
        let name = Self::server_name();
        let connector = TlsConnector::from(Arc::new(self.config(alpn)?));
        connector
            .connect(name, stream)
            .await
            .context("the handshake")
    }

    /// What it shakes hands by, offering this ALPN protocol.
    pub fn config(&self, alpn: &[u8]) -> Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            // The test knows whom it called.
            .with_custom_certificate_verifier(Arc::new(Anybody(self.provider.clone())));
        let mut config = match &self.key {
            Some(key) => builder.with_client_auth_cert(self.chain.clone(), key.clone_key())?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(config)
    }
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
