//! Reading a whole trail fast: raw records, by several threads at once, in no order.
//!
//! Each record of the log comes once, and each one that is only in a write-ahead log, too. Reading proves nothing;
//! `verify` does.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::PathBuf,
};

use reeve_core::{InstanceName, RecordId, UnixTime};
use serde::Deserialize;

use crate::{
    BatchHeader, Reader,
    archive::{LoggedBatch, lines},
    query::{ReadError, unreadable},
    wal::{line, segment},
};

/// Epochs of a proxy's worker, and what of each the log has.
type Logged = BTreeMap<(InstanceName, u16, u64), Vec<(u64, u64)>>;

/// What there is to read.
#[derive(Debug)]
pub struct Scan {
    objects: Vec<Object>,
    /// Records that are not logged yet.
    fresh: Vec<Vec<u8>>,
    records: u64,
}

#[derive(Debug)]
struct Object {
    path: PathBuf,
    proxy: InstanceName,
    records: u64,
    /// How many of them, from the first on, another log has, too.
    skip: u64,
}

impl Reader {
    /// All batches that may hold records not before `since`, and what the write-ahead logs have beside them.
    pub fn scan(&self, since: Option<UnixTime>) -> Result<Scan, ReadError> {
        self.scan_after(&[], since)
    }

    /// The same without the batches of each log before the leaf that `from` has for it, whose records the caller has from
    /// elsewhere.
    pub fn scan_after(&self, from: &[u64], since: Option<UnixTime>) -> Result<Scan, ReadError> {
        // The write-ahead logs first: a record that is shipped meanwhile is then seen twice, not never.
        let mut fresh = self.unshipped()?;
        let mut logs = Vec::new();
        for log in self.logs() {
            logs.push(log.leaves()?);
        }
        let repeated = Repeated::of(&logs);
        let logged = logged(logs.iter().flatten());
        fresh.retain(|(id, _)| {
            let spans = logged.get(&(id.proxy.clone(), id.worker, id.epoch));
            let has = |(first, last): &(u64, u64)| (*first..=*last).contains(&id.sequence);
            !spans.is_some_and(|spans| spans.iter().any(has))
        });
        // A batch is signed after its records are written, so one signed before `since` has nothing later.
        let since = since.unwrap_or_default();
        let mut objects = Vec::new();
        for (n, leaves) in logs.into_iter().enumerate() {
            let from = from.get(n).copied().unwrap_or(0);
            let wanted = |l: &LoggedBatch| l.index >= from && l.header.time >= since;
            let objects_of_log = leaves.into_iter().filter(wanted).map(|leaf| Object {
                skip: repeated.in_batch(n, &leaf.header),
                path: leaf.object,
                proxy: leaf.header.proxy,
                records: leaf.header.count,
            });
            objects.extend(objects_of_log.filter(|object| object.skip < object.records));
        }
        let counted: u64 = objects.iter().map(|o| o.records - o.skip).sum();
        Ok(Scan {
            records: counted + u64::try_from(fresh.len()).unwrap_or(u64::MAX),
            objects,
            fresh: fresh.into_iter().map(|(_, record)| record).collect(),
        })
    }

    fn unshipped(&self) -> Result<Vec<(RecordId, Vec<u8>)>, ReadError> {
        let mut found = Vec::new();
        for log in self.proxy_wals()? {
            let segments = line::all_segments(&log).map_err(|e| unreadable(&log, e))?;
            let mut segments = VecDeque::from(segments);
            while let Some(path) = segments.pop_front() {
                // Shipped and deleted meanwhile, perhaps.
                let Ok(bytes) = fs::read(&path) else {
                    continue;
                };
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                for range in segment::scan(&bytes, &name).records {
                    let record = bytes.get(range).unwrap_or_default();
                    if let Ok(Identified { id }) = serde_json::from_slice(record) {
                        found.push((id, record.to_vec()));
                    }
                }
            }
        }
        Ok(found)
    }
}

#[derive(Deserialize)]
struct Identified {
    id: RecordId,
}

/// Which records a log has that another has, too: a proxy sends again what nobody acknowledged. They count once, for the log
/// whose batch begins first.
#[derive(Debug, Default)]
pub struct Repeated(BTreeMap<LogLine, Vec<(u64, u64)>>);

/// The place of a log, and of one line of records in it: proxy, worker and epoch.
type LogLine = (usize, InstanceName, u16, u64);

