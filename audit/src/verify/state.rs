//! What one verification leaves for the next, so that it need not look at the same again.

use std::collections::{BTreeMap, BTreeSet};

use reeve_core::{InstanceName, SpiffeId};
use serde::{Deserialize, Serialize};
use tlog_tiles::Hash;

use crate::{batch::BatchHeader, hexes, log::tree::Frontier, wal::Chain};

/// The version of the file, its `schema` member.
const VERIFIED_SCHEMA: &str = "reeve.verified/v1";

/// A log as it was verified, up to a checkpoint. SECURITY: it is believed, so keep it where the log's operator cannot write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verified {
    /// `reeve.verified/v1`.
    pub schema: String,
    /// The checkpoint, a signed note.
    pub checkpoint: String,
    /// How many leaves it covers.
    pub size: u64,
    /// Records in them.
    pub records: u64,
    /// Batches among them.
    pub batches: u64,
    /// The right edge of the tree: per tile level how many are full, and the hashes of the one that is not.
    edge: Vec<(u64, Vec<Hex>)>,
    /// The last batch of each worker.
    pub(super) workers: Vec<Worker>,
    /// Policy sets that the mesh process had recorded.
    pub(super) policies: BTreeSet<String>,
    /// Leaves, from the first on, whose records the log had let expire.
    pub(super) expired: u64,
    /// Who signed each proxy's last batch.
    #[serde(default)]
    pub(super) signers: BTreeMap<InstanceName, SpiffeId>,
    /// Records that were in two logs.
    #[serde(default)]
    pub(super) repeated: u64,
    /// The logs of replicas, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) replicas: BTreeMap<String, Verified>,
}

/// A worker's last batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Worker {
    pub(super) header: BatchHeader,
    #[serde(with = "hexes")]
    pub(super) leaf: [u8; 32],
    /// The chain before its first record.
    #[serde(with = "hexes")]
    pub(super) before: Chain,
    /// The last record of that epoch that a batch says had been written.
    #[serde(default)]
    pub(super) promised: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hex(#[serde(with = "hexes")] [u8; 32]);

impl Verified {
    pub(super) fn new(
        checkpoint: String,
        edge: &Frontier,
        (records, batches): (u64, u64),
        workers: Vec<Worker>,
        policies: BTreeSet<String>,
        expired: u64,
        signers: BTreeMap<InstanceName, SpiffeId>,
    ) -> Self {
        let hex = |hashes: &Vec<Hash>| hashes.iter().map(|hash| Hex(hash.0)).collect();
        Self {
            schema: VERIFIED_SCHEMA.to_owned(),
            checkpoint,
            size: edge.size(),
            records,
            batches,
            edge: (edge.edge().iter())
                .map(|(full, hashes)| (*full, hex(hashes)))
                .collect(),
            workers,
            policies,
            expired,
            signers,
            repeated: 0,
            replicas: BTreeMap::new(),
        }
    }

    /// Reads one.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if read.schema != VERIFIED_SCHEMA {
            return Err(format!(
                "is of form {:?}, not {VERIFIED_SCHEMA}",
                read.schema
            ));
        }
        let all = read.replicas.values().chain([&read]);
        let whole = all.into_iter().all(|log| log.frontier().is_some());
        match whole {
            true => Ok(read),
            false => Err("is of no tree".to_owned()),
        }
    }

    pub(super) fn frontier(&self) -> Option<Frontier> {
        let hashes = |hexes: &Vec<Hex>| hexes.iter().map(|hex| Hash(hex.0)).collect();
        let edge = self.edge.iter().map(|(full, hexes)| (*full, hashes(hexes)));
        Frontier::of_edge(self.size, edge.collect())
    }
}
