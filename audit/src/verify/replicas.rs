//! All logs of a mesh together: that of the mesh process, and those of its audit replicas, whose checkpoints it holds.
//!
//! Each is a log of its own. What binds them: the chain of a proxy's batches, which goes from one log to another when the
//! proxy does, and the mesh log's records of the others' checkpoints, so that none can be left out, rolled back or replaced.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use tlog_tiles::Hash;

use super::{
    Check, ReplicaReport, Report, VerifyOptions,
    batches::{self, Trail},
    leaves::{Leaves, grown},
    records::{self, Kept},
    state::Verified,
};
use crate::{
    log::{chain::KeyChain, layout},
    replica::MESH_PROCESS,
};

/// The logs, with the checkpoints that they are verified under; the first is the mesh log.
pub(super) struct Logs<'a> {
    checks: Vec<Check<'a>>,
    checkpoints: &'a [Option<Vec<u8>>],
    options: &'a VerifyOptions,
    since: Vec<Verified>,
}

/// A log whose tree could be read.
struct Tree {
    keys: KeyChain,
    leaves: Leaves,
}

impl<'a> Logs<'a> {
    pub(super) fn new(
        dirs: &[&'a Path],
        checkpoints: &'a [Option<Vec<u8>>],
        options: &'a VerifyOptions,
    ) -> Self {
        let checks = dirs.iter().map(|dir| Check::new(dir));
        let mut logs = Self {
            checks: checks.collect(),
            checkpoints,
            options,
            since: Vec::new(),
        };
        for check in logs.checks.iter_mut().skip(1) {
            check.label = format!("{}/", shown(check.dir).display());
        }
        let since = options.since.clone().unwrap_or_default();
        logs.since = (0..dirs.len())
            .map(|n| match n {
                0 => since.clone(),
                n => since
                    .replicas
                    .get(logs.origin(n))
                    .cloned()
                    .unwrap_or_default(),
            })
            .collect();
        logs
    }

    /// The name of a log, as its checkpoint says.
    fn origin(&self, n: usize) -> &str {
        let note = self.checkpoints.get(n).and_then(|note| note.as_deref());
        origin(note.unwrap_or_default())
    }

    pub(super) fn verify(mut self) -> Report {
        let options = self.options;
        let Some(mesh) = self.checks.first_mut() else {
            return Report::default();
        };
        // Before the logs: what they acknowledge meanwhile is then there twice rather than nowhere.
        let marks = mesh.marks(&options.wals);
        let wals = mesh.wals(&options.wals);
        let trees: Vec<_> = (0..self.checks.len()).map(|n| self.tree(n)).collect();
        if trees.first().is_none_or(Option::is_none) {
            if let Some(mesh) = self.checks.first_mut() {
                mesh.blobs(&Trail::default(), true);
            }
            return self.report(&Trail::default());
        }
        let mut trail = Trail::default();
        let expired = self.batches(&trees, &mut trail);
        self.told(&trees, std::mem::take(&mut trail.seen.told));
        if let Some(mesh) = self.checks.first_mut() {
            mesh.gaps(std::mem::take(&mut trail.seen.gaps));
            mesh.blobs(&trail, options.since.is_none());
            mesh.compare(&wals, &trail);
            mesh.predecessors(&wals, &trail);
            mesh.marked(&marks, &wals, &trail, options.batches.as_deref());
            mesh.missing(&trail);
            mesh.policies(&wals, &trail);
            if options.batches.is_none() && trail.batches > 0 {
                mesh.report.notes.push(
                    "the batches' signatures were not checked: the mesh's authorities were not given"
                        .to_owned(),
                );
            }
        }
        let verified = self.verified(&trees, &trail, &expired);
        let mut report = self.report(&trail);
        report.verified = verified.filter(|_| report.ok);
        report
    }

    /// A log by itself: its keys, its tree, and what others keep of it.
    fn tree(&mut self, n: usize) -> Option<Tree> {
        let options = self.options;
        let origin = self.origin(n).to_owned();
        let (check, since) = (self.checks.get_mut(n)?, self.since.get(n)?);
        let given = options.verifier_key.as_ref().filter(|_| n == 0);
        let keys = check.keys(given);
        let edge = since.frontier().unwrap_or_default();
        let note = self.checkpoints.get(n).and_then(|note| note.as_deref());
        let leaves = check.tree(note, &keys, edge)?;
        for (name, earlier) in &options.earlier {
            // One of none of these logs is judged by the mesh log, which says so.
            let of_other = (1..self.checkpoints.len()).find(|other| {
                let other = self
                    .checkpoints
                    .get(*other)
                    .and_then(|note| note.as_deref());
                other.is_some_and(|other| self::origin(other) == self::origin(earlier))
            });
            if of_other.unwrap_or(0) == n {
                check.earlier(name, earlier, &keys, &leaves);
            }
        }
        if !since.checkpoint.is_empty() {
            let name = "the earlier verification";
            check.earlier(name, since.checkpoint.as_bytes(), &keys, &leaves);
        }
        if n == 0 {
            check.witnesses(&options.witnesses, &keys, &leaves);
        } else if let Some(name) = replica_of(check.dir)
            && origin.rsplit('/').next() != Some(name)
        {
            check.find(
                layout::CHECKPOINT,
                format!("is of log {origin}, not of {name}"),
            );
        }
        Some(Tree { keys, leaves })
    }

    /// Every batch of every log; how many leaves of each log have lost their records to retention.
    fn batches(&mut self, trees: &[Option<Tree>], trail: &mut Trail) -> Vec<u64> {
        for (n, since) in self.since.iter().enumerate() {
            for worker in &since.workers {
                let reached = trail.sources.entry(worker.header.source()).or_default();
                reached.resume(n, worker);
            }
        }
        let mut jobs: Vec<_> = (self.checks.iter_mut().zip(trees).enumerate())
            .map(|(n, (check, tree))| match tree {
                Some(tree) => check.jobs(n, &tree.leaves),
                None => Vec::new(),
            })
            .collect();
        batches::follow(&mut self.checks, &mut jobs, trail);
        let verifier = self.options.batches.as_deref();
        let mut all_expired = Vec::new();
        let logs = self.checks.iter_mut().zip(&self.since).zip(trees);
        for (((check, since), tree), jobs) in logs.zip(&jobs) {
            let mut seen = records::look(check.dir, jobs, verifier);
            for finding in std::mem::take(&mut seen.findings) {
                check.find(finding.place, finding.what);
            }
            let count = u64::try_from(jobs.len()).unwrap_or(u64::MAX);
            check.report.batches = since.batches + count;
            trail.batches += check.report.batches;
            check.report.records = since.records + seen.records;
            check.report.signatures_verified = match verifier {
                Some(_) => since.batches + seen.signatures,
                None => 0,
            };
            let mut expired = since.expired;
            if let Some(Tree { leaves, .. }) = tree {
                expired = check.expirations(&mut seen, expired, leaves);
                check.segments(&std::mem::take(&mut seen.segments), leaves, expired);
            }
            for signed in seen.signers.values_mut().flatten() {
                signed.batch.insert_str(0, &check.label);
            }
            all_expired.push(expired);
            trail.seen.add(seen);
        }
        if let (Some(since), Some(mesh)) = (self.since.first(), self.checks.first_mut()) {
            trail.repeated += since.repeated;
            trail.seen.policies.extend(since.policies.iter().cloned());
            let signed = std::mem::take(&mut trail.seen.signers);
            trail.signers = mesh.signers(since.signers.clone(), signed);
        }
        all_expired
    }

    /// Each replica's log is an extension of every checkpoint that the mesh log holds of it, and none is left out.
    fn told(&mut self, trees: &[Option<Tree>], told: Vec<Kept>) {
        let mut of_log: BTreeMap<String, Vec<Kept>> = BTreeMap::new();
        // SECURITY: nobody else may say that there is another log, or what is in it.
        for told in told
            .into_iter()
            .filter(|t| t.by.proxy.as_str() == MESH_PROCESS)
        {
            of_log.entry(told.log.clone()).or_default().push(told);
        }
        let known = self.options.since.as_ref().map(|since| &since.replicas);
        let mut origins: BTreeSet<&str> = of_log.keys().map(String::as_str).collect();
        origins.extend(known.into_iter().flatten().map(|(log, _)| log.as_str()));
        let there: Vec<_> = (1..self.checks.len())
            .map(|n| self.origin(n).to_owned())
            .collect();
        for origin in &origins {
            if there.iter().any(|log| log == origin) {
                continue;
            }
            let last = of_log.get(*origin).and_then(|told| told.last());
            let what = last.map_or("was there when it was verified before".to_owned(), |told| {
                let size = size_of(&told.checkpoint);
                format!("record {} says that it had {size} batches", told.by)
            });
            let name = origin.rsplit('/').next().unwrap_or_default();
            if let Some(mesh) = self.checks.first_mut() {
                mesh.find(
                    format!("replicas/{name}"),
                    format!("the log {origin} is missing; {what}"),
                );
            }
        }
        for (n, origin) in (1..).zip(&there) {
            let twice = there.iter().filter(|other| *other == origin).count() > 1;
            let tree = trees.get(n).and_then(Option::as_ref);
            let (Some(check), Some(tree)) = (self.checks.get_mut(n), tree) else {
                continue;
            };
            if twice {
                check.find(
                    layout::CHECKPOINT,
                    format!("another folder is log {origin}, too"),
                );
            }
            match of_log.get(origin) {
                Some(told) => check.told(told, tree),
                None if origins.contains(origin.as_str()) => {}
                None => check.report.notes.push(format!(
                    "no record of the mesh log tells of a checkpoint of {origin} yet"
                )),
            }
        }
    }

    /// What a later verification needs to go on from here.
    fn verified(&self, trees: &[Option<Tree>], trail: &Trail, expired: &[u64]) -> Option<Verified> {
        let of_log = |n: usize| -> Option<Verified> {
            let (check, tree) = (self.checks.get(n)?, trees.get(n)?.as_ref()?);
            let note = self.checkpoints.get(n)?.as_deref()?;
            let workers = trail
                .sources
                .values()
                .flat_map(|reached| reached.workers(n));
            let policies = match n {
                0 => trail.seen.policies.clone(),
                _ => BTreeSet::new(),
            };
            Some(Verified::new(
                String::from_utf8_lossy(note).into_owned(),
                &tree.leaves.edge,
                (check.report.records, check.report.batches),
                workers.collect(),
                policies,
                expired.get(n).copied().unwrap_or(0),
                match n {
                    0 => trail.signers.clone(),
                    _ => BTreeMap::new(),
                },
            ))
        };
        let mut verified = of_log(0)?;
        verified.repeated = trail.repeated;
        for n in 1..self.checks.len() {
            verified
                .replicas
                .insert(self.origin(n).to_owned(), of_log(n)?);
        }
        Some(verified)
    }

    /// All reports as one.
    fn report(mut self, trail: &Trail) -> Report {
        let places: Vec<_> = (1..self.checks.len())
            .map(|n| self.origin(n).to_owned())
            .collect();
        let mut checks = std::mem::take(&mut self.checks).into_iter();
        let mut all = checks.next().map(|mesh| mesh.report).unwrap_or_default();
        for (check, log) in checks.zip(places) {
            let Report {
                findings, notes, ..
            } = check.report;
            all.findings.extend(findings);
            let labelled = |note| format!("{}: {note}", check.label.trim_end_matches('/'));
            all.notes.extend(notes.into_iter().map(labelled));
            all.records += check.report.records;
            all.batches += check.report.batches;
            all.signatures_verified += check.report.signatures_verified;
            all.segments += check.report.segments;
            all.expired += check.report.expired;
            all.replicas.push(ReplicaReport {
                log,
                place: check.dir.display().to_string(),
                tree_size: check.report.tree_size,
                root: check.report.root,
                records: check.report.records,
            });
        }
        all.repeated = trail.repeated;
        all.records = all.records.saturating_sub(trail.repeated);
        if trail.repeated > 0 {
            all.notes.push(format!(
                "{} records are in two logs, and counted once: they were sent again when nobody had acknowledged them",
                trail.repeated
            ));
        }
        let proxies: BTreeSet<_> = trail.sources.keys().map(|(proxy, _)| proxy).collect();
        all.proxies = u64::try_from(proxies.len()).unwrap_or(u64::MAX);
        all.ok = all.findings.is_empty();
        all
    }
}

impl Check<'_> {
    /// The log is an extension of each of these.
    fn told(&mut self, told: &[Kept], Tree { keys, leaves }: &Tree) {
        let mut sizes: BTreeMap<u64, Vec<(Hash, &Kept)>> = BTreeMap::new();
        for told in told {
            let checkpoint = match keys.open(told.checkpoint.as_bytes()) {
                Ok(checkpoint) => checkpoint,
                Err(what) => {
                    let what = format!(
                        "record {} holds a checkpoint that this log did not sign: {what}",
                        told.by
                    );
                    self.find(layout::CHECKPOINT, what);
                    continue;
                }
            };
            let (old, size) = (checkpoint.size(), leaves.edge.size());
            if old > size {
                let what = format!(
                    "the log has {size} entries; record {} says that it had {old}",
                    told.by
                );
                self.find(layout::CHECKPOINT, what);
                continue;
            }
            let hash = *checkpoint.hash();
            sizes.entry(old).or_default().push((hash, told));
        }
        let mut edge = leaves.before.clone();
        let mut left = leaves.hashes.as_slice();
        for (size, roots) in sizes {
            let more = size
                .checked_sub(edge.size())
                .and_then(|n| usize::try_from(n).ok());
            if let Some((next, rest)) = more.and_then(|n| left.split_at_checked(n)) {
                edge = grown(edge, next);
                left = rest;
            }
            for (root, told) in roots {
                let same = match more {
                    Some(_) => edge.root() == root,
                    None => self.began_with(size, &root, leaves),
                };
                if !same {
                    let what = format!(
                        "the first {size} entries are not those that record {} tells of",
                        told.by
                    );
                    self.find(layout::CHECKPOINT, what);
                }
            }
        }
    }
}

/// The name in a checkpoint.
fn origin(note: &[u8]) -> &str {
    let line = note.split(|byte| *byte == b'\n').next();
    std::str::from_utf8(line.unwrap_or_default()).unwrap_or_default()
}

/// The size in a checkpoint, as it is written.
fn size_of(note: &str) -> &str {
    note.lines().nth(1).unwrap_or_default()
}

/// The name of the replica whose log is there: `replicas/NAME/audit`.
fn replica_of(dir: &Path) -> Option<&str> {
    let folder = dir.parent().filter(|_| dir.ends_with("audit"))?;
    let name = folder.file_name()?.to_str()?;
    folder.parent()?.ends_with("replicas").then_some(name)
}

/// A replica's folder as findings name it.
fn shown(dir: &Path) -> std::path::PathBuf {
    match replica_of(dir) {
        Some(name) => Path::new("replicas").join(name).join("audit"),
        None => dir.to_owned(),
    }
}
