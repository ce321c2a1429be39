//! Batches: each one whole and signed, and each proxy's one unbroken chain.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use reeve_core::RecordId;
use tlog_tiles::{Hash, record_hash};

use super::{
    Check,
    leaves::Leaves,
    segments::{self, Segments},
};
use crate::{
    BatchVerifier, Entry, EventKind, Record,
    batch::{Batch, BatchHeader, EpochLink, Source},
    canonical, hexes,
    log::{layout, tree},
    record::RECORD_SCHEMA,
    wal::{CHAIN_START, Chain, advance, link},
};

/// Particulars of events that name a blob.
const BLOB_DETAILS: [&str; 3] = ["policy_set", "schema", "bundle"];

/// The detail of a `started` event that names the last records of the process before ([`crate::Wal::predecessors`]).
const PREDECESSORS: &str = "after";

/// What the log says of its proxies and their workers.
#[derive(Debug, Default)]
pub(super) struct Trail {
    pub(super) sources: BTreeMap<Source, Reached>,
    /// Blob → a record that refers to it.
    pub(super) blobs: BTreeMap<String, RecordId>,
    /// What it says of segments of columns.
    pub(super) segments: Segments,
    /// Leaves, from the first on, whose records it says were deleted.
    pub(super) expired: u64,
    expirations: Vec<Expiration>,
    absent: Vec<Absent>,
    /// Records that were there when a process took over, each with the record that says so.
    pub(super) predecessors: Vec<(RecordId, RecordId)>,
    /// Where a worker began to pass what it could not record, and did not say yet how much.
    gaps: BTreeMap<Source, RecordId>,
}

/// A record that says that the records of all leaves before one are deleted.
#[derive(Debug)]
struct Expiration {
    leaves: String,
    root: String,
    by: RecordId,
}

/// A batch whose object is not there.
#[derive(Debug)]
struct Absent {
    leaf: u64,
    place: String,
    what: String,
}

/// How far the log goes for a worker of a proxy.
#[derive(Debug, Default)]
pub(super) struct Reached {
    last: Option<(BatchHeader, [u8; 32])>,
    /// Epoch and sequence of each batch's last record.
    batches: BTreeMap<(u64, u64), Sealed>,
}

/// The chain around a batch.
#[derive(Clone, Copy, Debug)]
struct Sealed {
    before: Chain,
    after: Chain,
    batch: [u8; 32],
}

