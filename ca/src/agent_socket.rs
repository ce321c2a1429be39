//! The agent's Unix socket: the SPIFFE Workload API and Envoy's SDS, for the attested workload alone.

use std::sync::Arc;

use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer;
use reeve_core::SpiffeId;
use reeve_svid::CredentialsWatch;
use tokio::net::UnixListener;
use tonic::{Extensions, Status};

use crate::{
    IdentityEvents, PeerAttestor, RefusedIdentity, UnixPeer, accept_peers,
    proto::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer, sds::Sds,
    workload_api::WorkloadApi,
};

/// Most streams one connection may have open.
const MAX_STREAMS: u32 = 64;
/// Largest request.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Why the socket is served no longer.
#[derive(Debug, thiserror::Error)]
#[error("the agent socket failed")]
pub struct AgentSocketError(#[from] tonic::transport::Error);

/// Serves the socket until it fails or the future is dropped.
pub async fn serve_agent_socket(
    listener: UnixListener,
    own_id: SpiffeId,
    credentials: CredentialsWatch,
    attestor: Arc<dyn PeerAttestor>,
    events: Arc<dyn IdentityEvents>,
) -> Result<(), AgentSocketError> {
    let gate = Gate {
        own_id,
        credentials,
        attestor,
        events,
    };
    let workload = SpiffeWorkloadApiServer::new(WorkloadApi::new(gate.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let sds = SecretDiscoveryServiceServer::new(Sds::new(gate))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(workload)
        .add_service(sds)
        .serve_with_incoming(accept_peers(listener))
        .await?;
    Ok(())
}

/// Lets in the workload's own processes, and takes note of all others.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    own_id: SpiffeId,
    credentials: CredentialsWatch,
    attestor: Arc<dyn PeerAttestor>,
    events: Arc<dyn IdentityEvents>,
}

impl Gate {
    /// The identity behind this gate.
    pub(crate) fn own_id(&self) -> &SpiffeId {
        &self.own_id
    }

    /// Attests the caller, then hands out the credentials.
    pub(crate) async fn enter(
        &self,
        extensions: &Extensions,
        asked_for: &str,
    ) -> Result<CredentialsWatch, Status> {
        let Some(peer) = extensions.get::<UnixPeer>() else {
            return Err(self.refuse(
                "unknown caller",
                asked_for,
                "not a local process".to_owned(),
            ));
        };
        let caller = peer.to_string();
        if let Err(error) = self.attestor.attest(peer).await {
            return Err(self.refuse(&caller, asked_for, error.to_string()));
        }
        // SECURITY: what was looked up by pid was about this process only if it is still there.
        if !peer.is_alive() {
            return Err(self.refuse(&caller, asked_for, "the process has ended".to_owned()));
        }
        Ok(self.credentials.clone())
    }

    /// Refuses, and takes note.
    pub(crate) fn refuse(&self, caller: &str, asked_for: &str, reason: String) -> Status {
        tracing::warn!(caller, asked_for, reason, "refused on the agent socket");
        self.events.refused(RefusedIdentity {
            caller: caller.to_owned(),
            requested: asked_for.to_owned(),
            reason,
        });
        Status::permission_denied("this process is not entitled to this workload's identity")
    }
}

#[cfg(test)]
mod tests;
