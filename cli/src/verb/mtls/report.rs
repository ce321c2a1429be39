//! `reeve mtls report`.

use std::path::PathBuf;

use clap::Args;
use reeve_audit::{Entry, EventKind, query::Filter};
use serde::Serialize;

use super::{
    journal::{Brief, End, Journal, Journals, Phase, WaveState},
    migrate::told,
    status::mode,
    world::World,
};
use crate::{
    output::{self, Format, OutputArgs, plain_table},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    supervisor::logfile::timestamp,
    verb::audit::{LogArgs, unreadable},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve mtls report                       the newest migration: before, after, each wave, and its records
  reeve mtls report strict-20261122t101500z-1795342500000
  reeve mtls report -o json | jq .waves

The records are those of the audit log: `reeve audit show ID` shows one, `reeve audit prove ID` proves it, `reeve audit
verify` that none was altered or left out.

Exit codes: 0 = fine, 2 = there is no such migration.";

/// `reeve mtls report`.
#[derive(Args, Debug)]
pub(super) struct ReportArgs {
    /// The migration's id [default: the newest]
    id: Option<String>,
    /// The configuration folder [default: the running mesh's]
    #[arg(short = 'f', long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// A step as the audit log has it.
#[derive(Debug, Serialize)]
struct OnRecord {
    id: String,
    phase: String,
    wave: String,
    by: String,
    text: String,
    logged: bool,
}

#[derive(Debug, Serialize)]
struct Whole {
    #[serde(flatten)]
    journal: Journal,
    records: Vec<OnRecord>,
}

pub(super) fn run(args: &ReportArgs) -> Verdict {
    let world = World::of(args.folder.as_ref(), &args.state)?;
    let journal = Journals::of(&world.folder).read(args.id.as_deref())?;
    let records = on_record(&args.state, &journal.id)?;
    match args.output.output {
        Format::Json => output::json(&Whole { journal, records })?,
        Format::Human => {
            let mut table = plain_table(["RECORD", "STEP", "WAVE", "BY", "WHAT"]);
            for record in records {
                table.add_row([record.id, record.phase, record.wave, record.by, record.text]);
            }
            output::line(&format!("{}\n\n{}", describe(&journal), table.trim_fmt()))?;
        }
    }
    Ok(Answer::Yes)
}

fn on_record(state: &StateArgs, id: &str) -> Result<Vec<OnRecord>, Problem> {
    let log = LogArgs::of(state);
    let filter = Filter {
        kind: Some("event".to_owned()),
        event: Some(EventKind::MtlsMigration),
        ..Filter::default()
    };
    let mut found = log
        .open()?
        .query(&filter)
        .map_err(|error| unreadable(&error))?;
    found.sort_by_key(|found| found.record.time);
    let records: Vec<_> = found
        .iter()
        .filter_map(|found| {
            let Entry::Event(event) = &found.record.entry else {
                return None;
            };
            let detail = |name: &str| event.detail.get(name).cloned().unwrap_or_default();
            (detail("migration") == id).then(|| OnRecord {
                id: found.record.id.to_string(),
                phase: detail("phase"),
                wave: detail("wave"),
                by: detail("by"),
                text: detail("text"),
                logged: found.logged,
            })
        })
        .collect();
    log.tell(records.len());
    Ok(records)
}

/// What it did, for people.
pub(super) fn describe(journal: &Journal) -> String {
    let end = match &journal.end {
        None => "INTERRUPTED: `reeve mtls migrate --resume` or `reeve mtls rollback` takes it up"
            .to_owned(),
        Some(End::Done) => "DONE: every wave is in force".to_owned(),
        Some(End::Stopped(why)) => format!("STOPPED: {why}"),
        Some(End::TakenBack(0)) => "TAKEN BACK".to_owned(),
        Some(End::TakenBack(waves)) => format!("TAKEN BACK but for the first {waves} waves"),
    };
    let note = journal.note.as_ref().map(|n| format!(": {n}"));
    let mut text = format!(
        "{end}\n{}, begun {} by {}{}\nrests on {} to {}\n",
        journal.id,
        timestamp(journal.began_at),
        journal.by,
        note.unwrap_or_default(),
        timestamp(journal.plan.window.from),
        timestamp(journal.plan.window.to),
    );
    let mut table = plain_table(["WAVE", "CAME TO", "BEFORE", "AFTER", "REFUSED", "WHY"]);
    for wave in &journal.waves {
        let figures = |figures: &super::journal::Figures| {
            let p99 = figures.p99_ms.map(|ms| format!(", p99 {ms:.0} ms"));
            format!(
                "{} requests, {} failed{}",
                figures.requests,
                figures.failures,
                p99.unwrap_or_default()
            )
        };
        table.add_row([
            wave.name.clone(),
            came_to(wave),
            figures(&wave.before),
            figures(&wave.after),
            wave.refused.to_string(),
            wave.why.clone().unwrap_or_default(),
        ]);
    }
    text.push_str(&format!("\n{}\n", table.trim_fmt()));
    let edits = journal.waves.iter().flat_map(|wave| &wave.edits);
    for edit in edits {
        text.push_str(&format!("\n{}", told(edit)));
    }
    text.push_str(&format!("\n\n{}", changes(journal)));
    for happened in &journal.timeline {
        text.push_str(&format!("\n{}  {}", timestamp(happened.at), happened.text));
    }
    text
}

fn came_to(wave: &WaveState) -> String {
    let phase = match wave.phase {
        Phase::Pending => "not begun",
        Phase::Shadow => "in its shadow",
        Phase::Flipping => "being flipped",
        Phase::Holding => "held",
        Phase::Done => "done",
        Phase::RolledBack => "rolled back",
    };
    match wave.back_after_ms {
        Some(ms) => format!("{phase} within {ms} ms"),
        None => phase.to_owned(),
    }
}

/// Each port before and after.
fn changes(journal: &Journal) -> String {
    let mut table = plain_table([
        "PORT",
        "BEFORE",
        "AFTER",
        "SAID BY",
        "MTLS",
        "OWN TLS",
        "PLAINTEXT",
    ]);
    let key = |b: &Brief| (b.workload.clone(), b.port);
    for before in &journal.before {
        let after = journal.after.iter().find(|after| key(after) == key(before));
        let shown = after.unwrap_or(before);
        table.add_row([
            format!("{}:{}", before.workload, before.port),
            mode(before.mode).to_owned(),
            after.map_or("?", |after| mode(after.mode)).to_owned(),
            shown.origin.clone(),
            shown.share.mtls.to_string(),
            shown.share.own_tls.to_string(),
            shown.share.plaintext.to_string(),
        ]);
    }
    format!("{}\n", table.trim_fmt())
}
