//! One batch by itself: its object, its signature, its records. Batches are looked at by several threads at once.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read as _,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use reeve_core::{InstanceName, RecordId, SpiffeId, UnixTime};
use serde::{Deserialize, de::IgnoredAny};

use super::{
    Finding,
    segments::{self, Segments},
};
use crate::{
    BatchVerifier, Entry, EventKind, Record,
    batch::{Batch, BatchHeader},
    canonical,
    log::layout,
    record::RECORD_SCHEMA,
    wal::{Chain, link},
};

/// Particulars of events that name a blob.
const BLOB_DETAILS: [&str; 3] = ["policy_set", "schema", "bundle"];

/// The detail of a `started` event that names the last records of the process before ([`crate::Wal::predecessors`]).
const PREDECESSORS: &str = "after";

/// Threads that look at batches, at most.
const MAX_THREADS: usize = 16;

/// A batch to look at.
#[derive(Debug)]
pub(super) struct Job<'a> {
    /// The number of its log.
    pub(super) log: usize,
    /// The entry of the tree.
    pub(super) entry: &'a [u8],
    /// The same, read.
    pub(super) header: BatchHeader,
    /// Its leaf hash.
    pub(super) leaf: [u8; 32],
    /// The chain before its first record.
    pub(super) before: Chain,
    /// Its place in the tree.
    pub(super) at: u64,
    /// Chains that other logs have after some of its records, by their sequences.
    pub(super) passes: Vec<(u64, Chain)>,
}

/// A checkpoint of another log that a record tells of.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) log: String,
    pub(super) checkpoint: String,
    pub(super) by: RecordId,
}

/// A record that says that the records of all leaves before one are deleted.
#[derive(Debug)]
pub(super) struct Expiration {
    pub(super) leaves: String,
    pub(super) root: String,
    pub(super) by: RecordId,
}

/// A batch whose object is not there.
#[derive(Debug)]
pub(super) struct Absent {
    pub(super) leaf: u64,
    pub(super) place: String,
    pub(super) what: String,
}

/// What a proxy says of decisions that it passed and could not record.
#[derive(Debug)]
pub(super) enum Gap {
    /// One began with this record.
    Began(RecordId),
    /// It is over: how many there were, and the same in words.
    Told(RecordId, u64, String),
}

/// What was seen in batches.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) findings: Vec<Finding>,
    pub(super) records: u64,
    pub(super) signatures: u64,
    /// Records that were there when a process took over, each with the record that says so.
    pub(super) predecessors: Vec<(RecordId, RecordId)>,
    /// Blob → a record that refers to it.
    pub(super) blobs: BTreeMap<String, RecordId>,
    /// Policy sets that the mesh process has recorded.
    pub(super) policies: BTreeSet<String>,
    /// Policy sets that decisions rested on → the first of them.
    pub(super) relied: BTreeMap<String, RecordId>,
    /// What it says of segments of columns.
    pub(super) segments: Segments,
    pub(super) expirations: Vec<Expiration>,
    pub(super) absent: Vec<Absent>,
    /// In the order of the tree.
    pub(super) gaps: Vec<Gap>,
    /// What proxies said was missing when they came back.
    pub(super) missing: Vec<Missing>,
    /// Who signed for each proxy, in the order of the tree: each with the first of the batches that they signed in a row.
    pub(super) signers: BTreeMap<InstanceName, Vec<Signed>>,
    /// Checkpoints of replicas' logs.
    pub(super) told: Vec<Kept>,
}

/// Who signed a batch.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) time: UnixTime,
    pub(super) identity: SpiffeId,
    /// The batch, as findings name it.
    pub(super) batch: String,
}

/// What a proxy said was missing from its write-ahead log when it came back.
#[derive(Debug)]
pub(super) struct Missing {
    /// The record that says so.
    pub(super) by: RecordId,
    /// The last record that was marked as written; nothing where the mark could not be read.
    pub(super) marked: Option<RecordId>,
    /// The last that was there (`epoch/sequence`), and in what way the log and its mark differ.
    pub(super) found: String,
    pub(super) what: String,
}

