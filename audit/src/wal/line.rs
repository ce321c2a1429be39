//! A worker's line of records: its own folder, its own writer, its own hash chain.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reeve_core::RecordId;

use super::{
    AppendError, Level,
    frame::Chain,
    progress::Progress,
    segment,
    turn::{Recording, Seat},
    writer::{Staged, Writer},
};
use crate::record::EntryRef;

/// The folder of a worker's segments within the log's; worker 0's are in the log's folder itself.
pub(crate) fn folder(dir: &Path, worker: u16) -> PathBuf {
    match worker {
        0 => dir.to_owned(),
        worker => dir.join(format!("{PREFIX}{worker}")),
    }
}

const PREFIX: &str = "worker-";

/// The workers with a folder in `dir`, and their folders; worker 0 is always among them.
pub(crate) fn folders(dir: &Path) -> io::Result<Vec<(u16, PathBuf)>> {
    let mut found = vec![(0, dir.to_owned())];
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        let worker = name.as_deref().and_then(|n| n.strip_prefix(PREFIX));
        if let Some(worker) = worker.and_then(|n| n.parse().ok())
            && folder(dir, worker) == path
        {
            found.push((worker, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest epoch of any worker in `dir`; 0 when there is none.
pub(crate) fn last_epoch(dir: &Path) -> io::Result<u64> {
    let segments = all_segments(dir)?;
    let epochs = segments.iter().filter_map(|path| segment::epoch_of(path));
    Ok(epochs.max().unwrap_or(0))
}

/// Every segment in `dir`, of all workers.
pub(crate) fn all_segments(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for (_, folder) in folders(dir)? {
        paths.extend(segment::list(&folder)?.0);
    }
    Ok(paths)
}

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) worker: u16,
    pub(crate) dir: PathBuf,
    level: Level,
    writer: Mutex<Writer>,
    progress: Arc<Progress>,
}

impl Line {
    pub(crate) fn new(worker: u16, dir: PathBuf, level: Level, writer: Writer) -> Self {
        Self {
            worker,
            dir,
            level,
            writer: Mutex::new(writer),
            progress: Arc::default(),
        }
    }

    /// A panic while the lock was held leaves the writer as it was after its last whole step.
    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn append(&self, entry: EntryRef<'_>) -> Result<RecordId, AppendError> {
        self.writer().append(entry)
    }

    /// Writes now, and waits for the disk without blocking the thread; one wait serves all who wait meanwhile.
    pub(crate) async fn append_durable(
        &self,
        entry: EntryRef<'_>,
    ) -> Result<RecordId, AppendError> {
        if self.level != Level::Disk {
            return self.append(entry);
        }
        let id = self.writer().append_unsynced(entry)?;
        // Cancel-safe: the record is written; who does not wait for the disk learns nothing of it.
        let begin = || self.writer().begin_sync();
        let synced = self.progress.reach(id.sequence, begin).await;
        synced.map(|()| id).map_err(AppendError::Io)
    }

    /// Writes at the end of the turn, with what others of this thread record until then.
    pub(crate) fn append_in_turn(&self, entry: EntryRef<'_>) -> Recording<'_> {
        // Cancel-safe: who leads writes when it is dropped, and who does not leaves its record to who does.
        let taken = self.writer().take(entry);
        Recording::new(self, taken)
    }

    /// Writes what waits, if that is still the turn of `seat`.
    pub(crate) fn end_turn(&self, seat: &Seat) {
        self.writer().end_turn_of(seat);
    }

    pub(crate) fn append_gap(&self, entry: EntryRef<'_>) -> Result<RecordId, AppendError> {
        self.writer().append_gap(entry)
    }

    pub(crate) fn no_record(&self) -> RecordId {
        self.writer().no_record()
    }

    /// Whether an append waits for the disk.
    pub(crate) fn awaits_disk(&self) -> bool {
        self.level == Level::Disk
    }

    /// Whether records wait in memory.
    pub(crate) fn is_buffered(&self) -> bool {
        self.level == Level::Buffered
    }

    /// Puts aside a record that nothing waits for.
    pub(crate) fn defer(&self, entry: EntryRef<'_>) -> Result<Staged, AppendError> {
        self.writer().defer(entry)
    }

    /// The last record of this epoch that is there for good, at the log's level: epoch, sequence and the chain after it;
    /// nothing while there is none.
    pub(crate) fn settled(&self) -> Option<(u64, u64, Chain)> {
        let (epoch, written) = {
            let writer = self.writer();
            (writer.epoch, writer.written())
        };
        let settled = match self.level {
            Level::Disk => self.progress.done(),
            Level::Os | Level::Buffered => written,
        };
        (settled.sequence > 0).then_some((epoch, settled.sequence, settled.chain))
    }

    pub(crate) fn flush(&self) -> Result<(), AppendError> {
        self.writer().flush()
    }
}
