//! `reeve ca entries`: the registration entries, and which processes use them.

use clap::Args;
use reeve_ca::{EntryStatus, EntryUse};

use crate::{
    output::{self, Format, OutputArgs, plain_table},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    verb::mesh_api::MeshApi,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve ca entries
  reeve ca entries -o json | jq -r '.[] | select(.used_by == []) | .id'

Entries are written into the mesh's folder (kind RegistrationEntry, docs/attestation.md). A process that matches one gets
its identity at the agent's socket: workload.sock in the state directory.

Exit codes: 0 = fine, 2 = the mesh could not be asked.";

/// Most processes that a line names.
const NAMED: usize = 5;

/// `reeve ca entries`.
#[derive(Args, Debug)]
pub(super) struct EntriesArgs {
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn entries(args: &EntriesArgs) -> Verdict {
    let api = MeshApi::of(&args.state.existing()?)?;
    let value = api.get_value("/api/entries").await?;
    if args.output.output == Format::Json {
        output::json(&value)?;
        return Ok(Answer::Yes);
    }
    let entries: Vec<EntryStatus> = serde_json::from_value(value).map_err(|error| {
        Problem::because("the mesh process answered something unexpected", &error)
    })?;
    if entries.is_empty() {
        output::line("there are no registration entries")?;
        return Ok(Answer::Yes);
    }
    let mut table = plain_table(["ENTRY", "IDENTITY", "SELECTORS", "AGENT", "USED BY"]);
    for status in entries {
        let selectors = status.entry.selectors.iter().map(ToString::to_string);
        table.add_row([
            status.entry.name.to_string(),
            status.entry.id.to_string(),
            selectors.collect::<Vec<_>>().join(" "),
            match status.agent_connected {
                true => status.entry.parent.to_string(),
                false => format!("{} (away)", status.entry.parent),
            },
            used_by(&status.used_by),
        ]);
    }
    output::line(&table.trim_fmt())?;
    Ok(Answer::Yes)
}

fn used_by(uses: &[EntryUse]) -> String {
    let named = uses.iter().take(NAMED);
    let named = named.map(|used| format!("{} (user {})", used.pid, used.uid));
    let mut text = named.collect::<Vec<_>>().join(", ");
    if uses.len() > NAMED {
        text.push_str(&format!(" and {} more", uses.len() - NAMED));
    }
    match text.is_empty() {
        true => "-".to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use reeve_core::EntryName;

    use super::*;

    #[test]
    fn processes_are_named_and_counted() {
        let used = |pid| EntryUse {
            entry: EntryName::parse("a/b").unwrap(),
            pid,
            uid: 7,
        };
        assert_eq!(used_by(&[]), "-");
        assert_eq!(used_by(&[used(1), used(2)]), "1 (user 7), 2 (user 7)");
        let many: Vec<_> = (0..7).map(used).collect();
        assert!(used_by(&many).ends_with("4 (user 7) and 2 more"));
    }
}
