//! Batches: each one whole and signed, and each proxy's one unbroken chain.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use reeve_core::{InstanceName, SpiffeId};
use tlog_tiles::{Hash, record_hash};

use super::{
    Check,
    leaves::Leaves,
    records::{self, Absent, Gap, Job, Seen},
    state::{Verified, Worker},
};
use crate::{
    BatchVerifier,
    batch::{Batch, BatchHeader, EpochLink, Source},
    hexes,
    log::layout,
    wal::{CHAIN_START, Chain, advance},
};

/// What the log says of its proxies and their workers.
#[derive(Debug, Default)]
pub(super) struct Trail {
    pub(super) sources: BTreeMap<Source, Reached>,
    /// What was seen in the batches.
    pub(super) seen: Seen,
    /// Leaves, from the first on, whose records the log says were deleted.
    pub(super) expired: u64,
    /// Who signed each proxy's last batch.
    pub(super) signers: BTreeMap<InstanceName, SpiffeId>,
}

/// How far the log goes for a worker of a proxy.
#[derive(Debug, Default)]
pub(super) struct Reached {
    last: Option<(BatchHeader, [u8; 32])>,
    /// Epoch and sequence of each batch's last record.
    batches: BTreeMap<(u64, u64), Sealed>,
    /// Whether an earlier verification saw the batches before these.
    continued: bool,
    /// Epoch and sequence of the last record that a batch says had been written.
    promised: (u64, u64),
}

/// The chain around a batch.
#[derive(Clone, Copy, Debug)]
struct Sealed {
    before: Chain,
    after: Chain,
    batch: [u8; 32],
}

impl Reached {
    /// As an earlier verification left it.
    fn of(worker: &Worker) -> Self {
        let header = &worker.header;
        let end = (header.epoch, header.span().map_or(0, |(_, last)| last));
        let sealed = Sealed {
            before: worker.before,
            after: header.chain,
            batch: worker.leaf,
        };
        Self {
            last: Some((header.clone(), worker.leaf)),
            batches: BTreeMap::from([(end, sealed)]),
            continued: true,
            promised: (header.epoch, worker.promised),
        }
    }

    /// What a later verification needs to go on.
    fn worker(&self) -> Option<Worker> {
        let (header, leaf) = self.last.as_ref()?;
        let (_, sealed) = self.batches.last_key_value()?;
        Some(Worker {
            header: header.clone(),
            leaf: *leaf,
            before: sealed.before,
            promised: self.promised.1,
        })
    }

    /// The chain after a record, where a batch ends with it.
    pub(super) fn chain_at(&self, at: (u64, u64)) -> Option<&Chain> {
        self.batches.get(&at).map(|sealed| &sealed.after)
    }

    /// Whether the log has that record, or, having been verified up to a later one before, had it then.
    pub(super) fn has(&self, (epoch, sequence): (u64, u64)) -> bool {
        let mut later = self.batches.range((epoch, sequence)..=(epoch, u64::MAX));
        let first = self.batches.keys().next();
        later.next().is_some()
            || (self.continued && first.is_some_and(|first| *first > (epoch, sequence)))
    }

    /// Epoch and sequence of the last record.
    pub(super) fn end(&self) -> (u64, u64) {
        let end = |(h, _): &(BatchHeader, _)| (h.epoch, h.span().map_or(0, |(_, last)| last));
        self.last.as_ref().map_or((0, 0), end)
    }

    /// The chain before the first record of `header`'s batch.
    fn chain_before(&self, header: &BatchHeader) -> Chain {
        match (&self.last, &header.link) {
            (Some((last, _)), _) if last.epoch == header.epoch => last.chain,
            (_, Some(link)) => link.chain,
            (_, None) => CHAIN_START,
        }
    }

    /// Whether `link` names a record that the log has. In logs of before processes in a hand-over had lines of their own, an
    /// epoch may go on after the next one has begun; that its end is all there, `previous` tells.
    fn holds(&self, link: &EpochLink, object: impl Fn(&[u8; 32]) -> Option<Batch>) -> bool {
        let at = (link.epoch, link.sequence);
        let Some((end, sealed)) = self.batches.range(at..).next() else {
            return false;
        };
        if *end == at {
            return sealed.after == link.chain;
        }
        let batch = object(&sealed.batch).filter(|_| end.0 == link.epoch);
        batch.is_some_and(|batch| {
            let chain = batch.records.iter().scan(sealed.before, |chain, record| {
                *chain = advance(chain, record);
                Some(*chain)
            });
            let first = end
                .1
                .saturating_sub(u64::try_from(batch.records.len()).unwrap_or(0));
            let mut numbered = (first + 1..).zip(chain);
            numbered.any(|(number, chain)| number == link.sequence && chain == link.chain)
        })
    }

