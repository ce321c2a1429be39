//! `reeve audit report`.

mod csv;
mod graph;
mod html;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use reeve_authz::Engine;
use reeve_columns::report::{Asked, Edge, Report, report};
use reeve_core::{Clock, ServiceName, SystemClock, UnixTime, model::PolicySlice};

use super::read::{LogArgs, broken, unreadable};
use crate::{
    input, output,
    problem::{Answer, Problem, Verdict},
    supervisor::{load, logfile::timestamp},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve audit report --since 7d                          last week's access, in tables
  reeve audit report --since 7d -f mesh                  with services that nobody calls: safe to shut off
  reeve audit report --new-since 2026-11-01T00:00:00Z    which edges are new since then
  reeve audit report --since 7d -o html > access.html    one file, to be sent to somebody
  reeve audit report -o csv > access.csv
  reeve audit report -o json | jq .unused_permits

Permits are those of the newest policy set in the log, or of --folder; an edge is a caller and a service. Everything in the
log counts, also what sidecars have not shipped yet. Reading proves nothing: `reeve audit verify` does.

Exit codes: 0 = fine, 1 = there are no decisions, 2 = the log could not be read.";

/// Rows of a table at a terminal.
const MAX_SHOWN: usize = 40;

/// `reeve audit report`.
#[derive(Args, Debug)]
pub(super) struct ReportArgs {
    /// Not before this time: RFC 3339, seconds since 1970, or 7d for seven days ago.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Tell edges that were not used before this time [default: --since].
    #[arg(long, value_name = "TIME")]
    new_since: Option<String>,
    /// The mesh's folder: its services and permits.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
    /// How to print the report.
    #[arg(short = 'o', long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Form,
}

/// The form of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Tables.
    #[default]
    #[value(alias = "table")]
    Human,
    /// For programs.
    Json,
    /// For spreadsheets: each line begins with the name of its table.
    Csv,
    /// One page without anything around it.
    Html,
}

pub(super) fn run(args: &ReportArgs) -> Verdict {
    let now = SystemClock.now();
    let time = |text: &Option<String>| {
        let parsed = text.as_deref().map(|text| input::time(text, now));
        parsed.transpose().map_err(Problem::new)
    };
    let since = time(&args.since)?;
    let (reader, columns) = args.log.open_columns()?;
    let (permits, services) = match &args.folder {
        Some(folder) => of_folder(folder)?,
        None => {
            let newest = reader.configurations().map_err(|e| unreadable(&e))?.pop();
            let set = newest.and_then(|c| reader.blob(&c.policy_set?));
            let set = set.and_then(|text| serde_json::from_str(&text).ok());
            (set.map(|set| permits(&set)).unwrap_or_default(), None)
        }
    };
    let asked = Asked {
        since,
        until: time(&args.until)?,
        new_since: time(&args.new_since)?.or(since),
        permits,
        services,
    };
    let found = report(&reader, &columns, &asked).map_err(|error| broken(&error))?;
    args.log
        .tell(usize::try_from(found.decisions).unwrap_or(usize::MAX));
    match args.output {
        Form::Json => output::json(&found)?,
        Form::Csv => output::line(csv::page(&found).trim_end())?,
        Form::Html => output::line(&html::page(&found, now))?,
        Form::Human => output::line(&tables(&found, &asked))?,
    }
    Ok(Answer::from_fine(found.decisions > 0))
}

type Known = (BTreeSet<String>, Option<BTreeSet<ServiceName>>);

fn of_folder(folder: &Path) -> Result<Known, Problem> {
    let mesh = load(folder)?;
    let services = mesh.services.keys().cloned().collect();
    Ok((permits(&mesh.all_policies()), Some(services)))
}

/// The ids of the permits that bind.
fn permits(set: &PolicySlice) -> BTreeSet<String> {
    let engine = Engine::compile(set).ok();
    let permits = engine.map(|engine| engine.permits()).unwrap_or_default();
    permits.into_iter().map(|id| id.to_string()).collect()
}

