//! `reeve policy whatif`.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use clap::Args;
use reeve_analysis::{Flip, Group, WhatIf, replay};
use reeve_control::Mesh;

use super::trail::{self, Binding, TrailArgs};
use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    supervisor::load,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve policy whatif -f candidate                       yesterday's and today's traffic of the mesh here
  reeve policy whatif -f candidate --since 24h --service reviews
  reeve policy whatif -f mesh --enforced                 what shadow policies, and services in shadow, would refuse
  reeve policy whatif -f candidate --dir backup/audit -o json | jq '.groups[] | select(.outcome == \"newly_denied\")'

Each decision in the audit log is asked again, of the candidate's policies and in the states that it gives its services.
What is not decided by policies (mTLS modes, tokens that do not verify, ambiguous paths) comes out as it did. Undetermined
is what depends on something that the record lacks, such as a header that nobody looked for when it was made: name it in
MeshConfig.spec.audit.recordedHeaders to have it from now on.

Exit codes: 0 = nothing that was permitted would be denied, 1 = something would, or the configuration is invalid, 2 = it
could not be said. Undetermined decisions alone leave it at 0.";

/// `reeve policy whatif`.
#[derive(Args, Debug)]
pub(super) struct WhatIfArgs {
    /// The candidate: a folder of YAML files.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: PathBuf,
    /// Judge as if shadow policies bound, and every service were enforced.
    #[arg(long)]
    enforced: bool,
    #[command(flatten)]
    trail: TrailArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &WhatIfArgs) -> Verdict {
    let binding = if args.enforced {
        Binding::Everything
    } else {
        Binding::AsWritten
    };
    let candidate = trail::candidate(load(&args.folder)?, &args.folder, binding)?;
    let trail = args.trail.open()?;
    let found = trail::with_progress(trail.scan.records(), |read| {
        replay(&trail.scan, &trail.wanted, &candidate, read)
    });
    let found = found.map_err(|error| trail::broken(&error))?;
    trail.tell(found.decisions);
    match args.output.output {
        Format::Json => output::json(&found)?,
        Format::Human => output::line(&described(&found)?)?,
    }
    Ok(Answer::from_fine(found.newly_denied == 0))
}

/// What the decisions that the mesh of `state` has recorded since then would come to by `candidate`, which is to stand in
/// `folder`.
pub(super) fn rehearse(
    candidate: &Mesh,
    folder: &Path,
    (state, since): (&StateArgs, &str),
) -> Result<WhatIf, Problem> {
    let candidate = trail::candidate(candidate.clone(), folder, Binding::AsWritten)?;
    let trail = TrailArgs::since(state, since).open()?;
    let found = trail::with_progress(trail.scan.records(), |read| {
        replay(&trail.scan, &trail.wanted, &candidate, read)
    });
    let found = found.map_err(|error| trail::broken(&error))?;
    trail.tell(found.decisions);
    Ok(found)
}

/// For people.
pub(super) fn described(found: &WhatIf) -> Result<String, Problem> {
    let mut text = String::new();
    for (flip, title) in [
        (Flip::NewlyDenied, "NEWLY DENIED"),
        (Flip::NewlyPermitted, "NEWLY PERMITTED"),
        (Flip::Undetermined, "UNDETERMINED"),
    ] {
        let groups = found.groups.iter().filter(|g| g.outcome == flip);
        let groups: Vec<_> = groups.collect();
        if !groups.is_empty() {
            let table = table(&groups);
            writeln!(text, "{title}\n{table}\n").map_err(Problem::new)?;
        }
    }
    let WhatIf {
        decisions,
        newly_denied,
        newly_permitted,
        undetermined,
        same,
        not_by_policy,
        ..
    } = found;
    write!(
        text,
        "{decisions} decisions: {newly_denied} newly denied, {newly_permitted} newly permitted, {undetermined} undetermined, \
         {same} the same, {not_by_policy} not decided by policies"
    )
    .map_err(Problem::new)?;
    Ok(text)
}

fn table(groups: &[&Group]) -> comfy_table::Table {
    let header = [
        "COUNT",
        "CALLER",
        "SERVICE",
        "METHOD",
        "ROUTE",
        "WAS",
        "WOULD BE",
        "FOR EXAMPLE",
    ];
    let mut table = output::plain_table(header);
    for group in groups {
        let after = match &group.after {
            Some(after) => answer(after),
            None => format!("depends on {}", group.missing.join(", ")),
        };
        let example = group.examples.first();
        table.add_row([
            group.count.to_string(),
            group.caller.clone(),
            group.service.clone(),
            group.method.clone(),
            group.route.clone(),
            answer(&group.before),
            after,
            example.map(|e| e.id.clone()).unwrap_or_default(),
        ]);
    }
    table
}

fn answer(answer: &reeve_analysis::Answer) -> String {
    let policies: Vec<_> = answer.policies.iter().map(ToString::to_string).collect();
    let mut words = vec![answer.reason.to_owned()];
    if !policies.is_empty() {
        words.push(policies.join(", "));
    }
    words.join(" ")
}
