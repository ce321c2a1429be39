//! `reeve break-glass`: permits signed beforehand, for when the mesh process is away.

mod keygen;
mod sign;
mod using;

pub(crate) use keygen::create;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use ::http::Method;
use bytes::Bytes;
use clap::{Args, Subcommand};
use futures_util::future::join_all;
use reeve_control::instances::{Instance, Instances};
use reeve_core::{Namespace, UnixTime};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    http::{self, Target},
    output::{self, Format, OutputArgs, plain_table},
    problem::{Answer, Problem, Verdict},
    state::{StateArgs, StateDir},
    supervisor::logfile::timestamp,
    verb::{authz::grants::ADMIN_SOCKET, block_on},
};

const EXAMPLES: &str = "\
Examples:
  reeve break-glass keygen --out signer.key
  reeve break-glass sign --key signer.key --id pay-admin --namespace pay --issuer \"on-call lead\" \\
    --from ops/console --to ledger --action POST --reason \"unblock the ledger\" --longest 15m --valid-for 90d --out pay.grant
  reeve break-glass use pay.grant --for 15m --reason \"INC-4711, mesh process down\"
  reeve break-glass list
  reeve break-glass end pay-admin

The public key goes into MeshConfig.spec.breakGlass.publicKeys beforehand; sidecars then take up a grant over their admin
sockets without asking the mesh process. A `forbid` still wins. Beginning, end and refusal are events in the audit log, and
decisions name the policy break-glass/ID.";

/// How long one sidecar may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// `reeve break-glass`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct BreakGlassArgs {
    /// What to do.
    #[command(subcommand)]
    verb: BreakGlassVerb,
}

/// The verbs of `reeve break-glass`.
#[derive(Debug, Subcommand)]
enum BreakGlassVerb {
    /// Make a key that grants are signed with
    Keygen(keygen::KeygenArgs),
    /// Sign a grant, to be kept in a safe
    Sign(sign::SignArgs),
    /// Put a grant in force on the sidecars of its namespace
    Use(using::UseArgs),
    /// Show what is in force where, and until when
    List(ListArgs),
    /// End a grant before its time
    End(EndArgs),
}

/// `reeve break-glass list`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  reeve break-glass list
  reeve break-glass list -o json | jq '.grants[].until'

Exit codes: 0 = all sidecars were asked, 1 = some could not be, 2 = none could be.")]
struct ListArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// `reeve break-glass end`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  reeve break-glass end pay-admin

Exit codes: 0 = it has ended everywhere, 1 = it was in force nowhere, or could not be ended somewhere, 2 = none could be asked.")]
struct EndArgs {
    /// The grant's id.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    place: PlaceArgs,
}

/// A grant as sidecars tell of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct InForce {
    /// Where; filled in here.
    #[serde(default)]
    pub(crate) instance: String,
    pub(crate) id: String,
    pub(crate) policy: String,
    pub(crate) namespace: String,
    pub(crate) issuer: String,
    pub(crate) signer: String,
    pub(crate) purpose: String,
    pub(crate) reason: String,
    pub(crate) began: UnixTime,
    pub(crate) until: UnixTime,
}

/// Does it.
pub(crate) fn run(args: &BreakGlassArgs) -> Verdict {
    match &args.verb {
        BreakGlassVerb::Keygen(args) => keygen::run(args),
        BreakGlassVerb::Sign(args) => sign::run(args),
        BreakGlassVerb::Use(args) => block_on(using::run(args)),
        BreakGlassVerb::List(args) => block_on(list(args)),
        BreakGlassVerb::End(args) => block_on(end(args)),
    }
}

/// Where grants are in force: the sidecars of a mesh, or a server for other proxies.
#[derive(Args, Debug)]
struct PlaceArgs {
    #[command(flatten)]
    state: StateArgs,
    /// Ask the `reeve authz serve` with this state directory instead of a mesh's sidecars.
    #[arg(long, value_name = "DIR")]
    authz: Option<PathBuf>,
}

/// Somebody who takes up grants.
#[derive(Clone, Debug)]
pub(crate) struct Taker {
    name: String,
    /// `None`: every one.
    namespace: Option<Namespace>,
    target: Target,
}

impl PlaceArgs {
    fn takers(&self) -> Result<Vec<Taker>, Problem> {
        match &self.authz {
            None => takers(&self.state.existing()?),
            Some(dir) => Ok(vec![Taker {
                name: "ext-authz".to_owned(),
                namespace: None,
                target: Target::Unix(dir.join(ADMIN_SOCKET)),
            }]),
        }
    }
}

