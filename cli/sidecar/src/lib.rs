//! The sidecar: identity, configuration feed, proxy, write-ahead log and their interfaces in one process.

mod args;
mod connect;
pub mod hardening;
pub mod logging;
mod signer;
pub mod socket;
pub mod whois;

pub use args::{AuditLevel, SidecarArgs};
pub use connect::{GRPC_ALPN, MeshConnector, endpoint, first_credentials};
pub use signer::SvidSigner;

/// Runs a sidecar until it is told to stop (SIGTERM or SIGINT) and has drained.
pub async fn run(args: SidecarArgs) -> anyhow::Result<()> {
    anyhow::bail!("the sidecar of {} is not built yet", args.instance)
}
