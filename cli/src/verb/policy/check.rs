//! `reeve policy check`.

use std::path::{Path, PathBuf};

use clap::Args;
use reeve_authz::{PolicyFault, parse_access_policy};
use reeve_core::{Namespace, model::PolicySource};
use serde::Serialize;

use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Verdict},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve policy check access.cedar                       a policy for the whole mesh
  reeve policy check --namespace shop access.cedar      one that decides only resources of namespace shop
  reeve policy check -o json *.cedar

Policies inside YAML (AccessPolicy) are checked by `reeve config check -f FOLDER`.

Exit codes: 0 = every policy is valid, 1 = one is not, 2 = a file could not be read.";

/// `reeve policy check`.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// Files of Cedar text, or - for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The namespace whose resources the policies decide; the whole mesh if absent.
    #[arg(long, value_name = "NS")]
    namespace: Option<Namespace>,
    #[command(flatten)]
    output: OutputArgs,
}

/// One file's verdict.
#[derive(Debug, Serialize)]
struct FileVerdict {
    file: String,
    valid: bool,
    policies: Vec<PolicySource>,
    faults: Vec<PolicyFault>,
}

pub(super) fn run(args: &CheckArgs) -> Verdict {
    let mut all_valid = true;
    for file in &args.files {
        let verdict = check(file, args.namespace.as_ref())?;
        all_valid &= verdict.valid;
        match args.output.output {
            Format::Json => output::json_line(&verdict)?,
            Format::Human => output::line(&describe(&verdict))?,
        }
    }
    Ok(Answer::from_fine(all_valid))
}

fn check(file: &Path, scope: Option<&Namespace>) -> Result<FileVerdict, crate::problem::Problem> {
    let text = input::text(file)?;
    let home = match scope {
        Some(namespace) => namespace.clone(),
        None => super::explain::root_namespace()?,
    };
    let (policies, faults) = match parse_access_policy(scope, &home, &object_name(file), &text) {
        Ok(policies) => (policies, Vec::new()),
        Err(faults) => (Vec::new(), faults),
    };
    Ok(FileVerdict {
        file: input::shown(file),
        valid: faults.is_empty(),
        policies,
        faults,
    })
}

/// The file's name as the name of an `AccessPolicy`.
pub(super) fn object_name(file: &Path) -> String {
    let stem = file
        .file_stem()
        .map(|stem| stem.to_string_lossy().to_ascii_lowercase());
    let name: String = stem
        .unwrap_or_default()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '-'
            }
        })
        .collect();
    match name.trim_matches('-') {
        "" => "input".to_owned(),
        name => name.to_owned(),
    }
}

fn describe(verdict: &FileVerdict) -> String {
    if verdict.valid {
        let ids: Vec<_> = verdict.policies.iter().map(|p| p.id.to_string()).collect();
        return format!("{}: valid ({})", verdict.file, ids.join(", "));
    }
    let faults: Vec<_> = verdict
        .faults
        .iter()
        .map(|fault| {
            let snippet = fault
                .snippet
                .as_ref()
                .map(|s| format!("\n    {s}"))
                .unwrap_or_default();
            let help = fault
                .help
                .as_ref()
                .map(|h| format!("\n  fix: {h}"))
                .unwrap_or_default();
            let PolicyFault {
                policy,
                message,
                line,
                column,
                ..
            } = fault;
            format!(
                "{}:{line}:{column}: {policy}: {message}{snippet}{help}",
                verdict.file
            )
        })
        .collect();
    faults.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_become_object_names() {
        assert_eq!(
            object_name(Path::new("/x/Access_rules.cedar")),
            "access-rules"
        );
        assert_eq!(object_name(Path::new("-")), "input");
        assert_eq!(object_name(Path::new("__")), "input");
    }
}
