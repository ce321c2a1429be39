//! What a workload proves itself with and judges others by, as one value that is replaced as a whole.

use std::sync::Arc;

use crate::{TrustBundle, X509Svid};

/// A workload's certificate with its key, and the trust bundle to judge peers by.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Who we are.
    pub svid: Arc<X509Svid>,
    /// Whom we trust.
    pub bundle: Arc<TrustBundle>,
}

/// The newest credentials; none until the first are issued. A new value means new TLS configurations.
pub type CredentialsWatch = tokio::sync::watch::Receiver<Option<Arc<Credentials>>>;