impl Repeated {
    fn of(logs: &[Vec<LoggedBatch>]) -> Self {
        let mut repeated = Self::default();
        if logs.len() < 2 {
            return repeated;
        }
        let mut spans = Vec::new();
        for (n, leaves) in logs.iter().enumerate() {
            for header in leaves.iter().map(|leaf| &leaf.header) {
                let span = header.span().unwrap_or_default();
                spans.push(((header.source(), header.epoch), span, n));
            }
        }
        spans.sort();
        let mut covered = None;
        for (line, (first, last), log) in spans {
            let end = match &covered {
                Some((before, end)) if *before == line => *end,
                _ => 0,
            };
            if end >= first {
                let ((proxy, worker), epoch) = line.clone();
                let spans = repeated.0.entry((log, proxy, worker, epoch)).or_default();
                spans.push((first, end.min(last)));
            }
            covered = Some((line, end.max(last)));
        }
        repeated
    }

    /// Whether that record of the `log`th log counts for another.
    pub fn has(&self, log: usize, id: &RecordId) -> bool {
        let within = |(first, last): &(u64, u64)| (*first..=*last).contains(&id.sequence);
        let spans = self.of_line(log, id.proxy.clone(), id.worker, id.epoch);
        spans.iter().any(within)
    }

    /// The sequences (first, last) of a proxy's worker and epoch that the `log`th log has and that count for another.
    pub fn of_line(
        &self,
        log: usize,
        proxy: InstanceName,
        worker: u16,
        epoch: u64,
    ) -> &[(u64, u64)] {
        let spans = self.0.get(&(log, proxy, worker, epoch));
        spans.map_or(&[], Vec::as_slice)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many records at the beginning of a batch of the `log`th log count for another.
    fn in_batch(&self, log: usize, header: &BatchHeader) -> u64 {
        let (proxy, worker) = header.source();
        let spans = self.of_line(log, proxy, worker, header.epoch);
        let (first, _) = header.span().unwrap_or_default();
        let found = spans.iter().find(|(begin, _)| *begin == first);
        found.map_or(0, |(begin, end)| end - begin + 1)
    }
}

impl Reader {
    /// Which records more than one log has.
    pub fn repeated(&self) -> Result<Repeated, ReadError> {
        let mut logs = Vec::new();
        for log in self.logs().filter(|_| !self.replicas().is_empty()) {
            logs.push(log.leaves()?);
        }
        Ok(Repeated::of(&logs))
    }
}

fn logged<'a>(leaves: impl Iterator<Item = &'a LoggedBatch>) -> Logged {
    let mut logged = Logged::new();
    for LoggedBatch { header, .. } in leaves {
        for (worker, span) in &header.sequences {
            let source = (header.proxy.clone(), *worker, header.epoch);
            logged.entry(source).or_default().push(*span);
        }
    }
    logged
}

impl Scan {
    /// How many records there are.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// In how many parts they can be read.
    pub fn parts(&self) -> usize {
        self.objects.len() + 1
    }

    /// Hands out the canonical JSON of each record of one part; `buffer` is used for reading. Returns how many there were.
    pub fn read(
        &self,
        part: usize,
        buffer: &mut Vec<u8>,
        each: &mut dyn FnMut(&[u8]) -> Result<(), ScanError>,
    ) -> Result<u64, ScanError> {
        if part == self.objects.len() {
            for record in &self.fresh {
                each(record)?;
            }
            return Ok(u64::try_from(self.fresh.len()).unwrap_or(u64::MAX));
        }
        let Some(object) = self.objects.get(part) else {
            return Ok(0);
        };
        object.read_into(buffer)?;
        // The header, the certificates, then a record a line.
        let whole = buffer.strip_suffix(b"\n").unwrap_or(buffer);
        let mut count = 0;
        for record in lines(whole).skip(2) {
            count += 1;
            if count > object.skip {
                each(record)?;
            }
        }
        match count == object.records {
            true => Ok(count - object.skip),
            false => Err(object.fault(format!(
                "it holds {count} records, not the {} that {} signed",
                object.records, object.proxy
            ))),
        }
    }
}

impl Object {
    fn read_into(&self, buffer: &mut Vec<u8>) -> Result<(), ScanError> {
        buffer.clear();
        let opened = fs::File::open(&self.path);
        let read = opened.and_then(|mut file| io::Read::read_to_end(&mut file, buffer));
        match read {
            Ok(_) => Ok(()),
            Err(error) => Err(unreadable(&self.path, error).into()),
        }
    }

    fn fault(&self, what: String) -> ScanError {
        unreadable(&self.path, io::Error::other(what)).into()
    }
}

/// A scan came to an end.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record is none.
    #[error("a record cannot be read: {record}")]
    Record {
        /// Its beginning.
        record: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl ScanError {
    /// `record` is none, because of `source`.
    pub fn record(record: &[u8], source: serde_json::Error) -> Self {
        let beginning = record.get(..record.len().min(80)).unwrap_or_default();
        Self::Record {
            record: String::from_utf8_lossy(beginning).into_owned(),
            source,
        }
    }
}

#[cfg(test)]
mod tests;
