//! Signing and verifying batches of audit records with SVIDs.

use std::sync::Arc;

use reeve_audit::{BatchKey, BatchSigner, SigningIdentity, batch::BoxError};
use reeve_svid::{CredentialsWatch, X509Svid};

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
}

#[derive(Debug)]
struct SvidKey(Arc<X509Svid>);

impl BatchKey for SvidKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.0.sign(message)?)
    }
}
