//! `reeve drill`: rotates, takes away and breaks on purpose, while it is watched what is lost.

mod load;
mod page;
mod report;
mod run;
mod script;
mod traffic;
mod world;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use reeve_core::{Clock, SpiffeId, SystemClock};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    output::{self, Format, OutputArgs, plain_table},
    problem::{Answer, Problem},
    state::StateArgs,
    supervisor::{logfile::timestamp, obey_signals},
    verb::{audit::LogArgs, block_on, confirm::confirm, duration},
};
use load::Call;
use report::{Counts, Of, Report, Verdict};
use run::{Run, Stop};
use script::{Drill, How, in_words};
use world::World;

const LIST_EXAMPLES: &str = "\
Examples:
  reeve drill list
  reeve drill list -o json | jq -r '.drills[].name'

Exit codes: 0 = fine, 2 = the reports could not be read.";

const RUN_EXAMPLES: &str = "\
Examples:
  reeve drill run rotate-root --dry-run          what would happen, and to whom
  reeve drill run rotate-root                    on the running mesh, under load
  reeve drill run rotate-workloads --rps 500     under more of it
  reeve drill run ca-outage --for 10m --no-load  under the mesh's own traffic alone
  reeve drill run expire --yes                   breaks every request on purpose: certificates end
  reeve drill run rotate-root --call client-0=echo:9080/ --call client-0=raw:9090

The load asks, beside each caller's sidecar, what applications were lately permitted to ask (GET requests in the audit
log, and raw TCP), or what --call says. An answer other than the one before the drill has failed. Ctrl-C, a failure too
many (--stop-at), or a step that takes too long end the drill, and everything is put back; a fault of the authority ends by
itself within 15 s even if the drill is killed. The report stays in the state directory: `reeve drill report`.

Exit codes: 0 = passed, 1 = failed, 2 = it could not run, 3 = rolled back.";

const REPORT_EXAMPLES: &str = "\
Examples:
  reeve drill report                            the newest: verdict, figures, timeline
  reeve drill report rotate-root-20261122t101500z
  reeve drill report -o json | jq .verdict
  reeve drill report --html > drill.html        one page, to be sent to somebody

Exit codes: 0 = fine, 2 = there is no report.";

/// Requests a second of the load at most.
const MOST_RPS: i64 = 5_000;
/// How long the load runs before anything happens.
const BEFORE: Duration = Duration::from_secs(2);

/// `reeve drill`.
#[derive(Args, Debug)]
pub(crate) struct DrillArgs {
    #[command(subcommand)]
    verb: DrillVerb,
}

