//! How an authority is set up.

use std::{path::PathBuf, sync::Arc, time::Duration};

use reeve_core::TrustDomain;

use super::CaError;
use crate::{KeyVault, SealKey};

/// How a [`CertificateAuthority`](super::CertificateAuthority) is set up.
#[derive(Clone, Debug)]
pub struct CaOptions {
    /// Whose identities it issues.
    pub trust_domain: TrustDomain,
    /// Life of a root.
    pub root_ttl: Duration,
    /// Life of an intermediate.
    pub intermediate_ttl: Duration,
    /// Life of an X.509-SVID.
    pub svid_ttl: Duration,
    /// How long each step of a rotation waits for those who cannot acknowledge.
    pub consumer_wait: Duration,
    /// Where it keeps what it must not forget, its keys too unless they are elsewhere.
    pub store: Store,
    /// Where keys are made and stay, if not in the store.
    pub vault: Option<Arc<dyn KeyVault>>,
    /// The folder of the operator's own authority, which signs the intermediate; none: roots are made here.
    pub upstream: Option<PathBuf>,
}

/// Where the state of the authorities is kept.
#[derive(Clone, Debug)]
pub enum Store {
    /// In a sealed file in this folder.
    Sealed {
        /// The folder; made if it is not there.
        dir: PathBuf,
        /// The key that seals the file.
        key: SealKey,
    },
    /// In memory only: all identities end with the process.
    DangerMemory,
}

impl CaOptions {
    /// Each life must hold the next.
    pub(super) fn check_lives(&self) -> Result<(), CaError> {
        const SHORTEST: Duration = Duration::from_secs(1);
        const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);
        let lives = [
            SHORTEST,
            self.svid_ttl,
            self.intermediate_ttl,
            self.root_ttl,
            LONGEST,
        ];
        match lives.is_sorted() {
            true => Ok(()),
            false => Err(CaError::Lives),
        }
    }
}

impl Store {
    pub(super) fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::Sealed { dir, .. } => Some(dir.clone()),
            Self::DangerMemory => None,
        }
    }
}
