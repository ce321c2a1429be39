//! `reeve route`: explains where a request goes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::{
    output::OutputArgs,
    problem::{Problem, Verdict},
};

/// `reeve route`.
#[derive(Args, Debug)]
pub(crate) struct RouteArgs {
    #[command(subcommand)]
    verb: RouteVerb,
}

#[derive(Debug, Subcommand)]
enum RouteVerb {
    /// Say which listener, route, backends and policies a request meets
    Explain(ExplainArgs),
}

/// `reeve route explain`.
#[derive(Args, Debug)]
struct ExplainArgs {
    /// The folder of YAML files.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Explains.
pub(crate) fn run(_args: &RouteArgs) -> Verdict {
    Err(Problem::new("this verb is not part of this build"))
}
