//! `reeve policy verify`.

mod properties;
mod report;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use reeve_control::{Mesh, Service};
use reeve_core::{SpiffeId, model::ServiceState};
use reeve_symbolic::{Policies, Property, Solver, Verifier, VerifyError, World};

use self::{
    properties::{Named, described},
    report::{Outcome, Report},
};
use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer as Said, Problem, Verdict},
    supervisor::load,
    verb::block_on,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve policy verify -f mesh                              does each policy matter, and can it always be evaluated
  reeve policy verify -f mesh properties.yaml              the properties of a file, for CI
  reeve policy verify -f new --no-more-than old            a change permits nothing that was not permitted
  reeve policy verify -f mesh --never \\
    'permit(principal is Unauthenticated, action in Action::\"write\", resource);'

A property holds for every request that there can be, or a request is shown for which it does not. A file of properties:

  properties:
  - name: nothing outside pay writes to the ledger
    never: |                                               no request that this permit describes is allowed
      permit (principal, action in Action::\"write\", resource in Service::\"ledger.pay.svc.cluster.local\")
      unless { principal in Namespace::\"mesh.local/ns/pay\" };
  - name: the shop reads prices
    always: |                                              every such request is allowed
      permit (principal in Namespace::\"mesh.local/ns/shop\", action in Action::\"read\",
              resource in Service::\"prices.shop.svc.cluster.local\");

Callers may be anybody; behind a service are the workloads that the folder says. The policies are judged as if every service
were enforced, without those in shadow; PeerAuthentication and routes are not looked at. Needs the solver cvc5 (`apt-get install cvc5`).

Exit codes: 0 = every property holds, 1 = one does not, 2 = one is unknown, or it could not be said.";

/// `reeve policy verify`.
#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// Files of properties (.yaml).
    #[arg(value_name = "FILE")]
    properties: Vec<PathBuf>,
    /// The folder of YAML files whose policies are judged.
    #[arg(short = 'f', long = "folder", value_name = "DIR")]
    folder: PathBuf,
    /// No request that this Cedar permit describes is allowed; repeat for several.
    #[arg(long, value_name = "CEDAR")]
    never: Vec<String>,
    /// Every request that this Cedar permit describes is allowed; repeat for several.
    #[arg(long, value_name = "CEDAR")]
    always: Vec<String>,
    /// Nothing is allowed that the policies of this folder do not allow.
    #[arg(long, value_name = "DIR")]
    no_more_than: Option<PathBuf>,
    /// Exactly what the policies of this folder allow is allowed.
    #[arg(long, value_name = "DIR")]
    same_as: Option<PathBuf>,
    /// Each policy changes some answer, and can always be evaluated; the default if nothing else is asked.
    #[arg(long)]
    each: bool,
    /// Seconds that the solver may think about one kind of request.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// The solver's program.
    #[arg(long, value_name = "PATH", env = "CVC5", default_value = "cvc5")]
    solver: OsString,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &VerifyArgs) -> Verdict {
    let mesh = load(&args.folder)?;
    let home = &mesh.settings.trust_domain;
    let policies = Policies::new(&mesh.all_policies(), home).map_err(problem)?;
    let asked = asked(args, &mesh, &policies)?;
    let report = block_on(prove(args, &mesh, &policies, asked))?;
    match args.output.output {
        Format::Json => output::json(&report)?,
        Format::Human => output::line(&report.summary())?,
    }
    match (report.failed, report.unknown) {
        (0, 0) => Ok(Said::Yes),
        (0, _) => Err(
            Problem::new("not every property could be proved or refuted")
                .fix("give the solver longer with --timeout, or ask for less at once"),
        ),
        _ => Ok(Said::No),
    }
}

/// Every property that is to be proved.
fn asked(args: &VerifyArgs, mesh: &Mesh, policies: &Policies) -> Result<Vec<Named>, Problem> {
    let mut all = Vec::new();
    for file in &args.properties {
        all.extend(properties::read(file, mesh)?);
    }
    for text in &args.never {
        all.push(Named {
            name: format!("never: {text}"),
            property: Property::Never(described(text, mesh, "--never")?),
        });
    }
    for text in &args.always {
        all.push(Named {
            name: format!("always: {text}"),
            property: Property::Always(described(text, mesh, "--always")?),
        });
    }
    if let Some(folder) = &args.no_more_than {
        all.push(Named {
            name: format!("no more is allowed than by {}", folder.display()),
            property: Property::NoMoreThan(other(folder)?),
        });
    }
    if let Some(folder) = &args.same_as {
        all.push(Named {
            name: format!("the same is allowed as by {}", folder.display()),
            property: Property::SameAs(other(folder)?),
        });
    }
    if args.each || all.is_empty() {
        for id in policies.ids() {
            all.push(Named {
                name: format!("{id} changes some answer"),
                property: Property::Matters(id.clone()),
            });
            all.push(Named {
                name: format!("{id} can always be evaluated"),
                property: Property::NeverFails(id.clone()),
            });
        }
    }
    match all.is_empty() {
        true => {
            Err(Problem::new("there is nothing to prove: no policy binds")
                .at(args.folder.display()))
        }
        false => Ok(all),
    }
}

fn other(folder: &Path) -> Result<Policies, Problem> {
    let mesh = load(folder)?;
    Policies::new(&mesh.all_policies(), &mesh.settings.trust_domain).map_err(problem)
}

async fn prove(
    args: &VerifyArgs,
    mesh: &Mesh,
    policies: &Policies,
    asked: Vec<Named>,
) -> Result<Report, Problem> {
    let solver = Solver {
        program: args.solver.clone(),
        limit: Duration::from_secs(args.timeout),
    };
    let mut verifier = Verifier::new(solver, world(mesh)).map_err(problem)?;
    let mut report = Report {
        not_enforced: not_enforced(mesh),
        ..Report::default()
    };
    for Named { name, property } in asked {
        let answer = verifier.check(policies, &property).await.map_err(problem)?;
        let outcome = Outcome::new(name, &property, answer);
        if args.output.output == Format::Human {
            output::line(&outcome.told(&args.folder))?;
        }
        report.add(outcome);
    }
    Ok(report)
}

/// What is known of the mesh beside its policies.
fn world(mesh: &Mesh) -> World {
    let services = mesh.services.values();
    let workloads = mesh.workloads.iter();
    let behind = |service: &Service| -> BTreeSet<SpiffeId> {
        let selected = mesh.workloads.iter().filter(|w| service.selects(w));
        selected.filter_map(|w| w.identity.clone()).collect()
    };
    // Who is behind an entry's endpoints is not said, and behind a service without workloads there may come some.
    let known = services.clone().filter(|service| service.entry.is_none());
    let known = known.map(|service| (service.host.clone(), behind(service)));
    World {
        home: mesh.settings.trust_domain.clone(),
        services: services
            .map(|service| (service.host.clone(), service.namespace.clone()))
            .collect(),
        identities: workloads.filter_map(|w| w.identity.clone()).collect(),
        behind: known.filter(|(_, ids)| !ids.is_empty()).collect(),
    }
}

/// Where policies do not bind, whatever they say.
fn not_enforced(mesh: &Mesh) -> Vec<String> {
    let settings = &mesh.settings.authorization;
    let open = |state: ServiceState| state != ServiceState::Enforced;
    let mesh_wide = open(settings.state).then(|| "the mesh".to_owned());
    let namespaces = settings
        .namespaces
        .iter()
        .filter(|(_, state)| open(**state));
    let services = settings.services.iter().filter(|(_, state)| open(**state));
    mesh_wide
        .into_iter()
        .chain(namespaces.map(|(name, _)| format!("namespace {name}")))
        .chain(services.map(|(name, _)| name.to_string()))
        .collect()
}

fn problem(error: VerifyError) -> Problem {
    let told = Problem::because("the policies cannot be verified", &error);
    if matches!(error, VerifyError::NoSolver { .. }) {
        return told.fix("apt-get install cvc5, or name the solver's program with --solver");
    }
    told
}
