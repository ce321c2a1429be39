//! The mesh process: certificate authority, control plane, audit log and HTTP API.
//!
//! Flow: the controller reads the folder; with the settings it found (or those of the last run) the authority and the
//! log are opened; then everything is served: issuing to local sidecars on `mesh.sock`, issuing to joiners,
//! configuration and audit over TLS, and the HTTP API. The death of one part is the death of the process, which the
//! supervisor starts again; sidecars go on meanwhile.

mod attest;
mod custody;
mod drills;
mod events;
mod federation;
mod graph;
mod key;
mod kubernetes;
mod locks;
mod migrations;
mod node;
mod renewals;
mod replicas;
mod revoking;
mod settings;
mod start;
mod trail;
mod unprotected;
mod view;
mod waiting;
mod witnesses;

pub(crate) use custody::{CustodyArgs, SealArgs};
pub(crate) use events::Recorder;
pub(crate) use key::ensure as ensure_key;
pub(crate) use replicas::process_name;
pub(crate) use start::{caller, on_columns_thread, server, settle};

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use reeve_bucket::BucketUrl;

/// Arguments of `reeve control run`.
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

    #[command(flatten)]
    pub(crate) custody: CustodyArgs,

    /// Keep the audit log in a bucket too, s3://BUCKET/PREFIX; credentials from AWS's environment variables
    #[arg(long, value_name = "URL")]
    pub(crate) audit_store: Option<BucketUrl>,

    /// Group whose members may connect to the Unix sockets too: sidecars with users of their own
    #[arg(long, value_name = "GID")]
    pub(crate) socket_group: Option<u32>,

    /// The supervisor's socket, which knows who is behind a process id; by default supervisor.sock in the state
    /// directory
    #[arg(long, value_name = "PATH")]
    pub(crate) supervisor_socket: Option<PathBuf>,
}

/// Lets members of a group connect to a socket.
pub(crate) fn open_to_group(path: &Path, group: u32) -> std::io::Result<()> {
    std::os::unix::fs::chown(path, None, Some(group))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
}

impl MeshArgs {
    /// A Unix socket for our own user, and for the group that may reach it too.
    fn bind(&self, name: &str, what: &str) -> anyhow::Result<tokio::net::UnixListener> {
        let path = self.within(name);
        let listener = reeve_sidecar::socket::bind(&path, what)?;
        if let Some(group) = self.socket_group {
            open_to_group(&path, group)
                .with_context(|| format!("{what} cannot be opened to group {group}"))?;
        }
        Ok(listener)
    }

    fn supervisor(&self) -> PathBuf {
        let given = self.supervisor_socket.clone();
        given.unwrap_or_else(|| self.state.join("supervisor.sock"))
    }

    fn within(&self, name: impl AsRef<Path>) -> PathBuf {
        self.state.join(name)
    }
}

/// Runs the mesh process until it is told to stop (SIGTERM or SIGINT).
pub(crate) async fn run(args: MeshArgs) -> anyhow::Result<()> {
    reeve_sidecar::logging::start();
    reeve_sidecar::hardening::forbid_core_dumps()?;
    reeve_sidecar::hardening::raise_open_files();
    if args.supervisor().exists() {
        reeve_sidecar::hardening::end_with_parent()?;
    }
    start::MeshProcess::open(&args).await?.serve().await
}
