//! `reeve policy test`.

mod cases;
mod report;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;
use reeve_authz::{Engine, Explanation, Verdict as PolicyAnswer};
use reeve_control::Mesh;
use reeve_core::{
    PolicyId, TrustDomain,
    decision::{AccessRequest, Effect},
};

use self::{
    cases::{Case, CaseFile, Expected},
    report::{CaseOutcome, Minima, Miss, Report},
};
use super::{explain, files};
use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    supervisor::load,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve policy test -f mesh tests/access.yaml          cases against the policies of a folder
  reeve policy test -f mesh tests --coverage-min 80    for CI: every case passes, and most policies decide one
  reeve policy test -f mesh tests --conditions-min 100 and each condition is seen to hold, and to fail
  reeve policy test policies/cases                     cases that name their policies themselves (documents)

A file of cases, in YAML or JSON:

  request:                                             what all its cases begin with
    principal: spiffe://mesh.local/ns/default/sa/web   or unauthenticated
    action: GET                                        an HTTP method, other or connect
    resource: reviews                                  a service of the folder
    context: {http: {path: /reviews/1}}
  cases:
  - name: the web reads reviews
    expect: {decision: allow, policies: [default/reviews]}
  - name: it does not write them
    change: {action: POST}                             merged into the request (RFC 7396)
    expect: {decision: deny, reason: no_permit}

policies/README.md tells all of it. The policies are judged as if every service were enforced.

Exit codes: 0 = every case passes, 1 = one fails or the coverage is too low, 2 = they could not be run.";

/// `reeve policy test`.
#[derive(Args, Debug)]
pub(super) struct TestArgs {
    /// Files of cases (.yaml, .yml, .json), or folders of them.
    #[arg(required = true, value_name = "PATH")]
    cases: Vec<PathBuf>,
    /// The folder of YAML files whose policies are tried; without it, each file of cases names its own.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Fail if fewer of the policies, in percent, decide a case.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    coverage_min: Option<u8>,
    /// Fail if fewer of the outcomes of conditions, in percent, are seen: each should hold once, and fail once.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    conditions_min: Option<u8>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &TestArgs) -> Verdict {
    let mesh = args.folder.as_deref().map(load).transpose()?;
    let shared = match (&mesh, &args.folder) {
        (Some(mesh), Some(folder)) => Some(Tried::of_mesh(mesh, folder)?),
        _ => None,
    };
    let minima = Minima {
        policies: args.coverage_min,
        conditions: args.conditions_min,
    };
    let report = tried(&args.cases, shared, mesh.as_ref(), minima)?;
    match args.output.output {
        Format::Json => output::json(&report)?,
        Format::Human => output::line(&report.to_string())?,
    }
    Ok(Answer::from_fine(report.passed))
}

/// Tries the cases in `paths` on `shared`, where files name no policies of their own.
fn tried(
    paths: &[PathBuf],
    shared: Option<Tried>,
    mesh: Option<&Mesh>,
    minima: Minima,
) -> Result<Report, Problem> {
    let mut report = Report::default();
    let mut policies = Uses::default();
    if let Some(tried) = &shared {
        policies.know(tried);
    }
    for path in files::cases(paths)? {
        let file = CaseFile::read(&path)?;
        let own = match file.documents.is_empty() {
            true => None,
            false => Some(Tried::of_documents(&file, &path, mesh)?),
        };
        let tried = own.as_ref().or(shared.as_ref()).ok_or_else(|| {
            Problem::new("there are no policies to try the cases on")
                .at(path.display())
                .fix("name the mesh's folder with -f, or write `documents` into the file")
        })?;
        policies.know(tried);
        let runner = Runner {
            tried,
            mesh,
            file: &path,
            base: &file,
        };
        for case in &file.cases {
            report.cases.push(runner.case(case, &mut policies)?);
        }
    }
    if report.cases.is_empty() {
        return Err(Problem::new("there are no cases").fix("see `reeve policy test --help`"));
    }
    report.finish(policies, minima);
    Ok(report)
}

/// Tries the cases in `paths` on the policies of `mesh`, which stand (or are to stand) in `folder`: how many there are,
/// and those that fail, in words.
pub(super) fn rehearse(
    paths: &[PathBuf],
    mesh: &Mesh,
    folder: &Path,
) -> Result<(usize, Vec<String>), Problem> {
    if files::cases(paths)?.is_empty() {
        return Ok((0, Vec::new()));
    }
    let shared = Tried::of_mesh(mesh, folder)?;
    let report = tried(paths, Some(shared), Some(mesh), Minima::default())?;
    let failed = report.cases.iter().filter(|case| !case.passed);
    Ok((
        report.cases.len(),
        failed.map(ToString::to_string).collect(),
    ))
}

/// A policy set under test.
struct Tried {
    /// Where its policies stand.
    source: String,
    engine: Engine,
}

