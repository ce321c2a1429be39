//! `reeve break-glass use`.

use std::{path::PathBuf, time::Duration};

use ::http::Method;
use bytes::Bytes;
use clap::Args;
use reeve_authz::break_glass::SignedGrant;
use reeve_core::InstanceName;
use serde_json::json;

use super::{InForce, PlaceArgs, ask, table};
use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    verb::duration,
};

/// `reeve break-glass use`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  reeve break-glass use pay.grant --for 15m --reason \"INC-4711, mesh process down\"
  reeve break-glass use pay.grant --for 5m --reason \"INC-4711\" --instance ledger-v1-0

A grant that opens every namespace is used with --mesh-wide alone. Each sidecar verifies the grant by the keys that its last configuration trusts. It ends by itself; a sidecar that starts
again meanwhile no longer has it.

Exit codes: 0 = in force on every sidecar meant, 1 = refused by one of them, 2 = none could be asked.")]
pub(super) struct UseArgs {
    /// The grant's file.
    #[arg(value_name = "GRANT")]
    grant: PathBuf,
    /// How long.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    lasting: Duration,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Open every namespace, if the grant does.
    #[arg(long)]
    mesh_wide: bool,
    /// Only this instance; may be given several times [default: all of the grant's namespaces].
    #[arg(long, value_name = "INSTANCE", value_parser = InstanceName::parse)]
    instance: Vec<InstanceName>,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: &UseArgs) -> Verdict {
    let text = input::text(&args.grant)?;
    let signed = SignedGrant::read(text.as_bytes())
        .map_err(|error| Problem::new(error).at(args.grant.display()).into_answer())?;
    if signed.grant.namespace.is_mesh() && !args.mesh_wide {
        return Err(Problem::new("this grant opens every namespace of the mesh")
            .at(args.grant.display())
            .fix("say --mesh-wide if that is meant; --instance keeps it to some of the sidecars")
            .into_answer());
    }
    let mut wanted = args.place.takers()?;
    wanted.retain(|one| match (args.instance.as_slice(), &one.namespace) {
        ([], None) => true,
        ([], Some(namespace)) => signed.grant.namespace.has(namespace),
        (named, _) => named.iter().any(|name| name.as_str() == one.name),
    });
    let missing = args
        .instance
        .iter()
        .find(|name| wanted.iter().all(|w| w.name != name.as_str()));
    if let Some(name) = missing {
        return Err(Problem::new(format!("no sidecar of instance {name} runs"))
            .fix("see `reeve break-glass list`"));
    }
    if wanted.is_empty() {
        let namespace = &signed.grant.namespace;
        return Err(Problem::new(format!(
            "no sidecar runs in namespace {namespace}"
        )));
    }
    let for_ms = u64::try_from(args.lasting.as_millis()).unwrap_or(u64::MAX);
    let body = json!({"grant": text, "for_ms": for_ms, "reason": args.reason}).to_string();
    let (mut grants, mut problems) = (Vec::new(), Vec::new());
    for instance in &wanted {
        let name = instance.name.as_str();
        match ask(instance, Method::POST, Bytes::from(body.clone())).await {
            Ok(answer) => {
                let grant: InForce = serde_json::from_value(answer)
                    .map_err(|e| Problem::because(format!("{name} answered oddly"), &e))?;
                let instance = name.to_owned();
                grants.push(InForce { instance, ..grant });
            }
            Err(problem) => problems.push(problem),
        }
    }
    match args.output.output {
        Format::Json => output::json(&json!({"grants": grants}))?,
        Format::Human if grants.is_empty() => {}
        Format::Human => output::line(&table(&grants))?,
    }
    problems.iter().for_each(output::complain);
    Ok(Answer::from_fine(problems.is_empty()))
}
