//! `reeve mtls plan`.

use std::{fs, path::PathBuf};

use clap::Args;
use reeve_control::migration::{PlanFile, plan};
use reeve_core::{Clock as _, SystemClock};
use serde_json::json;

use super::world::WorldArgs;
use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    supervisor::logfile::timestamp,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve mtls plan > strict.yaml                 waves, and what stands in the way with its remedy
  reeve mtls plan --out strict.yaml             the same
  reeve mtls plan --since 2h --cycle 30m        rests on two hours, in which nothing comes less often than every 30 minutes
  reeve mtls plan -o json | jq .blocked

What calls nobody comes first; where one port of a workload is not ready, the others are flipped alone. Review the file,
take targets out or move them to later waves, commit it. Then: reeve mtls migrate --plan strict.yaml

Exit codes: 0 = every port is strict, exempt or in a wave, 1 = something stands in the way of some, 2 = it cannot be planned.";

/// `reeve mtls plan`.
#[derive(Args, Debug)]
pub(super) struct PlanArgs {
    /// Write the plan to this file.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    world: WorldArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &PlanArgs) -> Verdict {
    let evidence = args.world.evidence()?;
    args.world.tell(&evidence);
    let plan = plan(&evidence.landscape, &evidence.observed, &evidence.ports);
    let stamp: String = timestamp(SystemClock.now()).to_lowercase();
    let stamp: String = stamp.chars().filter(char::is_ascii_alphanumeric).collect();
    let file = PlanFile::of(&format!("strict-{stamp}"), &plan, &evidence.asked);
    let text = match args.output.output {
        Format::Human => file.text(&plan),
        Format::Json => {
            let blocked = plan.blocked.iter().map(|b| {
                json!({"workload": b.workload, "port": b.port, "reason": b.reason, "obstacles": b.obstacles})
            });
            let whole = json!({
                "name": file.name, "observed": file.window, "waves": file.waves,
                "blocked": blocked.collect::<Vec<_>>(), "notes": plan.notes,
            });
            serde_json::to_string_pretty(&whole).map_err(Problem::new)?
        }
    };
    match &args.out {
        None => output::line(text.trim_end())?,
        Some(path) => {
            fs::write(path, &text).map_err(|error| {
                Problem::because("the plan could not be written", &error).at(path.display())
            })?;
            let targets: usize = file.waves.iter().map(|wave| wave.targets.len()).sum();
            output::note(&format!(
                "{}: {} waves of {targets} targets; {} ports are in none",
                path.display(),
                file.waves.len(),
                plan.blocked.len()
            ));
        }
    }
    Ok(Answer::from_fine(plan.blocked.is_empty()))
}
