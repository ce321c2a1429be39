//! `reeve-proxy`: the sidecar alone, without the other verbs of `reeve`.

use std::process::ExitCode;

use clap::Parser;
use reeve_sidecar::SidecarArgs;

/// Half of what a request costs beside system calls is small allocations (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The sidecar of one workload instance.
#[derive(Debug, Parser)]
#[command(name = "reeve-proxy", version)]
struct Cli {
    #[command(flatten)]
    args: SidecarArgs,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(reeve_sidecar::run(cli.args)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reeve-proxy: {error:#}");
            ExitCode::from(2)
        }
    }
}
