//! `reeve logs`: application output and access log lines, joined.

use std::{thread, time::Duration};

use clap::Args;

use crate::{
    logs::{
        follow::Logs,
        join::{Trace, Wanted, sort},
        line::Line,
    },
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    supervisor::logfile::timestamp,
};

const EXAMPLES: &str = "\
Examples:
  reeve logs                        everything, in order of time
  reeve logs reviews-v2 -f          one workload, and go on as lines come
  reeve logs --trace 4bf92f3577b34da6a3ce929d0e0e4736    one request's way through the mesh
  reeve logs -o json | jq -r 'select(.source == \"access\") | .text'

Exit codes: 0 = fine, 1 = nothing matched, 2 = the logs could not be read.";

/// `reeve logs`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LogsArgs {
    /// Only this workload or instance.
    #[arg(value_name = "WORKLOAD")]
    pub(crate) workload: Option<String>,
    /// Only lines of this trace id or request id.
    #[arg(long, value_name = "ID")]
    pub(crate) trace: Option<String>,
    /// Go on as lines come.
    #[arg(short = 'f', long)]
    pub(crate) follow: bool,
    /// Also lines that are neither application output nor access log: the sidecars' and the mesh process's own.
    #[arg(long)]
    pub(crate) internal: bool,
    /// How many of the last lines to show.
    #[arg(short = 'n', long, default_value_t = 200, value_name = "N")]
    pub(crate) lines: usize,
    #[command(flatten)]
    pub(crate) state: StateArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// How often followed files are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Shows the logs.
pub(crate) fn run(args: &LogsArgs) -> Verdict {
    let folder = args.state.existing()?.logs();
    let mut logs = Logs::default();
    let mut read = || {
        logs.read(&folder).map_err(|error| {
            Problem::because("the logs cannot be read", &error)
                .at(folder.display())
                .fix("name the mesh's state directory with --state")
        })
    };
    let mut lines = read()?;
    let mut wanted = Wanted {
        workload: args.workload.clone(),
        trace: args.trace.as_deref().map(Trace::new),
        internal: args.internal,
    };
    select(&mut lines, &mut wanted);
    let any = !lines.is_empty();
    let skip = if args.trace.is_some() {
        0
    } else {
        lines.len().saturating_sub(args.lines)
    };
    show(lines.get(skip..).unwrap_or_default(), args.output.output)?;
    if args.follow {
        loop {
            thread::sleep(LOOK);
            let mut lines = read()?;
            select(&mut lines, &mut wanted);
            show(&lines, args.output.output)?;
        }
    }
    if !any {
        output::note("nothing matched; see `reeve status` for the instances that run");
    }
    Ok(Answer::from_fine(any))
}

fn select(lines: &mut Vec<Line>, wanted: &mut Wanted) {
    sort(lines);
    if let Some(trace) = &mut wanted.trace {
        trace.learn(lines);
    }
    lines.retain(|line| wanted.has(line));
}

fn show(lines: &[Line], format: Format) -> Result<(), Problem> {
    for line in lines {
        match format {
            Format::Json => output::json_line(line)?,
            Format::Human => output::line(&format!(
                "{} {:<20} {} {}",
                timestamp(line.time),
                line.instance,
                line.source.as_str(),
                line.text
            ))?,
        }
    }
    Ok(())
}
