//! `reeve logs`: application output and access log lines, joined.

use clap::Args;

use crate::{
    output::OutputArgs,
    problem::{Problem, Verdict},
    state::StateArgs,
};

const EXAMPLES: &str = "\
Examples:
  reeve logs                        everything, in order of time
  reeve logs reviews-v2 -f          one workload, and go on as lines come
  reeve logs --trace 4bf92f3577b34da6a3ce929d0e0e4736    one request's way through the mesh
  reeve logs -o json | jq 'select(.response_code >= 500)'

Exit codes: 0 = fine, 1 = nothing matched, 2 = the logs could not be read.";

/// `reeve logs`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LogsArgs {
    /// Only this workload or instance.
    #[arg(value_name = "WORKLOAD")]
    pub(crate) workload: Option<String>,
    /// Only lines of this trace id or request id.
    #[arg(long, value_name = "ID")]
    pub(crate) trace: Option<String>,
    /// Go on as lines come.
    #[arg(short = 'f', long)]
    pub(crate) follow: bool,
    /// Also lines that are neither application output nor access log: the sidecars' and the mesh process's own.
    #[arg(long)]
    pub(crate) internal: bool,
    /// How many of the last lines to show.
    #[arg(short = 'n', long, default_value_t = 200, value_name = "N")]
    pub(crate) lines: usize,
    #[command(flatten)]
    pub(crate) state: StateArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Shows the logs.
pub(crate) fn run(_args: &LogsArgs) -> Verdict {
    Err(Problem::new("this verb is not part of this build"))
}
