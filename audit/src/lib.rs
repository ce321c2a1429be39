//! The audit trail: decision records, the write-ahead log beside each proxy, shipping, and the transparency log.
//!
//! Flow: each worker of the proxy calls [`WalWriter::append`] and forwards only when that returned; [`ship()`] sends what was
//! appended as signed [`batch`]es to the mesh process, whose [`AuditLog`] puts each batch's header into a Merkle tree
//! (C2SP tlog-tiles) under a signed checkpoint and only then acknowledges it; [`verify`] proves a folder whole, and
//! [`query`] reads it.
//!
//! Invariants:
//! - No record id without a durable record at the configured [`Level`]; no room is an error, never a silent drop.
//! - Sequences are gapless per worker and epoch, and each epoch names the worker's last record before it.
//! - A torn tail (an unfinished last write) is cut; anything else that does not check is damage and is reported as such.
//! - An acknowledged batch is in the tree under a checkpoint on disk.

pub mod archive;
pub mod batch;
pub mod canonical;
mod decision_id;
mod disk;
#[cfg(test)]
mod fixture;
mod hexes;
pub mod history;
pub mod ingest;
pub mod log;
mod pace;
pub mod proof;
pub mod query;
pub mod record;
pub mod replica;
mod scan;
pub mod seal;
pub mod ship;
pub mod store;
pub mod verify;
pub mod wal;
pub mod witness;

pub use archive::{Archive, LoggedBatch, Newest};
pub use batch::{Batch, BatchHeader, BatchKey, BatchSigner, BatchVerifier, SigningIdentity};
pub use decision_id::{DecisionIdError, decision_id, parse_record_id};
pub use ingest::{IngestService, MayShip};
pub use log::{AuditLog, LogError, LogOptions, LogStatus};
pub use query::Reader;
pub use record::{
    AggregateRecord, AuthenticatedBy, DecisionRecord, DecisionRecordRef, Direction, Entry,
    EntryRef, EventKind, EventRecord, LookedFor, OutcomeRecord, Record, Redacted, Redaction,
};
pub use replica::{Keeping, MeshClient, Noted, Overseer, ReplicaService};
pub use scan::{Repeated, Scan, ScanError};
pub use ship::{ShipOptions, ship, ship_local};
pub use wal::{AppendError, Level, MAX_WORKERS, Wal, WalError, WalOptions, WalStatus, WalWriter};
