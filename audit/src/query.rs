//! Reading the trail.

use std::path::{Path, PathBuf};

use reeve_core::{
    RecordId, ServiceName, SpiffeId, UnixTime,
    decision::{Effect, Reason},
};
use serde::Serialize;

use crate::Record;

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
    pub source: std::io::Error,
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
}

impl Reader {
    /// A reader of the log in `dir`.
    pub fn open(dir: &Path) -> Result<Self, ReadError> {
        Ok(Self {
            dir: dir.to_owned(),
            wals: Vec::new(),
        })
    }

    /// Reads every write-ahead log under `dir` (`<state>/wal`) too, for records that are not shipped yet.
    #[must_use]
    pub fn with_wals(mut self, dir: &Path) -> Self {
        self.wals.push(dir.to_owned());
        self
    }

    /// The record with that id.
    pub fn show(&self, id: &RecordId) -> Result<Option<Found>, ReadError> {
        let _ = (id, &self.dir);
        Ok(None)
    }

    /// Records that match, oldest first.
    pub fn query(&self, filter: &Filter) -> Result<Vec<Found>, ReadError> {
        let _ = filter;
        Ok(Vec::new())
    }

    /// The decision with that id, its outcome and its policy set.
    pub fn explain(&self, id: &RecordId) -> Result<Option<Explained>, ReadError> {
        let _ = id;
        Ok(None)
    }
}
