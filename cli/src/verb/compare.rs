//! `reeve compare`: two versions, judged on the same requests.
//!
//! Where a route mirrors what one version is asked to another, each request is in the audit log twice, once for each, with
//! one trace id. Nothing else is needed: the same stretch of the log gives the same answer, whoever asks and whenever.

mod pairs;
mod report;
mod test;

use clap::Args;
use reeve_audit::query::{Filter, MAX_RESULTS};
use reeve_core::{Clock, SystemClock, UnixTime, WorkloadName};

use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    verb::audit::{LogArgs, unreadable},
};
use pairs::Pairs;
use report::{Report, Window};
use test::Bounds;

const EXAMPLES: &str = "\
Examples:
  reeve compare reviews-v1 reviews-v3 --since 30m
  reeve compare reviews-v1 reviews-v3 --since 2026-11-21T09:00:00Z --until 2026-11-21T09:30:00Z -o json
  reeve compare reviews-v1 reviews-v3 --since 1h --path /reviews --tolerance 5

Mirror the first version's requests to the second (VirtualService `mirrors`, see docs/traffic.md), and ask once they have
come by. Compared are the status of each pair (McNemar's exact test: does one fail where the other does not, more often
than chance would have it?), its latency at the servers' sidecars (Wilcoxon's signed-rank test on the pairs, and how far
the medians are apart) and the length of the answers. A version is slower if both the test and --tolerance say so.

The window is printed; the same window of the same log gives the same answer.

Exit codes: 0 = the second does no worse, 1 = it does, or there are too few pairs to say, 2 = the log could not be read.";

/// `reeve compare`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompareArgs {
    /// The workload that is in use.
    #[arg(value_name = "A", value_parser = WorkloadName::parse)]
    a: WorkloadName,
    /// The workload that is to be judged.
    #[arg(value_name = "B", value_parser = WorkloadName::parse)]
    b: WorkloadName,
    /// Not before this time: RFC 3339, seconds since 1970, or 5m for five minutes ago.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    since: String,
    /// Before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// How the path begins.
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// How improbable a difference must be by chance to count.
    #[arg(long, value_name = "P", default_value_t = 0.01)]
    alpha: f64,
    /// By how many per cent medians may differ without counting.
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    tolerance: f64,
    /// Fewer pairs are no basis.
    #[arg(long, value_name = "N", default_value_t = 30)]
    min_pairs: usize,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Compares.
pub(crate) fn run(args: &CompareArgs) -> Verdict {
    if args.a == args.b {
        return Err(Problem::new("the two workloads are the same").fix("name two of one service"));
    }
    let now = SystemClock.now();
    let time = |text: &str| input::time(text, now).map_err(Problem::new);
    let since = time(&args.since)?;
    let until = args.until.as_deref().map_or(Ok(now), time)?;
    let (pairs, cut) = read(args, since, until)?;
    let bounds = Bounds {
        alpha: args.alpha,
        tolerance: args.tolerance / 100.0,
        min_pairs: args.min_pairs,
    };
    let window = Window { since, until, cut };
    let report = Report::of(&args.a, &args.b, window, &pairs, &bounds);
    match args.output.output {
        Format::Json => output::json(&report)?,
        Format::Human => output::line(&report.describe())?,
    }
    Ok(Answer::from_fine(report.verdict.is_fine()))
}

/// The pairs of the window, and whether it holds more records than are read.
fn read(args: &CompareArgs, since: UnixTime, until: UnixTime) -> Result<(Pairs, bool), Problem> {
    let reader = args.log.open()?;
    let query = |kind: &str, path: Option<String>| {
        let filter = Filter {
            since: Some(since),
            until: Some(until),
            path,
            kind: Some(kind.to_owned()),
            ..Filter::default()
        };
        reader.query(&filter).map_err(|error| unreadable(&error))
    };
    let decisions = query("decision", args.path.clone())?;
    let outcomes = query("outcome", None)?;
    args.log.tell(decisions.len() + outcomes.len());
    let cut = decisions.len() == MAX_RESULTS || outcomes.len() == MAX_RESULTS;
    let pairs = Pairs::of(&args.a, &args.b, &decisions, &outcomes);
    Ok((pairs, cut))
}
