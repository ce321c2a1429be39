//! SQL over the audit trail, by Apache DataFusion.
//!
//! Without the feature `sql` this package is empty: DataFusion is several hundred crates, and `make demo`, the sidecar and
//! the usual build of `reeve` do without.
//!
//! Flow: `run` makes one table, `records`, of the Parquet segments of a mesh's logs and of the batches that no segment holds
//! yet, without what two logs have; plans the query, refuses what is no query, and writes the rows as they come.
//!
//! Invariants:
//! - Nothing is written, and nothing is read but the logs: no DDL, no DML, no statement, no other file by name.
//! - A query has so much memory and time as `Limits` says, and nothing of it goes to a disk.

#[cfg(feature = "sql")]
mod once;
#[cfg(feature = "sql")]
mod sql;
#[cfg(test)]
#[cfg(feature = "sql")]
mod tests;

#[cfg(feature = "sql")]
pub use sql::{Form, Limits, MAX_QUERY_BYTES, MAX_TABLE_ROWS, SqlError, run};
