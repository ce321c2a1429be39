//! `reeve rollout`: moves traffic from one version to another, step by step, as long as the new one does well.
//!
//! The weights are changed where they are written, in the configuration folder; what the sidecars count of the new
//! version's answers decides. Whatever ends a rollout early puts the weights back.

mod drive;
pub(super) mod judge;
pub(super) mod measure;
mod report;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use reeve_control::{DEFAULT_NAMESPACE, Split, SplitError, SplitQuery};
use reeve_core::{Namespace, model::Generation};
use tokio_util::sync::CancellationToken;

use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    supervisor::obey_signals,
    verb::{block_on, duration, mesh_api::MeshApi, status},
};
use drive::{Plan, Stage};
use judge::Thresholds;
use measure::{Counts, Source};
use report::Report;

const EXAMPLES: &str = "\
Examples:
  reeve rollout canary reviews --from v1 --to v3
  reeve rollout canary reviews --from v1 --to v3 --steps 1,10,50,100 --hold 5m --min-success 99.9 --max-p99 250ms
  reeve rollout blue-green reviews --from v1 --to v2 --hold 10m --report rollout.json
  reeve rollout canary reviews.shop.svc.cluster.local -n shop --rule main --from v1 --to v2 -o json

A step sets the two weights in the VirtualService's file (their sum stays what it was, other subsets keep theirs),
waits until every proxy has them, and holds. When the new version breaches a threshold, when too few requests came to
judge it, or at Ctrl-C, the weights of the beginning are put back. A rollout that was killed is taken up by starting it
again: steps that the new version already has are left out.

Success and latency are what the callers' sidecars count for the new version: 5xx, no answer, and gRPC's server faults are
failures.

Exit codes: 0 = all traffic is where it should be, 1 = rolled back, 2 = it could not run.";

/// How often the sidecars are asked.
const ASK: Duration = Duration::from_secs(1);
/// How long a change may take to be in force everywhere.
const IN_FORCE: Duration = Duration::from_secs(30);

/// `reeve rollout`.
#[derive(Args, Debug)]
pub(crate) struct RolloutArgs {
    /// How.
    #[command(subcommand)]
    verb: RolloutVerb,
}

#[derive(Debug, Subcommand)]
enum RolloutVerb {
    /// Move traffic in steps
    #[command(after_help = EXAMPLES)]
    Canary(CanaryArgs),
    /// Move all traffic at once, and back at once if need be
    #[command(after_help = EXAMPLES)]
    BlueGreen(CommonArgs),
}

#[derive(Args, Debug)]
struct CanaryArgs {
    /// Per cent of the two subsets' traffic that the new one gets, step by step.
    #[arg(long, value_name = "PERCENT,…", value_delimiter = ',', default_values_t = [5, 25, 50, 100],
          value_parser = clap::value_parser!(u32).range(1..=100))]
    steps: Vec<u32>,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Args, Debug)]
