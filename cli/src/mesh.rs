//! The mesh process: certificate authority, control plane, audit log and HTTP API.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

/// Arguments of `reeve mesh run`.
#[derive(Clone, Debug, Args)]
pub(crate) struct MeshArgs {
    /// State directory of the mesh: sockets, sealed keys, the audit log and instances.json
    #[arg(long, value_name = "DIR")]
    pub(crate) state: PathBuf,

    /// Folder with the mesh's YAML, watched for changes
    #[arg(short = 'f', long, value_name = "DIR")]
    pub(crate) folder: PathBuf,

    /// Where to serve gRPC over TLS: certificates by join token, configuration, audit
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.77.0.1:15012")]
    pub(crate) grpc: SocketAddr,

    /// Where to serve the HTTP API
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.77.0.1:15014")]
    pub(crate) api: SocketAddr,

    /// File with the key (32 bytes in hex) that seals keys at rest; by default seal.key in the state directory
    #[arg(long, value_name = "FILE")]
    pub(crate) seal_key: Option<PathBuf>,

    /// The supervisor's socket, which knows who is behind a process id; by default supervisor.sock in the state
    /// directory
    #[arg(long, value_name = "PATH")]
    pub(crate) supervisor_socket: Option<PathBuf>,
}

/// Runs the mesh process until it is told to stop (SIGTERM or SIGINT).
pub(crate) async fn run(args: MeshArgs) -> anyhow::Result<()> {
    anyhow::bail!(
        "the mesh process of {} is not built yet",
        args.state.display()
    )
}
