//! The gRPC service that takes batches from proxies.

use std::{fmt, sync::Arc};

use reeve_core::{InstanceName, SpiffeId};

use crate::{AuditLog, BatchVerifier};

/// Says who the peer of a connection is, from what the server put in the request's extensions.
pub type Authenticate = Arc<dyn Fn(&tonic::Extensions) -> Option<SpiffeId> + Send + Sync>;

/// Says whether an identity may ship the records of an instance.
pub type MayShip = Arc<dyn Fn(&SpiffeId, &InstanceName) -> bool + Send + Sync>;

/// `reeve.audit.v1.Ingest`; make a tonic server of it with [`IngestService::into_server`].
#[derive(Clone)]
pub struct IngestService {
    log: Arc<AuditLog>,
    authenticate: Authenticate,
    may_ship: MayShip,
    verifier: Arc<dyn BatchVerifier>,
}

impl IngestService {
    /// A service that feeds `log`.
    pub fn new(
        log: Arc<AuditLog>,
        authenticate: Authenticate,
        may_ship: MayShip,
        verifier: Arc<dyn BatchVerifier>,
    ) -> Self {
        Self {
            log,
            authenticate,
            may_ship,
            verifier,
        }
    }
}

impl fmt::Debug for IngestService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = (&self.authenticate, &self.may_ship);
        f.debug_struct("IngestService")
            .field("log", &self.log)
            .field("verifier", &self.verifier)
            .finish_non_exhaustive()
    }
}
