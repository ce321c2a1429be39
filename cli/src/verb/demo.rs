//! `reeve demo`: Bookinfo as a mesh of local processes, with traffic.

use std::time::Duration;

use clap::Args;

use crate::{
    output::OutputArgs,
    problem::{Problem, Verdict},
    verb::duration,
};

const EXAMPLES: &str = "\
Examples:
  reeve demo                                 live table, product page and traffic until Ctrl-C
  reeve demo --headless --for 30s -o json    for scripts: ends with a summary

The configuration is written to <state>/demo; edit it there and watch the mesh follow.
The summary counts a request as failed when it was answered 5xx or not at all and no policy denied it.

Exit codes: 0 = fine, 1 = a request failed or the audit log did not verify, 2 = the demo could not run.";

/// `reeve demo`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Run without a terminal: no table, only the summary at the end.
    #[arg(long)]
    pub(crate) headless: bool,
    /// Stop by itself after this long, such as 30s or 5m.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub(crate) run_for: Option<Duration>,
    /// Requests per second through the gateway; 0 sends none.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) rps: u32,
    /// Keep the mesh's state in DIR instead of a temporary directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<std::path::PathBuf>,
    /// Use addresses 127.X.*; the next free X is taken otherwise.
    #[arg(long, value_name = "X", value_parser = clap::value_parser!(u8).range(1..=254))]
    pub(crate) base: Option<u8>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Runs the demo.
pub(crate) fn run(_args: DemoArgs) -> Verdict {
    Err(Problem::new("this verb is not part of this build"))
}
