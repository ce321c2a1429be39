//! `reeve audit verify`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use reeve_audit::{
    BatchVerifier,
    verify::{Report, Verified, VerifyOptions, verify},
};

use reeve_core::TrustDomain;
use reeve_sidecar::SvidBatchVerifier;
use reeve_svid::TrustBundle;

use super::{
    cosign, prove,
    remote::{self, Part},
};
use crate::{
    input,
    output::{self, Format, OutputArgs},
    problem::{Answer, Problem, Verdict},
    state::{StateArgs, StateDir, WALS, replica_logs, replica_parts},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  reeve audit verify                                   the log and the write-ahead logs of the mesh
  cp $REEVE_STATE/audit/checkpoint yesterday           keep a checkpoint somewhere else, and later:
  reeve audit verify --checkpoint yesterday            …prove that the log only grew since
  reeve audit verify --save seen.json                  everything once, and from then on
  reeve audit verify --since seen.json --save seen.json  …only what is new
  reeve audit verify --dir /backup/audit --key 'mesh.local/audit+…' -o json

Several --checkpoint may be given, from whoever kept one. Every batch is checked against its signature, every record
against its batch, every batch against the tree, the tree against the signed checkpoint, and sequences for gaps.

Exit codes: 0 = everything checks, 1 = something does not (each place is named), 2 = the log could not be read.";

/// `reeve audit verify`.
#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// The log's folder or bucket (s3://BUCKET/PREFIX), if it is not that of the mesh in the state directory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A proxy's write-ahead log to check too; repeat for several. Those of the state directory are always checked.
    #[arg(long, value_name = "DIR")]
    wal: Vec<PathBuf>,
    /// A checkpoint kept from before, by anyone: the log must be an extension of it; repeat for several.
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// The log of an audit replica, a folder or a bucket, that is not in replicas/NAME/audit beside the log; repeat for several.
    #[arg(long, value_name = "DIR")]
    replica: Vec<PathBuf>,
    /// What an earlier verification saved: look only at what came since. It is believed; keep it to yourself.
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// Save what the next verification needs to go on from here, if everything checks.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// The mesh's authorities, PEM, to check the batches' signatures; else the roots.pem beside the log, or bundle.pem.
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// The log's public key, known from elsewhere (`name+hash+key`), or a file with it; else the one beside the log is believed.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The key of a witness that must have cosigned the log (`name+hash+key`); repeat for several.
    #[arg(long, value_name = "KEY")]
    witness: Vec<String>,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &VerifyArgs) -> Verdict {
    let earlier = args
        .checkpoint
        .iter()
        .map(|path| Ok((input::shown(path), input::bytes(path)?)));
    let earlier = earlier.collect::<Result<_, Problem>>()?;
    let since = args.since.as_deref().map(verified_before).transpose()?;
    let (dir, mut wals, bundle) = match &args.dir {
        Some(dir) => (remote::here(dir, Part::All)?, Vec::new(), roots_beside(dir)),
        None => {
            let state = args.state.existing()?;
            let audit = state.audit();
            (audit.clone(), wals_of(&state), roots_beside(&audit))
        }
    };
    let bundle = args.bundle.clone().unwrap_or(bundle);
    wals.extend(args.wal.iter().cloned());
    let mut replicas = replica_logs(&dir);
    for replica in &args.replica {
        replicas.push(remote::here(replica, Part::All)?);
    }
    let options = VerifyOptions {
        replicas,
        wals,
        earlier,
        since,
        verifier_key: args.key.as_deref().map(prove::log_key).transpose()?,
        witnesses: cosign::cosigners(&args.witness)?,
        batches: None,
    };
    let report = check(&dir, &bundle, options)?;
    if let (Some(path), Some(verified)) = (&args.save, &report.verified) {
        save(path, verified)?;
    }
    match args.output.output {
        Format::Json => output::json(&report)?,
        Format::Human => output::line(&describe(&report))?,
    }
    Ok(Answer::from_fine(report.ok))
}

/// The mesh's roots, those included that it has retired: batches were signed under the root of their time.
fn roots_beside(log: &Path) -> PathBuf {
    let all = log.with_file_name("roots.pem");
    match all.exists() {
        true => all,
        false => log.with_file_name("bundle.pem"),
    }
}

fn verified_before(path: &Path) -> Result<Verified, Problem> {
    Verified::from_slice(&input::bytes(path)?).map_err(|what| {
        Problem::new(format!(
            "what an earlier verification saved cannot be used: it {what}"
        ))
        .at(input::shown(path))
        .fix("verify the whole log once, with --save FILE")
    })
}

/// Replaces the file as a whole: it may be the one that was read.
fn save(path: &Path, verified: &Verified) -> Result<(), Problem> {
    reeve_files::replace_json(path, verified).map_err(|error| {
        Problem::because("what was verified cannot be saved", &error).at(path.display())
    })
}

