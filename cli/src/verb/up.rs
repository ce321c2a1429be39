//! `reeve up`: runs the mesh that a folder describes.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use crate::{
    problem::{Problem, Verdict},
    state::StateArgs,
};

const EXAMPLES: &str = "\
Examples:
  reeve up -f deploy/bookinfo/mesh           run it; edits to the folder apply live
  reeve up -f mesh --state /tmp/one --base 78    a second mesh beside the first

Every instance gets loopback addresses of its own (127.BASE.SLOT.*); no root is needed. Processes are not isolated
from each other in this form: anyone on this machine can reach an application around its sidecar.
Ctrl-C drains and ends everything; a second Ctrl-C ends it at once.

Exit codes: 0 = stopped as asked, 1 = the configuration is invalid, 2 = the mesh could not run.";

/// `reeve up`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct UpArgs {
    /// The folder of YAML files that describes the mesh.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    pub(crate) folder: PathBuf,
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// Use addresses 127.X.*.
    #[arg(long, value_name = "X", default_value_t = 77, value_parser = clap::value_parser!(u8).range(1..=254))]
    pub(crate) base: u8,
    /// Also serve the mesh's HTTP API here, such as 0.0.0.0:8014.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) bind: Option<SocketAddr>,
    /// Keep the key of sealed files here instead of <state>/seal.key.
    #[arg(long, value_name = "FILE")]
    pub(crate) seal_key: Option<PathBuf>,
}

/// Runs the mesh until it is told to stop.
pub(crate) fn run(_args: UpArgs) -> Verdict {
    Err(Problem::new("this verb is not part of this build"))
}
