//! TLS with those outside the mesh, by certificates that somebody else issues: what a gateway ends, and what a proxy
//! begins towards an external service. Nothing here proves a SPIFFE ID: a peer that shows such a certificate is no
//! principal of the mesh.

mod names;

use std::{fmt, sync::Arc};

use reeve_core::{Clock, model::TlsVersion};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    client::{Resumption, WebPkiServerVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::CertificateRevocationListDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroize as _;

use crate::{certificates_from_pem, tls::RustlsTime};
pub use names::ClientDetails;
use names::{NamedClient, NamedServer};

/// Most certificates of one chain or set of authorities.
const MAX_CERTIFICATES: usize = 1024;

/// Why TLS with the outside cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum PublicTlsError {
    /// No certificates in the PEM text.
    #[error("there is no certificate in it, or one that cannot be read")]
    Certificate,
    /// No usable key in the PEM text.
    #[error("there is no private key in it, or one that cannot be used")]
    Key,
    /// The key is another certificate's.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// No usable authorities.
    #[error("there are no authorities in it, or none that can be used")]
    Authorities,
    /// A revocation list that cannot be read.
    #[error("a revocation list cannot be read")]
    Revoked,
    /// A cipher suite that there is not.
    #[error("{0:?} is no cipher suite that is spoken here")]
    CipherSuite(String),
    /// The library refused.
    #[error("TLS cannot be set up")]
    Library(#[source] rustls::Error),
}

/// A certificate chain with its key.
#[derive(Clone)]
pub struct PublicIdentity(Arc<CertifiedKey>);

impl fmt::Debug for PublicIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicIdentity(..)")
    }
}

impl PublicIdentity {
    /// Reads a chain (leaf first) and its key, both PEM.
    pub fn parse(chain: &[u8], key: &[u8]) -> Result<Self, PublicTlsError> {
        let chain = certificates(chain).ok_or(PublicTlsError::Certificate)?;
        let mut der = PrivateKeyDer::from_pem_slice(key).map_err(|_| PublicTlsError::Key)?;
        let signing = aws_lc_rs::sign::any_supported_type(&der);
        der.zeroize();
        let certified = CertifiedKey::new(chain, signing.map_err(|_| PublicTlsError::Key)?);
        match certified.keys_match() {
            Ok(()) => Ok(Self(Arc::new(certified))),
            Err(rustls::Error::InconsistentKeys(_)) => Err(PublicTlsError::KeyMismatch),
            Err(_) => Err(PublicTlsError::Certificate),
        }
    }

    /// Its certificates, the leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.cert
    }
}

/// Authorities, and what they revoked.
#[derive(Clone, Debug, Default)]
pub struct Authorities {
    roots: Vec<CertificateDer<'static>>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl Authorities {
    /// Reads authorities and revocation lists, both PEM.
    pub fn parse(authorities: &[u8], revoked: &[u8]) -> Result<Self, PublicTlsError> {
        let lists: Result<Vec<_>, _> =
            CertificateRevocationListDer::pem_slice_iter(revoked).collect();
        Ok(Self {
            roots: certificates(authorities).ok_or(PublicTlsError::Authorities)?,
            revoked: lists.map_err(|_| PublicTlsError::Revoked)?,
        })
    }

    /// The authorities.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    fn store(&self) -> Result<Arc<RootCertStore>, PublicTlsError> {
        let mut store = RootCertStore::empty();
        for root in &self.roots {
            store
                .add(root.clone())
                .map_err(|_| PublicTlsError::Authorities)?;
        }
        Ok(Arc::new(store))
    }
}

/// What peers must show.
#[derive(Clone, Debug)]
pub struct PeerRules {
    /// By what their certificates are judged.
    pub authorities: Authorities,
    /// Whether one that shows none is refused.
    pub required: bool,
    /// One of these must be among the alternative names (DNS, URI, address); none = any.
    pub subject_alt_names: Vec<String>,
    /// One of these must be the SHA-256 of the certificate (hex) or of its public key (base64); none = any.
    pub pins: Vec<String>,
}

/// What is spoken.
#[derive(Clone, Debug)]
pub struct Spoken {
    /// From this version …
    pub min: TlsVersion,
    /// … to this one.
    pub max: TlsVersion,
    /// OpenSSL's names of the TLS 1.2 cipher suites; none = all that there are.
    pub cipher_suites: Vec<String>,
    /// Protocols inside, the preferred one first.
    pub alpn: Vec<Vec<u8>>,
}

