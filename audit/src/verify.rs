//! Proves a log folder whole, or names what is wrong and where.

mod batches;
mod leaves;
mod records;
mod replicas;
mod segments;
mod state;
mod wals;

pub use self::state::Verified;

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest;
use serde::Serialize;
use tlog_tiles::Hash;

use self::leaves::Leaves;
use crate::{
    BatchVerifier, disk,
    log::{
        chain::{KeyChain, first_key},
        layout, store, tree,
    },
    proof::{inputs::Consistency, tiles::Tiles},
    witness::{CosignerKey, cosigned_at, cosigners_of},
};

/// What else to check a folder against.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// The logs of the mesh's audit replicas.
    pub replicas: Vec<PathBuf>,
    /// Write-ahead logs to check too: each the folder of one proxy.
    pub wals: Vec<PathBuf>,
    /// Checkpoints kept from before, by anyone, each with what to call it; the log must be an extension of them all.
    pub earlier: Vec<(String, Vec<u8>)>,
    /// What an earlier verification left: only what came since is looked at.
    pub since: Option<Verified>,
    /// The log's key (`name+hash+key`) when it is known from elsewhere; else `<dir>/log.vkey` is believed.
    pub verifier_key: Option<String>,
    /// Witnesses that must have cosigned the log, up to wherever that is.
    pub witnesses: Vec<CosignerKey>,
    /// Verifies the batches' signatures; without it they are counted as not checked.
    pub batches: Option<Arc<dyn BatchVerifier>>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file, and the place in it as far as it is known.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether everything checked.
    pub ok: bool,
    /// What did not.
    pub findings: Vec<Finding>,
    /// What is worth knowing and no fault.
    pub notes: Vec<String>,
    /// Records in all logs, each counted once.
    pub records: u64,
    /// Records that are in two logs: sent again after nobody had acknowledged them.
    pub repeated: u64,
    /// Batches in all logs.
    pub batches: u64,
    /// Proxies that have shipped something.
    pub proxies: u64,
    /// Batch signatures that verified against the mesh's authorities.
    pub signatures_verified: u64,
    /// Blobs that hash to their names.
    pub blobs: u64,
    /// Segments of columns that are what the log says.
    pub segments: u64,
    /// Batches, from the first on, whose records were deleted by retention, as the log says.
    pub expired: u64,
    /// Decisions that went on unrecorded, as their proxies say.
    pub lost: u64,
    /// Witnesses among those asked for that have cosigned the log.
    pub witnesses: Vec<String>,
    /// The tree size of the checkpoint that they cosigned.
    pub cosigned_size: u64,
    /// Records in the write-ahead logs given, shipped or not.
    pub wal_records: u64,
    /// The checkpoint's tree size.
    pub tree_size: u64,
    /// The checkpoint's root hash, base64.
    pub root: String,
    /// The logs of replicas.
    pub replicas: Vec<ReplicaReport>,
    /// Where a later verification can go on; only if everything checked.
    #[serde(skip)]
    pub verified: Option<Verified>,
}

/// What was found of the log of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplicaReport {
    /// The log's name.
    pub log: String,
    /// Where it is.
    pub place: String,
    /// The checkpoint's tree size.
    pub tree_size: u64,
    /// The checkpoint's root hash, base64.
    pub root: String,
    /// Records in it.
    pub records: u64,
}

