//! `reeve policy check`.

mod finding;
mod unit;

use std::path::{Path, PathBuf};

use clap::Args;
use reeve_authz::{PolicySchema, review};
use reeve_control::Mesh;
use reeve_core::{Clock as _, Namespace, PolicyId, SystemClock, model::PolicySource};
use serde::Serialize;

use self::{
    finding::{Finding, Level},
    unit::Unit,
};
use super::{explain::root_namespace, files, world};
use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    supervisor::load,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve policy check -f mesh                            all policies of a folder, against what its mesh has
  reeve policy check access.cedar                       a policy for the whole mesh
  reeve policy check --namespace shop access.cedar      one that decides only resources of namespace shop
  reeve policy check -f mesh new.yaml                   policies that are to join those of a folder
  reeve policy check -f mesh --deny-warnings -o json    for CI

Errors: what does not parse, has wrong types, or names what can never be met. Warnings: services, namespaces and
identities that the mesh does not have (with -f), conditions that exclude each other, policies that another one covers, a
permit all of which is forbidden, policies that lapse within two weeks or have lapsed – as far as each is certain; what is
not said may still be so.

Exit codes: 0 = no errors, 1 = there are some (or, with --deny-warnings, warnings), 2 = a file could not be read.";

/// `reeve policy check`.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// Files (.cedar, .yaml, .yml), folders of them, or - for Cedar text on standard input.
    #[arg(required_unless_present = "folder", value_name = "PATH")]
    files: Vec<PathBuf>,
    /// The mesh's folder: its services and identities are what policies may name, its policies are compared too.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The namespace whose resources the policies of .cedar files decide; the whole mesh if absent.
    #[arg(long, value_name = "NS")]
    namespace: Option<Namespace>,
    /// Let warnings count as errors.
    #[arg(long)]
    deny_warnings: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// The schema that the policies of a folder are written against.
pub(super) fn schema_of(folder: &Path) -> Result<PolicySchema, Problem> {
    reeve_control::policy_schema(folder).map_err(|faults| {
        let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Problem::new(told.join("\n"))
            .at(folder.display())
            .into_answer()
    })
}

/// One file's verdict.
#[derive(Debug, Serialize)]
struct FileVerdict {
    file: String,
    valid: bool,
    policies: Vec<PolicySource>,
    faults: Vec<Finding>,
    warnings: Vec<Finding>,
}

pub(super) fn run(args: &CheckArgs) -> Verdict {
    let paths = match (&args.folder, args.files.is_empty()) {
        (Some(folder), true) => std::slice::from_ref(folder),
        _ => args.files.as_slice(),
    };
    let files = match paths == [Path::new("-")] {
        true => paths.to_vec(),
        false => files::policies(paths)?,
    };
    // What policies are wrong in is told before all else that may be wrong in the folder.
    let mesh = args.folder.as_deref().map(load);
    let root = match &mesh {
        Some(Ok(mesh)) => mesh.settings.root_namespace.clone(),
        _ => root_namespace()?,
    };
    let schema = match (&mesh, &args.folder) {
        (Some(Ok(mesh)), _) => mesh.schema(),
        (_, Some(folder)) => schema_of(folder)?,
        (_, None) => PolicySchema::default(),
    };
    let mut verdicts = Vec::new();
    let mut units = Vec::new();
    for file in &files {
        let found = Unit::all(file, args.namespace.as_ref(), &root)?;
        // A folder's files are mostly of other kinds.
        if found.is_empty() {
            continue;
        }
        let mut verdict = FileVerdict {
            file: input::shown(file),
            valid: true,
            policies: Vec::new(),
            faults: Vec::new(),
            warnings: Vec::new(),
        };
        for mut unit in found {
            match unit.parsed(&schema) {
                Ok(policies) => {
                    verdict.policies.extend(policies.iter().cloned());
                    units.push((verdicts.len(), unit));
                }
                Err(faults) => verdict.faults.extend(faults),
            }
        }
        verdict.valid = verdict.faults.is_empty();
        verdicts.push(verdict);
    }
    if verdicts.iter().all(|verdict| verdict.valid) {
        let mesh = mesh.transpose()?;
        let incomplete = reviewed(&mut verdicts, &units, (&schema, mesh.as_ref()))?;
        if incomplete {
            output::note(
                "note: there are too many policies to compare all of them with each other",
            );
        }
    }
    tell(args, &verdicts)
}

/// Adds what only policies together, and beside the mesh, tell.
fn reviewed(
    verdicts: &mut [FileVerdict],
    units: &[(usize, Unit)],
    (schema, mesh): (&PolicySchema, Option<&Mesh>),
) -> Result<bool, Problem> {
    let mut all: Vec<PolicySource> = Vec::new();
    let own = verdicts.iter().flat_map(|verdict| &verdict.policies);
    let others = mesh.into_iter().flat_map(|mesh| &mesh.policies);
    for policy in own.chain(others) {
        if all.iter().all(|known| known.id != policy.id) {
            all.push(policy.clone());
        }
    }
    let known = mesh.map(world::known);
    let found = review(schema, &all, known.as_ref(), SystemClock.now()).map_err(|faults| {
        let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Problem::new(told.join("\n")).into_answer()
    })?;
    for remark in found.remarks {
        let owner = units
            .iter()
            .find_map(|(at, unit)| Some((at, unit.warning(&remark)?)));
        if let Some((at, finding)) = owner
            && let Some(verdict) = verdicts.get_mut(*at)
        {
            verdict.warnings.push(finding);
        }
    }
    Ok(found.incomplete)
}

fn tell(args: &CheckArgs, verdicts: &[FileVerdict]) -> Verdict {
    if verdicts.is_empty() {
        return Err(Problem::new("there are no policies here")
            .fix("name .cedar files, or YAML files or folders with AccessPolicies"));
    }
    for verdict in verdicts {
        match args.output.output {
            Format::Json => output::json_line(verdict)?,
            Format::Human => output::line(&describe(verdict))?,
        }
    }
    let errors = verdicts.iter().map(|v| v.faults.len()).sum::<usize>();
    let warnings = verdicts.iter().map(|v| v.warnings.len()).sum::<usize>();
    if args.output.output == Format::Human && errors + warnings > 0 {
        output::line(&format!("{errors} errors, {warnings} warnings"))?;
    }
    Ok(Answer::from_fine(
        errors == 0 && (warnings == 0 || !args.deny_warnings),
    ))
}

fn describe(verdict: &FileVerdict) -> String {
    let findings = verdict.faults.iter().map(|f| (Level::Error, f));
    let findings = findings.chain(verdict.warnings.iter().map(|f| (Level::Warning, f)));
    let mut lines: Vec<_> = findings
        .map(|(level, finding)| finding.told(&verdict.file, level))
        .collect();
    if verdict.valid {
        let ids: Vec<&PolicyId> = verdict.policies.iter().map(|p| &p.id).collect();
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        lines.push(format!("{}: valid ({})", verdict.file, ids.join(", ")));
    }
    lines.join("\n")
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
