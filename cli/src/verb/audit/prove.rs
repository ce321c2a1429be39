//! `reeve audit prove` and `reeve audit check-proof`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use reeve_audit::{
    BatchVerifier, parse_record_id,
    proof::{self, Proof, Proven},
};
use serde::Serialize;

use super::{
    remote::{self, Part},
    verify,
};
use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::{StateArgs, all_logs, replica_logs},
    supervisor::logfile::timestamp,
};

pub(super) const PROVE_EXAMPLES: &str = "\
Examples:
  reeve audit prove d-04005m… > proof.json                 by the id that a denied caller was given
  reeve audit prove reviews-v1-0/1/0/42 --dir /backup/audit --out proof.json

The file holds the record, its batch's signed header, and two Merkle paths: from the record to the root that the header
names, and from the header to the log's signed checkpoint. `batch_in_log` is a C2SP tlog-proof as it is.

Exit codes: 0 = written, 1 = the log does not hold that record (yet), 2 = the log could not be read.";

pub(super) const CHECK_EXAMPLES: &str = "\
Examples:
  reeve audit check-proof proof.json --key 'mesh.local/audit+…'       the log's public key, known from elsewhere
  reeve audit check-proof proof.json --key log.vkey --bundle bundle.pem   …and whose signature the batch has
  reeve audit check-proof proof.json --key log.vkey -o json | jq -c '.paths[]' | reeve audit verify-inclusion -

Exit codes: 0 = every proof holds, 1 = one does not (the part is named), 2 = they could not be checked.";

/// `reeve audit prove`.
#[derive(Args, Debug)]
pub(super) struct ProveArgs {
    /// The record: its own id, or the opaque id that callers see.
    #[arg(value_name = "ID")]
    id: String,
    /// Write the proof here, not to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The log's folder or bucket (s3://BUCKET/PREFIX), if it is not that of the mesh in the state directory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
}

/// `reeve audit check-proof`.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// Proof files, or - for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The log's public key (`name+hash+key`), or a file with it; else that beside the mesh's log is believed.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The mesh's authorities, PEM, to check the signature of the proxy that made the batch, too.
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// One proof's verdict.
#[derive(Debug, Serialize)]
struct Checked {
    valid: bool,
    reason: Option<String>,
    #[serde(flatten)]
    proven: Option<Proven>,
}

pub(super) fn prove(args: &ProveArgs) -> Verdict {
    let id = parse_record_id(&args.id)
        .map_err(|error| Problem::because("no record can have that id", &error))?;
    let dir = match &args.dir {
        Some(dir) => remote::here(dir, Part::All)?,
        None => args.state.existing()?.audit(),
    };
    let mut made = None;
    for log in all_logs(&dir) {
        made = proof::prove(&log, &id).map_err(|error| {
            Problem::because("the record cannot be proved", &error)
                .fix("name the log's folder with --dir, or the mesh's state directory with --state")
        })?;
        if made.is_some() {
            break;
        }
    }
    let Some(made) = made else {
        return Err(Problem::new(format!("the log does not hold record {id}"))
            .fix("what a proxy has only just written is in the log within a second or two; `reeve audit show` looks there, too")
            .into_answer());
    };
    match &args.out {
        None => output::json(&made)?,
        Some(path) => {
            let mut text = serde_json::to_vec_pretty(&made)
                .map_err(|e| Problem::because("the proof cannot be written", &e))?;
            text.push(b'\n');
            fs::write(path, text).map_err(|error| {
                Problem::because("the proof cannot be written", &error).at(path.display())
            })?;
        }
    }
    Ok(Answer::Yes)
}

pub(super) fn check(args: &CheckArgs) -> Verdict {
    let (mesh_key, replica_keys) = match &args.key {
        Some(key) => (log_key(key)?, Vec::new()),
        None => keys_beside(&args.state.existing()?.audit())?,
    };
    let domain = domain_of(&mesh_key);
    let batches = match &args.bundle {
        Some(bundle) => Some(verify::batch_verifier_of(domain, bundle)?),
        None => None,
    };
    let mut all = true;
    for file in &args.files {
        let bytes = input::bytes(file)?;
        let judged = |key: &String| judge(&bytes, key, batches.as_deref());
        let of_mesh = judged(&mesh_key);
        let checked = match of_mesh.valid {
            true => of_mesh,
            // Unless a replica's log is the one that the proof is of, the mesh log's judgement stands.
            false => (replica_keys.iter().map(judged))
                .find(|checked| checked.valid)
                .unwrap_or(of_mesh),
        };
        all &= checked.valid;
        match args.output.output {
            Format::Json => output::json_line(&checked)?,
            Format::Human => output::line(&describe(&input::shown(file), &checked))?,
        }
    }
    Ok(Answer::from_fine(all))
}

/// The keys that the mesh log and its replicas say they sign with.
fn keys_beside(audit: &Path) -> Result<(String, Vec<String>), Problem> {
    let key = |log: &Path| {
        let path = log.join("log.vkey");
        let key = fs::read_to_string(&path).map_err(|error| {
            Problem::because("the log's public key is not known", &error)
                .at(path.display())
                .fix("give it with --key")
        })?;
        Ok(key.trim().to_owned())
    };
    let replicas: Result<_, _> = replica_logs(audit).iter().map(|log| key(log)).collect();
    Ok((key(audit)?, replicas?))
}

fn judge(bytes: &[u8], key: &str, batches: Option<&dyn BatchVerifier>) -> Checked {
    match Proof::from_slice(bytes).and_then(|proof| proof.check(key, batches)) {
        Ok(proven) => Checked {
            valid: true,
            reason: None,
            proven: Some(proven),
        },
        Err(fault) => Checked {
            valid: false,
            reason: Some(fault.to_string()),
            proven: None,
        },
    }
}

/// A public key as it was given: itself, or the file that holds it.
pub(crate) fn log_key(given: &str) -> Result<String, Problem> {
    if given.contains('+') {
        return Ok(given.trim().to_owned());
    }
    let text = input::text(given.as_ref())
        .map_err(|problem| problem.fix("give the key itself (name+hash+key), or a file with it"))?;
    Ok(text.trim().to_owned())
}

/// The trust domain in a key's name.
fn domain_of(key: &str) -> Option<&str> {
    verify::domain_in(key.split('+').next()?)
}

fn describe(file: &str, checked: &Checked) -> String {
    match (&checked.proven, &checked.reason) {
        (Some(proven), _) => format!(
            "PROVED: {file}: record {} of {} is in log {}, under a checkpoint of {} batches{}",
            proven.id,
            timestamp(proven.time),
            proven.log,
            proven.tree_size,
            proven
                .signer
                .as_ref()
                .map_or(String::new(), |signer| format!(", signed by {signer}"))
        ),
        (None, reason) => format!(
            "NOT PROVED: {file}: {}",
            reason.as_deref().unwrap_or("the proof cannot be read")
        ),
    }
}
