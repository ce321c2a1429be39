//! The agent's Unix socket: SPIFFE Workload API and Envoy SDS, for attested processes, each with its own identities.

use std::{sync::Arc, time::Duration};

use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer;
use reeve_core::Clock;
use tokio::net::UnixListener;
use tonic::{Extensions, Status, transport::Server};

use crate::{
    Caller, Identities, IdentityEvents, IdentitySource, RefusalReason, RefusedIdentity, UnixPeer,
    issuer, listen::unix_incoming,
    proto::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer,
};

mod jwt;
mod sds;
mod workload_api;

/// Largest request that is decoded.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Streams that one connection may have open.
const MAX_STREAMS: u32 = 32;
/// Probes of quiet connections.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The agent's socket can no longer be served.
#[derive(Debug, thiserror::Error)]
#[error("the agent's socket failed")]
pub struct SocketError(#[source] tonic::transport::Error);

/// Serves the socket, with the identities that each caller has by `source`, until dropped.
pub async fn serve_agent_socket(
    listener: UnixListener,
    source: Arc<dyn IdentitySource>,
    events: Arc<dyn IdentityEvents>,
    clock: Arc<dyn Clock>,
) -> Result<(), SocketError> {
    let door = Arc::new(Door {
        source,
        events,
        clock,
    });
    let workload_api = workload_api::WorkloadApi(Arc::clone(&door));
    let workload_api =
        SpiffeWorkloadApiServer::new(workload_api).max_decoding_message_size(MAX_REQUEST_BYTES);
    let sds = SecretDiscoveryServiceServer::new(sds::Sds(door))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let served = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .add_service(workload_api)
        .add_service(sds)
        .serve_with_incoming(unix_incoming(listener))
        .await;
    served.map_err(SocketError)
}

/// What both services share.
#[derive(Debug)]
struct Door {
    source: Arc<dyn IdentitySource>,
    events: Arc<dyn IdentityEvents>,
    clock: Arc<dyn Clock>,
}

impl Door {
    /// Lets the caller in with its identities, or says why not.
    async fn admit(&self, extensions: &Extensions) -> Result<Identities, Status> {
        let Some(peer) = extensions.get::<UnixPeer>() else {
            return Err(self.refuse(extensions, None, RefusalReason::NoEvidence));
        };
        let identities = self.source.identities(peer).await;
        // SECURITY: the attestor looked at a process id, which must still be the caller's.
        let identities = identities.and_then(|found| peer.check_alive().map(|()| found));
        identities.map_err(|e| self.refuse(extensions, None, RefusalReason::NotAttested(e)))
    }

    /// The caller had identities, and has none any more.
    fn lost(&self, caller: Caller) -> Status {
        self.refuse_caller(caller, None, RefusalReason::NotEntitled)
    }

    fn refuse(
        &self,
        extensions: &Extensions,
        requested: Option<&str>,
        reason: RefusalReason,
    ) -> Status {
        self.refuse_caller(issuer::caller(extensions), requested, reason)
    }

    fn refuse_caller(
        &self,
        caller: Caller,
        requested: Option<&str>,
        reason: RefusalReason,
    ) -> Status {
        let status = issuer::status(&reason);
        self.events
            .refused(RefusedIdentity::new(caller, requested, reason));
        status
    }
}

#[cfg(test)]
mod tests;