/// The verbs of `reeve drill`.
#[derive(Debug, Subcommand)]
enum DrillVerb {
    /// List the drills, and the reports of those that were run
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Run a drill on the running mesh
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Show the report of a drill
    #[command(after_help = REPORT_EXAMPLES)]
    Report(ReportArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct RunArgs {
    /// Which drill
    #[arg(value_enum)]
    name: Drill,
    /// Say what would happen and to whom, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before a drill that breaks requests on purpose
    #[arg(long)]
    yes: bool,
    /// How long the authority is away (ca-outage; by default half of a certificate's life), or the identity is revoked
    /// (revoke; by default 10s)
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
    /// Of revoke: what is revoked [default: the identity of the load's first caller]
    #[arg(long, value_name = "SPIFFE_ID")]
    identity: Option<SpiffeId>,
    /// Ask this as load: INSTANCE=SERVICE:PORT/PATH, without a path on a TCP port for connections that must stay open
    #[arg(long = "call", value_name = "CALL")]
    calls: Vec<String>,
    /// Make no load; only the mesh's own traffic is watched
    #[arg(long, conflicts_with = "calls")]
    no_load: bool,
    /// Requests per second of the load
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=MOST_RPS))]
    rps: u32,
    /// Roll back after so many failed requests of the load
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    stop_at: u64,
    /// Write the report into DIR as well
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct ReportArgs {
    /// The run's id; the newest one by default
    id: Option<String>,
    /// Print the report as a page
    #[arg(long)]
    html: bool,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Does it.
pub(crate) fn run(args: &DrillArgs) -> crate::problem::Verdict {
    match &args.verb {
        DrillVerb::List(args) => list(args),
        DrillVerb::Run(args) => block_on(drill(args)),
        DrillVerb::Report(args) => show(args),
    }
}

fn list(args: &ListArgs) -> crate::problem::Verdict {
    let reports = report::ids(&World::reports(&args.state.dir()));
    if args.output.output == Format::Json {
        let drills = Drill::ALL.map(|drill| {
            let [what, holds] = drill.about();
            json!({"name": drill.name(), "what": what, "holds": holds, "breaks": drill.warning()})
        });
        output::json(&json!({"drills": drills, "reports": reports}))?;
        return Ok(Answer::Yes);
    }
    let mut table = plain_table(["DRILL", "WHAT HAPPENS", "WHAT MUST HOLD"]);
    for drill in Drill::ALL {
        let [what, holds] = drill.about();
        table.add_row([drill.name(), what, holds]);
    }
    output::line(&table.trim_fmt())?;
    if !reports.is_empty() {
        output::line(&format!("\nreports:\n  {}", reports.join("\n  ")))?;
    }
    Ok(Answer::Yes)
}

fn show(args: &ReportArgs) -> crate::problem::Verdict {
    let dir = World::reports(&args.state.existing()?);
    let report = Report::read(&dir, args.id.as_deref())?;
    match (args.html, args.output.output) {
        (true, _) => output::line(&page::page(&report))?,
        (false, Format::Json) => output::json(&report)?,
        (false, Format::Human) => output::line(&report.describe())?,
    }
    Ok(Answer::Yes)
}

async fn drill(args: &RunArgs) -> crate::problem::Verdict {
    let stop = CancellationToken::new();
    obey_signals(stop.clone(), CancellationToken::new())?;
    let world = World::see(args.state.existing()?).await?;
    let (calls, unsteady) = calls(args, &world).await?;
    let how = how(args, &calls)?;
    if args.dry_run {
        return plan(args, &world, &how, &calls, &unsteady);
    }
    for why in &unsteady {
        output::note(&format!("not part of the load: {why}"));
    }
    if calls.is_empty() && !args.no_load {
        return Err(Problem::new("there is nothing to ask as load: no application was lately permitted to GET anything")
            .fix("name a call with --call INSTANCE=SERVICE:PORT/PATH, or watch the mesh's own traffic alone with --no-load"));
    }
    if let Some(warning) = args.name.warning() {
        confirm(args.yes, warning, "nothing was done")?;
    }
    let report = blank(args, &world, &how, &calls);
    let mut run = Run::new(&world, report, args.stop_at, stop);
    run.record("began", &run.report.plan.join("; "), None)
        .await?;
    run.note(Of::Drill, format!("drill {} begins", run.report.id));
    if !calls.is_empty() {
        run.ask(calls, args.rps);
    }
    let problem = play(args, &how, &mut run).await;
    let verdict = run.report.verdict;
    let ended = run
        .record("ended", &run.report.reason, Some(verdict.as_str()))
        .await;
    if let Err(problem) = ended {
        output::complain(&problem);
    }
    tell(args, &world, &run.report)?;
    if let Some(problem) = problem {
        return Err(problem);
    }
    Ok(match verdict {
        Verdict::Passed => Answer::Yes,
        Verdict::Failed => Answer::No,
        Verdict::RolledBack => Answer::Undone,
    })
}

/// What the load is made of, and what was left out of it.
async fn calls(args: &RunArgs, world: &World) -> Result<(Vec<Call>, Vec<String>), Problem> {
    if args.no_load {
        return Ok((Vec::new(), Vec::new()));
    }
    let calls = match args.calls.is_empty() {
        false => world.calls_named(&args.calls)?,
        true => world.calls_seen(&LogArgs::of(&args.state))?,
    };
    let named = !args.calls.is_empty();
    let (steady, unsteady) = load::probe(calls).await;
    if let (true, Some(why)) = (named, unsteady.first()) {
        return Err(Problem::new(format!("the load cannot be made: {why}")));
    }
    Ok((steady, unsteady))
}

/// How it is done; of `revoke`, to whom.
fn how(args: &RunArgs, calls: &[Call]) -> Result<How, Problem> {
    if args.identity.is_some() && args.name != Drill::Revoke {
        return Err(Problem::new("--identity is for `revoke` alone"));
    }
    let of_caller = calls.iter().find_map(|call| call.between.first());
    let identity = args.identity.as_ref().or(of_caller).cloned();
    Ok(How {
        time: args.time,
        identity: identity.filter(|_| args.name == Drill::Revoke),
    })
}

fn plan(
    args: &RunArgs,
    world: &World,
    how: &How,
    calls: &[Call],
    unsteady: &[String],
) -> crate::problem::Verdict {
    let steps = args.name.plan(world, how);
    if args.output.output == Format::Json {
        output::json(&json!({
            "drill": args.name.name(),
            "steps": steps,
            "breaks": args.name.warning(),
            "members": world.members,
            "calls": calls,
            "left_out": unsteady,
            "rps": args.rps,
            "stop_at": args.stop_at,
        }))?;
        return Ok(Answer::Yes);
    }
    let [what, holds] = args.name.about();
    let mut lines = vec![format!("{}: {what}; {holds}", args.name.name())];
    if let Some(warning) = args.name.warning() {
        lines.push(format!("breaks on purpose: {warning}"));
    }
    lines.push("\nsteps:".to_owned());
    let steps = (1..).zip(&steps).map(|(n, step)| format!("  {n}. {step}"));
    lines.extend(steps);
    lines.push(format!("\nto {} members:", world.members.len()));
    let member = |m: &reeve_ca::MemberStatus| {
        let left = in_words(m.holding.not_after.since(SystemClock.now()));
        format!("  {}, certificate ends in {left}", m.name)
    };
    lines.extend(world.members.iter().map(member));
    lines.push(format!(
        "\nload: {} requests a second; rolled back after {} failures",
        args.rps, args.stop_at
    ));
    let answer = |call: &Call| {
        let status = call.expected.map(|s| format!(", answered {s}"));
        format!("  {}{}", call.describe(), status.unwrap_or_default())
    };
    lines.extend(calls.iter().map(answer));
    lines.extend(unsteady.iter().map(|why| format!("  left out: {why}")));
    output::line(&lines.join("\n"))?;
    Ok(Answer::Yes)
}

fn blank(args: &RunArgs, world: &World, how: &How, calls: &[Call]) -> Report {
    let now = SystemClock.now();
    let stamp = timestamp(now).to_lowercase();
    let stamp: String = stamp.chars().filter(char::is_ascii_alphanumeric).collect();
    let domain = world.members.first();
    Report {
        id: format!("{}-{stamp}", args.name.name()),
        name: args.name.name().to_owned(),
        verdict: Verdict::Failed,
        reason: String::new(),
        began_at: now,
        took_ms: 0,
        trust_domain: domain.map_or_else(String::new, |m| {
            m.name.id.trust_domain().as_str().to_owned()
        }),
        by: format!("user {}", rustix::process::getuid().as_raw()),
        plan: args.name.plan(world, how),
        calls: calls.iter().map(Call::describe).collect(),
        load: Counts::default(),
        traffic: Counts::default(),
        p50_ms: None,
        p99_ms: None,
        handshakes_failed: 0,
        renewals: Vec::new(),
        timeline: Vec::new(),
        left_out: 0,
        failures: Vec::new(),
        samples: Vec::new(),
    }
}

/// Plays the drill, puts back what is to be put back, and comes to a verdict. A problem is why it could not go on.
async fn play(args: &RunArgs, how: &How, run: &mut Run<'_>) -> Option<Problem> {
    let played = match run.hold("before anything happens", BEFORE).await {
        Ok(()) => args.name.play(run, how).await,
        stopped => stopped,
    };
    let (mut verdict, mut reason, mut problem) = match played {
        Ok(()) => (Verdict::Passed, String::new(), None),
        Err(Stop::Threshold(why)) => (Verdict::RolledBack, why, None),
        Err(Stop::Interrupted) => (Verdict::RolledBack, "it was interrupted".to_owned(), None),
        Err(Stop::Wrong(why)) => (Verdict::Failed, why, None),
        Err(Stop::Problem(problem)) => (Verdict::Failed, format!("{problem:#}"), Some(problem)),
    };
    if verdict != Verdict::Passed {
        run.note(Of::Drill, format!("putting everything back: {reason}"));
        if let Err(undo) = args.name.undo(run, how).await {
            run.note(
                Of::Drill,
                format!("not everything could be put back: {undo}"),
            );
            problem.get_or_insert(undo);
        }
    }
    run.finish().await;
    let report = &run.report;
    let (lost, broken) = (report.load.failed, report.traffic.failed);
    if verdict == Verdict::Passed {
        let sent = report.load.ok + lost + report.load.failed_as_expected;
        reason = match (lost, broken) {
            (0, 0) => format!(
                "nothing was lost of {sent} requests of the load and {} of all traffic",
                report.traffic.ok
            ),
            _ => format!(
                "{lost} of {sent} requests of the load, and {broken} of all traffic, failed that should not"
            ),
        };
        if lost > 0 || broken > 0 {
            verdict = Verdict::Failed;
        }
    }
    (run.report.verdict, run.report.reason) = (verdict, reason);
    let text = format!("{}: {}", verdict.in_words(), run.report.reason);
    run.note(Of::Drill, text);
    problem
}

/// Keeps the report, and prints it.
fn tell(args: &RunArgs, world: &World, report: &Report) -> Result<(), Problem> {
    let dir = World::reports(&world.state);
    let page = report.write(&dir)?;
    report::tidy(&dir);
    let page = match &args.report {
        Some(dir) => report.write(dir)?,
        None => page,
    };
    match args.output.output {
        Format::Json => output::json(report)?,
        Format::Human => output::line(&report.describe())?,
    }
    output::note(&format!("\nthe report as a page: {}", page.display()));
    Ok(())
}
