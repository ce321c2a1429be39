//! The write-ahead log beside a proxy: segments of framed records in one folder, used by one process.
//!
//! A record is written before the request it is about goes on. Opening a log begins a new epoch whose header names the
//! last record before it. A torn tail is cut; damage is an error, never repaired in silence.
//!
//! While one process hands over to the next, both write: each its own epoch, the new one's linked to the record that was
//! the last when it began ([`Wal::open_beside`]). The new process ships when the old one has ended.

mod beside;
mod cursor;
mod frame;
mod rate;
mod recover;
pub(crate) mod segment;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reeve_core::{Clock, InstanceName, RecordId};
use serde::{Deserialize, Serialize};

use self::writer::{Opener, Start, Writer};
pub(crate) use self::{
    cursor::{Chunk, Cursor},
    frame::{CHAIN_START, Chain, advance},
};
use crate::{
    Entry,
    canonical::CanonicalError,
    disk,
    record::{MAX_RECORD_BYTES, Prepared},
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
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            level: Level::Os,
            max_bytes: 256 << 20,
            segment_bytes: 8 << 20,
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
    /// An earlier write failed and could not be taken back; only opening the log again helps.
    #[error("the write-ahead log is unusable since an earlier write failed")]
    Broken,
}

/// How a log stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WalStatus {
    /// This run.
    pub epoch: u64,
    /// The sequence that the next record gets.
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

/// A proxy's write-ahead log. Appends are serialised; share it in an `Arc`.
#[derive(Debug)]
pub struct Wal {
    dir: PathBuf,
    proxy: InstanceName,
    clock: Arc<dyn Clock>,
    writer: Mutex<Writer>,
    tenure: Mutex<beside::Tenure>,
}

impl Wal {
    /// Opens the log in `dir` (made when absent) and begins a new epoch, linked to the last record there.
    pub fn open(
        dir: &Path,
        proxy: InstanceName,
        options: WalOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, WalError> {
        Self::open_with(dir, proxy, options, clock, Arc::new(writer::open_file))
    }

    fn open_with(
        dir: &Path,
        proxy: InstanceName,
        options: WalOptions,
        clock: Arc<dyn Clock>,
        opener: Opener,
    ) -> Result<Self, WalError> {
        disk::make_dir(dir).map_err(|e| WalError::io(dir, e))?;
        let lock = disk::lock(dir).map_err(|e| WalError::io(dir, e))?;
        let Some(lock) = lock else {
            return Err(WalError::InUse {
                path: dir.to_owned(),
            });
        };
        let start = recover::recover(dir, &proxy)?;
        let tenure = beside::Tenure::alone(lock);
        Self::begin(dir, proxy, options, clock, opener, start, tenure)
    }

    fn begin(
        dir: &Path,
        proxy: InstanceName,
        options: WalOptions,
        clock: Arc<dyn Clock>,
        opener: Opener,
        start: Start,
        tenure: beside::Tenure,
    ) -> Result<Self, WalError> {
        let writer = Writer::begin(dir, proxy.clone(), options, clock.clone(), opener, start)
            .map_err(|e| WalError::io(dir, e))?;
        Ok(Self {
            dir: dir.to_owned(),
            proxy,
            clock,
            writer: Mutex::new(writer),
            tenure: Mutex::new(tenure),
        })
    }

    /// Whose log it is.
    pub fn proxy(&self) -> &InstanceName {
        &self.proxy
    }

    /// Appends a record; when this returns, it is durable at the log's level.
    pub fn append(&self, entry: impl Into<Entry>) -> Result<RecordId, AppendError> {
        let prepared = Prepared::new(&entry.into()).map_err(AppendError::Canonical)?;
        if prepared.max_len() > MAX_RECORD_BYTES {
            return Err(AppendError::TooLong {
                length: prepared.max_len(),
            });
        }
        self.writer().append(&prepared)
    }

    /// How the log stands.
    pub fn status(&self) -> WalStatus {
        let writer = self.writer();
        let bytes = writer.bytes();
        let max_bytes = writer.options().max_bytes;
        let room = max_bytes.saturating_sub(bytes);
        let (epoch, sequence) = writer.acknowledged;
        WalStatus {
            epoch: writer.epoch,
            next_sequence: writer.sequence + 1,
            shipped: if epoch == writer.epoch { sequence } else { 0 },
            backlog: writer.backlog(),
            bytes,
            max_bytes,
            minutes_left: writer.rate.minutes_for(room, self.clock.now()),
        }
    }

    /// Notes that the audit log holds everything up to that record.
    pub(crate) fn acknowledge(&self, epoch: u64, sequence: u64) {
        self.writer().acknowledge(epoch, sequence);
    }

    pub(crate) fn now(&self) -> reeve_core::UnixTime {
        self.clock.now()
    }

    /// A panic while the lock was held leaves the writer as it was after its last whole step.
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
