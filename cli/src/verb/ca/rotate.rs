//! `reeve ca rotate` and `reeve ca members`: replaces certificates and authorities, and shows who has followed.

use std::time::Duration;

use clap::{Args, ValueEnum};
use reeve_ca::{MemberStatus, RotationStatus, Waiting};
use reeve_console::RotateRequest;
use reeve_core::{Clock, SystemClock};
use serde_json::Value;

use crate::{
    output::{self, Format, OutputArgs, plain_table},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    supervisor::logfile::timestamp,
    verb::{confirm::confirm, duration, mesh_api::MeshApi, operator},
};

pub(super) const ROTATE_EXAMPLES: &str = "\
Examples:
  reeve ca rotate workloads                every certificate, spread over an eighth of its life
  reeve ca rotate intermediate             a new intermediate signs at once, and everybody renews
  reeve ca rotate root --wait              spread, sign, retire; each step waits for every live member, by name
  reeve ca rotate root --force             end the present step, whoever has not followed
  reeve ca rotate root --back              the old root signs again, and the new one is retired
  reeve ca rotate root --emergency --yes   the root's key is in other hands: nothing under it is trusted from now on

A root is rotated in three steps. `spread`: the new root stands in every bundle. `renew`: it signs, and everybody gets a
new certificate. `retire`: the old root has left the bundles. No step begins before every live member has acknowledged
the one before, and those who cannot acknowledge had the mesh's `rotationWait`. Every step is in the audit log.

Exit codes: 0 = fine, 1 = not over in time (with --wait), 2 = it could not be done.";

pub(super) const MEMBERS_EXAMPLES: &str = "\
Examples:
  reeve ca members
  reeve ca members -o json | jq -r '.[] | select(.connected | not) | .instance'

Exit codes: 0 = fine, 2 = the mesh could not be asked.";

/// How long the mesh process may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a rotation is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How many laggards a line names.
const NAMED: usize = 3;

/// `reeve ca rotate`.
#[derive(Args, Debug)]
pub(super) struct RotateArgs {
    /// What to rotate
    #[arg(value_enum)]
    what: What,
    /// Of a root under rotation: end the present step now, whoever has not followed
    #[arg(long, conflicts_with = "emergency")]
    force: bool,
    /// Of a root under rotation: the old one signs again, and the new one is retired
    #[arg(long, conflicts_with_all = ["emergency", "force"])]
    back: bool,
    /// Of a compromised root: replace it at once and trust nothing under it; connections are refused until both sides
    /// have renewed
    #[arg(long)]
    emergency: bool,
    /// Do not ask before --force or --emergency
    #[arg(long)]
    yes: bool,
    /// Show the steps until it is over
    #[arg(long)]
    wait: bool,
    /// How long --wait waits
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Workloads,
    Intermediate,
    Root,
}

/// `reeve ca members`.
#[derive(Args, Debug)]
pub(super) struct MembersArgs {
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn rotate(args: &RotateArgs) -> Verdict {
    let what = word(args)?;
    let state = args.state.existing()?;
    let api = MeshApi::of(&state)?;
    if let Some(warning) = warning(what, under_way(&api).await?.as_ref()) {
        confirm(args.yes, &warning, "nothing was rotated")?;
    }
    let request = RotateRequest {
        what: what.to_owned(),
    };
    operator::post(&state, "/admin/rotate", &request, PATIENCE, |why| {
        Problem::new(format!("nothing is rotated: {why}")).fix("see `reeve ca status`")
    })
    .await?;
    match args.wait {
        true => follow(args, &api).await,
        false => shown(args, &api).await,
    }
}

/// What the mesh process is asked for.
fn word(args: &RotateArgs) -> Result<&'static str, Problem> {
    if (args.force || args.emergency || args.back) && args.what != What::Root {
        return Err(Problem::new(
            "--force, --back and --emergency are for `root` alone",
        ));
    }
    Ok(match args.what {
        What::Workloads => "workloads",
        What::Intermediate => "intermediate",
        What::Root if args.force => "force",
        What::Root if args.back => "back",
        What::Root if args.emergency => "emergency",
        What::Root => "root",
    })
}

/// What would break, if anything.
fn warning(what: &str, under_way: Option<&RotationStatus>) -> Option<String> {
    match (what, under_way) {
        ("force", Some(now)) if !now.waiting.is_over() => Some(format!(
            "step {} ends though it waits for {}. Their connections fail until they have followed.",
            now.rotation.step.as_str(),
            waits_for(&now.waiting)
        )),
        ("emergency", _) => Some(
            "every certificate of this mesh is void from now on. Requests fail until both sides have renewed.".to_owned(),
        ),
        _ => None,
    }
}

