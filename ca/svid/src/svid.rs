//! A workload's certificate with its key, held in memory.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reeve_core::{SpiffeId, UnixTime};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::{SvidError, SvidProfile, TrustBundle};

/// A certificate chain and its private key.
pub struct X509Svid {
    profile: SvidProfile,
    chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<Vec<u8>>,
    signer: EcdsaKeyPair,
}

/// An identity together with the bundle its peers are checked against: what one version of TLS configuration rests on.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The workload's own certificate.
    pub svid: Arc<X509Svid>,
    /// The authorities of its trust domain.
    pub bundle: Arc<TrustBundle>,
}

/// The credentials as they change; `None` until the first are here.
pub type CredentialsWatch = watch::Receiver<Option<Arc<Credentials>>>;

impl X509Svid {
    /// Takes a chain, leaf first, and the leaf's PKCS#8 P-256 key; refuses a leaf that is no SVID or a key that is not its own.
    pub fn parse(
        chain: Vec<CertificateDer<'static>>,
        key: PrivatePkcs8KeyDer<'static>,
    ) -> Result<Self, SvidError> {
        let leaf = chain.first().ok_or(SvidError::NoCertificate)?;
        let profile = SvidProfile::parse(leaf)?;
        let key = Zeroizing::new(key.secret_pkcs8_der().to_vec());
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key)
            .map_err(|_| SvidError::BadKey)?;
        if !crate::profile::public_key_is(leaf, &signer) {
            return Err(SvidError::KeyMismatch);
        }
        Ok(Self {
            profile,
            chain,
            key,
            signer,
        })
    }

    /// Whose certificate it is.
    pub fn id(&self) -> &SpiffeId {
        &self.profile.id
    }

    /// Leaf and intermediates, DER.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Start of validity.
    pub fn not_before(&self) -> UnixTime {
        self.profile.not_before
    }

    /// End of validity.
    pub fn not_after(&self) -> UnixTime {
        self.profile.not_after
    }

    /// Serial number, lower-case hex.
    pub fn serial(&self) -> &str {
        &self.profile.serial
    }

    /// Signs with ECDSA P-256 and SHA-256; the signature is ASN.1 DER.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SvidError> {
        let signature = self.signer.sign(&SystemRandom::new(), message);
        signature
            .map(|s| s.as_ref().to_vec())
            .map_err(|_| SvidError::BadKey)
    }

    /// The private key, PKCS#8 DER. SECURITY: for the Workload API and SDS, which hand it to the attested workload, alone.
    pub fn key_pkcs8_der(&self) -> &Zeroizing<Vec<u8>> {
        &self.key
    }

    /// The private key as rustls takes it.
    pub(crate) fn key_for_tls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.to_vec()))
    }

    /// The chain as PEM.
    pub fn chain_pem(&self) -> String {
        self.chain
            .iter()
            .map(|der| pem("CERTIFICATE", der))
            .collect()
    }

    /// The private key as PEM. SECURITY: as [`Self::key_pkcs8_der`].
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem("PRIVATE KEY", &self.key))
    }
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

/// One PEM block (RFC 7468).
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = Zeroizing::new(STANDARD.encode(der));
    let mut out = format!("-----BEGIN {label}-----\n");
    for (i, c) in text.chars().enumerate() {
        if i > 0 && i % 64 == 0 {
            out.push('\n');
        }
        out.push(c);
    }
    out.push_str(&format!("\n-----END {label}-----\n"));
    out
}
