//! A worker's line of records: its own folder, its own writer, its own hash chain.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use reeve_core::RecordId;

use super::{
    AppendError, Level, segment,
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

/// How far the disk is known to have gone along.
#[derive(Debug, Default)]
struct Synced {
    /// Up to this record it has.
    done: u64,
    /// Up to this record it may have, or not: a sync over them failed, and a later one proves nothing about them.
    doubtful: u64,
}

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) worker: u16,
    pub(crate) dir: PathBuf,
    level: Level,
    writer: Mutex<Writer>,
    /// Whoever holds it waits for the disk on behalf of everybody behind.
    synced: tokio::sync::Mutex<Synced>,
}

impl Line {
    pub(crate) fn new(worker: u16, dir: PathBuf, level: Level, writer: Writer) -> Self {
        Self {
            worker,
            dir,
            level,
            writer: Mutex::new(writer),
            synced: tokio::sync::Mutex::default(),
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
        let mut synced = self.synced.lock().await;
        if id.sequence <= synced.doubtful {
            return Err(AppendError::Io(io::Error::other(
                "the disk failed to take it, or one before it",
            )));
        }
        if id.sequence <= synced.done {
            return Ok(id);
        }
        let (sequence, sync) = self.writer().begin_sync().map_err(AppendError::Io)?;
        let outcome = match tokio::task::spawn_blocking(sync).await {
            Ok(outcome) => outcome,
            Err(panic) => Err(io::Error::other(panic)),
        };
        match outcome {
            Ok(()) => {
                synced.done = sequence;
                Ok(id)
            }
            Err(error) => {
                synced.doubtful = sequence;
                Err(AppendError::Io(error))
            }
        }
    }

    /// Puts aside a record that nothing waits for.
    pub(crate) fn defer(&self, entry: EntryRef<'_>) -> Result<Staged, AppendError> {
        self.writer().defer(entry)
    }

    pub(crate) fn flush(&self) -> Result<(), AppendError> {
        self.writer().flush()
    }
}
