//! Keeping segments beside a log that grows.
//!
//! A segment is written under another name, recorded in the trail with its hash, and gets its own name when that record is
//! in the log; so are records that `expire`. After a crash what is unfinished is thrown away, and what only lacks its name is recorded again.

mod expire;

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use aws_lc_rs::digest;
use reeve_audit::{
    AppendError, AuditLog, EventKind, EventRecord, LogError, Reader, Wal, archive::root_of,
    query::ReadError,
};
use reeve_core::{Clock, RecordId, UnixTime};

use crate::{
    segment::{self, FOLDER, Segment},
    writer::{SegmentWriter, WriteError},
};

/// Leaves whose headers are in memory at once.
const LEAVES_AT_ONCE: u64 = 256;
/// How often the log is looked at while a segment's record is on its way there.
const LOOK: Duration = Duration::from_millis(50);
/// How long that may take before it is tried again.
const MAX_LOOKS: u32 = 1200;
/// How often [`Keeper::run`] looks whether a segment is due.
const TICK: Duration = Duration::from_secs(1);
/// How long it waits after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(30);
/// What a segment is called while it is written.
const UNFINISHED: &str = "tmp";
/// What it is called until the log holds its record.
const UNNAMED: &str = "new";

/// When segments are made.
#[derive(Clone, Copy, Debug)]
pub struct KeepOptions {
    /// One is due when so many records are in none.
    pub due_records: u64,
    /// One is due when a record has been in none for so long.
    pub due_after: Duration,
    /// A segment ends with the batch that brings it to so many.
    pub max_records: u64,
    /// How long records are kept; `None`: for ever.
    pub retention: Option<Duration>,
}

impl Default for KeepOptions {
    fn default() -> Self {
        Self {
            due_records: 1 << 18,
            due_after: Duration::from_secs(15 * 60),
            max_records: 1 << 20,
            retention: None,
        }
    }
}

/// A segment could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A segment cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file cannot be used.
    #[error("cannot use {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its record cannot be written.
    #[error("a segment cannot be recorded")]
    Append(#[from] AppendError),
    /// The log's store does not take or drop a file.
    #[error(transparent)]
    Store(#[from] LogError),
    /// A record does not reach the log.
    #[error("the record {id} has not reached the log")]
    NotLogged {
        /// Which.
        id: RecordId,
    },
}

/// Makes segments of what a log takes.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
    log: Arc<AuditLog>,
    wal: Arc<Wal>,
    clock: Arc<dyn Clock>,
    options: KeepOptions,
    /// The first leaf that is in no segment.
    next: u64,
    waiting: Waiting,
}

/// What is in no segment yet.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    leaves: u64,
    records: u64,
    oldest: Option<UnixTime>,
}

impl Keeper {
    /// For the log in `dir`; its own records go to `wal`. Blocks on disk.
    pub fn open(
        dir: &Path,
        log: Arc<AuditLog>,
        wal: Arc<Wal>,
        clock: Arc<dyn Clock>,
        options: KeepOptions,
    ) -> Result<Self, KeepError> {
        let folder = dir.join(FOLDER);
        fs::create_dir_all(&folder).map_err(|e| failed(&folder, e))?;
        Ok(Self {
            next: 0,
            waiting: Waiting::default(),
            dir: dir.to_owned(),
            log,
            wal,
            clock,
            options,
        })
    }