fn span(report: &Report) -> String {
    let at = |time: Option<UnixTime>, open: &str| time.map_or(open.to_owned(), timestamp);
    format!(
        "{} to {}",
        at(report.since, "the beginning"),
        at(report.until, "now")
    )
}

/// A SPIFFE ID without what every one of a mesh begins with, for people.
fn short(caller: &str) -> &str {
    caller.strip_prefix("spiffe://").unwrap_or(caller)
}

fn tables(found: &Report, asked: &Asked) -> String {
    let mut parts = vec![format!(
        "{}: {} decisions, {} allowed, {} denied",
        span(found),
        found.decisions,
        found.allowed,
        found.denied
    )];
    parts.extend(edges("WHO REACHED WHAT", &found.edges));
    parts.extend(denials(found));
    if asked.new_since.is_some() {
        parts.extend(edges("NEW EDGES", &found.new_edges));
    }
    parts.extend(plaintext(found));
    parts.extend(names(
        "PERMITS THAT ALLOWED NOTHING",
        found.unused_permits.iter(),
    ));
    let uncalled = found.uncalled_services.iter();
    parts.extend(names(
        "SERVICES THAT NOBODY CALLED (nothing here speaks against shutting them off)",
        uncalled,
    ));
    parts.extend(names(
        "SERVICES THAT ONLY DENIED",
        found.only_denied_services.iter(),
    ));
    if asked.services.is_none() {
        parts.push(
            "name the mesh's folder with -f to be told which services nobody called".to_owned(),
        );
    }
    if found.beyond > 0 {
        parts.push(format!(
            "{} decisions are in no table: there are too many rows",
            found.beyond
        ));
    }
    parts.join("\n\n")
}

fn edges(title: &str, edges: &[Edge]) -> Option<String> {
    let header = [
        "CALLER",
        "SERVICE",
        "ALLOWED",
        "DENIED",
        "PLAINTEXT",
        "ACTIONS",
        "LAST",
    ];
    let mut table = output::plain_table(header);
    for edge in edges.iter().take(MAX_SHOWN) {
        let actions: Vec<_> = edge.actions.iter().map(String::as_str).collect();
        table.add_row([
            short(&edge.caller).to_owned(),
            edge.service.clone(),
            edge.allowed.to_string(),
            edge.denied.to_string(),
            edge.plaintext.to_string(),
            actions.join(","),
            timestamp(edge.last),
        ]);
    }
    titled(title, &table, edges.len())
}

fn denials(found: &Report) -> Option<String> {
    let header = ["COUNT", "CAUSE", "CALLER", "SERVICE", "LAST", "FOR EXAMPLE"];
    let mut table = output::plain_table(header);
    for denial in found.denials.iter().take(MAX_SHOWN) {
        table.add_row([
            denial.count.to_string(),
            denial.reason.clone(),
            short(&denial.caller).to_owned(),
            denial.service.clone(),
            timestamp(denial.last),
            denial.example.clone(),
        ]);
    }
    titled("DENIALS BY CAUSE", &table, found.denials.len())
}

fn plaintext(found: &Report) -> Option<String> {
    let mut table = output::plain_table(["COUNT", "FROM", "SERVICE", "PORT", "MODE", "LAST"]);
    for row in found.plaintext.iter().take(MAX_SHOWN) {
        table.add_row([
            row.count.to_string(),
            row.source_ip.clone(),
            row.service.clone(),
            row.port.to_string(),
            row.mtls_mode.clone(),
            timestamp(row.last),
        ]);
    }
    titled("PLAINTEXT REMAINING", &table, found.plaintext.len())
}

fn names(title: &str, names: impl ExactSizeIterator<Item: ToString>) -> Option<String> {
    let count = names.len();
    let mut table = output::plain_table(["NAME"]);
    for name in names.take(MAX_SHOWN) {
        table.add_row([name.to_string()]);
    }
    titled(title, &table, count)
}

fn titled(title: &str, table: &comfy_table::Table, count: usize) -> Option<String> {
    let more = count.saturating_sub(MAX_SHOWN);
    let more = if more > 0 {
        format!("\n and {more} more (-o json shows them)")
    } else {
        String::new()
    };
    (count > 0).then(|| format!("{title}\n{table}{more}"))
}
