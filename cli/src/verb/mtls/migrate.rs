//! `reeve mtls migrate`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use reeve_console::MigrationNote;
use reeve_control::{
    PolicyFolder,
    migration::{Edit, Landscape, PlanFile, PlannedWave, PortStand, Target, Verdict as Ready},
};
use reeve_core::{Clock as _, SystemClock, UnixTime, model::Generation};
use tokio_util::sync::CancellationToken;

use super::{
    drive::{How, Stage, drive},
    journal::{Brief, End, Journal, Journals, Phase, WaveState},
    live::{Look, Watch},
    report,
    world::World,
};
use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    supervisor::obey_signals,
    verb::{
        block_on, confirm::confirm, duration, mesh_api::MeshApi, operator, policy::who, status,
    },
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

/// How long a change may take to be in force everywhere.
const IN_FORCE: Duration = Duration::from_secs(30);
/// How long the mesh process may be away before a step is not taken for want of a record.
const ON_RECORD: Duration = Duration::from_secs(30);
/// How long is looked for records of who was refused.
const NAMED: Duration = Duration::from_secs(5);
/// How often.
const LOOK: Duration = Duration::from_millis(500);
/// Callers that are named.
const MAX_NAMED: usize = 10;

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

/// The running mesh.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) api: MeshApi,
    pub(super) id: String,
    /// From when on evidence counts.
    pub(super) window: UnixTime,
    pub(super) cycle: Duration,
    pub(super) journals: Journals,
    pub(super) world: World,
    /// The wave that is watched.
    pub(super) watch: Option<(String, Watch)>,
    pub(super) stop: CancellationToken,
}

impl Live {
    /// The migration of `journal`, on the mesh as it is.
    pub(super) fn of(
        journal: &Journal,
        journals: Journals,
        world: World,
        stop: CancellationToken,
    ) -> Result<Self, Problem> {
        Ok(Self {
            api: MeshApi::of(&world.state)?,
            id: journal.id.clone(),
            window: journal.plan.window.from,
            cycle: journal.plan.cycle,
            journals,
            world,
            watch: None,
            stop,
        })
    }

    /// Writes a folder in place of the one that `landscape` was read from, and waits until it is in force.
    pub(super) async fn write(
        &self,
        landscape: &Landscape,
        next: &PolicyFolder,
    ) -> Result<Generation, Problem> {
        let before = self.generation().await;
        let folder = &self.world.folder;
        let unwritten = |error: reeve_control::PolicyFolderError| {
            Problem::because("the configuration cannot be changed", &error).at(folder.display())
        };
        if landscape.files().differing(next).is_empty() {
            return self.everywhere(before).await;
        }
        let memo = format!("mtls migration {}", self.id);
        let change = landscape
            .files()
            .replace(folder, next, &memo)
            .map_err(unwritten)?;
        change.finish().map_err(unwritten)?;
        self.everywhere(Generation(before.0.saturating_add(1)))
            .await
    }

