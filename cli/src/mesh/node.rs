//! The agent of the mesh's own machine: identities for processes that the configuration's registration entries speak of.

use std::{path::Path, sync::Arc};

use reeve_ca::{
    GrpcIssuer, IdentityEvents, IssuerChannel, MeshAddress, NodeAgent, SocketError, UnixAttestor,
    serve_agent_socket,
};
use reeve_svid::CredentialsWatch;
use tokio::net::UnixListener;

use super::view::View;

/// Its socket in the state directory: SPIFFE Workload API and SDS.
pub(super) const SOCKET: &str = "workload.sock";

/// The agent. It asks the authority as every agent does, by its certificate over the control socket, so that there is one
/// way in only, with one record of it.
pub(super) fn agent(
    view: &View,
    credentials: &CredentialsWatch,
    state: &Path,
) -> anyhow::Result<NodeAgent> {
    let id = view.settings.mesh_identity();
    let control = MeshAddress::Unix(state.join("control.sock"));
    let bundle = Arc::clone(&view.ca.bundle().borrow());
    let clock = Arc::clone(&view.clock);
    let channel = IssuerChannel::tls(control, id.clone(), bundle, Arc::clone(&clock));
    let issuer = GrpcIssuer::new(channel, view.settings.trust_domain.clone());
    let attestor = Arc::new(UnixAttestor::default());
    Ok(NodeAgent::new(
        id,
        issuer,
        credentials.clone(),
        attestor,
        clock,
    ))
}

/// Serves it, and keeps the authority's entries those of the configuration, until the socket fails.
pub(super) async fn serve(
    view: Arc<View>,
    agent: NodeAgent,
    listener: UnixListener,
) -> Result<(), SocketError> {
    let events = Arc::clone(&view.events) as Arc<dyn IdentityEvents>;
    let clock = Arc::clone(&view.clock);
    let served = serve_agent_socket(listener, Arc::new(agent.clone()), events, clock);
    // Cancel safety: only the socket's failure ends this.
    tokio::select! {
        served = served => served,
        () = agent.run() => Ok(()),
        () = follow(&view) => Ok(()),
    }
}

/// What the last valid configuration says, holds.
async fn follow(view: &View) {
    let mut mesh = view.controller.mesh();
    loop {
        let now = mesh.borrow_and_update().clone();
        if let Some(mesh) = now {
            view.entries.set(Arc::clone(&mesh.registrations));
        }
        if mesh.changed().await.is_err() {
            return;
        }
    }
}
