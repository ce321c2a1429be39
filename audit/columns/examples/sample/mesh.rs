//! A mesh of so many proxies, as far as their records are concerned: an authority, a certificate for each, mutual TLS.

use std::{fs, path::Path, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use reeve_audit::{
    AuditLog, BatchKey, BatchSigner, BatchVerifier, IngestService, SigningIdentity,
    batch::BoxError, ingest::told_at_once, ship::ChannelFactory,
};
use reeve_ca::{CaOptions, CertificateAuthority, MeshAddress, Store, TlsPeer};
use reeve_core::{InstanceName, SpiffeId, SystemClock, UnixTime};
use reeve_svid::{
    Credentials, CredentialsWatch, MeshTls, Purpose, TrustBundle, X509Svid, alpn,
    certificates_from_pem, server_name, verify_svid,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;

const CONTROL: &str = "spiffe://mesh.local/ns/reeve-system/sa/control";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The name of a proxy.
pub(crate) fn proxy(number: impl std::fmt::Display) -> String {
    format!("proxy-{number}")
}

fn id_of(proxy: &str) -> Result<SpiffeId, BoxError> {
    Ok(format!("spiffe://mesh.local/ns/default/sa/{proxy}").parse()?)
}

/// The authority of the mesh, in the log's process.
pub(crate) struct Authority {
    ca: Arc<CertificateAuthority>,
    own: CredentialsWatch,
}

impl Authority {
    /// A new one; the certificates of so many proxies are put into `folder`, where [`credentials`] reads them.
    pub(crate) fn new(folder: &Path, proxies: u32) -> Result<Self, BoxError> {
        let options = CaOptions {
            trust_domain: "mesh.local".parse()?,
            root_ttl: DAY * 30,
            intermediate_ttl: DAY * 7,
            svid_ttl: DAY,
            consumer_wait: DAY,
            store: Store::DangerMemory,
            vault: None,
            upstream: None,
        };
        let ca = CertificateAuthority::open(options, Arc::new(SystemClock))?;
        let bundle = ca.bundle().borrow().clone();
        fs::write(folder.join("bundle.pem"), bundle.to_pem())?;
        for number in 0..proxies {
            let name = proxy(number);
            let svid = ca.issue_self(&id_of(&name)?)?;
            let text = [svid.chain_pem(), svid.key_pkcs8_pem().to_string()].concat();
            fs::write(folder.join(name).with_extension("pem"), text)?;
        }
        let svid = Arc::new(ca.issue_self(&CONTROL.parse()?)?);
        let own = shown(Credentials { svid, bundle });
        Ok(Self { ca, own })
    }

    /// The log's own credentials.
    pub(crate) fn own(&self) -> CredentialsWatch {
        self.own.clone()
    }

    /// What takes in the records of those with certificates, each of its own proxy.
    pub(crate) fn ingest(&self, log: Arc<AuditLog>) -> IngestService {
        let caller = |extensions: &tonic::Extensions| {
            let peer = extensions.get::<TlsPeer>()?;
            Some(peer.verified.as_ref()?.id().clone())
        };
        let may_ship = |id: &SpiffeId, proxy: &InstanceName| {
            id_of(proxy.as_str()).is_ok_and(|expected| expected == *id)
        };
        IngestService::new(
            log,
            Arc::new(caller),
            told_at_once(may_ship),
            Arc::new(Verifier(self.ca.bundle())),
            Arc::new(SystemClock),
        )
    }
}

fn shown(credentials: Credentials) -> CredentialsWatch {
    watch::channel(Some(Arc::new(credentials))).1
}

/// The certificate of a proxy.
pub(crate) fn credentials(folder: &Path, number: usize) -> Result<CredentialsWatch, BoxError> {
    let text = fs::read(folder.join(proxy(number)).with_extension("pem"))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(&text)?;
    let svid = X509Svid::parse(certificates_from_pem(&text)?, key.into())?;
    let bundle = fs::read(folder.join("bundle.pem"))?;
    let bundle = TrustBundle::from_pem("mesh.local".parse()?, &bundle, 1)?;
    Ok(shown(Credentials {
        svid: Arc::new(svid),
        bundle: Arc::new(bundle),
    }))
}

/// Connects to the log as a sidecar does.
pub(crate) fn channels(
    address: &str,
    credentials: &CredentialsWatch,
) -> Result<ChannelFactory, BoxError> {
    let address = MeshAddress::Tcp(address.parse()?);
    let credentials = credentials.borrow().clone().ok_or("no certificate")?;
    let tls = MeshTls::new(credentials, Arc::new(SystemClock));
    let config = tls.client_config(&[CONTROL.parse()?], &[alpn::GRPC])?;
    Ok(Arc::new(move || {
        let (address, config) = (address.clone(), Arc::clone(&config));
        let service = tower::service_fn(move |_| {
            let (address, config) = (address.clone(), Arc::clone(&config));
            async move {
                let stream = address.connect().await?;
                let tls = TlsConnector::from(config).connect(server_name(), stream);
                tls.await.map(TokioIo::new)
            }
        });
        Box::pin(async move {
            let endpoint = Endpoint::from_static("http://mesh");
            Ok(endpoint.connect_with_connector(service).await?)
        })
    }))
}

/// Signs batches with a certificate's key.
pub(crate) fn signer(credentials: CredentialsWatch) -> Arc<dyn BatchSigner> {
    Arc::new(Signer(credentials))
}

#[derive(Debug)]
struct Signer(CredentialsWatch);

#[derive(Debug)]
struct Key(Arc<X509Svid>);

impl BatchSigner for Signer {
    fn identity(&self) -> Option<SigningIdentity> {
        let credentials = self.0.borrow().clone()?;
        let svid = &credentials.svid;
        Some(SigningIdentity {
            chain_der: svid.chain().iter().map(|c| c.to_vec()).collect(),
            key: Arc::new(Key(Arc::clone(svid))),
        })
    }
}

impl BatchKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.0.sign(message)?)
    }
}

#[derive(Debug)]
struct Verifier(watch::Receiver<Arc<TrustBundle>>);

impl BatchVerifier for Verifier {
    fn verify(
        &self,
        chain_der: &[Vec<u8>],
        message: &[u8],
        signature: &[u8],
        at: UnixTime,
    ) -> Result<SpiffeId, BoxError> {
        let chain: Vec<_> = chain_der
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let bundle = self.0.borrow().clone();
        let peer = verify_svid(&chain, &bundle, at, Purpose::Client)?;
        let leaf = webpki::EndEntityCert::try_from(chain.first().ok_or("no certificate")?)?;
        leaf.verify_signature(webpki::aws_lc_rs::ECDSA_P256_SHA256, message, signature)?;
        Ok(peer.id().clone())
    }
}
