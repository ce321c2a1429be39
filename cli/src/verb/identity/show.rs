//! `reeve identity show`.

use std::time::Duration;

use clap::Args;
use reeve_control::instances::{Instance, Instances};
use reeve_core::{Clock, InstanceName, SystemClock, UnixTime};
use serde::Serialize;

use crate::{
    demo::prometheus,
    output::{self, Format, OutputArgs, plain_table},
    problem::{Answer, Verdict},
    state::StateArgs,
    supervisor::logfile::timestamp,
    verb::{block_on, mesh_api::MeshApi},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve identity show                      every instance
  reeve identity show reviews-v1-0 -o json

Exit codes: 0 = fine, 1 = there is no such instance, or one has no certificate, 2 = the mesh could not be asked.";

/// How long a sidecar may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// `reeve identity show`.
#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// Only this instance.
    #[arg(value_name = "INSTANCE")]
    instance: Option<InstanceName>,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// An instance's identity.
#[derive(Debug, Serialize)]
struct Shown {
    instance: InstanceName,
    identity: Option<String>,
    not_after: Option<String>,
    seconds_left: Option<u64>,
    rotations: Option<u64>,
}

pub(super) fn run(args: &ShowArgs) -> Verdict {
    block_on(show(args))
}

async fn show(args: &ShowArgs) -> Verdict {
    let state = args.state.existing()?;
    let status = MeshApi::of(&state)?.status().await?;
    let instances = Instances::read(&state.instances()).map_err(crate::problem::Problem::new)?;
    let mut all = Vec::new();
    for instance in &instances.instances {
        let wanted = args
            .instance
            .as_ref()
            .is_none_or(|name| *name == instance.instance);
        if wanted && instance.sidecar_pid.is_some() {
            let identity = status
                .proxies
                .iter()
                .find(|p| p.instance == instance.instance);
            all.push(look(instance, identity.map(|p| p.identity.to_string())).await);
        }
    }
    match args.output.output {
        Format::Json => output::json(&all)?,
        Format::Human => output::line(&describe(&all))?,
    }
    let fine = !all.is_empty() && all.iter().all(|shown| shown.not_after.is_some());
    Ok(Answer::from_fine(fine))
}

async fn look(instance: &Instance, identity: Option<String>) -> Shown {
    let samples = prometheus::scrape(instance, PATIENCE).await;
    let samples = samples.unwrap_or_default();
    let figure = |name: &str| {
        let value = samples.iter().find(|sample| sample.name == name)?.value;
        Some(Duration::try_from_secs_f64(value).ok()?.as_secs())
    };
    let ends = figure("reeve_certificate_expiry_timestamp_seconds").filter(|ends| *ends > 0);
    Shown {
        instance: instance.instance.clone(),
        identity,
        not_after: ends.map(|ends| timestamp(UnixTime::from_secs(ends))),
        seconds_left: ends.map(|ends| ends.saturating_sub(SystemClock.now().as_secs())),
        rotations: figure("reeve_certificate_rotations"),
    }
}

fn describe(all: &[Shown]) -> String {
    let mut table = plain_table(["INSTANCE", "IDENTITY", "UNTIL", "LEFT", "ROTATIONS"]);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for shown in all {
        table.add_row([
            shown.instance.to_string(),
            or_dash(shown.identity.clone()),
            or_dash(shown.not_after.clone()),
            or_dash(shown.seconds_left.map(|left| format!("{left}s"))),
            or_dash(shown.rotations.map(|count| count.to_string())),
        ]);
    }
    table.trim_fmt()
}
