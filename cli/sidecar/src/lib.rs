//! The sidecar: identity, configuration feed, proxy, write-ahead log and their interfaces in one process.

mod args;

pub use args::{AuditLevel, SidecarArgs};

/// Runs a sidecar until it is told to stop (SIGTERM or SIGINT) and has drained.
pub async fn run(args: SidecarArgs) -> anyhow::Result<()> {
    anyhow::bail!("the sidecar of {} is not built yet", args.instance)
}
