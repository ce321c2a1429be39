//! The world outside the mesh: an authority of its own, certificates, and TLS clients that know nothing of the mesh.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Connection, Protocol};

const LIMIT: Duration = Duration::from_secs(10);

/// A TLS client.
#[derive(Clone)]
pub struct TlsClient {
    roots: Vec<CertificateDer<'static>>,
    shown: Option<(String, String)>,
    alpn: Vec<Vec<u8>>,
    versions: &'static [&'static SupportedProtocolVersion],
}

impl TlsClient {
    /// One that trusts this authority (PEM), and speaks HTTP/1.1.
    pub fn trusting(authority: &str) -> Self {
        let root = CertificateDer::from_pem_slice(authority.as_bytes()).expect("an authority");
        Self {
            roots: vec![root],
            shown: None,
            alpn: vec![b"http/1.1".to_vec()],
            versions: rustls::ALL_VERSIONS,
        }
    }

    /// With a certificate of its own (PEM of chain and key).
    #[must_use]
    pub fn showing(mut self, chain: &str, key: &str) -> Self {
        self.shown = Some((chain.to_owned(), key.to_owned()));
        self
    }

    /// That offers these protocols.
    #[must_use]
    pub fn offering(mut self, alpn: &[&str]) -> Self {
        self.alpn = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        self
    }

    /// That speaks these versions alone.
    #[must_use]
    pub fn speaking(mut self, versions: &'static [&'static SupportedProtocolVersion]) -> Self {
        self.versions = versions;
        self
    }

    /// Shakes hands with the server of that name at `to`.
    pub async fn connect(
        &self,
        to: SocketAddr,
        name: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for root in &self.roots {
            roots.add(root.clone()).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match &self.shown {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
                let chain = chain.collect::<Result<_, _>>().expect("a chain");
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
                builder
                    .with_client_auth_cert(chain, key)
                    .expect("an identity")
            }
        };
        config.alpn_protocols.clone_from(&self.alpn);
        let stream = TcpStream::connect(to).await?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connector = TlsConnector::from(Arc::new(config));
        timeout(LIMIT, connector.connect(name, stream))
            .await
            .map_err(|_| std::io::ErrorKind::TimedOut)?
    }

    /// A kept connection on which HTTP is spoken, by the protocol that was agreed.
    pub async fn open(&self, to: SocketAddr, name: &str) -> anyhow::Result<Connection> {
        let stream = self.connect(to, name).await?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let protocol = if h2 { Protocol::Http2 } else { Protocol::Http1 };
        Connection::over(stream, protocol).await
    }
}
