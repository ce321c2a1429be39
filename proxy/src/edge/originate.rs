//! TLS that a proxy begins towards a service outside the mesh.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use reeve_core::{
    ServiceName,
    model::{OriginateTls, TlsVersion},
};
use reeve_svid::{PublicTlsError, ServerCheck, Spoken, public_client};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use super::material::{Material, MaterialError};

/// How one service is spoken to. Two are equal when the same is asked for, shown and believed.
#[derive(Debug)]
pub(crate) struct Originated {
    options: Arc<OriginateTls>,
    /// Of the certificates that are shown and believed.
    proof: Vec<u8>,
    /// The server that is asked for.
    pub(crate) name: ServerName<'static>,
    pub(crate) http2: Arc<ClientConfig>,
    pub(crate) http1: Arc<ClientConfig>,
    /// For bytes that are no HTTP.
    pub(crate) bytes: Arc<ClientConfig>,
}

impl PartialEq for Originated {
    fn eq(&self, other: &Self) -> bool {
        (&self.options, &self.proof, &self.name) == (&other.options, &other.proof, &other.name)
    }
}

impl Eq for Originated {}

impl Hash for Originated {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.options, &self.proof, &self.name).hash(state);
    }
}

/// Why a service cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OriginateError {
    #[error(transparent)]
    Material(#[from] MaterialError),
    #[error(transparent)]
    Tls(#[from] PublicTlsError),
    #[error("{0:?} is not the name of a server")]
    Name(String),
}

impl Originated {
    /// Makes the configurations.
    pub(crate) fn new(
        options: &Arc<OriginateTls>,
        host: &ServiceName,
        material: &Material<'_>,
    ) -> Result<Self, OriginateError> {
        let name = options.sni.as_deref().unwrap_or(host.as_str());
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| OriginateError::Name(name.to_owned()))?;
        let identity = options.certificate.as_ref();
        let identity = identity
            .map(|source| material.identity(source))
            .transpose()?;
        let authorities = options.authorities.as_ref();
        let authorities = authorities
            .map(|source| material.authorities(source))
            .transpose()?;
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        let shown = identity.iter().flat_map(|identity| identity.chain());
        let believed = authorities.iter().flat_map(|a| a.roots());
        shown.chain(believed).for_each(|der| digest.update(der));
        let check = match options.danger_skip_verify {
            true => {
                tracing::warn!(service = %host, "any server is taken for it: insecureSkipVerify");
                ServerCheck::DangerAnyone
            }
            false => ServerCheck::Verified {
                authorities,
                subject_alt_names: options.subject_alt_names.clone(),
            },
        };
        let config = |alpn: &[&[u8]]| {
            let spoken = Spoken {
                min: TlsVersion::V1_2,
                max: TlsVersion::V1_3,
                cipher_suites: Vec::new(),
                alpn: alpn.iter().map(|p| p.to_vec()).collect(),
            };
            public_client(identity.clone(), &check, &spoken, material.clock)
        };
        Ok(Self {
            http2: config(&[b"h2"])?,
            http1: config(&[b"http/1.1"])?,
            bytes: config(&[])?,
            proof: digest.finish().as_ref().to_vec(),
            options: options.clone(),
            name,
        })
    }
}
