//! `reeve identity parse`.

use clap::Args;
use reeve_core::SpiffeId;
use serde::Serialize;

use super::reason_word;
use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve identity parse spiffe://mesh.local/ns/default/sa/reviews
  reeve identity parse -o json - < ids.txt         one per line in, one JSON line each out

Exit codes: 0 = every text is a SPIFFE ID, 1 = one is not, 2 = they could not be read.";

/// `reeve identity parse`.
#[derive(Args, Debug)]
pub(super) struct ParseArgs {
    /// SPIFFE IDs, or - to read one per line from standard input.
    #[arg(required = true, value_name = "SPIFFE_ID")]
    ids: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What a text is.
#[derive(Debug, Serialize)]
struct Parsed {
    input: String,
    valid: bool,
    reason: Option<String>,
    message: Option<String>,
    trust_domain: Option<String>,
    path: Option<String>,
    namespace: Option<String>,
    service_account: Option<String>,
}

pub(super) fn run(args: &ParseArgs) -> Verdict {
    let mut all_valid = true;
    for text in texts(&args.ids)? {
        let parsed = parse(&text);
        all_valid &= parsed.valid;
        match args.output.output {
            Format::Json => output::json_line(&parsed)?,
            Format::Human => output::line(&describe(&parsed))?,
        }
    }
    Ok(Answer::from_fine(all_valid))
}

fn texts(given: &[String]) -> Result<Vec<String>, Problem> {
    let mut texts = Vec::new();
    for text in given {
        if text == "-" {
            texts.extend(input::text("-".as_ref())?.lines().map(str::to_owned));
        } else {
            texts.push(text.clone());
        }
    }
    Ok(texts)
}

fn parse(text: &str) -> Parsed {
    let parsed = SpiffeId::parse(text);
    let error = parsed.as_ref().err();
    let id = parsed.as_ref().ok();
    let default_form = id.and_then(SpiffeId::namespace_and_account);
    Parsed {
        input: text.to_owned(),
        valid: id.is_some(),
        reason: error.map(reason_word),
        message: error.map(ToString::to_string),
        trust_domain: id.map(|id| id.trust_domain().to_string()),
        path: id.map(|id| id.path().to_owned()),
        namespace: default_form
            .as_ref()
            .map(|(namespace, _)| namespace.to_string()),
        service_account: default_form
            .as_ref()
            .map(|(_, account)| account.to_string()),
    }
}

fn describe(parsed: &Parsed) -> String {
    match (&parsed.message, &parsed.trust_domain) {
        (Some(message), _) => format!("{}: not a SPIFFE ID: {message}", parsed.input),
        (None, domain) => {
            let domain = domain.as_deref().unwrap_or_default();
            let path = parsed.path.as_deref().unwrap_or_default();
            format!("{}: trust domain {domain}, path {path:?}", parsed.input)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_id_is_taken_apart_and_a_bad_one_gets_its_reason() {
        let good = parse("spiffe://td/ns/pay/sa/ledger");
        assert_eq!((good.valid, good.namespace.as_deref()), (true, Some("pay")));
        let bad = parse("spiffe://TD/x");
        assert_eq!(
            (bad.valid, bad.reason.as_deref()),
            (false, Some("bad_trust_domain_char"))
        );
    }
}
