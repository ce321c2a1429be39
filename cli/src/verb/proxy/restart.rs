//! `reeve proxy restart`: asks the supervisor to replace sidecars.

use std::{io, time::Duration};

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::{
    output::{self, Format, OutputArgs, plain_table},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    supervisor::succession::TAKE_OVER,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve proxy restart reviews-v1-0     one sidecar
  reeve proxy restart reviews-v1       those of all replicas, one after the other

A new process of the binary that is now at reeve's path starts beside the old one, gets certificate and configuration,
and takes the listening sockets over; then the old one finishes what it has (up to 60 s). So this is also how sidecars
of a running mesh get a new version. If the new process fails, the old one goes on.

Exit codes: 0 = replaced, 1 = a new process failed and the old one goes on, 2 = the supervisor could not be asked.";

/// Longest answer.
const MAX_ANSWER: u64 = 1024 * 1024;
/// Instances of one workload, at most.
const MAX_REPLICAS: u32 = 254;
/// What a sidecar that was replaced before may still take to drain.
const DRAIN: Duration = Duration::from_secs(70);

/// `reeve proxy restart`.
#[derive(Args, Debug)]
pub(super) struct RestartArgs {
    /// The instance, or the workload, whose sidecar is replaced.
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Deserialize, Serialize)]
struct Done {
    #[serde(default)]
    restarted: Vec<Replaced>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Replaced {
    instance: String,
    old_pid: u32,
    new_pid: u32,
    took_ms: u64,
}

/// Asks the supervisor, and tells what it did.
pub(super) async fn run(args: RestartArgs) -> Verdict {
    let socket = args.state.existing()?.supervisor_socket();
    let unanswered = |error: io::Error| {
        Problem::because("the supervisor does not answer", &error)
            .at(socket.display())
            .fix("is the mesh running? see `reeve status`")
    };
    let limit = (TAKE_OVER + DRAIN).saturating_mul(MAX_REPLICAS);
    let answer = timeout(limit, ask(&socket, &args.name)).await;
    let answer = answer
        .map_err(io::Error::from)
        .flatten()
        .map_err(unanswered)?;
    let done: Done = serde_json::from_slice(&answer).map_err(|error| {
        Problem::because("the supervisor's answer is not understood", &error).at(socket.display())
    })?;
    match args.output.output {
        Format::Json => output::json(&done)?,
        Format::Human => {
            if !done.restarted.is_empty() {
                output::line(&table(&done.restarted))?;
            }
            if let Some(why) = &done.error {
                output::note(why);
            }
        }
    }
    Ok(Answer::from_fine(done.error.is_none()))
}

async fn ask(socket: &std::path::Path, name: &str) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut order = serde_json::to_vec(&serde_json::json!({"restart": name}))?;
    order.push(b'\n');
    stream.write_all(&order).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn table(restarted: &[Replaced]) -> String {
    let mut table = plain_table(["INSTANCE", "OLD PROCESS", "NEW PROCESS", "TOOK"]);
    for one in restarted {
        table.add_row([
            one.instance.clone(),
            one.old_pid.to_string(),
            one.new_pid.to_string(),
            format!("{} ms", one.took_ms),
        ]);
    }
    table.trim_fmt()
}
