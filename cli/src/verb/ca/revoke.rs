//! `reeve ca revoke`, `unrevoke` and `revoked`: identities and certificates that are refused though they verify.

use std::time::Duration;

use clap::Args;
use reeve_ca::{Revocation, RevokeTarget};
use reeve_console::RevokeRequest;
use reeve_core::{Clock, SpiffeId, SystemClock};

use crate::{
    output::{self, Format, OutputArgs, plain_table},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    supervisor::logfile::timestamp,
    verb::{duration, mesh_api::MeshApi, operator},
};

pub(super) const REVOKE_EXAMPLES: &str = "\
Examples:
  reeve ca revoke spiffe://mesh.local/ns/default/sa/bookinfo-ratings --why 'its host was broken into'
  reeve ca revoke spiffe://mesh.local/ns/default/sa/batch --for 2h
  reeve ca revoke --serial 3f:a2:…          one certificate; its holder gets another one at once

An identity that is revoked gets no certificate, and every proxy refuses those that it has: in handshakes, and on open
connections, which end. The list goes to the proxies with the trust bundle, at once, and outlives restarts.

Exit codes: 0 = fine, 2 = nothing was revoked.";

pub(super) const UNREVOKE_EXAMPLES: &str = "\
Examples:
  reeve ca unrevoke spiffe://mesh.local/ns/default/sa/bookinfo-ratings
  reeve ca unrevoke --serial 3f:a2:…

Exit codes: 0 = fine, 2 = it was not revoked, or could not be taken back.";

pub(super) const REVOKED_EXAMPLES: &str = "\
Examples:
  reeve ca revoked
  reeve ca revoked -o json | jq -r '.[].id'

Exit codes: 0 = fine, 2 = the mesh could not be asked.";

/// How long the mesh process may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is meant.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// Every certificate of this identity
    #[arg(value_name = "SPIFFE_ID")]
    id: Option<SpiffeId>,
    /// The certificate of this serial number, in hexadecimal
    #[arg(long, value_name = "SERIAL")]
    serial: Option<String>,
}

/// `reeve ca revoke`.
#[derive(Args, Debug)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Take it back by itself after this time [default: never; of a certificate: when it has ended]
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    #[command(flatten)]
    state: StateArgs,
}

/// `reeve ca unrevoke`.
#[derive(Args, Debug)]
pub(super) struct UnrevokeArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    state: StateArgs,
}

/// `reeve ca revoked`.
#[derive(Args, Debug)]
pub(super) struct RevokedArgs {
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn revoke(args: &RevokeArgs) -> Verdict {
    let request = RevokeRequest {
        until: args.time.map(|time| SystemClock.now().plus(time)),
        why: args.why.clone(),
        ..args.target.request()
    };
    send(&args.state, &request).await?;
    output::line("it is revoked; `reeve ca members` shows who trusts by the new bundle")?;
    Ok(Answer::Yes)
}

pub(super) async fn unrevoke(args: &UnrevokeArgs) -> Verdict {
    let request = RevokeRequest {
        take_back: true,
        ..args.target.request()
    };
    send(&args.state, &request).await?;
    output::line("it is revoked no longer")?;
    Ok(Answer::Yes)
}

impl TargetArgs {
    fn request(&self) -> RevokeRequest {
        RevokeRequest {
            id: self.id.clone(),
            serial: self.serial.clone(),
            ..RevokeRequest::default()
        }
    }
}

async fn send(state: &StateArgs, request: &RevokeRequest) -> Result<(), Problem> {
    let state = state.existing()?;
    operator::post(&state, "/admin/revoke", request, PATIENCE, |why| {
        Problem::new(format!("nothing has changed: {why}")).fix("see `reeve ca revoked`")
    })
    .await?;
    Ok(())
}

pub(super) async fn revoked(args: &RevokedArgs) -> Verdict {
    let api = MeshApi::of(&args.state.existing()?)?;
    let value = api.get_value("/api/revoked").await?;
    if args.output.output == Format::Json {
        output::json(&value)?;
        return Ok(Answer::Yes);
    }
    let list: Vec<Revocation> = serde_json::from_value(value).map_err(|error| {
        Problem::because("the mesh process answered something unexpected", &error)
    })?;
    if list.is_empty() {
        output::line("nothing is revoked")?;
        return Ok(Answer::Yes);
    }
    let mut table = plain_table(["REVOKED", "SINCE", "UNTIL", "WHY"]);
    for revocation in list {
        let target = match revocation.target {
            RevokeTarget::Id(id) => id.to_string(),
            RevokeTarget::Serial(serial) => format!("serial {serial}"),
        };
        let until = revocation.until.map(timestamp);
        table.add_row([
            target,
            timestamp(revocation.since),
            until.unwrap_or_else(|| "taken back".to_owned()),
            revocation.why,
        ]);
    }
    output::line(&table.trim_fmt())?;
    Ok(Answer::Yes)
}