impl Seen {
    /// Adds what was seen later.
    pub(super) fn add(&mut self, later: Self) {
        self.findings.extend(later.findings);
        self.records += later.records;
        self.signatures += later.signatures;
        self.predecessors.extend(later.predecessors);
        self.policies.extend(later.policies);
        self.segments.extend(later.segments);
        self.expirations.extend(later.expirations);
        self.absent.extend(later.absent);
        self.gaps.extend(later.gaps);
        self.missing.extend(later.missing);
        for (proxy, signers) in later.signers {
            let known = self.signers.entry(proxy).or_default();
            known.extend(signers);
            known.dedup_by(|later, earlier| later.identity == earlier.identity);
        }
        self.told.extend(later.told);
        for (blob, by) in later.blobs {
            self.blobs.entry(blob).or_insert(by);
        }
        for (policies, by) in later.relied {
            self.relied.entry(policies).or_insert(by);
        }
    }
}

/// Looks at every batch; what was seen comes in the order of the tree.
pub(super) fn look(dir: &Path, jobs: &[Job<'_>], verifier: Option<&dyn BatchVerifier>) -> Seen {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        let mut buffer = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(at) else {
                return done;
            };
            done.push((at, Look::new(dir, job).run(verifier, &mut buffer)));
        }
    };
    let mut seen: Vec<_> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(MAX_THREADS).min(jobs.len()))
            .map(|_| scope.spawn(work))
            .collect();
        let mut seen = work();
        for other in others {
            // A thread that panicked leaves its batches out, which the count of records then tells.
            seen.extend(other.join().unwrap_or_default());
        }
        seen
    });
    seen.sort_unstable_by_key(|(at, _)| *at);
    let whole = seen.len() == jobs.len();
    let mut all = Seen::default();
    for (_, seen) in seen {
        all.add(seen);
    }
    if !whole {
        all.findings.push(Finding {
            place: "batches".to_owned(),
            what: "not all of them could be looked at".to_owned(),
        });
    }
    all
}

/// A batch that is looked at.
struct Look<'a> {
    job: &'a Job<'a>,
    object: std::path::PathBuf,
    name: String,
    seen: Seen,
}

/// What verification reads of a decision or an outcome that is as it should be, in one pass that also tells that it is
/// canonical.
struct Brief<'a> {
    /// The policy set that a decision rested on.
    policies: &'a str,
}

impl<'a> Brief<'a> {
    /// `None` for all that [`Look::record`] is to judge: what is amiss, unusual, or neither a decision nor an outcome.
    /// INVARIANT: what passes here passes there.
    fn of(bytes: &'a [u8], begin: &str, sequence: u64) -> Option<Self> {
        let names = ["id", "kind", "policy_hash", "request", "schema", "time"];
        let [id, kind, policies, request, schema, time] = canonical::members(bytes, names)?;
        let number = id?.strip_prefix(begin.as_bytes())?.strip_suffix(b"\"")?;
        let as_it_should = number_of(number)? == sequence && text(schema?)? == RECORD_SCHEMA;
        number_of(time?).filter(|_| as_it_should)?;
        let policies = policies.map_or(Some(""), text)?;
        match text(kind?)? {
            "decision" if request? != b"null" => Some(Self { policies }),
            "outcome" => Some(Self { policies: "" }),
            _ => None,
        }
    }
}

/// A text in JSON without escapes.
fn text(json: &[u8]) -> Option<&str> {
    let text = json.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let text = std::str::from_utf8(text).ok()?;
    (!text.contains('\\')).then_some(text)
}

/// A number of digits only that surely fits.
fn number_of(digits: &[u8]) -> Option<u64> {
    let number = |sum: u64, digit: &u8| {
        digit
            .is_ascii_digit()
            .then(|| sum * 10 + u64::from(digit - b'0'))
    };
    (1..=19)
        .contains(&digits.len())
        .then(|| digits.iter().try_fold(0, number))?
}

