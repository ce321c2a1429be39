//! `reeve ca bundle list`, and what `reeve ca status` says of other trust domains.

use clap::{Args, Subcommand};
use reeve_core::{Clock, SystemClock, UnixTime};
use reeve_federation::DomainStatus;
use serde_json::{Value, json};

use crate::{
    output::{self, Format, OutputArgs, plain_table},
    problem::{Answer, Verdict},
    state::StateArgs,
    verb::mesh_api::MeshApi,
};

pub(super) const LIST_EXAMPLES: &str = "\
Examples:
  reeve ca bundle list
  reeve ca bundle list -o json | jq -r '.federated[] | select(.error) | .trust_domain'

Exit codes: 0 = every bundle is there and fresh, 1 = one is missing or could not be fetched, 2 = there is no mesh.";

/// What else there is to do with bundles.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum BundleVerb {
    /// List the trust domains whose workloads are known here, and how old their bundles are
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
}

/// `reeve ca bundle list`.
#[derive(Args, Clone, Debug)]
pub(super) struct ListArgs {
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn list(args: &ListArgs) -> Verdict {
    let state = args.state.existing()?;
    let status = MeshApi::of(&state)?.status().await?;
    let domains = domains(&status.ca);
    match args.output.output {
        Format::Json => output::json(&json!({
            "trust_domain": status.mesh.get("trust_domain"),
            "bundle_sequence": status.ca.get("bundle_sequence"),
            "bundle_endpoint": status.ca.get("bundle_endpoint"),
            "federated": domains,
        }))?,
        Format::Human if domains.is_empty() => {
            output::line("no other trust domain is federated")?;
        }
        Format::Human => output::line(&table(&domains, SystemClock.now()))?,
    }
    let fine = |domain: &DomainStatus| domain.sequence.is_some() && domain.error.is_none();
    Ok(Answer::from_fine(domains.iter().all(fine)))
}

/// For people: one line for each trust domain, and one for where ours is served.
pub(super) fn in_words(ca: &Value) -> Vec<String> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let endpoint = ca.get("bundle_endpoint").filter(|e| !e.is_null());
    let served = endpoint.map(|endpoint| {
        let address = text(endpoint, "address").unwrap_or_default();
        let profile = text(endpoint, "profile").unwrap_or_default();
        let known_by = text(endpoint, "endpoint_spiffe_id").map(|id| format!(" by {id}"));
        let known_by = known_by.unwrap_or_default();
        format!("the bundle is served at https://{address}/, {profile}{known_by}")
    });
    let now = SystemClock.now();
    let each = domains(ca).into_iter().map(|domain| {
        let (age, error) = (age(&domain, now), domain.error.unwrap_or_default());
        let bundle = match domain.sequence {
            Some(sequence) => format!("bundle {sequence}, {age} old"),
            None => "no bundle: its workloads are refused".to_owned(),
        };
        let trouble = if error.is_empty() { "" } else { "; " };
        format!(
            "federated with {}: {bundle}{trouble}{error}",
            domain.trust_domain
        )
    });
    served.into_iter().chain(each).collect()
}

fn domains(ca: &Value) -> Vec<DomainStatus> {
    let listed = ca.get("federation").cloned().unwrap_or_default();
    serde_json::from_value(listed).unwrap_or_default()
}

fn table(domains: &[DomainStatus], now: UnixTime) -> String {
    let mut table = plain_table([
        "TRUST DOMAIN",
        "SEQUENCE",
        "AUTHORITIES",
        "AGE",
        "REFRESH",
        "PROFILE",
        "ENDPOINT",
        "TROUBLE",
    ]);
    for domain in domains {
        let sequence = domain.sequence.map(|sequence| sequence.to_string());
        let none = || "-".to_owned();
        table.add_row([
            domain.trust_domain.to_string(),
            sequence.unwrap_or_else(none),
            domain.authorities.to_string(),
            age(domain, now),
            format!("{}s", domain.refresh_ms / 1000),
            domain.profile.clone().unwrap_or_else(none),
            domain.endpoint.clone().unwrap_or_else(none),
            domain.error.clone().unwrap_or_else(none),
        ]);
    }
    table.to_string()
}

fn age(domain: &DomainStatus, now: UnixTime) -> String {
    match domain.as_of {
        Some(at) => format!("{}s", now.since(at).as_secs()),
        None => "-".to_owned(),
    }
}
