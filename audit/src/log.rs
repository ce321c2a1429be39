//! The transparency log on disk.

use std::{path::Path, sync::Arc, time::Duration};

use reeve_core::Clock;
use serde::Serialize;

use crate::seal::SealKey;

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The log's name, first line of every checkpoint: such as `mesh.local/audit`.
    pub origin: String,
    /// Opens (or, the first time, seals) the log's Ed25519 key in `<dir>/log.key`.
    pub seal_key: SealKey,
    /// How long the sequencer gathers batches before it makes a checkpoint; at most 500 ms.
    pub gather: Duration,
}

impl LogOptions {
    /// The usual options.
    pub fn new(origin: impl Into<String>, seal_key: SealKey) -> Self {
        Self {
            origin: origin.into(),
            seal_key,
            gather: Duration::from_millis(100),
        }
    }
}

/// The log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not built yet.
    #[error("not built yet")]
    Unbuilt,
}

/// How a log stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogStatus {
    /// Leaves under the checkpoint: batches.
    pub tree_size: u64,
    /// Records in them.
    pub records: u64,
    /// The last signed checkpoint.
    pub checkpoint: String,
    /// The key to verify it with, in C2SP's text form.
    pub verifier_key: String,
    /// Proxies that have shipped something.
    pub proxies: u64,
}

/// The audit log of a mesh: a folder, its key, and the one writer of both.
#[derive(Debug)]
pub struct AuditLog {
    _private: (),
}

impl AuditLog {
    /// Opens the log in `dir`, makes it the first time, and rolls back what a crash left unfinished. Blocks on disk.
    pub fn open(
        dir: &Path,
        options: LogOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, LogError> {
        let _ = (dir, options, clock);
        Err(LogError::Unbuilt)
    }

    /// Keeps `bytes` under their SHA-256 (hex, returned): policy sets, schemas, bundles. Blocks on disk.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<String, LogError> {
        let _ = bytes;
        Err(LogError::Unbuilt)
    }

    /// How the log stands.
    pub fn status(&self) -> LogStatus {
        LogStatus {
            tree_size: 0,
            records: 0,
            checkpoint: String::new(),
            verifier_key: String::new(),
            proxies: 0,
        }
    }
}