/// The sidecars of a mesh.
pub(crate) fn takers(state: &StateDir) -> Result<Vec<Taker>, Problem> {
    let taker = |instance: Instance| Taker {
        target: Target::Unix(state.admin_socket(&instance.instance)),
        name: instance.instance.to_string(),
        namespace: Some(instance.namespace),
    };
    Ok(sidecars(state)?.into_iter().map(taker).collect())
}

/// The instances that have a sidecar.
fn sidecars(state: &StateDir) -> Result<Vec<Instance>, Problem> {
    let all = Instances::read(&state.instances()).map_err(Problem::new)?;
    let with_sidecar = |instance: &Instance| instance.sidecar_pid.is_some();
    Ok(all.instances.into_iter().filter(with_sidecar).collect())
}

/// What is in force everywhere, and what could not be learnt.
pub(crate) async fn in_force(takers: &[Taker]) -> (Vec<InForce>, Vec<Problem>) {
    let asked = takers.iter().map(|taker| async move {
        let failed = format!("{} cannot be asked", taker.name);
        let reply = http::get(&taker.target, "/break-glass", PATIENCE).await;
        let reply = reply.map_err(|error| Problem::because(&failed, &error))?;
        let grants: Vec<InForce> = serde_json::from_slice(&reply.body)
            .map_err(|error| Problem::because(&failed, &error))?;
        let here = grants.into_iter().map(|grant| InForce {
            instance: taker.name.clone(),
            ..grant
        });
        Ok(here.collect::<Vec<_>>())
    });
    let (mut grants, mut problems) = (Vec::new(), Vec::new());
    for answer in join_all(asked).await {
        match answer {
            Ok(found) => grants.extend(found),
            Err(problem) => problems.push(problem),
        }
    }
    (grants, problems)
}

/// A table of grants in force, under a line for each that opens every namespace.
pub(crate) fn table(grants: &[InForce]) -> String {
    let wide = grants.iter().filter(|grant| grant.namespace == "*");
    let ids: BTreeSet<_> = wide.map(|grant| grant.id.as_str()).collect();
    let shout = |id: &str| format!("!!! MESH-WIDE BREAK-GLASS: {id} opens EVERY namespace !!!\n");
    let shouts: String = ids.into_iter().map(shout).collect();
    format!("{shouts}{}", rows(grants))
}

fn rows(grants: &[InForce]) -> String {
    let mut table = plain_table([
        "BREAK-GLASS",
        "INSTANCE",
        "NAMESPACE",
        "UNTIL",
        "ISSUER",
        "REASON",
    ]);
    for grant in grants {
        table.add_row([
            grant.id.clone(),
            grant.instance.clone(),
            grant.namespace.clone(),
            timestamp(grant.until),
            grant.issuer.clone(),
            grant.reason.escape_debug().to_string(),
        ]);
    }
    table.trim_fmt()
}

async fn list(args: &ListArgs) -> Verdict {
    let (grants, problems) = in_force(&args.place.takers()?).await;
    match args.output.output {
        Format::Json => output::json(&serde_json::json!({"grants": grants}))?,
        Format::Human if grants.is_empty() => output::line("no break-glass grant is in force")?,
        Format::Human => output::line(&table(&grants))?,
    }
    problems.iter().for_each(output::complain);
    Ok(Answer::from_fine(problems.is_empty()))
}

async fn end(args: &EndArgs) -> Verdict {
    let takers = args.place.takers()?;
    let (grants, problems) = in_force(&takers).await;
    problems.iter().for_each(output::complain);
    let mut fine = problems.is_empty();
    let (mut found, body) = (
        false,
        Bytes::from(serde_json::json!({"id": args.id}).to_string()),
    );
    for grant in grants.iter().filter(|grant| grant.id == args.id) {
        found = true;
        let Some(taker) = takers.iter().find(|taker| taker.name == grant.instance) else {
            continue;
        };
        match ask(taker, Method::DELETE, body.clone()).await {
            Ok(_) => output::line(&format!("{}: ended on {}", grant.id, grant.instance))?,
            Err(problem) => {
                fine = false;
                output::complain(&problem);
            }
        }
    }
    if !found {
        output::note(&format!("no grant {} is in force", args.id));
    }
    Ok(Answer::from_fine(fine && found))
}

/// Asks one of them; a refusal is a problem with its reason.
async fn ask(taker: &Taker, method: Method, body: Bytes) -> Result<Value, Problem> {
    let instance = &taker.name;
    let reply = http::send(&taker.target, method, "/break-glass", body, PATIENCE)
        .await
        .map_err(|error| Problem::because(format!("{instance} cannot be asked"), &error))?;
    let text = String::from_utf8_lossy(&reply.body);
    if !reply.status.is_success() {
        return Err(Problem::new(format!("{instance} refused: {}", text.trim())).into_answer());
    }
    Ok(serde_json::from_str(&text).unwrap_or_default())
}