/// Verifies the log of a mesh with its write-ahead logs.
pub(crate) fn verify_state(state: &StateDir) -> Result<Report, Problem> {
    let options = VerifyOptions {
        replicas: replica_logs(&state.audit()),
        wals: wals_of(state),
        ..VerifyOptions::default()
    };
    check(&state.audit(), &roots_beside(&state.audit()), options)
}

/// Verifies with the authorities in `bundle`. Unusable ones are an error of their own only if nothing else is wrong:
/// an altered checkpoint names another trust domain, and then it is the checkpoint that must be named.
fn check(dir: &Path, bundle: &Path, mut options: VerifyOptions) -> Result<Report, Problem> {
    let unusable = match batch_verifier(dir, bundle) {
        Ok(batches) => {
            options.batches = Some(batches);
            None
        }
        Err(problem) => Some(problem),
    };
    let report = verify(dir, &options).map_err(|error| {
        Problem::because("the audit log cannot be verified", &error)
            .fix("name the log's folder with --dir, or the mesh's state directory with --state")
    })?;
    // SECURITY: batches whose signatures nobody checked are not verified.
    match unusable {
        Some(problem) if report.ok && report.batches > 0 => Err(problem),
        _ => Ok(report),
    }
}

fn wals_of(state: &StateDir) -> Vec<PathBuf> {
    let mut folders = replica_parts(&state.audit(), WALS);
    folders.push(state.wals());
    let entries = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok());
    let mut wals: Vec<_> = entries
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    wals.sort();
    wals
}

/// Who verifies the batches' signatures: the mesh's authorities, as the mesh process wrote them down.
fn batch_verifier(dir: &Path, bundle: &Path) -> Result<Arc<dyn BatchVerifier>, Problem> {
    batch_verifier_of(trust_domain_of(dir).as_deref(), bundle)
}

/// The same for a log whose trust domain is known.
pub(super) fn batch_verifier_of(
    domain: Option<&str>,
    bundle: &Path,
) -> Result<Arc<dyn BatchVerifier>, Problem> {
    let unusable = |problem: Problem| {
        problem.at(bundle.display()).fix(
            "give the authorities' certificates in PEM, such as `reeve ca bundle` prints, with --bundle",
        )
    };
    let pem = fs::read(bundle).map_err(|error| {
        unusable(Problem::because(
            "the batches' signatures cannot be checked without the mesh's authorities",
            &error,
        ))
    })?;
    let domain = domain
        .and_then(|domain| TrustDomain::parse(domain).ok())
        .ok_or_else(|| {
            unusable(Problem::new(
                "the log's name does not begin with a trust domain",
            ))
        })?;
    let bundle = TrustBundle::from_pem(domain, &pem, 0).map_err(|error| {
        unusable(Problem::because(
            "the mesh's authorities cannot be used",
            &error,
        ))
    })?;
    let verifier = SvidBatchVerifier::with_bundle(Arc::new(bundle));
    Ok(Arc::new(verifier))
}

/// The trust domain that a log is of: its checkpoint's origin is `<trust domain>/audit`.
fn trust_domain_of(dir: &Path) -> Option<String> {
    let checkpoint = fs::read_to_string(dir.join("checkpoint")).ok()?;
    let origin = checkpoint.lines().next()?;
    domain_in(origin).map(str::to_owned)
}

/// The trust domain in a log's name: `<trust domain>/audit`, or of a replica `<trust domain>/audit/<replica>`.
pub(super) fn domain_in(log: &str) -> Option<&str> {
    let (domain, rest) = log.split_once("/audit")?;
    (rest.is_empty() || rest.starts_with('/')).then_some(domain)
}

fn describe(report: &Report) -> String {
    let mut lines: Vec<_> = report
        .findings
        .iter()
        .map(|finding| format!("{}: {}", finding.place, finding.what))
        .collect();
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    let verdict = if report.ok {
        "VERIFIED"
    } else {
        "NOT VERIFIED"
    };
    if report.signatures_verified < report.batches {
        lines.push(format!(
            "note: {} batches' signatures are not checked; give the mesh's authorities with --bundle",
            report.batches - report.signatures_verified
        ));
    }
    for replica in &report.replicas {
        lines.push(format!(
            "log {}: {} records, tree size {}",
            replica.log, replica.records, replica.tree_size
        ));
    }
    if !report.witnesses.is_empty() {
        lines.push(format!(
            "cosigned by {} up to tree size {} of {}",
            report.witnesses.join(" and "),
            report.cosigned_size,
            report.tree_size
        ));
    }
    lines.push(format!(
        "{verdict}: {} records in {} batches of {} proxies, {} signatures, {} blobs, tree size {}, {} records in \
         write-ahead logs",
        report.records,
        report.batches,
        report.proxies,
        report.signatures_verified,
        report.blobs,
        report.tree_size,
        report.wal_records,
    ));
    lines.join("\n")
}
