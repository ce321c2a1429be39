//! Batches: what a proxy ships, what the log's tree is made of.

use std::{fmt, sync::Arc};

use reeve_core::{SpiffeId, UnixTime};

/// A failure of something handed in from outside (a key, a verifier, a channel).
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Gives the identity that signs the next batch; asked for each one, so that rotation needs no further step.
pub trait BatchSigner: fmt::Debug + Send + Sync {
    /// The certificate chain and the key that belongs to it; `None` while there is none.
    fn identity(&self) -> Option<SigningIdentity>;
}

/// A certificate chain and its key.
#[derive(Clone, Debug)]
pub struct SigningIdentity {
    /// The chain in DER, the leaf first.
    pub chain_der: Vec<Vec<u8>>,
    /// The leaf's key.
    pub key: Arc<dyn BatchKey>,
}

/// A private key that signs batches.
pub trait BatchKey: fmt::Debug + Send + Sync {
    /// ECDSA P-256 with SHA-256, ASN.1 form.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, BoxError>;
}

/// Verifies who signed a batch. Implemented with `reeve-svid` by the mesh process and the command line.
pub trait BatchVerifier: fmt::Debug + Send + Sync {
    /// Whether `chain_der` was a valid SVID of the mesh at `at`, and `signature` is its leaf's over `message`.
    fn verify(
        &self,
        chain_der: &[Vec<u8>],
        message: &[u8],
        signature: &[u8],
        at: UnixTime,
    ) -> Result<SpiffeId, BoxError>;
}
