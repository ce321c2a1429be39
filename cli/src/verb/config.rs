//! `reeve config`: checks a folder of configuration.

mod transforms;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use reeve_control::{CheckReport, Finding, Level, Verdict as DocumentVerdict};

use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
};

const EXAMPLES: &str = "\
Examples:
  reeve config check -f deploy/bookinfo/mesh
  reeve config check -f mesh -o json | jq '.documents[] | select(.verdict == \"refused\")'

Exit codes: 0 = every document is accepted (warnings or not), 1 = one is refused, 2 = the folder could not be read.";

const ANALYZE_EXAMPLES: &str = "\
Examples:
  reeve config analyze -f mesh
  reeve config analyze -f mesh -o json | jq -r .message | sort | uniq -c

Exit codes: 0 = nothing that is an error, 1 = an error, 2 = the folder could not be read.";

/// `reeve config`.
#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Say for each document whether it is accepted, with every fault in it
    #[command(after_help = EXAMPLES)]
    Check(CheckArgs),
    /// Look for what objects say against each other, under the codes of `istioctl analyze`
    #[command(after_help = ANALYZE_EXAMPLES)]
    Analyze(CheckArgs),
    /// List what changes requests and responses on the wire, with its owner and its end
    #[command(after_help = transforms::EXAMPLES)]
    Transforms(transforms::TransformsArgs),
}

/// `reeve config check`.
#[derive(Args, Debug)]
struct CheckArgs {
    /// The folder of YAML files.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Checks the folder.
pub(crate) fn run(args: &ConfigArgs) -> Verdict {
    match &args.verb {
        ConfigVerb::Check(args) => check(args),
        ConfigVerb::Analyze(args) => analyze(args),
        ConfigVerb::Transforms(args) => transforms::run(args),
    }
}

fn check(args: &CheckArgs) -> Verdict {
    readable(&args.folder)?;
    let report = reeve_control::check(&args.folder);
    match args.output.output {
        Format::Json => output::json(&report)?,
        Format::Human => output::line(&describe(&report))?,
    }
    Ok(Answer::from_fine(report.ok))
}

fn analyze(args: &CheckArgs) -> Verdict {
    readable(&args.folder)?;
    let findings = reeve_control::analyze(&args.folder);
    match args.output.output {
        Format::Json => {
            for finding in &findings {
                output::json_line(finding)?;
            }
        }
        Format::Human => {
            for finding in &findings {
                let Finding { message, title, .. } = finding;
                output::line(&format!(
                    "{} {message} {title}\n{}",
                    word(finding.level),
                    indent(&finding.fault.to_string())
                ))?;
            }
            output::line(&format!("{} findings", findings.len()))?;
        }
    }
    Ok(Answer::from_fine(
        findings.iter().all(|f| f.level < Level::Error),
    ))
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Info => "info",
        Level::Warning => "warning",
        Level::Error => "ERROR",
    }
}

fn readable(folder: &Path) -> Result<(), Problem> {
    std::fs::metadata(folder).map(drop).map_err(|error| {
        Problem::because("the folder cannot be read", &error)
            .at(folder.display())
            .fix("name a folder of YAML files with -f")
    })
}

fn describe(report: &CheckReport) -> String {
    let mut lines = Vec::new();
    for document in &report.documents {
        let word = match document.verdict {
            DocumentVerdict::Accepted => "accepted",
            DocumentVerdict::Warning => "accepted, with a warning",
            DocumentVerdict::Refused => "REFUSED",
        };
        let kind = document.kind.as_deref().unwrap_or("document");
        let name = document.name.as_deref().unwrap_or("without a name");
        let namespace = document
            .namespace
            .as_ref()
            .map(|ns| format!("{ns}/"))
            .unwrap_or_default();
        lines.push(format!(
            "{}:{}: {kind} {namespace}{name}: {word}",
            document.file, document.line
        ));
        lines.extend(
            document
                .findings
                .iter()
                .map(|fault| indent(&fault.to_string())),
        );
    }
    lines.extend(report.faults.iter().map(ToString::to_string));
    let faults = report
        .documents
        .iter()
        .flat_map(|d| &d.findings)
        .chain(&report.faults);
    let (errors, warnings): (Vec<_>, Vec<_>) = faults.partition(|fault| fault.is_error());
    let verdict = if report.ok {
        "the folder is accepted"
    } else {
        "the folder is refused"
    };
    lines.push(format!(
        "{verdict}: {} documents, {} errors, {} warnings",
        report.documents.len(),
        errors.len(),
        warnings.len()
    ));
    lines.join("\n")
}

fn indent(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(|line| format!("  {line}")).collect();
    lines.join("\n")
}
