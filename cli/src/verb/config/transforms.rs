//! `reeve config transforms`: everything that changes what is on the wire, whose it is, and how long it will.

use std::path::PathBuf;

use clap::Args;
use reeve_control::{ListedTransformation, TransformationState};
use reeve_core::{Clock as _, SystemClock};

use crate::{
    output::{self, Format, OutputArgs, plain_table},
    problem::{Answer, Verdict},
    supervisor::{load, logfile::timestamp},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve config transforms mesh
  reeve config transforms mesh -o json | jq 'select(.state != \"active\") | [.name, .owner]'
  reeve config transforms mesh || echo 'somebody has to clean up'

Listed in the order in which they act: those of the root namespace first, then by namespace and name. A state is active,
expires soon (less than 14 days left) or expired (it does nothing any more). WORKLOADS are those whose requests and
responses are changed.

Exit codes: 0 = none has expired, 1 = one has, or the folder is refused, 2 = it could not be read.";

/// `reeve config transforms`.
#[derive(Args, Debug)]
pub(super) struct TransformsArgs {
    /// The folder of YAML files.
    #[arg(value_name = "FOLDER", required_unless_present = "folder")]
    place: Option<PathBuf>,
    /// The same, as other verbs take it.
    #[arg(short = 'f', long, value_name = "DIR", conflicts_with = "place")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &TransformsArgs) -> Verdict {
    let folder = args.place.as_ref().or(args.folder.as_ref());
    let folder = folder.cloned().unwrap_or_default();
    super::readable(&folder)?;
    let all = load(&folder)?.transformations(SystemClock.now());
    match args.output.output {
        Format::Json => {
            for one in &all {
                output::json_line(one)?;
            }
        }
        Format::Human => output::line(&describe(&all))?,
    }
    let expired = |one: &ListedTransformation| one.state == TransformationState::Expired;
    Ok(Answer::from_fine(!all.iter().any(expired)))
}

fn describe(all: &[ListedTransformation]) -> String {
    if all.is_empty() {
        return "nothing is transformed".to_owned();
    }
    let mut table = plain_table(["NAME", "OWNER", "EXPIRES", "STATE", "WORKLOADS", "CHANGES"]);
    for one in all {
        let state = match one.state {
            TransformationState::Active => "active",
            TransformationState::ExpiresSoon => "expires soon",
            TransformationState::Expired => "expired",
        };
        let workloads = match one.workloads.is_empty() {
            true => "none".to_owned(),
            false => one.workloads.join(", "),
        };
        table.add_row([
            one.name.as_str(),
            one.owner.as_str(),
            &timestamp(one.expires),
            state,
            &workloads,
            &one.changes.join("; "),
        ]);
    }
    table.trim_fmt()
}
