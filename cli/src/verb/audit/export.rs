//! `reeve audit export`.

mod otlp;

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use clap::{Args, ValueEnum};
use reeve_audit::{Scan, ScanError};
use reeve_columns::SegmentWriter;
use reeve_core::{Clock, SystemClock, UnixTime};
use serde::Deserialize;

use super::read::{LogArgs, broken, unreadable};
use crate::{
    input, output,
    problem::{Answer, Problem, Verdict},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve audit export --since 7d > week.jsonl
  reeve audit export --to parquet --out week.parquet --since 7d
  duckdb -c \"select principal, services, count(*) from 'week.parquet' where effect = 'deny' group by all\"
  reeve audit export --to otlp --endpoint http://127.0.0.1:4318 --since 1h

JSON lines are the records as they were written. Parquet has the columns of the log's own segments (docs/audit-record.md),
which Spark, Trino, DuckDB and ClickHouse read as well. OTLP logs go to a collector over HTTP, in JSON, a record in each; a
collector that refuses one ends the export.

Exit codes: 0 = fine, 1 = there were no records, 2 = it could not be done.";

/// `reeve audit export`.
#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    /// What to write.
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    to: To,
    /// Into this file, which must not be there yet; JSON lines go to standard output without it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The collector's OTLP/HTTP address, such as http://127.0.0.1:4318.
    #[arg(long, value_name = "URL", required_if_eq("to", "otlp"))]
    endpoint: Option<String>,
    /// Not before this time: RFC 3339, seconds since 1970, or 7d for seven days ago.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    log: LogArgs,
}

/// A form of export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum To {
    /// JSON lines.
    #[default]
    Jsonl,
    /// A Parquet file.
    Parquet,
    /// Logs for an OpenTelemetry collector.
    Otlp,
}

#[derive(Deserialize)]
struct Timed {
    time: UnixTime,
}

pub(super) fn run(args: &ExportArgs) -> Verdict {
    let now = SystemClock.now();
    let time = |text: &Option<String>| {
        let parsed = text.as_deref().map(|text| input::time(text, now));
        parsed.transpose().map_err(Problem::new)
    };
    let (since, until) = (time(&args.since)?, time(&args.until)?);
    let scan = args.log.open()?.scan(since).map_err(|e| unreadable(&e))?;
    let span = (since.unwrap_or_default(), until);
    let count = match args.to {
        To::Jsonl => lines(&scan, span, args)?,
        To::Parquet => parquet(&scan, span, args)?,
        To::Otlp => {
            let endpoint = args.endpoint.as_deref().unwrap_or_default();
            let mut collector = otlp::Collector::new(endpoint)?;
            let count = each(&scan, span, &mut |record| collector.push(record))?;
            collector.flush()?;
            count
        }
    };
    args.log.tell(usize::try_from(count).unwrap_or(usize::MAX));
    output::note(&format!("{count} records"));
    Ok(Answer::from_fine(count > 0))
}

/// Hands out the records of that time; how many there were.
fn each(
    scan: &Scan,
    (since, until): (UnixTime, Option<UnixTime>),
    take: &mut dyn FnMut(&[u8]) -> Result<(), Problem>,
) -> Result<u64, Problem> {
    let (mut count, mut buffer) = (0, Vec::new());
    let mut failed = None;
    for part in 0..scan.parts() {
        let read = scan.read(part, &mut buffer, &mut |record| {
            let Timed { time } =
                serde_json::from_slice(record).map_err(|e| ScanError::record(record, e))?;
            if failed.is_none() && time >= since && until.is_none_or(|until| time < until) {
                count += 1;
                failed = take(record).err();
            }
            Ok(())
        });
        read.map_err(|error| broken(&error))?;
        if let Some(problem) = failed {
            return Err(problem);
        }
    }
    Ok(count)
}

type Span = (UnixTime, Option<UnixTime>);

fn lines(scan: &Scan, span: Span, args: &ExportArgs) -> Result<u64, Problem> {
    let mut out: Box<dyn Write> = match &args.out {
        Some(_) => Box::new(BufWriter::new(file(args)?)),
        None => Box::new(BufWriter::new(io::stdout().lock())),
    };
    let count = each(scan, span, &mut |record| {
        let written = out.write_all(record).and_then(|()| out.write_all(b"\n"));
        written.map_err(|e| unwritable(&e))
    })?;
    out.flush().map_err(|e| unwritable(&e))?;
    Ok(count)
}

fn parquet(scan: &Scan, span: Span, args: &ExportArgs) -> Result<u64, Problem> {
    let unwritten =
        |e: reeve_columns::WriteError| Problem::because("the export could not be written", &e);
    let mut writer = SegmentWriter::new(BufWriter::new(file(args)?)).map_err(unwritten)?;
    let count = each(scan, span, &mut |record| {
        writer.push(record, "").map_err(unwritten)
    })?;
    let (out, _) = writer.finish(|_| Vec::new()).map_err(unwritten)?;
    let file = out.into_inner().map_err(|e| unwritable(e.error()))?;
    file.sync_all().map_err(|e| unwritable(&e))?;
    Ok(count)
}

fn file(args: &ExportArgs) -> Result<File, Problem> {
    let path = args.out.as_ref();
    let path =
        path.ok_or_else(|| Problem::new("a Parquet file needs a name").fix("name it with --out"))?;
    let created = File::create_new(path);
    created.map_err(|e| Problem::because("the file could not be made", &e).at(path.display()))
}

fn unwritable(error: &io::Error) -> Problem {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    Problem::because("the export could not be written", error)
}
