//! `reeve audit verify-inclusion` and `verify-consistency`: bare proofs, without a log around them.

use std::path::PathBuf;

use clap::Args;
use reeve_audit::proof::inputs::{Consistency, Inclusion};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
};

pub(super) const INCLUSION_EXAMPLES: &str = "\
Examples:
  reeve audit verify-inclusion proof.json
  reeve audit verify-inclusion -o json - < proofs.jsonl      one JSON line in, one out

Input: {\"leafIdx\": 5, \"treeSize\": 8, \"root\": HASH, \"leafHash\": HASH, \"proof\": [HASH, …]}, as the test vectors of
transparency-dev/merkle have it; one value, several one after another, or a list. A HASH is base64 or 64 hexadecimal
digits. Hashes are those of RFC 6962, the proof is its audit path.

Exit codes: 0 = every proof holds, 1 = one does not, 2 = the input could not be read.";

pub(super) const CONSISTENCY_EXAMPLES: &str = "\
Examples:
  reeve audit verify-consistency proof.json
  reeve audit verify-consistency -o json - < proofs.jsonl    one JSON line in, one out

Input: {\"size1\": 6, \"size2\": 8, \"root1\": HASH, \"root2\": HASH, \"proof\": [HASH, …]}, as the test vectors of
transparency-dev/merkle have it; one value, several one after another, or a list. A HASH is base64 or 64 hexadecimal
digits. Nothing can be proved of an empty first tree; trees of one size are the same if their roots are.

Exit codes: 0 = every proof holds, 1 = one does not, 2 = the input could not be read.";

/// `reeve audit verify-inclusion` and `verify-consistency`.
#[derive(Args, Debug)]
pub(super) struct InputsArgs {
    /// Proof inputs, JSON, or - for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// The members of a list, or what is none.
fn listed(mut value: Value) -> Vec<Value> {
    match value.as_array_mut() {
        Some(claims) => std::mem::take(claims),
        None => vec![value],
    }
}

/// One proof's verdict.
#[derive(Debug, Serialize)]
struct Checked {
    valid: bool,
    reason: Option<String>,
}

pub(super) fn inclusion(args: &InputsArgs) -> Verdict {
    each(args, Inclusion::verify)
}

pub(super) fn consistency(args: &InputsArgs) -> Verdict {
    each(args, Consistency::verify)
}

fn each<T: DeserializeOwned>(
    args: &InputsArgs,
    verify: impl Fn(&T) -> Result<(), String>,
) -> Verdict {
    let values: Vec<Value> = input::json_values(&args.file)?;
    let claims = values.into_iter().flat_map(listed);
    let mut all = true;
    for (number, claim) in (1..).zip(claims) {
        let claim: T = serde_json::from_value(claim).map_err(|error| {
            Problem::because(
                format!("claim {number} of the input cannot be read"),
                &error,
            )
            .at(input::shown(&args.file))
            .fix("see the form with --help")
        })?;
        let reason = verify(&claim).err();
        let checked = Checked {
            valid: reason.is_none(),
            reason,
        };
        all &= checked.valid;
        match args.output.output {
            Format::Json => output::json_line(&checked)?,
            Format::Human => output::line(&match &checked.reason {
                None => "VALID".to_owned(),
                Some(reason) => format!("NOT VALID: {reason}"),
            })?,
        }
    }
    Ok(Answer::from_fine(all))
}
