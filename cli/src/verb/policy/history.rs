//! `reeve policy history`.

mod store;

use std::path::PathBuf;

use clap::Args;

pub(super) use self::store::{Entry, Store, What};
use super::place;
use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Verdict},
    state::StateArgs,
    supervisor::logfile::timestamp,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve policy history                       of the running mesh's folder
  reeve policy history --to mesh -o json
  reeve policy diff 3f2a91c0 8e11d0aa        what changed between two of them

The history lies in the folder itself, under .reeve/policy-history, to be committed with it: each set as YAML under its
hash (the one that `reeve status` shows), and one small file for each time that a set was applied.

Exit codes: 0 = fine, 1 = nothing was ever applied, 2 = it could not be read.";

/// `reeve policy history`.
#[derive(Args, Debug)]
pub(super) struct HistoryArgs {
    /// The folder [default: the running mesh's].
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &HistoryArgs) -> Verdict {
    let folder = place::folder(args.to.as_deref(), &args.state)?;
    let entries = Store::of(&folder).entries()?;
    match args.output.output {
        Format::Json => output::json(&entries)?,
        Format::Human if entries.is_empty() => output::line("nothing was applied yet")?,
        Format::Human => {
            let mut table = output::plain_table(["#", "WHEN", "WHAT", "POLICY SET", "BY", "NOTE"]);
            for entry in &entries {
                table.add_row([
                    entry.number.to_string(),
                    timestamp(entry.time),
                    entry.what.as_str().to_owned(),
                    entry.hash.chars().take(12).collect(),
                    entry.by.clone(),
                    entry.note.clone().unwrap_or_default(),
                ]);
            }
            output::line(&table.trim_fmt())?;
        }
    }
    Ok(Answer::from_fine(!entries.is_empty()))
}