    /// Makes segments, and lets records expire, until the process ends; what fails is tried again.
    pub fn run(mut self, options: impl Fn() -> KeepOptions) {
        loop {
            self.options = options();
            let done = self.step().and_then(|made| Ok((made, self.expire()?)));
            let pause = match done {
                Ok((Some(segment), _)) => {
                    tracing::info!(segment = segment.name(), "a segment of columns is kept");
                    continue;
                }
                Ok((None, _)) => TICK,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "no segment of columns could be kept");
                    AFTER_FAILURE
                }
            };
            thread::sleep(pause);
        }
    }

    /// Makes a segment if one is due. Blocks, also until the log has its record.
    pub fn step(&mut self) -> Result<Option<Segment>, KeepError> {
        if let Some(named) = self.take_up()? {
            return Ok(Some(named));
        }
        let reader = Reader::open(&self.dir)?;
        self.look(&reader)?;
        if !self.is_due() {
            return Ok(None);
        }
        let (segment, end) = self.write(&reader)?;
        self.name(&reader, &segment)?;
        self.advance(end);
        Ok(Some(segment))
    }

    /// Finds where the last process stood: sweeps what it left unfinished, and names what only lacks that.
    fn take_up(&mut self) -> Result<Option<Segment>, KeepError> {
        let folder = self.dir.join(FOLDER);
        let reader = Reader::open(&self.dir)?;
        let listed = segment::list(&self.dir, reader.expired());
        let listed = listed.map_err(|e| failed(&folder, e))?;
        let next = segment::end(&listed).max(reader.expired());
        if next != self.next {
            self.advance(next);
        }
        for entry in fs::read_dir(&folder).map_err(|e| failed(&folder, e))? {
            let path = entry.map_err(|e| failed(&folder, e))?.path();
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            match path.extension().and_then(|e| e.to_str()) {
                Some(UNNAMED) => {
                    let segment = Segment::parse(&stem).filter(|s| s.first == next);
                    let Some(segment) = segment else {
                        fs::remove_file(&path).map_err(|e| failed(&path, e))?;
                        continue;
                    };
                    self.name(&reader, &segment)?;
                    self.advance(segment.last + 1);
                    return Ok(Some(segment));
                }
                Some(UNFINISHED) => fs::remove_file(&path).map_err(|e| failed(&path, e))?,
                _ => {}
            }
        }
        Ok(None)
    }

    fn advance(&mut self, next: u64) {
        self.next = next;
        self.waiting = Waiting::default();
    }

    fn look(&mut self, reader: &Reader) -> Result<(), KeepError> {
        let size = reader.tree_size()?;
        while self.next + self.waiting.leaves < size {
            let from = self.next + self.waiting.leaves;
            for batch in reader.batches(from, size.min(from + LEAVES_AT_ONCE))? {
                self.waiting.leaves += 1;
                self.waiting.records += batch.header.count;
                let oldest = self.waiting.oldest.get_or_insert(batch.header.time);
                *oldest = batch.header.time.min(*oldest);
            }
        }
        Ok(())
    }

    fn is_due(&self) -> bool {
        let Waiting {
            records, oldest, ..
        } = self.waiting;
        let waited = oldest.map_or(Duration::ZERO, |oldest| self.clock.now().since(oldest));
        // The record of the last segment alone is no reason for another, or there would be no end.
        let old = waited >= self.options.due_after && records > 1;
        old || records >= self.options.due_records
    }

    /// Writes the next segment; the answer is what it is to be called, and the first leaf after it.
    fn write(&self, reader: &Reader) -> Result<(Segment, u64), KeepError> {
        let unfinished = self
            .dir
            .join(FOLDER)
            .join("segment")
            .with_extension(UNFINISHED);
        let file = File::create(&unfinished).map_err(|e| failed(&unfinished, e))?;
        let mut writer = SegmentWriter::new(BufWriter::new(file))?;
        let size = self.next + self.waiting.leaves;
        let mut end = self.next;
        let mut hashes = Vec::new();
        let mut buffer = Vec::new();
        while end < size && writer.records() < self.options.max_records {
            for batch in reader.batches(end, size.min(end + LEAVES_AT_ONCE))? {
                let name = hex::encode(batch.hash);
                let mut pushed = Ok(());
                batch.read_checked(&mut buffer, &mut |record| {
                    if pushed.is_ok() {
                        pushed = writer.push(record, &name);
                    }
                })?;
                pushed?;
                hashes.push(batch.hash);
                end = batch.index + 1;
                if writer.records() >= self.options.max_records {
                    break;
                }
            }
        }
        let first = self.next;
        let about = |name: &str, value: String| (format!("reeve.{name}"), value);
        let (out, extent) = writer.finish(|_| {
            vec![
                about("first_leaf", first.to_string()),
                about("last_leaf", (end - 1).to_string()),
                about("leaves", hex::encode(root_of(&hashes))),
            ]
        })?;
        let file = out
            .into_inner()
            .map_err(|e| failed(&unfinished, e.into_error()))?;
        file.sync_all().map_err(|e| failed(&unfinished, e))?;
        let (earliest, latest) = extent.times.unwrap_or_default();
        let segment = Segment {
            first,
            last: end - 1,
            earliest,
            latest,
        };
        self.rename(&unfinished, &self.unnamed(&segment))?;
        Ok((segment, end))
    }

    /// Records the segment, and gives it its name when the log has the record.
    fn name(&self, reader: &Reader, segment: &Segment) -> Result<(), KeepError> {
        let path = self.unnamed(segment);
        let hashed = File::open(&path).and_then(hash_of);
        let hash = hashed.map_err(|e| failed(&path, e))?;
        let mut leaves = Vec::new();
        let mut at = segment.first;
        while at <= segment.last {
            let batches = reader.batches(at, (at + LEAVES_AT_ONCE).min(segment.last + 1))?;
            at += LEAVES_AT_ONCE;
            leaves.extend(batches.iter().map(|batch| batch.hash));
        }
        let event = EventRecord::new(EventKind::SegmentWritten)
            .with("segment", segment.name())
            .with("sha256", hex::encode(hash))
            .with("leaves", hex::encode(root_of(&leaves)));
        let id = self.wal.append(event)?;
        self.until_logged(&id)?;
        let name = format!("{FOLDER}/{}", segment.name());
        self.log.put_copy(&name, &path)?;
        self.rename(&path, &segment.path(&self.dir))
    }

    fn until_logged(&self, id: &RecordId) -> Result<(), KeepError> {
        for _ in 0..MAX_LOOKS {
            let held = self.log.positions(self.wal.proxy()).remove(&id.worker);
            let held = held.unwrap_or_default();
            if (held.epoch, held.sequence) >= (id.epoch, id.sequence) {
                return Ok(());
            }
            thread::sleep(LOOK);
        }
        Err(KeepError::NotLogged { id: id.clone() })
    }

    fn unnamed(&self, segment: &Segment) -> PathBuf {
        let folder = self.dir.join(FOLDER);
        folder.join(format!("{}.{UNNAMED}", segment.name()))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), KeepError> {
        fs::rename(from, to).map_err(|e| failed(from, e))?;
        let folder = self.dir.join(FOLDER);
        let synced = File::open(&folder).and_then(|folder| folder.sync_all());
        synced.map_err(|e| failed(&folder, e))
    }
}

/// SHA-256 of what a file holds.
pub fn hash_of(mut file: File) -> io::Result<[u8; 32]> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        context.update(buffer.get(..read).unwrap_or_default());
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    Ok(hash)
}

fn failed(path: &Path, source: io::Error) -> KeepError {
    KeepError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