impl Tried {
    fn of_mesh(mesh: &Mesh, folder: &Path) -> Result<Self, Problem> {
        Ok(Self {
            source: folder.display().to_string(),
            engine: explain::engine(mesh, folder)?,
        })
    }

    fn of_documents(file: &CaseFile, path: &Path, mesh: Option<&Mesh>) -> Result<Self, Problem> {
        let (root, home) = match mesh {
            Some(mesh) => (
                mesh.settings.root_namespace.clone(),
                mesh.settings.trust_domain.clone(),
            ),
            // What a mesh is called that says nothing else.
            None => (
                explain::root_namespace()?,
                TrustDomain::parse("mesh.local").map_err(Problem::new)?,
            ),
        };
        let slice = file.policies(path, &root, mesh)?;
        Ok(Self {
            source: path.display().to_string(),
            engine: explain::compiled(&slice, path)?.in_trust_domain(home),
        })
    }
}

/// What became of each policy, by where it stands and its id.
#[derive(Default)]
struct Uses(BTreeMap<(String, PolicyId), Use>);

/// What became of a policy.
#[derive(Default)]
struct Use {
    /// How many cases it decided.
    cases: usize,
    conditions: Vec<Seen>,
}

/// What became of one of its conditions.
struct Seen {
    text: String,
    held: bool,
    failed: bool,
}

impl Uses {
    fn know(&mut self, tried: &Tried) {
        for (id, conditions) in tried.engine.conditions() {
            let seen = |text| Seen {
                text,
                held: false,
                failed: false,
            };
            let known = self.0.entry((tried.source.clone(), id));
            known.or_insert_with(|| Use {
                cases: 0,
                conditions: conditions.into_iter().map(seen).collect(),
            });
        }
    }

    fn count<'a>(&mut self, tried: &Tried, ids: impl IntoIterator<Item = &'a PolicyId>) {
        for id in ids {
            let known = self.0.entry((tried.source.clone(), id.clone()));
            known.or_default().cases += 1;
        }
    }

    /// Notes which conditions held, and which failed. Those after the first that fails are not looked at.
    fn see(&mut self, tried: &Tried, explanation: &Explanation) {
        for policy in &explanation.policies {
            let key = (tried.source.clone(), policy.id.clone());
            let Some(known) = self.0.get_mut(&key) else {
                continue;
            };
            if !policy.is_in_scope() {
                continue;
            }
            for condition in &mut known.conditions {
                if policy.failed.as_ref() == Some(&condition.text) {
                    condition.failed |= policy.verdict == PolicyAnswer::Unsatisfied;
                    break;
                }
                condition.held = true;
            }
        }
    }
}

struct Runner<'a> {
    tried: &'a Tried,
    mesh: Option<&'a Mesh>,
    file: &'a Path,
    base: &'a CaseFile,
}

impl Runner<'_> {
    /// Tries a case and its twins.
    fn case(&self, case: &Case, uses: &mut Uses) -> Result<CaseOutcome, Problem> {
        let request = self.request(case, None)?;
        let mut outcome = CaseOutcome {
            file: self.file.display().to_string(),
            name: case.name.clone(),
            passed: true,
            misses: Vec::new(),
        };
        let effect = self.ask(&request, &case.expect, String::new(), &mut outcome, uses);
        let mut differs = case.twins.is_empty();
        for (number, twin) in case.twins.iter().enumerate() {
            let request = self.request(case, Some(&twin.change))?;
            let what = format!("twin {}", number + 1);
            differs |= effect != self.ask(&request, &twin.expect, what, &mut outcome, uses);
        }
        if !differs {
            outcome.misses.push(Miss::no_twin_differs());
        }
        outcome.passed = outcome.misses.is_empty();
        Ok(outcome)
    }

    fn request(
        &self,
        case: &Case,
        twin: Option<&serde_json::Value>,
    ) -> Result<AccessRequest, Problem> {
        let changes = [Some(&case.change), twin];
        let merged = self.base.request(changes.into_iter().flatten());
        cases::complete(merged, self.mesh)
            .map_err(|problem| problem.at(format!("{}: {}", self.file.display(), case.name)))
    }

    /// Asks the engine, and notes what differs from what was expected.
    fn ask(
        &self,
        request: &AccessRequest,
        expected: &Expected,
        what: String,
        outcome: &mut CaseOutcome,
        uses: &mut Uses,
    ) -> Effect {
        let decision = self.tried.engine.decide(request);
        let explanation = self.tried.engine.explain(request);
        uses.see(self.tried, &explanation);
        uses.count(self.tried, &decision.policies);
        if let Some(shadow) = &decision.shadow {
            uses.count(self.tried, &shadow.policies);
        }
        let effect = decision.effect;
        if !expected.is_met(&decision) {
            outcome
                .misses
                .push(Miss::new(what, expected, decision, &explanation));
        }
        effect
    }
}

#[cfg(test)]
mod tests;
