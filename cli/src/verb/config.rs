//! `reeve config`: checks a folder of configuration.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::{
    output::OutputArgs,
    problem::{Problem, Verdict},
};

const EXAMPLES: &str = "\
Examples:
  reeve config check -f deploy/bookinfo/mesh
  reeve config check -f mesh -o json | jq '.[] | select(.result == \"refused\")'

Exit codes: 0 = every document is accepted (warnings or not), 1 = one is refused, 2 = the folder could not be read.";

/// `reeve config`.
#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Say for each document whether it is accepted, with every fault in it
    #[command(after_help = EXAMPLES)]
    Check(CheckArgs),
}

/// `reeve config check`.
#[derive(Args, Debug)]
struct CheckArgs {
    /// The folder of YAML files.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Checks the folder.
pub(crate) fn run(_args: &ConfigArgs) -> Verdict {
    Err(Problem::new("this verb is not part of this build"))
}
