//! `reeve audit tail`, `show`, `query` and `explain`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use clap::{Args, ValueEnum};
use reeve_audit::{
    EventKind, Reader, ScanError, parse_record_id,
    query::{Explained, Filter, Found, MAX_RESULTS, ReadError},
};
use reeve_columns::Columns;
use reeve_console::TrailRead;
use reeve_core::{
    Clock, RecordId, ServiceName, SpiffeId, SystemClock, UnixTime,
    decision::{Effect, Reason},
};
use serde::Serialize;

use super::{
    describe,
    far::FarArgs,
    remote::{self, Part},
    sql,
};
use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::{StateArgs, WALS, all_logs, replica_logs, replica_parts},
    verb::{block_on, operator, policy::full_name},
};

pub(super) const TAIL_EXAMPLES: &str = "\
Examples:
  reeve audit tail                 the last 20 decisions
  reeve audit tail -f --denied     every denial as it happens
  reeve audit tail -f -o json | jq .reason

Exit codes: 0 = fine, 1 = there are none, 2 = the log could not be read.";

pub(super) const SHOW_EXAMPLES: &str = "\
Examples:
  reeve audit show d-04005m…            by the id that a denied caller was given
  reeve audit show reviews-v1-0/1/0/42  by the record's own id

Exit codes: 0 = fine, 1 = there is no such record, 2 = the log could not be read.";

pub(super) const EXPLAIN_EXAMPLES: &str = "\
Examples:
  reeve audit explain d-04005m…         why a request was denied
  reeve audit explain reviews-v1-0/1/0/42 -o json

Exit codes: 0 = fine, 1 = there is no such decision, 2 = the log could not be read.";

pub(super) const QUERY_EXAMPLES: &str = "\
Examples:
  reeve audit query --effect deny --since 1h
  reeve audit query --service ratings --from spiffe://mesh.local/ns/default/sa/bookinfo-reviews --limit 5
  reeve audit query --trace 4bf92f3577b34da6a3ce929d0e0e4736
  reeve audit query --kind event -o json | jq .event
  reeve audit query --sql \"select principal, count(*) from records where effect = 'deny' group by 1\"
  reeve audit query --dir s3://trail/mesh.local/audit --denied
  reeve audit query --mesh-address 10.0.0.7:15012 --bundle bundle.pem --token-file token --denied

Exit codes: 0 = fine, 1 = nothing matched, 2 = the log could not be read.";

/// How long the mesh process may take to put a reading on record.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Where the log is.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct LogArgs {
    /// The log's folder or bucket (s3://BUCKET/PREFIX), if it is not that of the mesh in the state directory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
}

impl LogArgs {
    /// That of the mesh of `state`.
    pub(crate) fn of(state: &StateArgs) -> Self {
        Self {
            dir: None,
            state: state.clone(),
        }
    }

    /// The state directory that was named.
    pub(crate) fn state(&self) -> &StateArgs {
        &self.state
    }

    /// The log's folder.
    pub(super) fn folder(&self) -> Result<PathBuf, Problem> {
        match &self.dir {
            Some(dir) => remote::here(dir, Part::Searched),
            None => Ok(self.state.existing()?.audit()),
        }
    }

    /// The logs, and the columns of each for reading them as such.
    pub(super) fn open_columns(&self) -> Result<(Reader, Vec<Columns>), Problem> {
        let columns = columns(&self.folder()?).map_err(|error| unreadable(&error))?;
        Ok((self.open()?, columns))
    }

    /// Tells the mesh process, which puts on record that its trail was read: by whom, what was asked for, and how many records
    /// were shown. Whoever reads a copy reads no mesh's trail, and where no mesh process runs there is nobody to tell.
    pub(crate) fn tell(&self, shown: impl TryInto<u64>) {
        let Some(state) = self.dir.is_none().then(|| self.state.existing()) else {
            return;
        };
        let filter: Vec<String> = std::env::args().skip(1).collect();
        let read = TrailRead {
            filter: filter.join(" "),
            shown: shown.try_into().unwrap_or(u64::MAX),
        };
        let told = state.and_then(|state| {
            block_on(async move {
                let refused = |text: &str| Problem::new(text);
                operator::post(&state, "/admin/trail-read", &read, PATIENCE, refused).await
            })
        });
        if let Err(problem) = told {
            tracing::debug!(?problem, "the mesh process was not told of this reading");
        }
    }

