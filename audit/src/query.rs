//! Reading the trail: the log's batches, and for the freshest records the write-ahead logs of proxies.
//!
//! Reading proves nothing; `verify` does.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use reeve_core::{
    InstanceName, RecordId, ServiceName, SpiffeId, UnixTime,
    decision::{Effect, Reason},
};
use serde::Serialize;

use crate::{
    DecisionRecord, Entry, EventKind, Record,
    archive::{Archive, LoggedBatch, Newest},
    batch::Batch,
    decision_id,
    log::layout,
    wal::{line, segment},
};

/// Which records are wanted; what is not set does not matter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Not before.
    pub since: Option<UnixTime>,
    /// Before.
    pub until: Option<UnixTime>,
    /// The verified caller.
    pub principal: Option<SpiffeId>,
    /// The resource's workload identity.
    pub workload: Option<SpiffeId>,
    /// A service of the resource.
    pub service: Option<ServiceName>,
    /// Allowed or denied.
    pub effect: Option<Effect>,
    /// Why.
    pub reason: Option<Reason>,
    /// Trace id.
    pub trace: Option<String>,
    /// Prefix of the path.
    pub path: Option<String>,
    /// Record kind: decision, outcome, event, aggregate.
    pub kind: Option<String>,
    /// The record of this id.
    pub id: Option<RecordId>,
    /// Events of this kind.
    pub event: Option<EventKind>,
    /// Outcomes of this decision.
    pub outcome_of: Option<RecordId>,
    /// At most so many, the newest; 0 means [`MAX_RESULTS`].
    pub limit: usize,
}

/// The most records that one query gives.
pub const MAX_RESULTS: usize = 100_000;

/// The trail cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}")]
pub struct ReadError {
    /// What.
    pub path: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// A record and where it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The record.
    pub record: Record,
    /// Its opaque id.
    pub decision_id: String,
    /// Whether it is in the tree already, or only in a write-ahead log.
    pub logged: bool,
    /// The batch object or the segment that holds it.
    pub place: String,
}

/// A decision with what belongs to it, for `reeve audit explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The decision's record.
    pub found: Found,
    /// What came of it, if that is recorded.
    pub outcome: Option<Found>,
    /// The policy set it rested on, when the blob store holds it.
    pub policies: Option<String>,
}

/// Reads a log folder and, for fresh records, the write-ahead logs beside it.
#[derive(Clone, Debug)]
pub struct Reader {
    dir: PathBuf,
    wals: Vec<PathBuf>,
    archive: Option<Arc<dyn Archive>>,
    replicas: Vec<Reader>,
}

impl Reader {
    /// A reader of the log in `dir`.
    pub fn open(dir: &Path) -> Result<Self, ReadError> {
        fs::read_dir(dir).map_err(|e| unreadable(dir, e))?;
        Ok(Self {
            dir: dir.to_owned(),
            wals: Vec::new(),
            archive: None,
            replicas: Vec::new(),
        })
    }

    /// Reads the first leaves' records from `archive`, and batches only for what comes after.
    #[must_use]
    pub fn with_archive(mut self, archive: Arc<dyn Archive>) -> Self {
        self.archive = Some(archive);
        self
    }

    /// Reads the logs of the mesh's audit replicas too.
    #[must_use]
    pub fn with_replicas(mut self, replicas: Vec<Self>) -> Self {
        self.replicas = replicas;
        self
    }