async fn under_way(api: &MeshApi) -> Result<Option<RotationStatus>, Problem> {
    let ca = api.status().await?.ca;
    let rotation = ca.get("rotation").cloned().unwrap_or_default();
    serde_json::from_value(rotation)
        .map_err(|error| Problem::because("the mesh process answered something unexpected", &error))
}

async fn shown(args: &RotateArgs, api: &MeshApi) -> Verdict {
    let ca = api.status().await?.ca;
    match args.output.output {
        Format::Json => output::json(&ca)?,
        Format::Human => output::line(&in_words(&ca))?,
    }
    Ok(Answer::Yes)
}

/// Shows each step, and for whom it waits, until there is none or time is up.
async fn follow(args: &RotateArgs, api: &MeshApi) -> Verdict {
    let until = SystemClock.now().plus(args.timeout);
    let mut last = String::new();
    loop {
        let ca = api.status().await?.ca;
        let now = in_words(&ca);
        let over = ca.get("rotation").is_none_or(Value::is_null) && renewed(args, api, &ca).await?;
        if now != last && !over {
            output::note(&format!("{}  {now}", timestamp(SystemClock.now())));
            last = now;
        }
        if over {
            return shown(args, api).await;
        }
        if SystemClock.now() > until {
            output::note("it is not over yet; see `reeve ca status`");
            return Ok(Answer::No);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether everybody has renewed, if that was what was asked for.
async fn renewed(args: &RotateArgs, api: &MeshApi, ca: &Value) -> Result<bool, Problem> {
    if args.what == What::Root && !args.emergency {
        return Ok(true);
    }
    let wanted = ca
        .get("renewal")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let members = list(api).await?;
    Ok(members.iter().all(|m| m.holding.renewal >= wanted))
}

async fn list(api: &MeshApi) -> Result<Vec<MemberStatus>, Problem> {
    let members = api.get_value("/api/members").await?;
    serde_json::from_value(members)
        .map_err(|error| Problem::because("the mesh process answered something unexpected", &error))
}

pub(super) async fn members(args: &MembersArgs) -> Verdict {
    let api = MeshApi::of(&args.state.existing()?)?;
    let members = list(&api).await?;
    match args.output.output {
        Format::Json => output::json(&members)?,
        Format::Human => {
            let titles = [
                "INSTANCE",
                "IDENTITY",
                "BUNDLE",
                "RENEWAL",
                "CERTIFICATE ENDS",
                "",
            ];
            let mut table = plain_table(titles);
            for member in &members {
                table.add_row([
                    member.name.instance.to_string(),
                    member.name.id.to_string(),
                    member.holding.bundle_sequence.to_string(),
                    member.holding.renewal.to_string(),
                    timestamp(member.holding.not_after),
                    away(member).to_owned(),
                ]);
            }
            output::line(&table.trim_fmt())?;
        }
    }
    Ok(Answer::Yes)
}

fn away(member: &MemberStatus) -> &'static str {
    match member.connected {
        true => "",
        false => "away",
    }
}

/// How the root's rotation stands, in a line.
pub(super) fn in_words(ca: &Value) -> String {
    let rotation = ca.get("rotation").cloned().unwrap_or_default();
    let Ok(Some(now)) = serde_json::from_value::<Option<RotationStatus>>(rotation) else {
        let sequence = ca.get("bundle_sequence").and_then(Value::as_u64);
        return format!(
            "no root is being rotated; the bundle is number {}",
            sequence.unwrap_or_default()
        );
    };
    let step = match now.rotation.step.as_str() {
        "spread" => "spread: the new root stands in the bundles",
        "renew" => "renew: the new root signs, everybody renews",
        _ => "retire: the old root has left the bundles",
    };
    match now.waiting.is_over() {
        true => step.to_owned(),
        false => format!("{step}; waits for {}", waits_for(&now.waiting)),
    }
}

fn waits_for(waiting: &Waiting) -> String {
    let mut parts = Vec::new();
    if waiting.count > 0 {
        let named: Vec<&str> = waiting
            .members
            .iter()
            .take(NAMED)
            .map(String::as_str)
            .collect();
        let more = waiting.count.saturating_sub(named.len());
        let more = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        parts.push(format!("{}{more}", named.join(", ")));
    }
    if let Some(until) = waiting.until {
        parts.push(format!(
            "those who cannot acknowledge, until {}",
            timestamp(until)
        ));
    }
    parts.join(", and for ")
}
