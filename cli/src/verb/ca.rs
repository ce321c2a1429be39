//! `reeve ca`: looks at the certificate authority and lets new members join.

mod bundle;
mod entries;
mod federation;
mod keys;
mod revoke;
mod rotate;

use std::time::Duration;

use clap::{Args, Subcommand};
use reeve_console::{CreatedToken, TokenRequest};
use reeve_core::{SpiffeId, UnixTime};

use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
    supervisor::logfile::timestamp,
    verb::{block_on, duration, mesh_api::MeshApi, operator},
};

const STATUS_EXAMPLES: &str = "\
Examples:
  reeve ca status
  reeve ca status -o json | jq .issued

Exit codes: 0 = fine, 2 = the mesh could not be asked.";

const TOKEN_EXAMPLES: &str = "\
Examples:
  reeve ca token create --identity spiffe://mesh.local/ns/default/sa/remote > join.token
  reeve proxy run --join-token-file join.token --bundle bundle.pem --identity spiffe://mesh.local/ns/default/sa/remote …

A token works once, for one identity, until it ends. It is shown only here.

Exit codes: 0 = fine, 2 = there is no token.";

/// How long the mesh process may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// `reeve ca`.
#[derive(Args, Debug)]
pub(crate) struct CaArgs {
    #[command(subcommand)]
    verb: CaVerb,
}

#[derive(Debug, Subcommand)]
enum CaVerb {
    /// Say how the certificate authority stands
    #[command(after_help = STATUS_EXAMPLES)]
    Status(LookArgs),
    /// Print the mesh's authorities, and the keys of its JWT-SVIDs
    #[command(after_help = bundle::EXAMPLES)]
    Bundle(bundle::BundleArgs),
    /// Replace certificates, the intermediate or the root
    #[command(after_help = rotate::ROTATE_EXAMPLES)]
    Rotate(rotate::RotateArgs),
    /// List who holds certificates, and how far each has followed the authority
    #[command(after_help = rotate::MEMBERS_EXAMPLES)]
    Members(rotate::MembersArgs),
    /// List the registration entries, and which processes use them
    #[command(after_help = entries::EXAMPLES)]
    Entries(entries::EntriesArgs),
    /// Refuse an identity or a certificate from now on
    #[command(after_help = revoke::REVOKE_EXAMPLES)]
    Revoke(revoke::RevokeArgs),
    /// Take a revocation back
    #[command(after_help = revoke::UNREVOKE_EXAMPLES)]
    Unrevoke(revoke::UnrevokeArgs),
    /// List what is revoked
    #[command(after_help = revoke::REVOKED_EXAMPLES)]
    Revoked(revoke::RevokedArgs),
    /// Make tokens by which remote members join
    Token(TokenArgs),
}

#[derive(Args, Debug)]
struct LookArgs {
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct TokenArgs {
    #[command(subcommand)]
    verb: TokenVerb,
}

#[derive(Debug, Subcommand)]
enum TokenVerb {
    /// Make a token
    #[command(after_help = TOKEN_EXAMPLES)]
    Create(CreateArgs),
}

#[derive(Args, Debug)]
struct CreateArgs {
    /// The identity that the token's bearer gets.
    #[arg(long, value_name = "SPIFFE_ID")]
    identity: SpiffeId,
    /// How long the token can be used.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    ttl: Duration,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Does it.
pub(crate) fn run(args: &CaArgs) -> Verdict {
    match &args.verb {
        CaVerb::Status(args) => block_on(status(args)),
        CaVerb::Bundle(args) => match &args.verb {
            Some(federation::BundleVerb::List(args)) => block_on(federation::list(args)),
            None => bundle::run(args),
        },
        CaVerb::Rotate(args) => block_on(rotate::rotate(args)),
        CaVerb::Members(args) => block_on(rotate::members(args)),
        CaVerb::Entries(args) => block_on(entries::entries(args)),
        CaVerb::Revoke(args) => block_on(revoke::revoke(args)),
        CaVerb::Unrevoke(args) => block_on(revoke::unrevoke(args)),
        CaVerb::Revoked(args) => block_on(revoke::revoked(args)),
        CaVerb::Token(args) => match &args.verb {
            TokenVerb::Create(args) => block_on(create(args)),
        },
    }
}

async fn status(args: &LookArgs) -> Verdict {
    let state = args.state.existing()?;
    let status = MeshApi::of(&state)?.status().await?;
    match args.output.output {
        Format::Json => output::json(&status.ca)?,
        Format::Human => {
            let facts = status.ca.as_object().cloned().unwrap_or_default();
            const APART: [&str; 4] = ["rotation", "custody", "federation", "bundle_endpoint"];
            let here = |(name, _): &(String, _)| !APART.contains(&name.as_str());
            for (name, value) in facts.into_iter().filter(here) {
                output::line(&format!(
                    "{:<23} {}",
                    name.replace('_', " "),
                    shown(&name, &value)
                ))?;
            }
            for line in keys::in_words(&status.ca) {
                output::line(&line)?;
            }
            output::line(&rotate::in_words(&status.ca))?;
            for line in federation::in_words(&status.ca) {
                output::line(&line)?;
            }
        }
    }
    Ok(Answer::Yes)
}

/// A fact for people; times are milliseconds since 1970.
fn shown(name: &str, value: &serde_json::Value) -> String {
    match value.as_u64().filter(|_| name.ends_with("_after")) {
        Some(millis) => timestamp(UnixTime::from_millis(millis)),
        None => value.to_string(),
    }
}

async fn create(args: &CreateArgs) -> Verdict {
    let request = TokenRequest {
        identity: args.identity.clone(),
        ttl_seconds: args.ttl.as_secs(),
    };
    let state = args.state.existing()?;
    let body = operator::post(&state, "/admin/join-tokens", &request, PATIENCE, |why| {
        Problem::new(format!("there is no token: {why}"))
    })
    .await?;
    let created: CreatedToken = serde_json::from_slice(&body).map_err(|error| {
        Problem::because("the mesh process answered something unexpected", &error)
    })?;
    match args.output.output {
        Format::Json => output::json(&created)?,
        Format::Human => {
            output::line(&created.token)?;
            output::note(&format!(
                "for {}, once, until {}",
                created.identity,
                timestamp(created.expires_at)
            ));
        }
    }
    Ok(Answer::Yes)
}
