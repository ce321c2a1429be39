//! Signing and verifying batches of audit records with SVIDs.

use std::sync::Arc;

use reeve_audit::{BatchKey, BatchSigner, BatchVerifier, SigningIdentity, batch::BoxError};
use reeve_core::{SpiffeId, UnixTime};
use reeve_svid::{CredentialsWatch, Purpose, TrustBundle, X509Svid, verify_svid};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

/// Signs with the credentials of the moment.
#[derive(Debug)]
pub struct SvidSigner(CredentialsWatch);

impl SvidSigner {
    /// Signs with what `credentials` shows.
    pub fn new(credentials: CredentialsWatch) -> Self {
        Self(credentials)
    }
}

impl BatchSigner for SvidSigner {
    fn identity(&self) -> Option<SigningIdentity> {
        let credentials = self.0.borrow().clone()?;
        let svid = &credentials.svid;
        Some(SigningIdentity {
            chain_der: svid.chain().iter().map(|c| c.to_vec()).collect(),
            key: Arc::new(SvidKey(Arc::clone(svid))),
        })
    }

    fn is_valid_at(&self, at: UnixTime) -> bool {
        let credentials = self.0.borrow().clone();
        credentials.is_some_and(|credentials| {
            (credentials.svid.not_before()..credentials.svid.not_after()).contains(&at)
        })
    }
}

#[derive(Debug)]
struct SvidKey(Arc<X509Svid>);

impl BatchKey for SvidKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.0.sign(message)?)
    }
}

/// Verifies batches against the mesh's authorities.
#[derive(Debug)]
pub struct SvidBatchVerifier(watch::Receiver<Arc<TrustBundle>>);

impl SvidBatchVerifier {
    /// Verifies against the bundle as it changes.
    pub fn new(bundle: watch::Receiver<Arc<TrustBundle>>) -> Self {
        Self(bundle)
    }

    /// Verifies against one bundle.
    pub fn with_bundle(bundle: Arc<TrustBundle>) -> Self {
        let (_, bundle) = watch::channel(bundle);
        Self(bundle)
    }
}

impl BatchVerifier for SvidBatchVerifier {
    fn verify(
        &self,
        chain_der: &[Vec<u8>],
        message: &[u8],
        signature: &[u8],
        at: UnixTime,
    ) -> Result<SpiffeId, BoxError> {
        let chain: Vec<CertificateDer<'_>> = chain_der
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let bundle = self.0.borrow().clone();
        let peer = verify_svid(&chain, &bundle, at, Purpose::Client)?;
        let leaf = chain.first().ok_or("the chain is empty")?;
        let leaf = webpki::EndEntityCert::try_from(leaf)?;
        leaf.verify_signature(webpki::aws_lc_rs::ECDSA_P256_SHA256, message, signature)?;
        Ok(peer.id().clone())
    }
}