/// The folder could not be verified at all: it is not there, or cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot verify {path}")]
pub struct VerifyError {
    /// What could not be read.
    pub path: String,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// How often a verification is repeated when the log grew meanwhile.
const ATTEMPTS: usize = 4;

/// Verifies the log in `dir` with those of its replicas. Reads only; safe beside a running mesh.
pub fn verify(dir: &Path, options: &VerifyOptions) -> Result<Report, VerifyError> {
    let dirs: Vec<&Path> = (std::iter::once(dir))
        .chain(options.replicas.iter().map(PathBuf::as_path))
        .collect();
    for dir in &dirs {
        fs::read_dir(dir).map_err(|source| VerifyError {
            path: dir.display().to_string(),
            source,
        })?;
    }
    // The mesh log's first: what it says of others they have by then.
    let checkpoints = || -> Vec<_> {
        let read = |dir: &&Path| fs::read(dir.join(layout::CHECKPOINT)).ok();
        dirs.iter().map(read).collect()
    };
    let mut report = Report::default();
    for _ in 0..ATTEMPTS {
        let before = checkpoints();
        report = replicas::Logs::new(&dirs, &before, options).verify();
        // A partial tile may be gone because a wider one took its place while we read: look again.
        if report.ok || before == checkpoints() {
            break;
        }
    }
    Ok(report)
}

/// A verification of one log in progress.
#[derive(Debug)]
struct Check<'a> {
    dir: &'a Path,
    /// What stands before places in findings: nothing for the mesh log.
    label: String,
    report: Report,
}

impl<'a> Check<'a> {
    fn new(dir: &'a Path) -> Self {
        Self {
            dir,
            label: String::new(),
            report: Report::default(),
        }
    }

    fn find(&mut self, place: impl Display, what: impl Into<String>) {
        let place = place.to_string();
        let of_record = place.starts_with("record ");
        self.report.findings.push(Finding {
            place: match of_record {
                true => place,
                false => format!("{}{place}", self.label),
            },
            what: what.into(),
        });
    }

    /// A path as findings name it: relative to the log.
    fn name(&self, path: &Path) -> String {
        let relative = path.strip_prefix(self.dir).unwrap_or(path);
        relative.display().to_string()
    }

    /// Who may have signed what: from the key that was given, or else the one that the log says it began with.
    fn keys(&mut self, given: Option<&String>) -> KeyChain {
        let beside = fs::read_to_string(self.dir.join(layout::VERIFIER_KEY));
        let beside = beside.map(|text| text.strip_suffix('\n').unwrap_or(&text).to_owned());
        let trusted = match (given, &beside) {
            (Some(given), _) => given.clone(),
            (None, Ok(beside)) => first_key(self.dir).unwrap_or_else(|| beside.clone()),
            (None, Err(_)) => String::new(),
        };
        let (chain, faults) = KeyChain::follow(self.dir, &trusted);
        for fault in faults {
            self.find(fault.place, fault.what);
        }
        match beside {
            Err(error) => self.find(layout::VERIFIER_KEY, error.to_string()),
            Ok(beside) if beside != chain.last() && given.is_some() => self.find(
                layout::VERIFIER_KEY,
                "is not the key that was given, and no change of key leads to it",
            ),
            Ok(beside) if beside != chain.last() => self.find(
                layout::VERIFIER_KEY,
                "is not the key that the changes of key lead to",
            ),
            Ok(_) => {}
        }
        chain
    }

    /// The log must be an extension of the tree of an earlier checkpoint.
    fn earlier(&mut self, name: &str, bytes: &[u8], keys: &KeyChain, leaves: &Leaves) {
        let earlier = match keys.open(bytes) {
            Ok(earlier) => earlier,
            Err(what) => return self.find(name, what),
        };
        let (old, size) = (earlier.size(), leaves.edge.size());
        if old > size {
            let text =
                format!("the log has {size} entries; the earlier checkpoint had {old} ({name})");
            return self.find(layout::CHECKPOINT, text);
        }
        let same = self.began_with(old, earlier.hash(), leaves);
        if !same {
            let text =
                format!("the first {old} entries are not those of the earlier checkpoint ({name})");
            self.find(layout::CHECKPOINT, text);
        }
    }

