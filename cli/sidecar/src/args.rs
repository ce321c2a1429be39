//! What a sidecar is told when it starts.

use std::{net::IpAddr, num::NonZeroU16, path::PathBuf};

use clap::{Args, ValueEnum};
use reeve_ca::MeshAddress;
use reeve_core::{InstanceName, SpiffeId, TrustDomain};

/// Arguments of `reeve proxy run` and of `reeve-proxy`.
#[derive(Clone, Debug, Args)]
pub struct SidecarArgs {
    /// The instance this sidecar stands beside, such as reviews-v1-0
    #[arg(long)]
    pub instance: InstanceName,

    /// The identity to ask for, such as spiffe://mesh.local/ns/default/sa/reviews
    #[arg(long)]
    pub identity: SpiffeId,

    /// The trust domain of the mesh; anything else is refused
    #[arg(long)]
    pub trust_domain: TrustDomain,

    /// The mesh's Unix socket, where this process is attested by its process id
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present_any = ["join_token_file", "kubernetes_token_file"],
        conflicts_with_all = ["join_token_file", "kubernetes_token_file"]
    )]
    pub mesh_socket: Option<PathBuf>,

    /// Where the mesh process serves configuration, the audit log and, with a join token, certificates: its gRPC address,
    /// or its control.sock, which needs no network
    #[arg(long, value_name = "ADDR:PORT|unix:PATH")]
    pub mesh_address: MeshAddress,

    /// A file with the join token to use instead of the mesh's Unix socket
    #[arg(long, value_name = "FILE", requires = "bundle")]
    pub join_token_file: Option<PathBuf>,

    /// A file with a service account's token of a Kubernetes cluster, projected for the mesh's audience, to use instead
    #[arg(
        long,
        value_name = "FILE",
        requires = "bundle",
        conflicts_with = "join_token_file"
    )]
    pub kubernetes_token_file: Option<PathBuf>,

    /// PEM file with the mesh's authorities, to know the mesh by before joining
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,

    /// The identity that the mesh process must show; by default that of control in the root namespace reeve-system
    #[arg(long, value_name = "SPIFFE_ID")]
    pub mesh_identity: Option<SpiffeId>,

    /// Folder of the write-ahead log
    #[arg(long, value_name = "DIR")]
    pub wal_dir: PathBuf,

    /// Largest size of the write-ahead log; without room in it, requests are denied
    #[arg(long, value_name = "BYTES", default_value_t = 256 * 1024 * 1024)]
    pub wal_max_bytes: u64,

    /// When a record counts as written
    #[arg(long, value_enum, default_value_t = AuditLevel::Os)]
    pub audit_level: AuditLevel,

    /// Where to serve the SPIFFE Workload API and Envoy SDS
    #[arg(long, value_name = "PATH")]
    pub agent_socket: Option<PathBuf>,

    /// Where to serve the admin interface (/config_dump, /stats, /ready, /drain)
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,

    /// The supervisor's socket, which knows who is behind a process id
    #[arg(long, value_name = "PATH")]
    pub supervisor_socket: Option<PathBuf>,

    /// Threads that carry traffic
    #[arg(long, value_name = "THREADS", default_value = "2")]
    pub workers: NonZeroU16,

    /// The workload's own address: its health and metrics ports answer there from the start
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,

    /// When told to stop: how long to say so on the health port before no connection is accepted any more
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub drain_delay: u64,

    /// How long connections may then take to finish before they are cut
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub drain_deadline: u64,

    /// Where this process hands its listening sockets to the one that is to go on in its place
    #[arg(long, value_name = "PATH")]
    pub handover_socket: Option<PathBuf>,

    /// Take the listening sockets from the process that runs, once there are certificate and configuration
    #[arg(long, requires = "handover_socket")]
    pub take_over: bool,

    /// How long connections may take to finish after the sockets were handed over
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub handover_deadline: u64,
}

/// When an audit record counts as written, and the request it belongs to may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuditLevel {
    /// In the process's memory
    Buffered,
    /// With the operating system: survives the death of the process
    Os,
    /// On the disk: survives the loss of power
    Disk,
}

impl SidecarArgs {
    /// The identity that audit replicas must show: `audit`, in the namespace of the mesh process.
    pub fn audit_identity(&self) -> anyhow::Result<SpiffeId> {
        let mesh = self.mesh_identity()?;
        let root = mesh.namespace_and_account().map(|(root, _)| root);
        let root = match root {
            Some(root) => root,
            None => reeve_core::Namespace::parse("reeve-system")?,
        };
        Ok(self.trust_domain.audit_replica(&root))
    }

    /// The identity that the mesh process must show.
    pub fn mesh_identity(&self) -> anyhow::Result<SpiffeId> {
        if let Some(id) = &self.mesh_identity {
            return Ok(id.clone());
        }
        let root = reeve_core::Namespace::parse("reeve-system")?;
        Ok(self.trust_domain.mesh_process(&root))
    }
}
