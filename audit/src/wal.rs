//! The write-ahead log beside a proxy: segments of framed records in one folder, used by one process.
//!
//! A record is written before the request it is about goes on. Opening a log begins a new epoch whose header names the
//! last record before it. A torn tail is cut; damage is an error, never repaired in silence.
//!
//! Each worker of the proxy has a line of its own ([`WalWriter`]): sequence, hash chain and segments, those of worker 0 in
//! the log's folder, those of worker 3 in `worker-3` within. They share the bound on bytes, and nothing else.
//!
//! While one process hands over to the next, both write, each its own epoch, and both ship: their workers have numbers of
//! their own, and so lines of their own ([`Wal::open_beside`]).

mod beside;
mod cursor;
pub(crate) mod files;
mod frame;
pub(crate) mod line;
pub(crate) mod mark;
mod progress;
mod rate;
mod recover;
mod room;
pub(crate) mod segment;
mod turn;
pub(crate) mod writer;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reeve_core::{Clock, InstanceName, RecordId};
use serde::{Deserialize, Serialize};

pub(crate) use self::{
    cursor::{Chunk, Cursor},
    frame::{CHAIN_START, Chain, Leaf, advance, leaf, link},
};
use self::{
    files::{FileSystem, Files},
    line::Line,
    rate::Rate,
    writer::Place,
};
use crate::{
    Entry,
    canonical::CanonicalError,
    disk,
    record::{EntryRef, MAX_RECORD_BYTES},
};

/// When an append counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// In the process's memory; lost when it is killed.
    Buffered,
    /// In the operating system's hands; survives the process, not the machine.
    #[default]
    Os,
    /// On the disk.
    Disk,
}

/// How a [`Wal`] behaves.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// When an append counts as done.
    pub level: Level,
    /// Bound of all segments together; a full log refuses appends.
    pub max_bytes: u64,
    /// Size of one segment, reserved when it is begun.
    pub segment_bytes: u64,
    /// The number of the first epoch in an empty folder. SECURITY: a process that keeps its name while its folder is taken
    /// away must not give a record id twice; milliseconds since 1970 see to that. Otherwise 1 is as good.
    pub first_epoch: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            level: Level::Os,
            max_bytes: 256 << 20,
            segment_bytes: 8 << 20,
            first_epoch: 1,
        }
    }
}

/// The log cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Another process has it open.
    #[error("the write-ahead log {path} is in use by another process")]
    InUse {
        /// Which log.
        path: PathBuf,
    },
    /// A file cannot be used.
    #[error("cannot use {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Bytes that no unfinished write leaves behind: the log was altered, or the disk failed.
    #[error(
        "{path} is damaged at byte {offset}: {what}; move the folder away to keep it as evidence, and start again"
    )]
    Damaged {
        /// Which segment.
        path: PathBuf,
        /// Where in it.
        offset: usize,
        /// What is wrong.
        what: String,
    },
}

impl WalError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// What is missing could not be told.
    fn untold(path: &Path, error: AppendError) -> Self {
        Self::io(path, io::Error::other(error))
    }

    fn damaged(path: &Path, offset: usize, what: &str) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            offset,
            what: what.to_owned(),
        }
    }
}

/// A record could not be made durable; what it was about must not go on.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The log is full.
    #[error("the write-ahead log is full ({max_bytes} bytes)")]
    Full {
        /// The bound.
        max_bytes: u64,
    },
    /// The record is longer than [`MAX_RECORD_BYTES`].
    #[error("the record is {length} bytes long, more than {MAX_RECORD_BYTES}")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// The entry has no canonical form.
    #[error("the record cannot be written as JSON")]
    Canonical(#[source] CanonicalError),
    /// The file system refused (no space, no such device, …).
    #[error("cannot write the write-ahead log")]
    Io(#[source] io::Error),
}

/// How a log stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WalStatus {
    /// This run.
    pub epoch: u64,
    /// One more than the records of this run, of all workers: with one worker, the sequence that the next one gets.
    pub next_sequence: u64,
    /// Records of this epoch that the audit log has acknowledged.
    pub shipped: u64,
    /// Records, of all epochs here, not acknowledged yet.
    pub backlog: u64,
    /// Bytes in use.
    pub bytes: u64,
    /// The bound on them.
    pub max_bytes: u64,
    /// Minutes until it is full at the rate of the last minutes; `None` when nothing is written.
    pub minutes_left: Option<u64>,
}

/// The most workers of one proxy.
pub const MAX_WORKERS: u16 = 64;
/// The most lines: a process that takes over numbers its workers from [`MAX_WORKERS`] on, the one after it from 0 again.
pub(crate) const MAX_LINES: u16 = 2 * MAX_WORKERS;

