//! `reeve chaos`: the faults that are put into traffic on purpose.

use std::time::Duration;

use clap::{Args, Subcommand};
use reeve_console::ChaosRequest;
use reeve_control::{Chaos, FaultState};

use crate::{
    output::{self, Format, OutputArgs, plain_table},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    supervisor::logfile::timestamp,
    verb::{block_on, mesh_api::MeshApi, operator},
};

const EXAMPLES: &str = "\
Examples:
  reeve chaos list                  every fault of every VirtualService, and whether it is in
  reeve chaos list -o json | jq '.faults[] | select(.state == \"active\")'
  reeve chaos off                   take all of them out, at once and everywhere
  reeve chaos on                    let them in again

Faults are written into a VirtualService (`fault`), and end by themselves at the time that its annotation
reeve.dev/fault-until says. What goes in and out is an event in the audit log (`reeve audit query --kind event`).

Exit codes: 0 = fine, 2 = the mesh could not be asked.";

/// How long the mesh process may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// `reeve chaos`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct ChaosArgs {
    /// What to do.
    #[command(subcommand)]
    verb: ChaosVerb,
}

/// The verbs of `reeve chaos`.
#[derive(Debug, Subcommand)]
enum ChaosVerb {
    /// List the faults
    List(ListArgs),
    /// Switch all of them off
    Off(SwitchArgs),
    /// Let them in again
    On(SwitchArgs),
}

/// `reeve chaos list`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  reeve chaos list -o json | jq '.faults[] | select(.state == \"active\")'")]
struct ListArgs {
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// `reeve chaos off` and `on`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  reeve chaos off    take all faults out, at once and everywhere
  reeve chaos on     let them in again

The switch holds until it is turned back, also over a restart of the mesh.")]
struct SwitchArgs {
    #[command(flatten)]
    state: StateArgs,
}

/// Does it.
pub(crate) fn run(args: &ChaosArgs) -> Verdict {
    match &args.verb {
        ChaosVerb::List(args) => block_on(list(args)),
        ChaosVerb::Off(args) => block_on(switch(args, true)),
        ChaosVerb::On(args) => block_on(switch(args, false)),
    }
}

async fn list(args: &ListArgs) -> Verdict {
    let api = MeshApi::of(&args.state.existing()?)?;
    let value = api.get_value("/api/chaos").await?;
    match args.output.output {
        Format::Json => output::json(&value)?,
        Format::Human => {
            let chaos: Chaos = serde_json::from_value(value).map_err(|error| {
                Problem::because("the mesh process answered something unexpected", &error)
            })?;
            output::line(&describe(&chaos))?;
        }
    }
    Ok(Answer::Yes)
}

fn describe(chaos: &Chaos) -> String {
    if chaos.faults.is_empty() {
        return "there are no faults".to_owned();
    }
    let mut table = plain_table(["ORIGIN", "FAULT", "UNTIL", "STATE"]);
    for fault in &chaos.faults {
        let state = match fault.state {
            FaultState::Active => "active",
            FaultState::Over => "over",
            FaultState::Off => "off",
        };
        table.add_row([
            fault.origin.as_str(),
            fault.what.as_str(),
            &fault.until.map(timestamp).unwrap_or_default(),
            state,
        ]);
    }
    table.trim_fmt()
}

async fn switch(args: &SwitchArgs, off: bool) -> Verdict {
    let request = ChaosRequest { off };
    let state = args.state.existing()?;
    operator::post(&state, "/admin/chaos", &request, PATIENCE, |why| {
        Problem::new(format!("faults are as they were: {why}"))
    })
    .await?;
    output::line(match off {
        true => "all faults are off; `reeve chaos on` lets them in again",
        false => "faults happen as configured",
    })?;
    Ok(Answer::Yes)
}