impl Reached {
    /// The chain after a record, where a batch ends with it.
    pub(super) fn chain_at(&self, at: (u64, u64)) -> Option<&Chain> {
        self.batches.get(&at).map(|sealed| &sealed.after)
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
        verifier: Option<&dyn BatchVerifier>,
    ) -> Trail {
        let mut trail = Trail::default();
        for (at, path, entry) in &leaves.entries {
            let leaf = record_hash(entry);
            let known = usize::try_from(*at)
                .ok()
                .and_then(|at| leaves.hashes.get(at));
            let header = match serde_json::from_slice::<BatchHeader>(entry) {
                Ok(header) if known == Some(&leaf) => header,
                // Not the leaf of the tree: that is a finding already, and what it says counts for nothing.
                Ok(_) => continue,
                Err(_) if known != Some(&leaf) => continue,
                Err(error) => {
                    let name = self.name(path);
                    self.find(
                        format!("{name} entry {at}"),
                        format!("is no batch header: {error}"),
                    );
                    continue;
                }
            };
            let object = layout::batch_path(self.dir, &leaf.0);
            let name = self.name(&object);
            let read = fs::read(&object).map_err(|error| error.to_string());
            let batch = read.and_then(|b| Batch::from_object(&b).map_err(|e| e.to_string()));
            let reached = trail.sources.entry(header.source()).or_default();
            let dir = self.dir;
            let read = |hash: &[u8; 32]| {
                let bytes = fs::read(layout::batch_path(dir, hash)).ok()?;
                Batch::from_object(&bytes).ok()
            };
            if let Err(what) = reached.continues(&header, read) {
                self.find(format!("{name} ({})", header.proxy), what);
            }
            let chain = reached.chain_before(&header);
            let end = (header.epoch, header.span().map_or(0, |(_, last)| last));
            let sealed = Sealed {
                before: chain,
                after: header.chain,
                batch: leaf.0,
            };
            reached.batches.insert(end, sealed);
            reached.last = Some((header.clone(), leaf.0));
            self.report.batches += 1;
            match batch {
                Ok(batch) => {
                    if batch.header != *entry {
                        self.find(&name, "line 1, the header, is not the entry of the tree");
                    }
                    self.batch(&name, &header, &batch, chain, verifier);
                    self.records(&name, &header, &batch, &mut trail);
                }
                Err(what) if !object.exists() => trail.absent.push(Absent {
                    leaf: *at,
                    place: name,
                    what,
                }),
                Err(what) => self.find(name, what),
            }
        }
        self.expirations(&mut trail, &leaves.hashes);
        self.open_gaps(&trail);
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
    fn expirations(&mut self, trail: &mut Trail, leaves: &[Hash]) {
        for Expiration {
            leaves: end,
            root,
            by,
        } in std::mem::take(&mut trail.expirations)
        {
            let first = end.parse().ok().and_then(|end: usize| leaves.get(..end));
            match first {
                Some(first) if hexes::parse(&root) == Some(tree::root(first).0) => {
                    let end = u64::try_from(first.len()).unwrap_or(u64::MAX);
                    trail.expired = trail.expired.max(end);
                }
                _ => self.find(format!("record {by}"), "lets other leaves expire"),
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
        for Absent { leaf, place, what } in std::mem::take(&mut trail.absent) {
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

    fn batch(
        &mut self,
        name: &str,
        header: &BatchHeader,
        batch: &Batch,
        before: Chain,
        verifier: Option<&dyn BatchVerifier>,
    ) {
        let leaves = batch.leaves();
        if let Err(fault) = batch.check_with(&leaves) {
            self.find(name, fault.to_string());
        }
        let chain = leaves.iter().fold(before, |chain, leaf| link(&chain, leaf));
        if chain != header.chain {
            self.find(
                name,
                "the hash chain through its records does not end as its header says",
            );
        }
        if let Some(verifier) = verifier {
            let verified = header
                .signed_bytes()
                .map_err(Into::into)
                .and_then(|message| {
                    let signature = header.signature_bytes();
                    verifier.verify(&batch.chain_der, &message, &signature, header.time)
                });
            match verified {
                Ok(_signer) => self.report.signatures_verified += 1,
                Err(error) => self.find(name, format!("the signature: {error}")),
            }
        }
    }

    fn open_gaps(&mut self, trail: &Trail) {
        for began in trail.gaps.values() {
            let text = format!(
                "after record {began} decisions are missing, and nothing says how many: its proxy could not record them, and died"
            );
            self.report.notes.push(text);
        }
    }

    /// What a proxy passed and could not record. It says so itself, in a batch that it signed.
    fn gap(&mut self, record: &Record, trail: &mut Trail) {
        let source = (record.id.proxy.clone(), record.id.worker);
        match &record.entry {
            Entry::Event(event) if event.event == EventKind::RecordsLost => {
                trail.gaps.insert(source, record.id.clone());
            }
            Entry::Aggregate(lost) if lost.event == EventKind::RecordsLost => {
                trail.gaps.remove(&source);
                self.report.lost += lost.count;
                let detail = |name| lost.detail.get(name).map_or("?", String::as_str);
                self.report.notes.push(format!(
                    "record {}: {} decisions between {} and {} were not recorded, {} of them allowed: {}",
                    record.id,
                    lost.count,
                    lost.since.as_millis(),
                    lost.until.as_millis(),
                    detail("allowed"),
                    detail("cause"),
                ));
            }
            Entry::Decision(_) | Entry::Outcome(_) | Entry::Event(_) | Entry::Aggregate(_) => {}
        }
    }

    fn records(&mut self, name: &str, header: &BatchHeader, batch: &Batch, trail: &mut Trail) {
        let first = header.span().map_or(1, |(first, _)| first);
        for ((sequence, bytes), line) in (first..).zip(&batch.records).zip(3u64..) {
            self.report.records += 1;
            let place = format!("{name} line {line}");
            let record = match Record::from_slice(bytes) {
                Ok(record) => record,
                Err(error) => {
                    self.find(place, format!("is no record: {error}"));
                    continue;
                }
            };
            let id = RecordId {
                proxy: header.proxy.clone(),
                epoch: header.epoch,
                worker: header.worker(),
                sequence,
            };
            if record.id != id {
                self.find(&place, format!("is record {}, not {id}", record.id));
            }
            if record.schema != RECORD_SCHEMA || !canonical::is_canonical(bytes) {
                self.find(&place, "is not in the canonical form of its schema");
            }
            self.gap(&record, trail);
            if let Entry::Event(event) = &record.entry {
                let after = event.detail.get(PREDECESSORS).map(String::as_str);
                segments::note(&mut trail.segments, event, &id);
                if event.event == EventKind::RecordsExpired {
                    let detail = |name| event.detail.get(name).cloned().unwrap_or_default();
                    trail.expirations.push(Expiration {
                        leaves: detail("leaves"),
                        root: detail("root"),
                        by: id.clone(),
                    });
                }
                let named = after.unwrap_or_default().split_whitespace();
                for earlier in named.filter_map(|id| id.parse().ok()) {
                    trail.predecessors.push((earlier, id.clone()));
                }
                for blob in BLOB_DETAILS.iter().filter_map(|d| event.detail.get(*d)) {
                    trail
                        .blobs
                        .entry(blob.clone())
                        .or_insert_with(|| id.clone());
                }
            }
        }
    }
}