struct CommonArgs {
    /// The service, by its name in the namespace or in full.
    #[arg(value_name = "SERVICE")]
    host: String,
    /// The subset that has the traffic.
    #[arg(long, value_name = "SUBSET")]
    from: String,
    /// The subset that is to get it.
    #[arg(long, value_name = "SUBSET")]
    to: String,
    /// The namespace of the VirtualService.
    #[arg(short, long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE, value_parser = Namespace::parse)]
    namespace: Namespace,
    /// The name of the http rule, where several split this traffic.
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// How long each step is watched.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    hold: Duration,
    /// The least share of requests that succeed, in per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 99.0, value_parser = percent)]
    min_success: f64,
    /// The longest 99th percentile of latency.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_p99: Option<Duration>,
    /// So many requests make a judgement; a step is held longer until they have come.
    #[arg(long, value_name = "N", default_value_t = 20)]
    min_requests: u64,
    /// The longest that a step waits for them.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    patience: Duration,
    /// Write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The configuration folder [default: the running mesh's].
    #[arg(short = 'f', long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Does it.
pub(crate) fn run(args: &RolloutArgs) -> Verdict {
    let (common, steps) = match &args.verb {
        RolloutVerb::Canary(args) => (&args.common, args.steps.as_slice()),
        RolloutVerb::BlueGreen(common) => (common, [100].as_slice()),
    };
    if !steps.is_sorted() || steps.last() != Some(&100) {
        return Err(Problem::new("--steps must grow and end with 100").fix("such as 5,25,50,100"));
    }
    block_on(roll(common, steps))
}

async fn roll(args: &CommonArgs, steps: &[u32]) -> Verdict {
    let state = args.state.existing()?;
    let folder = match &args.folder {
        Some(folder) => folder.clone(),
        None => state.supervisor()?.folder,
    };
    let query = SplitQuery {
        namespace: args.namespace.clone(),
        host: args.host.clone(),
        from: args.from.clone(),
        to: args.to.clone(),
        rule: args.rule.clone(),
    };
    let split = Split::find(&folder, &query).map_err(|error| explain(&error, args))?;
    let source = Source::of(&split, &state, &args.to)?;
    let plan = Plan {
        steps: steps.to_vec(),
        hold: args.hold,
        patience: args.patience,
        ask: ASK,
        thresholds: Thresholds {
            min_success: args.min_success / 100.0,
            max_p99: args.max_p99,
            min_requests: args.min_requests,
        },
    };
    output::note(&format!(
        "{}: {} → {} at {}",
        split.service, args.from, args.to, split.place
    ));
    let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
    obey_signals(stop.clone(), abort.clone())?;
    let report = Report::begin(&split, args.from.clone(), args.to.clone());
    let mut stage = Live {
        api: MeshApi::of(&state)?,
        split,
        source,
        stop,
    };
    let driven = drive::drive(&plan, &mut stage, report);
    let report = match abort.run_until_cancelled(driven).await {
        Some(report) => report?,
        None => return Err(aborted(&folder)),
    };
    if let Some(file) = &args.report {
        report.write(file)?;
    }
    match args.output.output {
        Format::Json => output::json(&report)?,
        Format::Human => output::line(&report.describe())?,
    }
    Ok(Answer::from_fine(report.promoted))
}

/// A second signal does not wait until the weights are back.
fn aborted(folder: &Path) -> Problem {
    Problem::new("ended in the middle")
        .at(folder.display())
        .fix("look at the weights: they stay as they are now")
}

fn explain(error: &SplitError, args: &CommonArgs) -> Problem {
    let problem = Problem::because("there is nothing to roll out", error);
    match error {
        SplitError::Missing { .. } => problem.fix(format!(
            "give a rule both destinations with weights, such as {{destination: {{host: {}, subset: {}}}, weight: 100}} and \
             {{destination: {{host: {0}, subset: {}}}, weight: 0}}, and the subsets labels in a DestinationRule",
            args.host, args.from, args.to
        )),
        SplitError::Several(_) => problem.fix("name one with --rule NAME (http[].name)"),
        SplitError::Crowded { .. } => problem.fix("give each weight a line of its own"),
        SplitError::Invalid(_) | SplitError::Changed { .. } | SplitError::Io { .. } => problem,
    }
}

/// The running mesh.
struct Live {
    api: MeshApi,
    split: Split,
    source: Source,
    stop: CancellationToken,
}

impl Stage for Live {
    fn weights(&self) -> (u32, u32) {
        (self.split.from.weight, self.split.to.weight)
    }

    async fn set(&mut self, from: u32, to: u32) -> Result<(), Problem> {
        if self.weights() == (from, to) {
            return Ok(());
        }
        let before = self.api.status().await?.generation;
        self.split
            .set(from, to)
            .map_err(|error| Problem::because("the weights could not be written", &error))?;
        let wanted = status::Wanted::Number(Generation(before.0.saturating_add(1)));
        if status::wait(&self.api, wanted, IN_FORCE).await? {
            return Ok(());
        }
        Err(
            Problem::new("the new weights did not come into force everywhere")
                .at(&self.split.place)
                .fix("`reeve status` names the proxies that lack them"),
        )
    }

    async fn counts(&mut self) -> Result<Counts, Problem> {
        self.source.counts().await
    }

    fn tell(&self, text: &str) {
        output::note(text);
    }

    async fn stopped(&mut self) {
        self.stop.cancelled().await;
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse() {
        Ok(share) if (0.0..=100.0).contains(&share) => Ok(share),
        _ => Err("write a number from 0 to 100, such as 99.5".to_owned()),
    }
}