    /// Whether the tree began with one of that size and root.
    fn began_with(&self, old: u64, root: &Hash, leaves: &Leaves) -> bool {
        let size = leaves.edge.size();
        if leaves.from == 0 {
            let first = usize::try_from(old)
                .ok()
                .and_then(|old| leaves.hashes.get(..old));
            return first.map(tree::root) == Some(*root);
        }
        // Not all leaves are at hand; the tiles prove it.
        let proof = Tiles::new(self.dir, size).consistency(old);
        let claim = proof.map(|proof| Consistency {
            size1: old,
            size2: size,
            root1: root.0.to_vec(),
            root2: leaves.edge.root().0.to_vec(),
            proof: proof.iter().map(|hash| hash.0.to_vec()).collect(),
        });
        old == 0 || claim.is_ok_and(|claim| claim.verify().is_ok())
    }

    /// Witnesses have cosigned the tree, or one that it grew from.
    fn witnesses(&mut self, witnesses: &[CosignerKey], keys: &KeyChain, leaves: &Leaves) {
        let Ok(note) = fs::read(self.dir.join(layout::COSIGNED)) else {
            match witnesses.first() {
                Some(key) => self.find(layout::COSIGNED, format!("is missing; {} was to cosign", key.name())),
                None => self.report.notes.push(
                    "no witness has cosigned the log: its operator can rewrite what nobody else has kept a checkpoint of"
                        .to_owned(),
                ),
            }
            return;
        };
        self.earlier(layout::COSIGNED, &note, keys, leaves);
        if witnesses.is_empty() {
            let text = format!(
                "{} has cosignatures of {}, which were not checked: give their keys",
                layout::COSIGNED,
                cosigners_of(&note).join(" and ")
            );
            self.report.notes.push(text);
        }
        self.report.cosigned_size = keys.open(&note).map_or(0, |cosigned| cosigned.size());
        for key in witnesses {
            match cosigned_at(&note, key) {
                Ok(_time) => self.report.witnesses.push(key.name().to_owned()),
                Err(what) => self.find(layout::COSIGNED, what),
            }
        }
    }

    /// Decisions rest on policy sets that the mesh process has recorded.
    fn policies(&mut self, wals: &[wals::Held], trail: &batches::Trail) {
        for (policies, by) in &trail.seen.relied {
            let known = trail.seen.policies.contains(policies)
                || wals.iter().any(|held| held.policies.contains(policies));
            if known {
                continue;
            }
            let text = format!("rests on policy set {policies}, which no event records");
            match wals.is_empty() || trail.seen.policies.is_empty() {
                true => self.report.notes.push(format!("record {by} {text} yet")),
                false => self.find(by, text),
            }
        }
    }

    /// Blobs hash to their names, and those that records refer to are there.
    fn blobs(&mut self, trail: &batches::Trail, all: bool) {
        let files = match all {
            true => store::walk(self.dir, "blobs").unwrap_or_default(),
            false => self.blobs_of(trail),
        };
        for (name, path) in files.into_iter().filter(|(_, p)| !disk::is_unfinished(p)) {
            let hash = fs::read(&path).map(|b| hex::encode(digest::digest(&digest::SHA256, &b)));
            match hash {
                Ok(hash) if layout::blob_path(self.dir, &hash) == path => self.report.blobs += 1,
                Ok(_) => self.find(name, "does not hash to its name"),
                Err(error) => self.find(name, error.to_string()),
            }
        }
        for (hash, by) in &trail.seen.blobs {
            let path = layout::blob_path(self.dir, hash);
            if !path.exists() {
                let name = self.name(&path);
                self.find(name, format!("is missing; record {by} refers to it"));
            }
        }
    }

    fn blobs_of(&self, trail: &batches::Trail) -> Vec<(String, PathBuf)> {
        let paths = trail.seen.blobs.keys();
        let paths = paths.map(|hash| layout::blob_path(self.dir, hash));
        (paths.filter(|path| path.exists()))
            .map(|path| (self.name(&path), path))
            .collect()
    }
}

#[cfg(test)]
mod matrix;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::copy as copied;