    /// The log, with what sidecars have not shipped yet.
    pub(crate) fn open(&self) -> Result<Reader, Problem> {
        let opened = match self.dir {
            Some(_) => open(&self.folder()?),
            None => open_live(&self.state.existing()?.audit()),
        };
        opened.map_err(|error| unreadable(&error))
    }
}

/// The log could not be read to its end.
pub(super) fn broken(error: &ScanError) -> Problem {
    Problem::new(reeve_core::error_chain(error))
        .fix("`reeve audit verify` tells what is wrong with a log")
}

/// The log in `dir` and those of its replicas; columns first, for what they hold.
fn open(dir: &Path) -> Result<Reader, ReadError> {
    let replicas: Result<_, _> = replica_logs(dir).iter().map(|log| open_one(log)).collect();
    Ok(open_one(dir)?.with_replicas(replicas?))
}

fn open_one(dir: &Path) -> Result<Reader, ReadError> {
    let reader = Reader::open(dir)?;
    Ok(reader.with_archive(Arc::new(Columns::open(dir)?)))
}

/// The same of a mesh on this machine, with what its processes have not shipped yet.
pub(crate) fn open_live(audit: &Path) -> Result<Reader, ReadError> {
    let mut wals = replica_parts(audit, WALS);
    wals.push(audit.with_file_name(WALS));
    let reader = open(audit)?;
    Ok(wals
        .iter()
        .fold(reader, |reader, wals| reader.with_wals(wals)))
}

/// The columns of the log in `dir`, and those of its replicas.
pub(crate) fn columns(dir: &Path) -> Result<Vec<Columns>, ReadError> {
    all_logs(dir).map(|log| Columns::open(&log)).collect()
}

/// The log could not be read.
pub(crate) fn unreadable(error: &ReadError) -> Problem {
    Problem::because("the audit log cannot be read", error)
        .fix("name the log's folder with --dir, or the mesh's state directory with --state")
}

/// `reeve audit tail`.
#[derive(Args, Debug)]
pub(super) struct TailArgs {
    /// How many records.
    #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
    lines: usize,
    /// Go on as records come.
    #[arg(short = 'f', long)]
    follow: bool,
    /// Only denials.
    #[arg(long)]
    denied: bool,
    /// Also records of other kinds: outcomes, events, aggregates.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// `reeve audit show` and `reeve audit explain`.
#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// The record: its own id, or the opaque id that callers see.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// `reeve audit query`.
#[derive(Args, Debug)]
pub(super) struct QueryArgs {
    /// Not before this time: RFC 3339, seconds since 1970, or 5m for five minutes ago.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The caller's SPIFFE ID.
    #[arg(long, value_name = "SPIFFE_ID")]
    from: Option<SpiffeId>,
    /// The SPIFFE ID of the workload asked.
    #[arg(long, value_name = "SPIFFE_ID")]
    workload: Option<SpiffeId>,
    /// The service asked (`reviews`, `reviews.shop`).
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Only decisions that came out so.
    #[arg(long, value_enum)]
    effect: Option<Outcome>,
    /// The same as --effect deny.
    #[arg(long, conflicts_with = "effect")]
    denied: bool,
    /// The reason, such as no_permit.
    #[arg(long, value_name = "WORD")]
    reason: Option<String>,
    /// The trace id.
    #[arg(long, value_name = "ID")]
    trace: Option<String>,
    /// How the path begins.
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// The kind of record.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Only events of this kind, such as config_applied.
    #[arg(long, value_name = "WORD")]
    event: Option<String>,
    /// At most so many, the newest.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Answer this query in SQL over the table `records` (needs a build with the feature `sql`).
    #[arg(long, value_name = "SELECT", conflicts_with_all = [
        "since", "until", "from", "workload", "service", "effect", "denied", "reason", "trace", "path", "kind", "event",
    ])]
    sql: Option<String>,
    /// How long SQL may take.
    #[arg(long, value_name = "DURATION", default_value = "60s", requires = "sql")]
    timeout: String,
    /// How much memory SQL may take, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 512, requires = "sql")]
    memory: usize,
    #[command(flatten)]
    far: FarArgs,
    #[command(flatten)]
    log: LogArgs,
    /// How to print the answer; csv with --sql.
    #[arg(short = 'o', long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Rows,
}

