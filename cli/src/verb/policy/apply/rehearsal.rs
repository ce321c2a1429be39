//! What is tried before policies are written: checks, cases, and what else can say what they would do.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use reeve_analysis::WhatIf;
use reeve_authz::review;
use reeve_control::{Mesh, PolicyFolder};
use reeve_core::{Clock as _, SystemClock};
use serde::Serialize;

use crate::{
    problem::Problem,
    verb::policy::{CASES, diff::Difference, files, test, whatif, world},
};

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Rehearsal {
    pub(super) passed: bool,
    /// Remarks on policies that change.
    warnings: Vec<String>,
    /// Cases that were tried.
    cases: usize,
    /// What failed, in words.
    failures: Vec<String>,
    /// Recorded decisions, asked again.
    #[serde(skip_serializing_if = "Option::is_none")]
    whatif: Option<WhatIf>,
}

impl Rehearsal {
    /// Adds what recorded decisions would have come to. That is for people to judge: it refuses nothing.
    pub(super) fn replay(&mut self, found: WhatIf) {
        self.whatif = Some(found);
    }
}

/// Rehearses `after`, which is to stand in `folder`. Faults of the policies themselves were told when it was resolved.
pub(super) fn of(
    (next, after): (&PolicyFolder, &Mesh),
    folder: &Path,
    difference: &Difference,
    tests: Option<&[PathBuf]>,
) -> Result<Rehearsal, Problem> {
    let known = world::known(after);
    let found = review(
        &after.schema(),
        &after.policies,
        Some(&known),
        SystemClock.now(),
    )
    .map_err(|faults| {
        let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Problem::new(told.join("\n")).into_answer()
    })?;
    let changed = |id| difference.policies.iter().any(|change| change.policy == id);
    let warnings = found.remarks.into_iter().map(|remark| remark.fault);
    let warnings = warnings
        .filter(|fault| changed(fault.policy.clone()))
        .map(|fault| match &fault.help {
            Some(help) => format!("{}: {} ({help})", fault.policy, fault.message),
            None => format!("{}: {}", fault.policy, fault.message),
        });
    let mut rehearsal = Rehearsal {
        passed: true,
        warnings: warnings.collect(),
        cases: 0,
        failures: Vec::new(),
        whatif: None,
    };
    if let Some(more) = tests {
        let stage = Stage::new(folder, next)?;
        let own = Some(stage.0.join(CASES)).filter(|path| path.is_dir());
        let paths: Vec<_> = own.into_iter().chain(more.iter().cloned()).collect();
        let (cases, failures) = test::rehearse(&paths, after, folder)?;
        let shown = format!("{}/", stage.0.display());
        let failures = failures.into_iter();
        rehearsal.cases = cases;
        rehearsal.failures = failures.map(|text| text.replace(&shown, "")).collect();
    }
    rehearsal.passed = rehearsal.failures.is_empty();
    Ok(rehearsal)
}

/// A copy of the folder as it is to be, and its cases: those that name its files are tried on what will be in them.
struct Stage(PathBuf);

impl Stage {
    fn new(folder: &Path, next: &PolicyFolder) -> Result<Self, Problem> {
        let name = format!(".reeve/rehearsal-{}", std::process::id());
        let stage = Self(folder.join(name));
        next.write_to(&stage.0)
            .map_err(|error| Problem::because("the policies cannot be rehearsed", &error))?;
        let cases = folder.join(CASES);
        let listed = match cases.is_dir() {
            true => files::cases(std::slice::from_ref(&cases))?,
            false => Vec::new(),
        };
        for file in listed {
            let copy = stage.0.join(file.strip_prefix(folder).unwrap_or(&file));
            let made = copy.parent().map_or(Ok(()), fs::create_dir_all);
            made.and_then(|()| fs::copy(&file, &copy))
                .map_err(|error| {
                    Problem::because("the cases cannot be rehearsed", &error).at(file.display())
                })?;
        }
        Ok(stage)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

impl fmt::Display for Rehearsal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        for failure in &self.failures {
            writeln!(f, "{failure}")?;
        }
        if let Some(found) = &self.whatif {
            writeln!(
                f,
                "replayed: {}\n",
                whatif::described(found).map_err(|_| fmt::Error)?
            )?;
        }
        write!(
            f,
            "checked: {} warnings; {} cases tried, {} failed",
            self.warnings.len(),
            self.cases,
            self.failures.len()
        )
    }
}