    /// Whether `header` continues what is here; `object` reads a batch.
    fn continues(
        &self,
        header: &BatchHeader,
        object: impl Fn(&[u8; 32]) -> Option<Batch>,
    ) -> Result<(), String> {
        let first = header.span().map_or(0, |(first, _)| first);
        let (end_epoch, end) = self.end();
        let Some((last, hash)) = &self.last else {
            return match (header.batch, first, &header.link) {
                (1, 1, None) if header.previous == [0; 32] => Ok(()),
                _ => Err(format!(
                    "begins with record {}/{first}; what came before is not in this log",
                    header.epoch
                )),
            };
        };
        if header.epoch == last.epoch {
            if header.batch != last.batch + 1 || first != end + 1 {
                return Err(format!(
                    "batch {} from record {first} follows batch {} up to record {end}: not gapless",
                    header.batch, last.batch
                ));
            }
        } else {
            let (epoch, written) = self.promised;
            if epoch == last.epoch && written > end {
                return Err(format!(
                    "epoch {} begins, and records {epoch}/{} to {written} are missing: a batch before says that they had been written",
                    header.epoch,
                    end + 1,
                ));
            }
            if (header.epoch < last.epoch) || (header.batch, first) != (1, 1) {
                return Err(format!(
                    "epoch {} does not begin with its first record",
                    header.epoch
                ));
            }
            // Without a link, the write-ahead log had been emptied, or taken away.
            let linked = header
                .link
                .as_ref()
                .is_some_and(|link| self.holds(link, object));
            if !linked {
                return Err(format!(
                    "epoch {} does not link to a record before it, the last of which is {end_epoch}/{end}",
                    header.epoch
                ));
            }
        }
        if header.previous != *hash {
            return Err("does not name the batch before it".to_owned());
        }
        Ok(())
    }
}