/// The form of a query's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Rows {
    /// For people.
    #[default]
    #[value(alias = "table")]
    Human,
    /// For programs.
    Json,
    /// Comma-separated values.
    Csv,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Outcome {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Decision,
    Outcome,
    Event,
    Aggregate,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Outcome => "outcome",
            Self::Event => "event",
            Self::Aggregate => "aggregate",
        }
    }
}

pub(super) fn tail(args: &TailArgs) -> Verdict {
    let reader = args.log.open()?;
    let mut filter = Filter {
        effect: args.denied.then_some(Effect::Deny),
        kind: (!args.all).then(|| "decision".to_owned()),
        limit: args.lines.clamp(1, MAX_RESULTS),
        ..Filter::default()
    };
    let mut shown = Shown::default();
    let (mut any, mut first) = (false, true);
    loop {
        let found = reader.query(&filter).map_err(|error| unreadable(&error))?;
        let fresh = shown.fresh(found);
        if first {
            // Once: a followed log would follow that, too.
            args.log.tell(fresh.len());
            first = false;
        }
        for found in fresh {
            any = true;
            print(&found, args.output.output)?;
        }
        if !args.follow {
            return Ok(Answer::from_fine(any));
        }
        filter.limit = 0;
        filter.since = shown.since();
        thread::sleep(LOOK);
    }
}

/// Which records a followed log has shown: those of the last moments, since proxies' records come in late.
#[derive(Debug, Default)]
struct Shown {
    recent: std::collections::BTreeMap<RecordId, UnixTime>,
    newest: UnixTime,
}

impl Shown {
    /// How late a record may come in.
    const LATE: Duration = Duration::from_secs(10);

    fn fresh(&mut self, found: Vec<Found>) -> Vec<Found> {
        let first = self.newest == UnixTime::default();
        let mut fresh: Vec<_> = found
            .into_iter()
            .filter(|found| first || !self.recent.contains_key(&found.record.id))
            .collect();
        fresh.sort_by_key(|found| found.record.time);
        for found in &fresh {
            self.newest = self.newest.max(found.record.time);
            self.recent
                .insert(found.record.id.clone(), found.record.time);
        }
        let horizon = self.newest.minus(Self::LATE);
        self.recent.retain(|_, time| *time >= horizon);
        fresh
    }

    fn since(&self) -> Option<UnixTime> {
        (self.newest != UnixTime::default()).then(|| self.newest.minus(Self::LATE))
    }
}

pub(super) fn query(args: &QueryArgs) -> Verdict {
    if let Some(text) = &args.sql {
        let limits = (args.timeout.as_str(), args.memory);
        let logs: Vec<_> = all_logs(&args.log.folder()?).collect();
        let rows = sql::run(&logs, text, args.output, limits)?;
        args.log.tell(rows);
        return Ok(Answer::from_fine(rows > 0));
    }
    let format = match args.output {
        Rows::Human => Format::Human,
        Rows::Json => Format::Json,
        Rows::Csv => {
            return Err(Problem::new("records are not lines of values")
                .fix("ask with --sql for the columns that you want, or take -o json"));
        }
    };
    let filter = args.filter(SystemClock.now())?;
    let found = match args.far.named()? {
        Some(far) => far.query(&filter)?,
        None => {
            let found = args.log.open()?.query(&filter);
            let found = found.map_err(|error| unreadable(&error))?;
            args.log.tell(found.len());
            found
        }
    };
    for found in &found {
        print(found, format)?;
    }
    Ok(Answer::from_fine(!found.is_empty()))
}

