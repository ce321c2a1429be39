//! `reeve policy fmt`.

use std::path::{Path, PathBuf};

use clap::Args;
use reeve_authz::format_policies;
use reeve_control::{PolicyTextFault, map_policy_texts};
use reeve_core::PolicyId;
use serde::Serialize;

use super::{check::object_name, files};
use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve policy fmt mesh                       every .cedar file and every AccessPolicy in the folder's YAML, in place
  reeve policy fmt --check mesh policies      for CI: change nothing, say which are not formatted
  reeve policy fmt - < access.cedar           Cedar text from standard input to standard output

In YAML only the text of `cedar: |` changes; comments and all else stay byte for byte.
What does not parse is left as it is and named with file:line:column.

Exit codes: 0 = everything is formatted, 1 = something does not parse or, with --check, is not formatted,
2 = a file could not be read or written.";

/// `reeve policy fmt`.
#[derive(Args, Debug)]
pub(super) struct FmtArgs {
    /// Files (.cedar, .yaml, .yml), folders of them, or - for Cedar text on standard input.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Change nothing; say what is not formatted.
    #[arg(long)]
    check: bool,
    /// Columns that a line should keep to, counted from where the Cedar text begins (SPIFFE IDs are long).
    #[arg(long, value_name = "COLUMNS", default_value_t = 100, value_parser = clap::value_parser!(u16).range(20..=1000))]
    line_width: u16,
    #[command(flatten)]
    output: OutputArgs,
}

/// One file's outcome.
#[derive(Debug, Serialize)]
struct FileOutcome {
    file: String,
    outcome: Outcome,
    faults: Vec<PolicyTextFault>,
}

/// What was found, and done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// It was formatted before.
    Unchanged,
    /// It is now.
    Formatted,
    /// It is not (`--check`).
    Unformatted,
    /// It does not parse.
    Refused,
}

pub(super) fn run(args: &FmtArgs) -> Verdict {
    if args.paths == [Path::new("-")] {
        return stream(args);
    }
    let mut fine = true;
    for file in files::policies(&args.paths)? {
        let outcome = file_outcome(&file, args)?;
        fine &= matches!(outcome.outcome, Outcome::Unchanged | Outcome::Formatted);
        match args.output.output {
            Format::Json => output::json_line(&outcome)?,
            Format::Human => describe(&outcome)?,
        }
    }
    Ok(Answer::from_fine(fine))
}

/// Standard input to standard output, or to a verdict with `--check`.
fn stream(args: &FmtArgs) -> Verdict {
    let path = Path::new("-");
    let text = input::text(path)?;
    match formatted(path, &text, args.line_width) {
        Ok(new) if args.check => Ok(Answer::from_fine(new == text)),
        Ok(new) => {
            output::line(new.strip_suffix('\n').unwrap_or(&new))?;
            Ok(Answer::Yes)
        }
        Err(faults) => {
            output::note(&told("<stdin>", &faults));
            Ok(Answer::No)
        }
    }
}

fn file_outcome(file: &Path, args: &FmtArgs) -> Result<FileOutcome, Problem> {
    let text = input::text(file)?;
    let (outcome, faults) = match formatted(file, &text, args.line_width) {
        Err(faults) => (Outcome::Refused, faults),
        Ok(new) if new == text => (Outcome::Unchanged, Vec::new()),
        Ok(_) if args.check => (Outcome::Unformatted, Vec::new()),
        Ok(new) => {
            replace(file, &new)?;
            (Outcome::Formatted, Vec::new())
        }
    };
    Ok(FileOutcome {
        file: input::shown(file),
        outcome,
        faults,
    })
}

fn formatted(file: &Path, text: &str, line_width: u16) -> Result<String, Vec<PolicyTextFault>> {
    let width = usize::from(line_width);
    if files::is_yaml(file) {
        return map_policy_texts(text, |id, cedar| format_policies(id, cedar, width));
    }
    // Only faults carry the id, and they are told with the file's name.
    let id = PolicyId::parse(&object_name(file))
        .map_err(|error| vec![PolicyTextFault::new(1, error.to_string())])?;
    format_policies(&id, text, width).map_err(|faults| faults.into_iter().map(Into::into).collect())
}

/// The file as a whole, or as it was: a mesh that watches the folder never reads half of it.
fn replace(file: &Path, text: &str) -> Result<(), Problem> {
    let failed = |error: std::io::Error| {
        Problem::because("the file cannot be written", &error).at(file.display())
    };
    // A link stays a link.
    let target = file.canonicalize().map_err(failed)?;
    reeve_files::replace(&target, text.as_bytes()).map_err(failed)
}

fn describe(outcome: &FileOutcome) -> Result<(), Problem> {
    match outcome.outcome {
        Outcome::Unchanged => Ok(()),
        Outcome::Formatted => output::line(&format!("{}: formatted", outcome.file)),
        Outcome::Unformatted => output::line(&format!("{}: not formatted", outcome.file)),
        Outcome::Refused => output::line(&told(&outcome.file, &outcome.faults)),
    }
}

fn told(file: &str, faults: &[PolicyTextFault]) -> String {
    let faults = faults.iter().map(|fault| {
        let mut text = format!("{file}:{}:{}: {}", fault.line, fault.column, fault.message);
        if let Some(snippet) = &fault.snippet {
            text = format!("{text}\n    {snippet}");
        }
        if let Some(help) = &fault.help {
            text = format!("{text}\n  fix: {help}");
        }
        text
    });
    faults.collect::<Vec<_>>().join("\n")
}
