//! `reeve mtls migrate`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use reeve_control::migration::{Edit, Landscape, PlanFile, PortStand};
use reeve_core::{Clock as _, SystemClock};
use tokio_util::sync::CancellationToken;

use super::{
    drive::{How, Stage as _, drive},
    journal::{Brief, End, Journal, Journals, Phase, WaveState},
    report,
    stage::Live,
    world::World,
};
use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    supervisor::obey_signals,
    verb::{block_on, confirm::confirm, duration, policy::who},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve mtls migrate --plan strict.yaml --note 'change 4711'
  reeve mtls migrate --plan strict.yaml --shadow 10m --hold 1h
  reeve mtls migrate --plan strict.yaml --dry-run     which lines of which files each wave changes
  reeve mtls migrate --resume                         after the tool or its machine died

Per wave: every sidecar of the wave and of its callers must have acknowledged all that went before. Shadow: what STRICT would
refuse is watched, and nothing is refused; the trail is judged again, and whatever stands in the way ends it here. Flip: the
modes are changed where they are written. Hold: refusals, success and p99 are watched against the time before, four times a
second. A breach takes the wave back by itself, as Ctrl-C does; the waves before it stay. Every step is an event
`mtls_migration` in the audit log.

Exit codes: 0 = every wave is done, 1 = a wave could not be begun, 2 = it could not run, 3 = a wave was rolled back.";

/// `reeve mtls migrate`.
#[derive(Args, Debug)]
pub(super) struct MigrateArgs {
    /// The plan
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "resume",
        conflicts_with = "resume"
    )]
    plan: Option<PathBuf>,
    /// Take up the migration that was interrupted
    #[arg(long)]
    resume: bool,
    /// How long what would be refused is watched before each flip
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    shadow: Duration,
    /// How long each flip is watched
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    hold: Duration,
    /// Refused connections that take a wave back when there are more
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_refused: u64,
    /// The least share of requests that succeed, in per cent of that before the flip
    #[arg(long, value_name = "PERCENT", default_value_t = 99.0)]
    min_success: f64,
    /// How much longer than before the 99th percentile of latency may be
    #[arg(long, value_name = "FACTOR", default_value_t = 3.0)]
    max_p99_factor: f64,
    /// How much it must have grown to count
    #[arg(long, value_name = "TIME", default_value = "250ms", value_parser = duration)]
    p99_slack: Duration,
    /// What for; kept in the journal and the audit log
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Show what each wave changes, and change nothing
    #[arg(long)]
    dry_run: bool,
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

pub(super) fn run(args: &MigrateArgs) -> Verdict {
    block_on(migrate(args))
}

async fn migrate(args: &MigrateArgs) -> Verdict {
    if let (Some(path), true) = (&args.plan, args.dry_run) {
        let world = World::of(args.folder.as_ref(), &args.state)?;
        return rehearse(&world, &read_plan(path)?);
    }
    let world = World::to_change(args.folder.as_ref(), &args.state)?;
    let journals = Journals::alone(&world.folder)?;
    let mut journal = match &args.plan {
        Some(path) => begin(args, &world, &journals, read_plan(path)?)?,
        None => unfinished(&journals)?,
    };
    let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
    obey_signals(stop.clone(), abort.clone())?;
    let mut stage = Live::of(&journal, journals, world, stop)?;
    journal.end = None;
    stage.keep(&journal)?;
    let began = match args.resume {
        true => "taken up".to_owned(),
        false => args.note.clone().unwrap_or_else(|| "begun".to_owned()),
    };
    stage.note("began", "", &began).await?;
    let how = How {
        shadow: args.shadow,
        hold: args.hold,
        max_refused: args.max_refused,
        min_success: args.min_success / 100.0,
        max_p99_factor: args.max_p99_factor,
        p99_slack: args.p99_slack,
    };
    let driven = drive(&how, &mut stage, &mut journal);
    match abort.run_until_cancelled(driven).await {
        Some(driven) => driven?,
        None => {
            return Err(Problem::new("ended in the middle").fix(
                "`reeve mtls migrate --resume` goes on, `reeve mtls rollback` takes it back",
            ));
        }
    }
    journal.after = briefs(&stage.world.evidence(stage.window, stage.cycle)?.ports);
    stage.keep(&journal)?;
    let end = match &journal.end {
        Some(End::Stopped(why)) => why.clone(),
        _ => "every wave is done".to_owned(),
    };
    if let Err(problem) = stage.note("ended", "", &end).await {
        output::complain(&problem);
    }
    match args.output.output {
        Format::Json => output::json(&journal)?,
        Format::Human => output::line(&report::describe(&journal))?,
    }
    Ok(answer(&journal))
}

