//! The write-ahead log beside a proxy.

use std::{path::Path, sync::Arc};

use reeve_core::{Clock, InstanceName, RecordId};
use serde::{Deserialize, Serialize};

use crate::Entry;

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

/// The log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Not built yet.
    #[error("not built yet")]
    Unbuilt,
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

/// A proxy's write-ahead log. Cheap to share; appends are serialised.
#[derive(Debug)]
pub struct Wal {
    _private: (),
}

impl Wal {
    /// Opens the log in `dir` (made when absent) and begins a new epoch, linked to the last record there.
    pub fn open(
        dir: &Path,
        proxy: InstanceName,
        options: WalOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, WalError> {
        let _ = (dir, proxy, options, clock);
        Err(WalError::Unbuilt)
    }

    /// Appends a record; when this returns, it is durable at the log's level.
    pub fn append(&self, entry: impl Into<Entry>) -> Result<RecordId, AppendError> {
        let _ = entry.into();
        Err(AppendError::Full { max_bytes: 0 })
    }

    /// How the log stands.
    pub fn status(&self) -> WalStatus {
        WalStatus {
            epoch: 0,
            next_sequence: 0,
            shipped: 0,
            backlog: 0,
            bytes: 0,
            max_bytes: 0,
            minutes_left: None,
        }
    }
}
