//! `reeve jwt`: verifies JSON Web Tokens with the data path's own code.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use reeve_authz::{
    TokenError,
    jwt::{CheckOptions, Checked, check_jwks, check_token},
};
use reeve_core::{Clock, SystemClock, UnixTime};
use serde::Serialize;
use serde_json::Value;

use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    verb::duration,
};

const EXAMPLES: &str = "\
Examples:
  reeve jwt verify --jwks jwks.json --issuer https://id.example --audience shop \"$TOKEN\"
  reeve jwt verify --jwks jwks.json -o json - < tokens.txt      one token per line in, one JSON line each out
  reeve jwt verify --jwks key.json --bare eyJhbGciOiJFUzI1NiJ9.cGF5bG9hZA.…   any JWS, claims not looked at

Exit codes: 0 = every token verified, 1 = one did not, 2 = they could not be checked.";

/// `reeve jwt`.
#[derive(Args, Debug)]
pub(crate) struct JwtArgs {
    #[command(subcommand)]
    verb: JwtVerb,
}

#[derive(Debug, Subcommand)]
enum JwtVerb {
    /// Say whether tokens are good, and the one reason if not
    #[command(after_help = EXAMPLES)]
    Verify(VerifyArgs),
}

#[derive(Args, Debug)]
struct VerifyArgs {
    /// The issuer's keys: a JWKS document, or a single JWK.
    #[arg(long, value_name = "FILE")]
    jwks: PathBuf,
    /// The issuer that tokens must name.
    #[arg(long, value_name = "ISS")]
    issuer: Option<String>,
    /// An audience that tokens may be for; repeat for several.
    #[arg(long, value_name = "AUD")]
    audience: Vec<String>,
    /// Accept any JWS payload and do not look at claims.
    #[arg(long, conflicts_with_all = ["issuer", "audience"])]
    bare: bool,
    /// Bound on the clock's difference from the issuer's.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    leeway: Duration,
    /// Verify as if it were this time: RFC 3339, or seconds since 1970.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Tokens, or - to read one per line from standard input.
    #[arg(required = true, value_name = "TOKEN")]
    tokens: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// One token's verdict.
#[derive(Debug, Serialize)]
struct TokenVerdict {
    valid: bool,
    reason: Option<&'static str>,
    message: Option<String>,
    algorithm: Option<String>,
    key_id: Option<String>,
    claims: Value,
}

impl From<Result<Checked, TokenError>> for TokenVerdict {
    fn from(checked: Result<Checked, TokenError>) -> Self {
        match checked {
            Ok(checked) => Self {
                valid: true,
                reason: None,
                message: None,
                algorithm: Some(checked.algorithm),
                key_id: checked.key_id,
                claims: checked.claims,
            },
            Err(error) => Self {
                valid: false,
                reason: Some(error.as_str()),
                message: Some(error.to_string()),
                algorithm: None,
                key_id: None,
                claims: Value::Null,
            },
        }
    }
}

/// Verifies.
pub(crate) fn run(args: &JwtArgs) -> Verdict {
    match &args.verb {
        JwtVerb::Verify(args) => verify(args),
    }
}

fn verify(args: &VerifyArgs) -> Verdict {
    let jwks = input::text(&args.jwks)?;
    check_jwks(&jwks).map_err(|error| {
        Problem::because("the keys cannot be used", &error)
            .at(input::shown(&args.jwks))
            .fix("give a JSON Web Key Set (RFC 7517) with at least one public signing key")
    })?;
    let options = CheckOptions {
        issuer: args.issuer.clone(),
        audiences: args.audience.clone(),
        leeway: args.leeway,
        bare: args.bare,
    };
    let now = moment(args.at.as_deref())?;
    let mut all_valid = true;
    let tokens = tokens(&args.tokens)?;
    // CI must not take silence for an answer.
    if tokens.is_empty() {
        return Err(Problem::new("there is no token").fix("write one per line to standard input"));
    }
    for token in tokens {
        let verdict = TokenVerdict::from(check_token(&token, &jwks, &options, now));
        all_valid &= verdict.valid;
        match args.output.output {
            Format::Json => output::json_line(&verdict)?,
            Format::Human => output::line(&describe(&verdict))?,
        }
    }
    Ok(Answer::from_fine(all_valid))
}

/// The time that `--at` says, or now.
pub(crate) fn moment(at: Option<&str>) -> Result<UnixTime, Problem> {
    let now = SystemClock.now();
    at.map_or(Ok(now), |text| input::time(text, now))
        .map_err(Problem::new)
}

fn tokens(given: &[String]) -> Result<Vec<String>, Problem> {
    let mut tokens = Vec::new();
    for token in given {
        if token == "-" {
            let text = input::text("-".as_ref())?;
            tokens.extend(
                text.lines()
                    .filter(|line| !line.is_empty())
                    .map(str::to_owned),
            );
        } else {
            tokens.push(token.clone());
        }
    }
    Ok(tokens)
}

fn describe(verdict: &TokenVerdict) -> String {
    match (&verdict.message, verdict.reason) {
        (Some(message), Some(reason)) => format!("refused ({reason}): {message}"),
        _ => {
            let algorithm = verdict.algorithm.as_deref().unwrap_or("-");
            format!("good, signed with {algorithm}: {}", verdict.claims)
        }
    }
}