/// A proxy's write-ahead log; share it in an `Arc`. Each worker of the proxy appends with a [`WalWriter`] of its own.
#[derive(Debug)]
pub struct Wal {
    place: Place,
    epoch: u64,
    /// What the numbers of its workers begin with.
    bank: u16,
    /// Its first worker's, for what no worker does: events of the process.
    main: Arc<Line>,
    lines: Mutex<BTreeMap<u16, Arc<Line>>>,
    tenure: Mutex<beside::Tenure>,
}

/// One worker's end of a [`Wal`]. No two workers share a lock in it; the shipper looks in a few times a second.
///
/// A worker calls [`append`](Self::append) (or, at level `disk`, awaits [`append_durable`](Self::append_durable)) with
/// a decision before what was decided goes on (or awaits [`append_in_turn`](Self::append_in_turn)); `Err` means deny. Outcomes go to [`defer`](Self::defer) and are written
/// with the next decision in one call; when `defer` answers `true`, nothing waited before, and the worker sees to it
/// that [`flush`](Self::flush) is called within 100 ms. All of them borrow what they record and serialise it into a
/// buffer that is used again: `writer.append(&decision)?`.
///
/// Make the writers of all workers before the first request: [`Wal::writer`] waits for the disk, appending does not.
#[derive(Clone, Debug)]
pub struct WalWriter {
    line: Arc<Line>,
}

impl WalWriter {
    /// Which worker it is of.
    pub fn worker(&self) -> u16 {
        self.line.worker
    }

    /// Appends a record, and before it those that were deferred, in one write; when this returns, all of them are
    /// durable at the log's level. After an error the record does not exist, its number goes to the next one, and
    /// what was deferred still waits.
    pub fn append<'a>(&self, entry: impl Into<EntryRef<'a>>) -> Result<RecordId, AppendError> {
        self.line.append(entry.into())
    }

    /// The same as [`append`](Self::append), except that at level `disk` the wait for the disk is awaited on another
    /// thread, and one wait serves every request that came meanwhile. When the disk fails, all those requests get an
    /// error, while their records stay: recorded, and denied by the caller. Who gives up waiting stops nothing and starts
    /// nothing: there is one wait for the disk at a time, however slow it is.
    pub async fn append_durable<'a>(
        &self,
        entry: impl Into<EntryRef<'a>>,
    ) -> Result<RecordId, AppendError> {
        self.line.append_durable(entry.into()).await
    }

    /// The same as [`append`](Self::append), except that what other tasks of the thread record before it is their turn again
    /// is written in one call with it. An error is everybody's of that turn, and then none of their records exists. At level
    /// `disk` it is written at once.
    pub fn append_in_turn<'a>(
        &self,
        entry: impl Into<EntryRef<'a>>,
    ) -> impl Future<Output = Result<RecordId, AppendError>> + Send {
        self.line.append_in_turn(entry.into())
    }

    /// The same as [`append`](Self::append) for a record that says that others are missing: a part of the log's room is kept
    /// free for it.
    pub fn append_gap<'a>(&self, entry: impl Into<EntryRef<'a>>) -> Result<RecordId, AppendError> {
        self.line.append_gap(entry.into())
    }

    /// The id of what was not recorded: its number is 0, which no record has.
    pub fn no_record(&self) -> RecordId {
        self.line.no_record()
    }

    /// Whether [`append`](Self::append) would wait for the disk: level `disk`.
    pub fn awaits_disk(&self) -> bool {
        self.line.awaits_disk()
    }

    /// Whether appended records wait in memory, for whoever [`flush`](Self::flush)es: level `buffered`.
    pub fn is_buffered(&self) -> bool {
        self.line.is_buffered()
    }

    /// Puts aside a record that nothing waits for. At most 64 KiB wait; then they are written at once. `true` when
    /// nothing waited before this one. An error means that the record is lost, as its number is not.
    pub fn defer<'a>(&self, entry: impl Into<EntryRef<'a>>) -> Result<bool, AppendError> {
        self.line.defer(entry.into()).map(|staged| staged.first)
    }

    /// Writes what was deferred. After an error it still waits.
    pub fn flush(&self) -> Result<(), AppendError> {
        self.line.flush()
    }
}

