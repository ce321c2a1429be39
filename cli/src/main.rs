//! `reeve`: every verb of the mesh in one binary.
//!
//! Flow: [`args`] parses the command line, [`verb`] holds one small module per verb, and each verb answers with an
//! [`problem::Answer`] (exit code 0 or 1) or a [`problem::Problem`] (what happened, where, what to do; exit code 2 unless
//! it says otherwise). [`supervisor`] runs a mesh of local processes for `reeve up` and `reeve demo`.
//!
//! Invariant: standard output carries answers only; everything else goes to standard error.

mod args;
mod demo;
mod evidence;
mod http;
mod input;
mod intercept;
mod logs;
mod mesh;
mod output;
mod problem;
mod state;
mod supervisor;
mod verb;

use std::process::ExitCode;

use clap::Parser;

/// Half of what a request costs beside system calls is small allocations (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match verb::run(cli.verb) {
        Ok(answer) => answer.into(),
        Err(problem) => {
            output::complain(&problem);
            problem.exit_code()
        }
    }
}