fn answer(journal: &Journal) -> Answer {
    let back = journal.waves.iter().any(|w| w.phase == Phase::RolledBack);
    match (&journal.end, back) {
        (Some(End::Done), _) => Answer::Yes,
        (_, true) => Answer::Undone,
        (_, false) => Answer::No,
    }
}

fn read_plan(path: &Path) -> Result<PlanFile, Problem> {
    PlanFile::read(path).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Problem::new(format!("the plan cannot be used: {}", faults.join("; "))).at(path.display())
    })
}

/// What each wave would change, on what the waves before it leave.
fn rehearse(world: &World, plan: &PlanFile) -> Verdict {
    let mut landscape = world.landscape()?;
    for wave in &plan.waves {
        output::line(&format!("{}:", wave.name))?;
        let flipped = landscape.flip(&wave.targets);
        let (edits, next) = match flipped {
            Ok(flipped) => flipped,
            Err(error) => {
                output::line(&format!("  it cannot be flipped: {error}"))?;
                return Ok(Answer::No);
            }
        };
        for edit in &edits {
            output::line(&format!("  {}", told(edit)))?;
        }
        landscape = Landscape::of(next)
            .map_err(|_| Problem::new("the plan leaves no valid configuration"))?;
    }
    Ok(Answer::Yes)
}

/// An edit, for people.
pub(super) fn told(edit: &Edit) -> String {
    let port = |port: &Option<u16>| port.map_or(String::new(), |p| format!(" of port {p}"));
    match edit {
        Edit::Set {
            file,
            namespace,
            name,
            port: p,
            from,
        } => format!(
            "{file}: PeerAuthentication {namespace}/{name}: mode{} {from} → STRICT",
            port(p)
        ),
        Edit::Insert {
            file,
            namespace,
            name,
            port: p,
            ..
        } => format!(
            "{file}: PeerAuthentication {namespace}/{name}: mode{} STRICT comes in",
            port(p)
        ),
        Edit::Create { file, .. } => format!("{file}: a new file with one PeerAuthentication"),
    }
}

fn begin(
    args: &MigrateArgs,
    world: &World,
    journals: &Journals,
    plan: PlanFile,
) -> Result<Journal, Problem> {
    if let Ok(last) = journals.read(None)
        && last.end.is_none()
    {
        return Err(Problem::new(format!("migration {} was interrupted", last.id))
            .fix("`reeve mtls migrate --resume` goes on with it, `reeve mtls rollback` takes it back"));
    }
    let targets: usize = plan.waves.iter().map(|wave| wave.targets.len()).sum();
    let warning = format!(
        "{targets} targets in {} waves become STRICT; each wave is taken back by itself if it does harm",
        plan.waves.len()
    );
    confirm(args.yes, &warning, "nothing was changed")?;
    let now = SystemClock.now();
    let evidence = world.evidence(plan.window.from, plan.cycle)?;
    let waves = plan.waves.iter().map(|wave| WaveState {
        name: wave.name.clone(),
        ..WaveState::default()
    });
    Ok(Journal {
        id: format!("{}-{}", plan.name, now.as_millis()),
        by: who(),
        note: args.note.clone(),
        began_at: now,
        end: None,
        before: briefs(&evidence.ports),
        after: Vec::new(),
        waves: waves.collect(),
        timeline: Vec::new(),
        plan,
    })
}

/// The newest migration, if it was interrupted or ended before its last wave.
fn unfinished(journals: &Journals) -> Result<Journal, Problem> {
    let journal = journals.read(None)?;
    match &journal.end {
        None | Some(End::Stopped(_)) => Ok(journal),
        Some(End::Done | End::TakenBack(_)) => {
            Err(Problem::new(format!("migration {} is over", journal.id))
                .fix("`reeve mtls report` shows it; begin another with --plan"))
        }
    }
}

fn briefs(ports: &[PortStand]) -> Vec<Brief> {
    let brief = |port: &PortStand| Brief {
        workload: port.workload.clone(),
        port: port.port,
        mode: port.mode,
        origin: port.origin.to_string(),
        share: port.share,
    };
    ports.iter().map(brief).collect()
}
