//! `reeve ca`: looks at the certificate authority and lets new members join.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use reeve_ca::proto::issuer::{WatchBundleRequest, issuer_client::IssuerClient};
use reeve_console::{CreatedToken, TokenRequest};
use reeve_core::{SpiffeId, TrustDomain};
use reeve_svid::TrustBundle;
use rustls::pki_types::CertificateDer;

use crate::{
    http::{self, Target},
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::{StateArgs, StateDir},
    supervisor::logfile::timestamp,
    verb::{block_on, duration, mesh_api::MeshApi, unix_channel},
};

const STATUS_EXAMPLES: &str = "\
Examples:
  reeve ca status
  reeve ca status -o json | jq .issued

Exit codes: 0 = fine, 2 = the mesh could not be asked.";

const BUNDLE_EXAMPLES: &str = "\
Examples:
  reeve ca bundle > bundle.pem
  reeve identity verify --bundle bundle.pem --chain svid.pem

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
    /// Print the mesh's authorities in PEM
    #[command(after_help = BUNDLE_EXAMPLES)]
    Bundle(LookArgs),
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
        CaVerb::Bundle(args) => block_on(bundle(args)),
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
            for (name, value) in facts {
                output::line(&format!("{:<18} {value}", name.replace('_', " ")))?;
            }
        }
    }
    Ok(Answer::Yes)
}

async fn bundle(args: &LookArgs) -> Verdict {
    let state = args.state.existing()?;
    let bundle = fetch_bundle(&state).await?;
    let pem = bundle.to_pem();
    match args.output.output {
        Format::Human => output::line(pem.trim_end())?,
        Format::Json => output::json(&serde_json::json!({
            "trust_domain": bundle.trust_domain(),
            "sequence": bundle.sequence(),
            "pem": pem,
        }))?,
    }
    Ok(Answer::Yes)
}

/// The authorities, as local sidecars are told them.
async fn fetch_bundle(state: &StateDir) -> Result<TrustBundle, Problem> {
    let socket = state.mesh_socket();
    let channel = unix_channel(&socket).await?;
    let mut client = IssuerClient::new(channel);
    let first = tokio::time::timeout(PATIENCE, async {
        let mut stream = client
            .watch_bundle(WatchBundleRequest {})
            .await?
            .into_inner();
        stream.message().await
    });
    let failed = |what: String| Problem::new(what).at(socket.display());
    let bundle = match first.await {
        Ok(Ok(Some(bundle))) => bundle,
        Ok(Ok(None)) | Err(_) => {
            return Err(failed("the mesh process told no authorities".to_owned()));
        }
        Ok(Err(status)) => {
            return Err(failed(format!(
                "the mesh process answered {}: {}",
                status.code(),
                status.message()
            )));
        }
    };
    let domain = TrustDomain::parse(&bundle.trust_domain);
    let domain = domain
        .map_err(|error| failed(format!("the mesh process told no trust domain: {error}")))?;
    let authorities = bundle
        .authorities
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    TrustBundle::new(domain, authorities, bundle.sequence).map_err(|error| {
        failed(format!(
            "the mesh process told no usable authorities: {error}"
        ))
    })
}

async fn create(args: &CreateArgs) -> Verdict {
    let socket = args.state.existing()?.mesh_socket();
    let request = TokenRequest {
        identity: args.identity.clone(),
        ttl_seconds: args.ttl.as_secs(),
    };
    let body = serde_json::to_vec(&request)
        .map_err(|error| Problem::because("the request could not be encoded", &error))?;
    let target = Target::Unix(socket.clone());
    let reply = http::post(&target, "/admin/join-tokens", Bytes::from(body), PATIENCE).await;
    let reply = reply.map_err(|error| {
        Problem::because("the mesh process cannot be reached", &error)
            .at(socket.display())
            .fix("is the mesh running? see `reeve status`")
    })?;
    if !reply.status.is_success() {
        let text = String::from_utf8_lossy(&reply.body);
        return Err(
            Problem::new(format!("there is no token: {}", text.trim())).at(socket.display())
        );
    }
    let created: CreatedToken = serde_json::from_slice(&reply.body).map_err(|error| {
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