impl Wal {
    /// Opens the log in `dir` (made when absent) and begins a new epoch, linked to the last record there.
    pub fn open(
        dir: &Path,
        proxy: InstanceName,
        options: WalOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, WalError> {
        Self::open_with(dir, proxy, options, clock, Arc::new(FileSystem))
    }

    fn open_with(
        dir: &Path,
        proxy: InstanceName,
        options: WalOptions,
        clock: Arc<dyn Clock>,
        files: Arc<dyn Files>,
    ) -> Result<Self, WalError> {
        disk::make_dir(dir).map_err(|e| WalError::io(dir, e))?;
        let lock = disk::lock(dir).map_err(|e| WalError::io(dir, e))?;
        let Some(lock) = lock else {
            return Err(WalError::InUse {
                path: dir.to_owned(),
            });
        };
        let tenure = beside::Tenure::alone(dir, lock)?;
        Self::begin(Place::new(dir, proxy, options, clock, files), tenure)
    }

    fn begin(place: Place, tenure: beside::Tenure) -> Result<Self, WalError> {
        let (alone, bank) = (tenure.is_alone(), tenure.bank());
        let last = line::last_epoch(&place.dir).map_err(|e| WalError::io(&place.dir, e))?;
        let next = match last {
            0 => place.options.first_epoch.max(1),
            last => last.saturating_add(1),
        };
        let main = Arc::new(place.begin(bank, alone, next)?);
        let epoch = main.writer().epoch;
        let wal = Self {
            lines: Mutex::new(BTreeMap::from([(bank, Arc::clone(&main))])),
            place,
            epoch,
            bank,
            main,
            tenure: Mutex::new(tenure),
        };
        if alone {
            wal.open_left_behind()?;
        }
        Ok(wal)
    }

    /// Opens the lines that earlier runs left, so that they are shipped also when there are fewer workers now.
    fn open_left_behind(&self) -> Result<(), WalError> {
        let dir = &self.place.dir;
        for (worker, _) in line::folders(dir).map_err(|e| WalError::io(dir, e))? {
            self.line(worker, true)?;
        }
        Ok(())
    }

    fn line(&self, worker: u16, alone: bool) -> Result<Arc<Line>, WalError> {
        let mut lines = self.lines();
        if let Some(line) = lines.get(&worker) {
            return Ok(Arc::clone(line));
        }
        let line = Arc::new(self.place.begin(worker, alone, self.epoch)?);
        lines.insert(worker, Arc::clone(&line));
        Ok(line)
    }

    /// The end of the log that `worker` appends with; asked again, the same one. Blocks on disk the first time.
    pub fn writer(&self, worker: u16) -> Result<WalWriter, WalError> {
        if worker >= MAX_WORKERS {
            let what = format!("there are at most {MAX_WORKERS} workers");
            let source = io::Error::new(io::ErrorKind::InvalidInput, what);
            return Err(WalError::io(&self.place.dir, source));
        }
        // Held meanwhile, so that a hand-over does not end between the question and the line.
        let tenure = self.tenure();
        let line = self.line(self.bank + worker, tenure.is_alone())?;
        Ok(WalWriter { line })
    }

    /// Whose log it is.
    pub fn proxy(&self) -> &InstanceName {
        &self.place.proxy
    }

    /// Appends a record for no worker in particular (numbered with the first one's); when this returns, it is durable at the
    /// log's level.
    pub fn append(&self, entry: impl Into<Entry>) -> Result<RecordId, AppendError> {
        self.main.append((&entry.into()).into())
    }

    /// How the log stands.
    pub fn status(&self) -> WalStatus {
        let max_bytes = self.place.options.max_bytes;
        let mut status = WalStatus {
            epoch: self.epoch,
            next_sequence: 1,
            shipped: 0,
            backlog: 0,
            bytes: 0,
            max_bytes,
            minutes_left: None,
        };
        let mut rate = Rate::default();
        for line in self.all_lines() {
            let writer = line.writer();
            let (epoch, sequence) = writer.acknowledged;
            status.next_sequence += writer.sequence();
            status.shipped += if epoch == writer.epoch { sequence } else { 0 };
            status.backlog += writer.backlog();
            status.bytes += writer.bytes();
            rate.add(&writer.rate);
        }
        let room = max_bytes.saturating_sub(status.bytes);
        status.minutes_left = rate.minutes_for(room, self.now());
        status
    }

    /// Whether this process may append to that line, and no other.
    pub(crate) fn writes(&self, worker: u16) -> bool {
        (self.bank..self.bank + MAX_WORKERS).contains(&worker)
    }

    /// Every worker's line.
    pub(crate) fn all_lines(&self) -> Vec<Arc<Line>> {
        self.lines().values().cloned().collect()
    }

    pub(crate) fn now(&self) -> reeve_core::UnixTime {
        self.place.clock.now()
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<u16, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tenure(&self) -> MutexGuard<'_, beside::Tenure> {
        self.tenure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