/// The same of any record; its other members are passed over.
#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    schema: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(rename = "time")]
    _time: u64,
    #[serde(borrow)]
    policy_hash: Option<Cow<'a, str>>,
    #[serde(rename = "decision")]
    _decision: Option<IgnoredAny>,
    request: Option<IgnoredAny>,
}

impl<'a> Look<'a> {
    fn new(dir: &Path, job: &'a Job<'a>) -> Self {
        let object = layout::batch_path(dir, &job.leaf);
        let name = object.strip_prefix(dir).unwrap_or(&object);
        Self {
            job,
            name: name.display().to_string(),
            object,
            seen: Seen::default(),
        }
    }

    fn find(&mut self, place: impl ToString, what: impl Into<String>) {
        self.seen.findings.push(Finding {
            place: place.to_string(),
            what: what.into(),
        });
    }

    /// Looks; the object is read into `buffer`.
    fn run(mut self, verifier: Option<&dyn BatchVerifier>, buffer: &mut Vec<u8>) -> Seen {
        buffer.clear();
        let read = File::open(&self.object).and_then(|mut file| file.read_to_end(buffer));
        let read = read.map_err(|error| error.to_string());
        let name = self.name.clone();
        match read.and_then(|_| Batch::within(buffer).map_err(|e| e.to_string())) {
            Ok(batch) => {
                if batch.header != self.job.entry {
                    self.find(&name, "line 1, the header, is not the entry of the tree");
                }
                self.batch(&batch, verifier);
                self.records(&batch);
            }
            Err(what) if !self.object.exists() => self.seen.absent.push(Absent {
                leaf: self.job.at,
                place: name,
                what,
            }),
            Err(what) => self.find(name, what),
        }
        self.seen
    }

    fn batch(&mut self, batch: &Batch<&[u8]>, verifier: Option<&dyn BatchVerifier>) {
        let name = self.name.clone();
        let leaves = batch.leaves();
        if let Err(fault) = batch.check_with(&leaves) {
            self.find(&name, fault.to_string());
        }
        let job = self.job;
        let header = &job.header;
        let first = header.span().map_or(1, |(first, _)| first);
        let mut passes = job.passes.iter().peekable();
        let mut chain = job.before;
        for (sequence, leaf) in (first..).zip(&leaves) {
            chain = link(&chain, leaf);
            if let Some((_, other)) = passes.next_if(|(at, _)| *at == sequence)
                && *other != chain
            {
                let what = format!(
                    "record {}/{sequence} is another one in another log",
                    header.epoch
                );
                self.find(&name, what);
            }
        }
        if chain != header.chain {
            self.find(
                &name,
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
                Ok(identity) => {
                    self.seen.signatures += 1;
                    let signed = Signed {
                        time: header.time,
                        identity,
                        batch: name,
                    };
                    let proxy = header.proxy.clone();
                    self.seen.signers.extend([(proxy, vec![signed])]);
                }
                Err(error) => self.find(name, format!("the signature: {error}")),
            }
        }
    }

    fn records(&mut self, batch: &Batch<&[u8]>) {
        let header = &self.job.header;
        let first = header.span().map_or(1, |(first, _)| first);
        let id = |sequence| RecordId {
            proxy: header.proxy.clone(),
            epoch: header.epoch,
            worker: header.worker(),
            sequence,
        };
        // A record's id as it stands in it, up to the sequence.
        let begin = format!("\"{}/{}/{}/", header.proxy, header.epoch, header.worker());
        for ((sequence, bytes), line) in (first..).zip(&batch.records).zip(3u64..) {
            self.seen.records += 1;
            match Brief::of(bytes, &begin, sequence) {
                Some(Brief { policies }) => self.relies(policies, || id(sequence)),
                None => {
                    if let Err(what) = self.record(id(sequence), bytes) {
                        let place = format!("{} line {line}", self.name);
                        self.find(place, what);
                    }
                }
            }
        }
    }

