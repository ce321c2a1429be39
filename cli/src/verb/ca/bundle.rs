//! `reeve ca bundle`.

use std::fs;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::federation::BundleVerb;
use crate::{
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::StateArgs,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve ca bundle > bundle.pem
  reeve ca bundle --format spiffe > bundle.json       for other trust domains and their tools
  reeve ca bundle list                                theirs, as they are known here
  reeve ca bundle --format jwks > keys.json           to verify JWT-SVIDs with: reeve jwt verify --jwks keys.json
  reeve identity verify --bundle bundle.pem --chain svid.pem

Exit codes: 0 = fine, 2 = there is no mesh.";

/// `reeve ca bundle`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct BundleArgs {
    #[command(subcommand)]
    pub(super) verb: Option<BundleVerb>,
    /// In which form.
    #[arg(long, value_enum, default_value_t)]
    format: Form,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Form {
    /// Certificates.
    #[default]
    Pem,
    /// The SPIFFE bundle format: certificates and the keys of JWT-SVIDs, as a JWK set.
    Spiffe,
    /// The keys of JWT-SVIDs alone, as a JWK set (RFC 7517).
    Jwks,
}

pub(super) fn run(args: &BundleArgs) -> Verdict {
    let pem = args.state.existing()?.bundle();
    let path = match args.format {
        Form::Pem => pem,
        Form::Spiffe | Form::Jwks => pem.with_extension("json"),
    };
    let unreadable = |error: &dyn std::error::Error| {
        Problem::because("the mesh's authorities cannot be read", error)
            .at(path.display())
            .fix("is the mesh running? the mesh process writes them down when it starts")
    };
    let text = fs::read_to_string(&path).map_err(|error| unreadable(&error))?;
    match (args.format, args.output.output) {
        (Form::Pem, Format::Human) => output::line(text.trim_end())?,
        (Form::Pem, Format::Json) => output::json(&json!({ "pem": text }))?,
        (form, _) => {
            let document: Value = serde_json::from_str(&text).map_err(|e| unreadable(&e))?;
            match form {
                Form::Jwks => output::json(&jwks(&document))?,
                Form::Spiffe | Form::Pem => output::json(&document)?,
            }
        }
    }
    Ok(Answer::Yes)
}

/// The keys of JWT-SVIDs, as verifiers of tokens know a JWK set.
fn jwks(document: &Value) -> Value {
    let keys = document.get("keys").and_then(Value::as_array);
    let of_tokens = keys.into_iter().flatten().filter_map(|key| {
        let mut key = key.as_object()?.clone();
        let purpose = key.remove("use")?;
        (purpose == "jwt-svid").then_some(key)
    });
    json!({ "keys": of_tokens.collect::<Vec<_>>() })
}
