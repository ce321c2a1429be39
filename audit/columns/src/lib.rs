//! The audit trail as columns: Parquet segments beside the tree, for searching.
//!
//! Flow: [`SegmentWriter`] turns records into columns, [`keep`](mod@keep) does so with what the log has taken, a segment for a
//! stretch of the tree's leaves, and [`Columns`] searches segments for a [`reeve_audit::Reader`].
//!
//! Invariants:
//! - A segment holds every record of the leaves that its name says, once each, as it stands in the batch.
//! - A segment has its name only when the log holds a record of its hash: `verify` misses no edited one.
//! - One row group is in memory while a segment is written.

pub mod facts;
#[cfg(test)]
mod fixture;
pub mod keep;
pub mod report;
mod row;
mod schema;
mod search;
pub mod segment;
mod writer;

pub use keep::{KeepError, KeepOptions, Keeper};
pub use schema::COLUMNS_SCHEMA;
pub use search::Columns;
pub use segment::Segment;
pub use writer::{Extent, MAX_GROUP_BYTES, MAX_GROUP_ROWS, SegmentWriter, WriteError};