    /// Notes which policy set a decision rested on.
    fn relies(&mut self, policies: &str, id: impl FnOnce() -> RecordId) {
        if !policies.is_empty() && !self.seen.relied.contains_key(policies) {
            self.seen.relied.insert(policies.to_owned(), id());
        }
    }

    fn record(&mut self, id: RecordId, bytes: &[u8]) -> Result<(), String> {
        let no_record = |error: serde_json::Error| format!("is no record: {error}");
        let told: Told<'_> = serde_json::from_slice(bytes).map_err(no_record)?;
        if told.id.parse().as_ref() != Ok(&id) {
            return Err(format!("is record {}, not {id}", told.id));
        }
        if told.schema != RECORD_SCHEMA || !canonical::is_canonical(bytes) {
            return Err("is not in the canonical form of its schema".to_owned());
        }
        match told.kind.as_ref() {
            "decision" if told.request.is_none() => Err("is no record: it asks nothing".to_owned()),
            "decision" => {
                self.relies(&told.policy_hash.unwrap_or_default(), || id);
                Ok(())
            }
            "outcome" => Ok(()),
            _ => {
                let record = Record::from_slice(bytes).map_err(no_record)?;
                self.event(&record, &id);
                Ok(())
            }
        }
    }

    /// What a proxy passed and could not record. It says so itself, in a batch that it signed.
    fn gap(&mut self, record: &Record) {
        match &record.entry {
            Entry::Event(event) if event.event == EventKind::RecordsLost => {
                self.seen.gaps.push(Gap::Began(record.id.clone()));
            }
            Entry::Aggregate(lost) if lost.event == EventKind::RecordsLost => {
                let detail = |name| lost.detail.get(name).map_or("?", String::as_str);
                let text = format!(
                    "record {}: {} decisions between {} and {} were not recorded, {} of them allowed: {}",
                    record.id,
                    lost.count,
                    lost.since.as_millis(),
                    lost.until.as_millis(),
                    detail("allowed"),
                    detail("cause"),
                );
                let told = Gap::Told(record.id.clone(), lost.count, text);
                self.seen.gaps.push(told);
            }
            Entry::Decision(_) | Entry::Outcome(_) | Entry::Event(_) | Entry::Aggregate(_) => {}
        }
    }

    fn event(&mut self, record: &Record, id: &RecordId) {
        self.gap(record);
        let Entry::Event(event) = &record.entry else {
            return;
        };
        segments::note(&mut self.seen.segments, event, id);
        if event.event == EventKind::RecordsExpired {
            let detail = |name| event.detail.get(name).cloned().unwrap_or_default();
            self.seen.expirations.push(Expiration {
                leaves: detail("leaves"),
                root: detail("root"),
                by: id.clone(),
            });
        }
        if event.event == EventKind::RecordsMissing {
            let detail = |name| event.detail.get(name).cloned().unwrap_or_default();
            self.seen.missing.push(Missing {
                by: id.clone(),
                marked: detail("marked").parse().ok(),
                found: detail("found"),
                what: detail("what"),
            });
        }
        if event.event == EventKind::LogCheckpoint {
            let detail = |name| event.detail.get(name).cloned().unwrap_or_default();
            self.seen.told.push(Kept {
                log: detail("log"),
                checkpoint: detail("checkpoint"),
                by: id.clone(),
            });
        }
        let after = event.detail.get(PREDECESSORS).map(String::as_str);
        let named = after.unwrap_or_default().split_whitespace();
        for earlier in named.filter_map(|id| id.parse().ok()) {
            self.seen.predecessors.push((earlier, id.clone()));
        }
        for blob in BLOB_DETAILS.iter().filter_map(|d| event.detail.get(*d)) {
            let known = self.seen.blobs.entry(blob.clone());
            known.or_insert_with(|| id.clone());
        }
        if event.event == EventKind::ConfigApplied
            && let Some(policies) = event.detail.get("policy_hash")
        {
            self.seen.policies.insert(policies.clone());
        }
    }
}