/// A server's configuration. Of its `identities` the first that a client can verify is shown.
pub fn public_server(
    identities: Vec<PublicIdentity>,
    clients: Option<&PeerRules>,
    spoken: &Spoken,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, PublicTlsError> {
    let provider = provider(&spoken.cipher_suites)?;
    let time = Arc::new(RustlsTime::new(Arc::clone(clock)));
    let builder = ServerConfig::builder_with_details(provider.clone(), time)
        .with_protocol_versions(versions(spoken))
        .map_err(PublicTlsError::Library)?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(rules) => {
            let roots = rules.authorities.store()?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .with_crls(rules.authorities.revoked.clone());
            let verifier = match rules.required {
                true => verifier.build(),
                false => verifier.allow_unauthenticated().build(),
            };
            let verifier = verifier.map_err(|_| PublicTlsError::Authorities)?;
            builder.with_client_cert_verifier(Arc::new(NamedClient::new(verifier, rules)))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(FirstFitting(identities)));
    config.alpn_protocols.clone_from(&spoken.alpn);
    if clients.is_some() {
        // SECURITY: a resumed session asks no verifier, so none is.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

/// Whom a client takes for the server that it asked for.
#[derive(Clone, Debug)]
pub enum ServerCheck {
    /// One whose certificate these authorities (or, without any, the public ones) vouch for, with the name that was
    /// asked for, or with one of these names.
    Verified {
        /// By what it is judged.
        authorities: Option<Authorities>,
        /// One of these must be among its alternative names; none = the name that was asked for.
        subject_alt_names: Vec<String>,
    },
    /// Anyone.
    DangerAnyone,
}

/// A client's configuration, which shows `identity` if there is one.
pub fn public_client(
    identity: Option<PublicIdentity>,
    check: &ServerCheck,
    spoken: &Spoken,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, PublicTlsError> {
    let provider = provider(&spoken.cipher_suites)?;
    let time = Arc::new(RustlsTime::new(Arc::clone(clock)));
    let builder = ClientConfig::builder_with_details(provider.clone(), time)
        .with_protocol_versions(versions(spoken))
        .map_err(PublicTlsError::Library)?
        .dangerous();
    let verifier = match check {
        ServerCheck::Verified {
            authorities,
            subject_alt_names,
        } => {
            let (roots, revoked) = match authorities {
                Some(authorities) => (authorities.store()?, authorities.revoked.clone()),
                None => (public_roots(), Vec::new()),
            };
            let inner = WebPkiServerVerifier::builder_with_provider(roots, provider)
                .with_crls(revoked)
                .build()
                .map_err(|_| PublicTlsError::Authorities)?;
            NamedServer::verified(inner, subject_alt_names.clone())
        }
        ServerCheck::DangerAnyone => NamedServer::anyone(provider),
    };
    let builder = builder.with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(FirstFitting(vec![identity]))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols.clone_from(&spoken.alpn);
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn public_roots() -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    Arc::new(store)
}

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found = certificates_from_pem(pem).ok()?;
    (!found.is_empty() && found.len() <= MAX_CERTIFICATES).then_some(found)
}

type Versions = &'static [&'static SupportedProtocolVersion];

const NEWEST: Versions = &[&TLS13];
const OLDEST: Versions = &[&TLS12];
const BOTH: Versions = &[&TLS13, &TLS12];

fn versions(spoken: &Spoken) -> Versions {
    match (spoken.min, spoken.max) {
        (TlsVersion::V1_3, _) => NEWEST,
        (TlsVersion::V1_2, TlsVersion::V1_2) => OLDEST,
        (TlsVersion::V1_2, TlsVersion::V1_3) => BOTH,
    }
}

/// TLS 1.2's cipher suites by OpenSSL's names, as Envoy has them.
const SUITES: [(&str, SupportedCipherSuite); 6] = [
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// TLS 1.3's suites are always there, as in Envoy.
fn provider(cipher_suites: &[String]) -> Result<Arc<CryptoProvider>, PublicTlsError> {
    let all = aws_lc_rs::default_provider();
    if cipher_suites.is_empty() {
        return Ok(Arc::new(all));
    }
    let is_newest = |suite: &&SupportedCipherSuite| suite.tls13().is_some();
    let mut suites: Vec<_> = all
        .cipher_suites
        .iter()
        .filter(is_newest)
        .copied()
        .collect();
    for name in cipher_suites {
        let known = SUITES.iter().find(|(known, _)| known == name);
        let (_, suite) = known.ok_or_else(|| PublicTlsError::CipherSuite(name.clone()))?;
        suites.push(*suite);
    }
    Ok(Arc::new(CryptoProvider {
        cipher_suites: suites,
        ..all
    }))
}

/// The first identity that the peer can verify; the first of all if it can verify none, so that it says why.
struct FirstFitting(Vec<PublicIdentity>);

impl fmt::Debug for FirstFitting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FirstFitting")
    }
}

impl FirstFitting {
    fn pick(&self, schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let fits = |identity: &&PublicIdentity| identity.0.key.choose_scheme(schemes).is_some();
        let found = self.0.iter().find(fits).or(self.0.first());
        found.map(|identity| Arc::clone(&identity.0))
    }
}

impl rustls::server::ResolvesServerCert for FirstFitting {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.pick(hello.signature_schemes())
    }
}

impl rustls::client::ResolvesClientCert for FirstFitting {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.pick(schemes)
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
