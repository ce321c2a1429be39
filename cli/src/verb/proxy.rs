//! `reeve proxy`: runs a sidecar, asks one how it is, or replaces its process.

mod restart;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use reeve_core::InstanceName;
use reeve_sidecar::SidecarArgs;

use crate::{
    http::{self, Target},
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    verb::{block_on, daemon},
};

const EXAMPLES: &str = "\
Examples:
  reeve proxy status reviews-v1-0              its configuration, certificate, listeners and write-ahead log
  reeve proxy status reviews-v1-0 -o json
  reeve proxy status --socket /run/x.admin.sock --path /config_dump

Exit codes: 0 = fine, 1 = the proxy is not ready, 2 = it could not be asked.";

/// How long a sidecar may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// `reeve proxy`.
#[derive(Args, Debug)]
pub(crate) struct ProxyArgs {
    #[command(subcommand)]
    verb: ProxyVerb,
}

#[derive(Debug, Subcommand)]
enum ProxyVerb {
    /// Run a sidecar or gateway in the foreground
    Run(Box<SidecarArgs>),
    /// Ask a sidecar on its admin socket how it is
    #[command(after_help = EXAMPLES)]
    Status(StatusArgs),
    /// Replace a sidecar's process without losing a connection attempt or a request
    #[command(after_help = restart::EXAMPLES)]
    Restart(restart::RestartArgs),
}

#[derive(Args, Debug)]
struct StatusArgs {
    /// The instance whose sidecar is asked.
    #[arg(value_name = "INSTANCE", required_unless_present = "socket")]
    instance: Option<InstanceName>,
    /// The admin socket to ask instead of the one in the state directory.
    #[arg(long, value_name = "PATH", conflicts_with = "instance")]
    socket: Option<PathBuf>,
    /// What to ask for.
    #[arg(long, value_name = "PATH", default_value = "/config_dump")]
    path: String,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs a sidecar, or asks one.
pub(crate) fn run(args: ProxyArgs) -> Verdict {
    match args.verb {
        ProxyVerb::Run(args) => daemon(reeve_sidecar::run(*args)),
        ProxyVerb::Status(args) => block_on(status(args)),
        ProxyVerb::Restart(args) => block_on(restart::run(args)),
    }
}

async fn status(args: StatusArgs) -> Verdict {
    let socket = match (args.socket, &args.instance) {
        (Some(socket), _) => socket,
        (None, Some(instance)) => args.state.existing()?.admin_socket(instance),
        (None, None) => return Err(Problem::new("name an instance, or a socket with --socket")),
    };
    let ask = |path: String| {
        let target = Target::Unix(socket.clone());
        async move { http::get(&target, &path, PATIENCE).await }
    };
    let unanswered = |error: http::FetchError| {
        Problem::because("the sidecar does not answer", &error)
            .at(socket.display())
            .fix("see `reeve status` for the instances that run, and `reeve logs INSTANCE --internal` for why")
    };
    let ready = ask("/ready".to_owned()).await.map_err(unanswered)?;
    let reply = ask(args.path.clone()).await.map_err(unanswered)?;
    if !reply.status.is_success() {
        return Err(Problem::new(format!(
            "the sidecar answered {} to {}",
            reply.status, args.path
        ))
        .at(socket.display()));
    }
    let text = String::from_utf8_lossy(&reply.body);
    match (
        args.output.output,
        serde_json::from_slice::<serde_json::Value>(&reply.body),
    ) {
        (Format::Json, Err(_)) => output::json(&text)?,
        (Format::Json | Format::Human, Ok(value)) => output::json(&value)?,
        (Format::Human, Err(_)) => output::line(text.trim_end())?,
    }
    Ok(Answer::from_fine(ready.status.is_success()))
}