    /// The logs that it reads: the mesh log, then those of replicas.
    pub(crate) fn logs(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.replicas)
    }

    pub(crate) fn replicas(&self) -> &[Self] {
        &self.replicas
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads every write-ahead log under `dir` (`<state>/wal`) too, for records that are not shipped yet.
    #[must_use]
    pub fn with_wals(mut self, dir: &Path) -> Self {
        self.wals.push(dir.to_owned());
        self
    }

    /// The record with that id.
    pub fn show(&self, id: &RecordId) -> Result<Option<Found>, ReadError> {
        let filter = Filter {
            id: Some(id.clone()),
            limit: 1,
            ..Filter::default()
        };
        let holds = |batch: &LoggedBatch| {
            let span = batch.header.sequences.get(&id.worker);
            batch.header.proxy == id.proxy
                && batch.header.epoch == id.epoch
                && span.is_some_and(|(first, last)| (*first..=*last).contains(&id.sequence))
        };
        Ok(self.search(&filter, Some(&id.proxy), &holds)?.pop())
    }

    /// Records that match, oldest first.
    pub fn query(&self, filter: &Filter) -> Result<Vec<Found>, ReadError> {
        // A batch is signed after its records are written, so one signed before `since` has nothing later.
        let since = filter.since.unwrap_or_default();
        self.search(filter, None, &|batch| batch.header.time >= since)
    }

    /// The newest that match: in the write-ahead logs, in the archive, and in those batches after it that may hold any.
    fn search(
        &self,
        filter: &Filter,
        proxy: Option<&InstanceName>,
        may_hold: &dyn Fn(&LoggedBatch) -> bool,
    ) -> Result<Vec<Found>, ReadError> {
        let mut newest = Newest::new(filter.limit);
        // The write-ahead logs first: a record that is shipped meanwhile is then seen twice, not never.
        self.fresh(proxy, &mut |found| {
            if filter.matches(&found.record) {
                newest.offer(found);
            }
        })?;
        for log in self.logs() {
            log.search_log(filter, may_hold, &mut newest)?;
        }
        Ok(newest.into_found())
    }

    /// The same in this log alone. A record that two logs have is offered twice, and taken once.
    fn search_log(
        &self,
        filter: &Filter,
        may_hold: &dyn Fn(&LoggedBatch) -> bool,
        newest: &mut Newest,
    ) -> Result<(), ReadError> {
        let archived = self.archive.as_ref().map_or(0, |archive| archive.end());
        let batches = self.batches(archived, self.tree_size()?)?;
        for batch in batches.iter().filter(|batch| may_hold(batch)) {
            read_batch(batch, &mut |found| {
                if filter.matches(&found.record) {
                    newest.offer(found);
                }
            })?;
        }
        match &self.archive {
            Some(archive) => archive.search(filter, newest),
            None => Ok(()),
        }
    }

    /// The decision with that id, its outcome and its policy set.
    pub fn explain(&self, id: &RecordId) -> Result<Option<Explained>, ReadError> {
        let Some(found) = self.show(id)? else {
            return Ok(None);
        };
        let outcome = self.outcome_of(&found.record)?;
        let policies = match found.record.entry.as_decision() {
            Some(decision) => self.policies_of(decision)?,
            None => None,
        };
        Ok(Some(Explained {
            found,
            outcome,
            policies,
        }))
    }

    /// How many records there are of each kind; decisions by effect and reason.
    pub fn aggregate(&self, filter: &Filter) -> Result<BTreeMap<String, u64>, ReadError> {
        let mut counts = BTreeMap::new();
        for found in self.query(filter)? {
            let name = match &found.record.entry {
                Entry::Decision(d) => {
                    let effect = if d.decision.is_allow() {
                        "allow"
                    } else {
                        "deny"
                    };
                    format!("decision {effect} {}", d.decision.reason.as_str())
                }
                Entry::Outcome(_) | Entry::Event(_) | Entry::Aggregate(_) => {
                    found.record.entry.kind().to_owned()
                }
            };
            *counts.entry(name).or_default() += 1;
        }
        Ok(counts)
    }

    fn outcome_of(&self, decision: &Record) -> Result<Option<Found>, ReadError> {
        let filter = Filter {
            outcome_of: Some(decision.id.clone()),
            limit: 1,
            ..Filter::default()
        };
        let proxy = &decision.id.proxy;
        let after = |b: &LoggedBatch| b.header.proxy == *proxy && b.header.time >= decision.time;
        Ok(self.search(&filter, Some(proxy), &after)?.pop())
    }

    /// The policy set that a decision rested on: an event of the mesh process names the blob that keeps it.
    fn policies_of(&self, decision: &DecisionRecord) -> Result<Option<String>, ReadError> {
        let all = self.configurations()?.into_iter().rev();
        let mut same = all.filter(|c| c.policy_hash == decision.policy_hash);
        Ok(same.find_map(|c| self.blob(&c.policy_set?)))
    }

    /// A blob's text, by the SHA-256 of it in hex.
    pub fn blob(&self, hash: &str) -> Option<String> {
        crate::hexes::parse(hash)?;
        fs::read_to_string(layout::blob_path(&self.dir, hash)).ok()
    }

    /// Every batch under the checkpoint, in the order of the tree.
    pub(crate) fn leaves(&self) -> Result<Vec<LoggedBatch>, ReadError> {
        self.batches(0, self.tree_size()?)
    }

    /// Hands out the records in the write-ahead logs.
    fn fresh(
        &self,
        proxy: Option<&InstanceName>,
        each: &mut dyn FnMut(Found),
    ) -> Result<(), ReadError> {
        for log in self.proxy_wals()? {
            let name = log.file_name().map(|n| n.to_string_lossy().into_owned());
            if proxy.is_some_and(|p| name.as_deref() != Some(p.as_str())) {
                continue;
            }
            let segments = line::all_segments(&log).map_err(|e| unreadable(&log, e))?;
            let mut segments = VecDeque::from(segments);
            while let Some(path) = segments.pop_front() {
                // Shipped and deleted meanwhile, perhaps.
                if let Ok(bytes) = fs::read(&path) {
                    read_segment(&path, &bytes, each);
                }
            }
        }
        Ok(())
    }

    /// The folder of each proxy's write-ahead log.
    pub(crate) fn proxy_wals(&self) -> Result<Vec<PathBuf>, ReadError> {
        let mut found = Vec::new();
        for dir in &self.wals {
            let logs = match fs::read_dir(dir) {
                Ok(logs) => logs,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(unreadable(dir, error)),
            };
            let logs = logs.flatten().map(|entry| entry.path());
            found.extend(logs.filter(|log| log.is_dir()));
        }
        Ok(found)
    }
}

