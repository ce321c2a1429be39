//! Proves a log folder whole, or names what is wrong and where.

mod batches;
mod leaves;
mod segments;
mod wals;

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest;
use serde::Serialize;
use tlog_tiles::Hash;

use crate::{
    BatchVerifier, disk,
    log::{key::open_checkpoint, layout, store, tree},
};

/// What else to check a folder against.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Write-ahead logs to check too: each the folder of one proxy.
    pub wals: Vec<PathBuf>,
    /// A checkpoint kept from before; the log must be an extension of it.
    pub earlier: Option<Vec<u8>>,
    /// The log's key (`name+hash+key`) when it is known from elsewhere; else `<dir>/log.vkey` is believed.
    pub verifier_key: Option<String>,
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
    /// Records in the log.
    pub records: u64,
    /// Batches in the log.
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
    /// Records in the write-ahead logs given, shipped or not.
    pub wal_records: u64,
    /// The checkpoint's tree size.
    pub tree_size: u64,
    /// The checkpoint's root hash, base64.
    pub root: String,
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

/// Verifies the log in `dir`. Reads only; safe beside a running mesh.
pub fn verify(dir: &Path, options: &VerifyOptions) -> Result<Report, VerifyError> {
    fs::read_dir(dir).map_err(|source| VerifyError {
        path: dir.display().to_string(),
        source,
    })?;
    let mut report = Report::default();
    for _ in 0..ATTEMPTS {
        let before = fs::read(dir.join(layout::CHECKPOINT)).ok();
        report = Check::new(dir).run(options, before.as_deref());
        let after = fs::read(dir.join(layout::CHECKPOINT)).ok();
        // A partial tile may be gone because a wider one took its place while we read: look again.
        if report.ok || before == after {
            break;
        }
    }
    Ok(report)
}

/// A verification in progress.
#[derive(Debug)]
struct Check<'a> {
    dir: &'a Path,
    report: Report,
}

impl<'a> Check<'a> {
    fn new(dir: &'a Path) -> Self {
        Self {
            dir,
            report: Report::default(),
        }
    }

    fn find(&mut self, place: impl Display, what: impl Into<String>) {
        self.report.findings.push(Finding {
            place: place.to_string(),
            what: what.into(),
        });
    }

    /// A path as findings name it: relative to the log.
    fn name(&self, path: &Path) -> String {
        let relative = path.strip_prefix(self.dir).unwrap_or(path);
        relative.display().to_string()
    }

    fn run(mut self, options: &VerifyOptions, checkpoint: Option<&[u8]>) -> Report {
        // Before the log: what the log acknowledges meanwhile is then there twice rather than nowhere.
        let wals = self.wals(&options.wals);
        let key = self.verifier_key(options);
        if let Some(leaves) = self.tree(checkpoint, &key) {
            if let Some(earlier) = &options.earlier {
                self.earlier(earlier, &key, &leaves.hashes);
            }
            let trail = self.batches(&leaves, options.batches.as_deref());
            self.blobs(&trail);
            self.segments(&trail.segments, &leaves, trail.expired);
            self.compare(&wals, &trail);
            self.predecessors(&wals, &trail);
        } else {
            self.blobs(&batches::Trail::default());
        }
        self.report.ok = self.report.findings.is_empty();
        self.report
    }

    fn verifier_key(&mut self, options: &VerifyOptions) -> String {
        let path = self.dir.join(layout::VERIFIER_KEY);
        let beside = fs::read_to_string(&path);
        match (&options.verifier_key, beside) {
            (Some(key), Ok(beside)) if key.trim() != beside.trim() => {
                self.find(layout::VERIFIER_KEY, "is not the key that was given");
                key.clone()
            }
            (Some(key), _) => key.clone(),
            (None, Ok(beside)) => beside.strip_suffix('\n').unwrap_or(&beside).to_owned(),
            (None, Err(error)) => {
                self.find(layout::VERIFIER_KEY, error.to_string());
                String::new()
            }
        }
    }

    /// The log must be an extension of the tree of an earlier checkpoint.
    fn earlier(&mut self, bytes: &[u8], key: &str, leaves: &[Hash]) {
        let place = "the earlier checkpoint";
        match open_checkpoint(bytes, key) {
            Err(what) => self.find(place, what),
            Ok(earlier) => {
                let size = usize::try_from(earlier.size()).unwrap_or(usize::MAX);
                match leaves.get(..size) {
                    None => self.find(
                        layout::CHECKPOINT,
                        format!(
                            "the log has {} entries; the earlier checkpoint had {size}",
                            leaves.len()
                        ),
                    ),
                    Some(first) if tree::root(first) != *earlier.hash() => self.find(
                        layout::CHECKPOINT,
                        format!("the first {size} entries are not those of the earlier checkpoint"),
                    ),
                    Some(_) => {}
                }
            }
        }
    }

    /// Blobs hash to their names, and those that records refer to are there.
    fn blobs(&mut self, trail: &batches::Trail) {
        let files = store::walk(self.dir, "blobs").unwrap_or_default();
        for (name, path) in files.into_iter().filter(|(_, p)| !disk::is_unfinished(p)) {
            let hash = fs::read(&path).map(|b| hex::encode(digest::digest(&digest::SHA256, &b)));
            match hash {
                Ok(hash) if layout::blob_path(self.dir, &hash) == path => self.report.blobs += 1,
                Ok(_) => self.find(name, "does not hash to its name"),
                Err(error) => self.find(name, error.to_string()),
            }
        }
        for (hash, by) in &trail.blobs {
            let path = layout::blob_path(self.dir, hash);
            if !path.exists() {
                let name = self.name(&path);
                self.find(name, format!("is missing; record {by} refers to it"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