    /// The newest generation; a mesh process that is being restarted is waited for.
    async fn generation(&self) -> Generation {
        let deadline = tokio::time::Instant::now() + IN_FORCE;
        loop {
            match self.api.status().await {
                Ok(status) if status.generation.0 > 0 => return status.generation,
                Ok(_) | Err(_) if tokio::time::Instant::now() >= deadline => return Generation(0),
                Ok(_) | Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn everywhere(&self, generation: Generation) -> Result<Generation, Problem> {
        let wanted = status::Wanted::Number(generation);
        match status::wait(&self.api, wanted, IN_FORCE).await? {
            true => Ok(generation),
            false => Err(Problem::new(format!(
                "generation {generation} did not come into force everywhere within {} s",
                IN_FORCE.as_secs()
            ))
            .fix("`reeve status` names the proxies that lack it")),
        }
    }
}

impl Stage for Live {
    fn now(&self) -> UnixTime {
        SystemClock.now()
    }

    async fn settled(&mut self, _wave: &PlannedWave) -> Result<(), Problem> {
        match status::wait(&self.api, status::Wanted::Latest, IN_FORCE).await? {
            true => Ok(()),
            false => Err(Problem::new(
                "not every proxy has acknowledged the newest generation",
            )),
        }
    }

    fn obstacles(&mut self, wave: &PlannedWave) -> Result<Vec<String>, Problem> {
        let evidence = self.world.evidence(self.window, self.cycle)?;
        let mut found = Vec::new();
        for target in &wave.targets {
            let Target::Workload(key, ports) = target else {
                continue;
            };
            let own = evidence.ports.iter().filter(|p| p.workload == *key);
            let meant = own.filter(|p| ports.is_empty() || ports.contains(&p.port));
            let bad = meant.filter(|p| matches!(p.verdict, Ready::Blocked | Ready::Unproven));
            found.extend(bad.map(|p| {
                let remedy = p.obstacles.first().map(|o| format!(" → {}", o.remedy));
                format!(
                    "{}:{}: {}{}",
                    p.workload,
                    p.port,
                    p.reason,
                    remedy.unwrap_or_default()
                )
            }));
        }
        Ok(found)
    }

    async fn look(&mut self, wave: &PlannedWave) -> Result<Look, Problem> {
        let same = self
            .watch
            .as_ref()
            .is_some_and(|(name, _)| *name == wave.name);
        if !same {
            let watch = Watch::new(&self.world.state, &wave.targets, &wave.senders);
            self.watch = Some((wave.name.clone(), watch));
        }
        match &mut self.watch {
            Some((_, watch)) => watch.look().await,
            None => Ok(Look::default()),
        }
    }

    fn edits(&mut self, wave: &PlannedWave) -> Result<Vec<Edit>, Problem> {
        let flipped = self.world.landscape()?.flip(&wave.targets);
        let (edits, _) = flipped.map_err(|e| Problem::because("the wave cannot be flipped", &e))?;
        Ok(edits)
    }

    fn is_flipped(&mut self, wave: &PlannedWave) -> Result<bool, Problem> {
        Ok(self.world.landscape()?.is_flipped(&wave.targets))
    }

    async fn flip(&mut self, wave: &PlannedWave) -> Result<Generation, Problem> {
        let landscape = self.world.landscape()?;
        let flipped = landscape.flip(&wave.targets);
        let (_, next) = flipped.map_err(|e| Problem::because("the wave cannot be flipped", &e))?;
        self.write(&landscape, &next).await
    }

    async fn revert(&mut self, edits: &[Edit]) -> Result<(), Problem> {
        let landscape = self.world.landscape()?;
        let next = landscape.revert(edits).map_err(|error| {
            let told: Vec<_> = edits.iter().map(told).collect();
            Problem::because("the modes could not be put back", &error)
                .fix(format!("put them back by hand: {}", told.join("; ")))
        })?;
        self.write(&landscape, &next).await.map(drop)
    }

    async fn refused(&mut self, wave: &PlannedWave, since: UnixTime) -> Vec<String> {
        let deadline = tokio::time::Instant::now() + NAMED;
        let expected = self.watch.as_ref().is_some();
        loop {
            let named = self
                .world
                .evidence(since, self.cycle)
                .map(|evidence| refused_in(&evidence.ports, &wave.targets, since));
            let named = named.unwrap_or_default();
            let over = tokio::time::Instant::now() >= deadline;
            if !named.is_empty() || over || !expected {
                return named.into_iter().take(MAX_NAMED).collect();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn keep(&mut self, journal: &Journal) -> Result<(), Problem> {
        self.journals.keep(journal)
    }

    async fn note(&mut self, phase: &str, wave: &str, text: &str) -> Result<(), Problem> {
        let note = MigrationNote {
            migration: self.id.clone(),
            phase: phase.to_owned(),
            wave: wave.to_owned(),
            text: text.chars().take(1_000).collect(),
            by: who(),
        };
        let deadline = tokio::time::Instant::now() + ON_RECORD;
        loop {
            let refused =
                |why: &str| Problem::new(format!("the mesh process refused the record: {why}"));
            let posted = operator::post(
                &self.world.state,
                "/admin/migration",
                &note,
                LOOK * 10,
                refused,
            )
            .await;
            match posted {
                Ok(_) => return Ok(()),
                Err(problem) if tokio::time::Instant::now() >= deadline => return Err(problem),
                // A mesh process that is being restarted.
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    fn tell(&self, text: &str) {
        output::note(text);
    }

    async fn stopped(&mut self) {
        self.stop.cancelled().await;
    }
}

/// Who was refused at the targets' ports.
fn refused_in(ports: &[PortStand], targets: &[Target], since: UnixTime) -> Vec<String> {
    let mut named = BTreeSet::new();
    for target in targets {
        let Target::Workload(key, only) = target else {
            continue;
        };
        let own = ports.iter().filter(|p| p.workload == *key);
        for port in own.filter(|p| only.is_empty() || only.contains(&p.port)) {
            let refused = port
                .calls
                .iter()
                .filter(|c| c.refused > 0 && c.last >= since);
            named.extend(refused.map(|call| {
                format!(
                    "{} ({}) at {}:{}, {} times",
                    call.caller, call.address, port.workload, port.port, call.refused
                )
            }));
        }
    }
    named.into_iter().collect()
}