impl Filter {
    /// Whether a record is wanted.
    pub fn matches(&self, record: &Record) -> bool {
        let time = self.since.is_none_or(|t| record.time >= t)
            && self.until.is_none_or(|t| record.time < t);
        let kind = self
            .kind
            .as_deref()
            .is_none_or(|k| record.entry.kind() == k);
        let id = self.id.as_ref().is_none_or(|id| record.id == *id);
        let outcome = self.outcome_of.as_ref().is_none_or(
            |wanted| matches!(&record.entry, Entry::Outcome(o) if o.decision == *wanted),
        );
        let event = self.event.is_none_or(
            |wanted| matches!(&record.entry, Entry::Event(event) if event.event == wanted),
        );
        let may = time && kind && id && outcome && event;
        may && (!self.asks_of_decisions() || self.matches_decision(record))
    }

    fn asks_of_decisions(&self) -> bool {
        self.principal.is_some()
            || self.workload.is_some()
            || self.service.is_some()
            || self.effect.is_some()
            || self.reason.is_some()
            || self.trace.is_some()
            || self.path.is_some()
    }

    fn matches_decision(&self, record: &Record) -> bool {
        let Some(d) = record.entry.as_decision() else {
            return false;
        };
        let request = &d.request;
        let path = request.context.http.as_ref().map(|h| h.path.as_str());
        let is = |wanted: &Option<SpiffeId>, found: Option<&SpiffeId>| {
            wanted.is_none() || wanted.as_ref() == found
        };
        is(&self.principal, request.principal.spiffe_id())
            && is(&self.workload, request.resource.workload.as_ref())
            && (self.service.as_ref()).is_none_or(|s| request.resource.services.contains(s))
            && self.effect.is_none_or(|e| d.decision.effect == e)
            && self.reason.is_none_or(|r| d.decision.reason == r)
            && (self.trace.as_deref()).is_none_or(|t| d.trace_id.as_deref() == Some(t))
            && (self.path.as_deref()).is_none_or(|p| path.is_some_and(|path| path.starts_with(p)))
    }
}

fn read_batch(leaf: &LoggedBatch, each: &mut dyn FnMut(Found)) -> Result<(), ReadError> {
    let bytes = fs::read(&leaf.object).map_err(|e| unreadable(&leaf.object, e))?;
    let batch = Batch::within(&bytes).map_err(|e| unreadable(&leaf.object, io::Error::other(e)))?;
    for record in &batch.records {
        let record = Record::from_slice(record)
            .map_err(|e| unreadable(&leaf.object, io::Error::other(e)))?;
        each(found(record, true, &leaf.object));
    }
    Ok(())
}

/// The records of a segment up to the first that does not check.
fn read_segment(path: &Path, bytes: &[u8], each: &mut dyn FnMut(Found)) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for range in segment::scan(bytes, &name).records {
        let payload = bytes.get(range).unwrap_or_default();
        if let Ok(record) = Record::from_slice(payload) {
            each(found(record, false, path));
        }
    }
}

/// A record of a batch that is named by its hash.
pub fn archived(record: Record, batch: &str, dir: &Path) -> Found {
    let place = layout::batch_named(dir, batch);
    found(record, true, &place)
}

fn found(record: Record, logged: bool, place: &Path) -> Found {
    Found {
        decision_id: decision_id(&record.id),
        logged,
        place: place.display().to_string(),
        record,
    }
}

/// `path` cannot be read.
pub fn unreadable(path: &Path, source: io::Error) -> ReadError {
    ReadError {
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests;