impl QueryArgs {
    /// What is looked for.
    fn filter(&self, now: UnixTime) -> Result<Filter, Problem> {
        let time = |text: &Option<String>| {
            let parsed = text.as_deref().map(|text| input::time(text, now));
            parsed.transpose().map_err(Problem::new)
        };
        let service = self.service.as_deref().map(full_name);
        let service = service.map(|name| ServiceName::parse(&name)).transpose();
        let effect = match (self.effect, self.denied) {
            (Some(Outcome::Allow), _) => Some(Effect::Allow),
            (Some(Outcome::Deny), _) | (None, true) => Some(Effect::Deny),
            (None, false) => None,
        };
        Ok(Filter {
            since: time(&self.since)?,
            until: time(&self.until)?,
            principal: self.from.clone(),
            workload: self.workload.clone(),
            service: service.map_err(Problem::new)?,
            effect,
            reason: self.reason.as_deref().map(parse_reason).transpose()?,
            trace: self.trace.clone(),
            path: self.path.clone(),
            kind: self.kind.map(|kind| kind.as_str().to_owned()),
            event: self.event.as_deref().map(parse_event).transpose()?,
            limit: self.limit.clamp(1, MAX_RESULTS),
            ..Filter::default()
        })
    }
}

fn parse_event(text: &str) -> Result<EventKind, Problem> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|_| {
        Problem::new(format!("{text:?} is no kind of event"))
            .fix("write one as records have it, such as config_applied or identity_issued")
    })
}

fn parse_reason(text: &str) -> Result<Reason, Problem> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|_| {
        Problem::new(format!("{text:?} is no reason"))
            .fix("write one as records have it, such as permitted, no_permit, forbidden or invalid_token")
    })
}

pub(super) fn show(args: &ShowArgs) -> Verdict {
    let id = record_id(&args.id)?;
    let found = args
        .log
        .open()?
        .show(&id)
        .map_err(|error| unreadable(&error))?;
    args.log.tell(usize::from(found.is_some()));
    let Some(found) = found else {
        return no_record(&id);
    };
    match args.output.output {
        Format::Json => output::json_line(&with_place(&found))?,
        Format::Human => {
            output::json(&found.record)?;
            output::line(&describe::place(&found))?;
        }
    }
    Ok(Answer::Yes)
}

/// The decision with this id, in words that it is not there if it is not.
pub(crate) fn explained(log: &LogArgs, id: &str) -> Result<Option<Explained>, Problem> {
    let id = record_id(id)?;
    let explained = log.open()?.explain(&id);
    let explained = explained.map_err(|error| unreadable(&error))?;
    log.tell(usize::from(explained.is_some()));
    if explained.is_none() {
        no_record(&id)?;
    }
    Ok(explained)
}

pub(super) fn explain(args: &ShowArgs) -> Verdict {
    let Some(explained) = explained(&args.log, &args.id)? else {
        return Ok(Answer::No);
    };
    match args.output.output {
        Format::Json => output::json_line(&explained)?,
        Format::Human => output::line(&describe::explained(&explained))?,
    }
    Ok(Answer::Yes)
}

fn record_id(text: &str) -> Result<RecordId, Problem> {
    parse_record_id(text).map_err(|error| {
        Problem::new(reeve_core::error_chain(&error))
            .fix("take the id from x-reeve-decision-id, the body of a 403, or `reeve audit tail`")
    })
}

fn no_record(id: &RecordId) -> Verdict {
    output::note(&format!(
        "there is no record {id} in this log (a record is here at most a second after its decision)"
    ));
    Ok(Answer::No)
}

/// A record as JSON with where it was found.
#[derive(Serialize)]
struct Placed<'a> {
    #[serde(flatten)]
    record: &'a reeve_audit::Record,
    decision_id: &'a str,
    logged: bool,
    place: &'a str,
}

fn with_place(found: &Found) -> Placed<'_> {
    Placed {
        record: &found.record,
        decision_id: &found.decision_id,
        logged: found.logged,
        place: &found.place,
    }
}

fn print(found: &Found, format: Format) -> Result<(), Problem> {
    match format {
        Format::Json => output::json_line(&with_place(found)),
        Format::Human => output::line(&describe::line(found)),
    }
}
