//! `reeve agent run`: serves registration entries on another machine than the mesh process's.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use clap::{Args, Subcommand};
use reeve_ca::{
    Agent, AgentOptions, GrpcIssuer, IssuerChannel, MeshAddress, NodeAgent, ToldEvents,
    UnixAttestor, serve_agent_socket,
};
use reeve_core::{Clock, InstanceName, Namespace, SpiffeId, SystemClock};
use reeve_sidecar::{bundle_from, join_token_from};
use tokio::signal::unix::{SignalKind, signal};

use crate::{mesh::open_to_group, problem::Verdict, verb::daemon};

pub(crate) const EXAMPLES: &str = "\
Examples:
  reeve ca token create --identity spiffe://mesh.local/agent/db1 > join.token        on the mesh's machine
  reeve ca bundle > bundle.pem
  reeve agent run --identity spiffe://mesh.local/agent/db1 --mesh-address 192.0.2.7:15012 \\
    --bundle bundle.pem --join-token-file join.token --socket /run/reeve/workload.sock

It serves the registration entries that name it as parentID (docs/attestation.md) to the processes of its machine. Its own
key and theirs are in its memory only, so that a new start needs a new token, or a service account's.

Exit codes: 0 = told to end, 2 = could not run.";

/// `reeve agent`.
#[derive(Args, Debug)]
pub(crate) struct AgentArgs {
    #[command(subcommand)]
    verb: AgentVerb,
}

#[derive(Debug, Subcommand)]
enum AgentVerb {
    /// Run in the foreground
    #[command(after_help = EXAMPLES)]
    Run(RunArgs),
}

#[derive(Args, Debug)]
struct RunArgs {
    /// The agent's own identity, which entries name as parentID.
    #[arg(long, value_name = "SPIFFE_ID")]
    identity: SpiffeId,
    /// The mesh process's gRPC address, or its control.sock.
    #[arg(long, value_name = "ADDR:PORT|unix:PATH")]
    mesh_address: MeshAddress,
    /// The identity that the mesh process must show; by default that of control in the root namespace reeve-system.
    #[arg(long, value_name = "SPIFFE_ID")]
    mesh_identity: Option<SpiffeId>,
    /// PEM file with the mesh's authorities, to know the mesh by before joining.
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// A file with a join token for the agent's identity.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "kubernetes_token_file",
        conflicts_with = "kubernetes_token_file"
    )]
    join_token_file: Option<PathBuf>,
    /// A file with a service account's token of a Kubernetes cluster, projected for the mesh's audience, to use instead.
    #[arg(long, value_name = "FILE")]
    kubernetes_token_file: Option<PathBuf>,
    /// Where to serve the SPIFFE Workload API and Envoy SDS.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Group whose members may connect to the socket, beside this user.
    #[arg(long, value_name = "GID")]
    socket_group: Option<u32>,
}

/// Does it.
pub(crate) fn run(args: AgentArgs) -> Verdict {
    match args.verb {
        AgentVerb::Run(args) => daemon(serve(args)),
    }
}

async fn serve(args: RunArgs) -> anyhow::Result<()> {
    reeve_sidecar::logging::start();
    reeve_sidecar::hardening::forbid_core_dumps()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let listener = reeve_sidecar::socket::bind(&args.socket, "the agent's socket")?;
    if let Some(group) = args.socket_group {
        open_to_group(&args.socket, group).context("the agent's socket")?;
    }
    let issuer = issuer(&args, &clock)?;
    let token = args.join_token_file.as_deref().map(join_token_from);
    let options = AgentOptions {
        id: args.identity.clone(),
        join_token: token.transpose()?,
        instance: InstanceName::parse("reeve.agent")?,
        installed: None,
    };
    let client = Arc::new(issuer.clone());
    let (credentials, _own) = Agent::start(options, client, Arc::clone(&clock));
    let attestor = Arc::new(UnixAttestor::default());
    let id = args.identity;
    let events = Arc::new(ToldEvents::new(Arc::clone(&clock)));
    let tell = events.tell(id.clone(), issuer.clone(), credentials.clone());
    let agent = NodeAgent::new(id, issuer, credentials, attestor, Arc::clone(&clock));
    let source = Arc::new(agent.clone());
    let served = serve_agent_socket(listener, source, Arc::clone(&events) as _, clock);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Cancel safety: whichever ends first, the process ends.
    tokio::select! {
        served = served => served.context("the agent's socket"),
        () = agent.run() => Ok(()),
        () = tell => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

fn issuer(args: &RunArgs, clock: &Arc<dyn Clock>) -> anyhow::Result<GrpcIssuer> {
    let domain = args.identity.trust_domain();
    let bundle = bundle_from(&args.bundle, &domain)?;
    let expected = match &args.mesh_identity {
        Some(id) => id.clone(),
        None => domain.mesh_process(&Namespace::parse("reeve-system")?),
    };
    let address = args.mesh_address.clone();
    let channel = IssuerChannel::tls(address, expected, Arc::new(bundle), Arc::clone(clock));
    let issuer = GrpcIssuer::new(channel, domain);
    Ok(match &args.kubernetes_token_file {
        Some(file) => issuer.with_service_account(file.clone(), Arc::clone(clock)),
        None => issuer,
    })
}
