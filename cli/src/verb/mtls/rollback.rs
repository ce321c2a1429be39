//! `reeve mtls rollback`.

use std::path::PathBuf;

use clap::Args;
use reeve_control::migration::Edit;
use reeve_core::{Clock as _, SystemClock};
use tokio_util::sync::CancellationToken;

use super::{
    drive::Stage as _,
    journal::{End, Journals, Phase},
    migrate::told,
    stage::Live,
    world::World,
};
use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    verb::{block_on, confirm::confirm, policy::who},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve mtls rollback                       all that the newest migration changed
  reeve mtls rollback --to wave-2           what came after wave-2
  reeve mtls rollback strict-20261122t101500z-1795342500000 --yes --note 'change 4712'

Modes are put back where they are written, all at once; whatever else was changed there stays. It is finished when every
sidecar has it.

Exit codes: 0 = it is back (or there was nothing to take back), 2 = it could not be done.";

/// `reeve mtls rollback`.
#[derive(Args, Debug)]
pub(super) struct RollbackArgs {
    /// The migration's id [default: the newest]
    id: Option<String>,
    /// The last wave that stays [default: none]
    #[arg(long, value_name = "WAVE")]
    to: Option<String>,
    /// What for; kept in the journal and the audit log
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// The configuration folder [default: the running mesh's]
    #[arg(short = 'f', long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &RollbackArgs) -> Verdict {
    block_on(rollback(args))
}

async fn rollback(args: &RollbackArgs) -> Verdict {
    let world = World::to_change(args.folder.as_ref(), &args.state)?;
    let journals = Journals::alone(&world.folder)?;
    let mut journal = journals.read(args.id.as_deref())?;
    let stays = match &args.to {
        None => 0,
        Some(name) => {
            let at = journal.waves.iter().position(|wave| wave.name == *name);
            let names: Vec<_> = journal.waves.iter().map(|w| w.name.clone()).collect();
            at.ok_or_else(|| {
                Problem::new(format!("there is no wave {name:?}"))
                    .fix(format!("one of {}", names.join(", ")))
            })? + 1
        }
    };
    let later = journal.waves.iter().skip(stays);
    let changed =
        later.filter(|wave| matches!(wave.phase, Phase::Flipping | Phase::Holding | Phase::Done));
    let edits: Vec<Edit> = changed.flat_map(|wave| wave.edits.clone()).collect();
    let lines: Vec<_> = edits
        .iter()
        .map(|edit| format!("  {}", told(edit)))
        .collect();
    let warning = format!(
        "plaintext is let in again where this is taken back:\n{}",
        lines.join("\n")
    );
    if !edits.is_empty() {
        confirm(args.yes, &warning, "nothing was changed")?;
    }
    let mut live = Live::of(&journal, journals, world, CancellationToken::new())?;
    let why = args
        .note
        .clone()
        .unwrap_or_else(|| "taken back by hand".to_owned());
    if let Err(problem) = live.note("rolled_back", "", &why).await {
        // Going back opens doors to callers that were let in before: it waits for nothing.
        output::complain(&problem);
    }
    live.revert(&edits).await?;
    for wave in journal.waves.iter_mut().skip(stays) {
        if wave.phase != Phase::Pending {
            wave.phase = Phase::RolledBack;
            wave.why = Some(format!("{why} ({})", who()));
        }
    }
    journal.happened(
        SystemClock.now(),
        format!("rolled back by {}: {why}", who()),
    );
    journal.end = Some(End::TakenBack(stays));
    live.keep(&journal)?;
    match args.output.output {
        Format::Json => output::json(&journal)?,
        Format::Human => output::line(&format!(
            "{} edits are taken back, and in force",
            edits.len()
        ))?,
    }
    Ok(Answer::Yes)
}