impl Check<'_> {
    pub(super) fn batches(
        &mut self,
        leaves: &Leaves,
        since: &Verified,
        verifier: Option<&dyn BatchVerifier>,
    ) -> Trail {
        let mut trail = Trail::default();
        for worker in &since.workers {
            let source = worker.header.source();
            trail.sources.insert(source, Reached::of(worker));
        }
        let jobs = self.jobs(leaves, &mut trail);
        self.report.batches = since.batches + u64::try_from(jobs.len()).unwrap_or(u64::MAX);
        let mut seen = records::look(self.dir, &jobs, verifier);
        self.report.findings.append(&mut seen.findings);
        self.report.records = since.records + seen.records;
        self.report.signatures_verified = match verifier {
            Some(_) => since.batches + seen.signatures,
            None => 0,
        };
        seen.policies.extend(since.policies.iter().cloned());
        trail.seen = seen;
        trail.expired = since.expired;
        self.expirations(&mut trail, leaves);
        self.gaps(std::mem::take(&mut trail.seen.gaps));
        trail.signers = self.signers(since, std::mem::take(&mut trail.seen.signers));
        let proxies: BTreeSet<_> = trail.sources.keys().map(|(proxy, _)| proxy).collect();
        self.report.proxies = u64::try_from(proxies.len()).unwrap_or(u64::MAX);
        if verifier.is_none() && self.report.batches > 0 {
            self.report.notes.push(
                "the batches' signatures were not checked: the mesh's authorities were not given"
                    .to_owned(),
            );
        }
        trail
    }

    /// What is absent must be of leaves that the log says have expired; only the log can say so, quiet deletion shows.
    fn expirations(&mut self, trail: &mut Trail, leaves: &Leaves) {
        for said in std::mem::take(&mut trail.seen.expirations) {
            let end = said.leaves.parse().ok();
            let root = hexes::parse(&said.root).map(Hash);
            match end.zip(root) {
                Some((end, root)) if self.began_with(end, &root, leaves) => {
                    trail.expired = trail.expired.max(end);
                }
                _ => self.find(format!("record {}", said.by), "lets other leaves expire"),
            }
        }
        let marked = fs::read_to_string(self.dir.join(layout::EXPIRED)).unwrap_or_default();
        let marked = marked.split_whitespace().next().map(str::parse::<u64>);
        if marked.is_some_and(|leaves| leaves.is_ok_and(|leaves| leaves > trail.expired)) {
            self.find(
                layout::EXPIRED,
                "no record in the log lets so many leaves expire",
            );
        }
        for Absent { leaf, place, what } in std::mem::take(&mut trail.seen.absent) {
            if leaf < trail.expired {
                self.report.expired += 1;
            } else {
                self.find(place, what);
            }
        }
        if self.report.expired > 0 {
            self.report.notes.push(format!(
                "the records of {} batches were deleted by retention, as the log says",
                self.report.expired
            ));
        }
    }

    /// Who signs for a proxy changes when its workload gets another identity, and not otherwise: whoever reads the report
    /// knows which it was.
    fn signers(
        &mut self,
        since: &Verified,
        seen: BTreeMap<InstanceName, Vec<(SpiffeId, String)>>,
    ) -> BTreeMap<InstanceName, SpiffeId> {
        let mut last = since.signers.clone();
        for (proxy, signers) in seen {
            for (identity, batch) in signers {
                let before = last.insert(proxy.clone(), identity.clone());
                if let Some(before) = before.filter(|before| *before != identity) {
                    self.report.notes.push(format!(
                        "{proxy} signed as {before} and, from {batch} on, as {identity}: another identity was configured, or another workload took its name"
                    ));
                }
            }
        }
        last
    }

    fn gaps(&mut self, gaps: Vec<Gap>) {
        let mut open = BTreeMap::new();
        for gap in gaps {
            match gap {
                Gap::Began(by) => drop(open.insert((by.proxy.clone(), by.worker), by)),
                Gap::Told(by, count, text) => {
                    open.remove(&(by.proxy, by.worker));
                    self.report.lost += count;
                    self.report.notes.push(text);
                }
            }
        }
        for began in open.values() {
            let text = format!(
                "after record {began} decisions are missing, and nothing says how many: its proxy could not record them, and died"
            );
            self.report.notes.push(text);
        }
    }

    /// Follows each worker from header to header; what is in the batches is looked at afterwards.
    fn jobs<'l>(&mut self, leaves: &'l Leaves, trail: &mut Trail) -> Vec<Job<'l>> {
        let mut jobs = Vec::new();
        for (at, path, entry) in &leaves.entries {
            let leaf = record_hash(entry);
            let is_leaf = leaves.hash(*at) == Some(&leaf);
            let header = match serde_json::from_slice::<BatchHeader>(entry) {
                Ok(header) if is_leaf => header,
                // Not the leaf of the tree: that is a finding already, and what it says counts for nothing.
                Ok(_) => continue,
                Err(_) if !is_leaf => continue,
                Err(error) => {
                    let place = format!("{} entry {at}", self.name(path));
                    self.find(place, format!("is no batch header: {error}"));
                    continue;
                }
            };
            jobs.push(self.follow(*at, header, entry, trail));
        }
        jobs
    }

    fn follow<'l>(
        &mut self,
        at: u64,
        header: BatchHeader,
        entry: &'l [u8],
        trail: &mut Trail,
    ) -> Job<'l> {
        let leaf = record_hash(entry).0;
        let reached = trail.sources.entry(header.source()).or_default();
        let dir = self.dir;
        let read = |hash: &[u8; 32]| {
            let bytes = fs::read(layout::batch_path(dir, hash)).ok()?;
            Batch::from_object(&bytes).ok()
        };
        if let Err(what) = reached.continues(&header, read) {
            let name = self.name(&layout::batch_path(dir, &leaf));
            self.find(format!("{name} ({})", header.proxy), what);
        }
        let before = reached.chain_before(&header);
        let end = (header.epoch, header.span().map_or(0, |(_, last)| last));
        let sealed = Sealed {
            before,
            after: header.chain,
            batch: leaf,
        };
        reached.batches.insert(end, sealed);
        let written = (header.epoch, header.written.unwrap_or(0).max(end.1));
        reached.promised = reached.promised.max(written);
        reached.last = Some((header.clone(), leaf));
        Job {
            entry,
            header,
            leaf,
            before,
            at,
        }
    }

    /// What a later verification needs to go on from here.
    pub(super) fn verified(&self, checkpoint: &[u8], leaves: &Leaves, trail: &Trail) -> Verified {
        Verified::new(
            String::from_utf8_lossy(checkpoint).into_owned(),
            &leaves.edge,
            (self.report.records, self.report.batches),
            trail.sources.values().filter_map(Reached::worker).collect(),
            trail.seen.policies.clone(),
            trail.expired,
            trail.signers.clone(),
        )
    }
}
