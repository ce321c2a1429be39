//! Writing a segment: rows are gathered, sorted and made columns of a row group at a time; a thread of its own encodes,
//! compresses and writes the group before meanwhile, at the priority of who writes.

use std::{
    io::{self, Write},
    mem,
    ops::Range,
    sync::mpsc::{self, SyncSender},
    thread::{self, JoinHandle},
};

use arrow_array::RecordBatch;

use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    errors::ParquetError,
    file::metadata::{KeyValue, SortingColumn},
};

use crate::{
    row::{Id, Row},
    schema::{COLUMNS_SCHEMA, SORTED_BY, Sourced, columns, properties, schema},
};

/// Rows of a row group, of which two are in memory.
pub const MAX_GROUP_ROWS: usize = 65_536;
/// Bytes of records in a row group; the last record may go beyond.
pub const MAX_GROUP_BYTES: usize = 48 << 20;

/// A segment cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A record is none.
    #[error("a record of batch {batch} cannot be read")]
    Record {
        /// The batch that holds it.
        batch: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The columns cannot be made or written.
    #[error("the columns cannot be written")]
    Columns(#[source] Box<ParquetError>),
}

impl From<ParquetError> for WriteError {
    fn from(source: ParquetError) -> Self {
        Self::Columns(Box::new(source))
    }
}

/// What a segment holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Rows.
    pub records: u64,
    /// The earliest and the latest, in milliseconds since 1970.
    pub times: Option<(u64, u64)>,
}

/// Writes records as columns into `W`. Memory is bounded by two row groups.
#[derive(Debug)]
pub struct SegmentWriter<W: Write + Send + 'static> {
    encoder: Encoder<W>,
    schema: arrow_schema::SchemaRef,
    gathered: Gathered,
    extent: Extent,
}

/// The rows of the next row group.
#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    records: Vec<(Range<usize>, usize)>,
    batches: Vec<String>,
}

impl<W: Write + Send + 'static> SegmentWriter<W> {
    /// A segment that is written into `out`.
    pub fn new(out: W) -> Result<Self, WriteError> {
        let schema = schema();
        let sorting = SORTED_BY.iter().filter_map(|(name, descending)| {
            // Each column, lists too, has one leaf in Parquet's schema.
            let column_idx = i32::try_from(place_of(name)?).ok()?;
            Some(SortingColumn {
                column_idx,
                descending: *descending,
                nulls_first: false,
            })
        });
        let properties = properties()
            .set_sorting_columns(Some(sorting.collect()))
            .set_max_row_group_row_count(Some(MAX_GROUP_ROWS))
            .build();
        let options = ArrowWriterOptions::new().with_properties(properties);
        let writer = ArrowWriter::try_new_with_options(out, schema.clone(), options)?;
        Ok(Self {
            encoder: Encoder::start(writer)?,
            schema,
            gathered: Gathered::default(),
            extent: Extent::default(),
        })
    }

    /// Adds a record's canonical JSON; `batch` is the hash, in hex, of the batch that holds it.
    pub fn push(&mut self, record: &[u8], batch: &str) -> Result<(), WriteError> {
        self.gathered.push(record, batch);
        let full = self.gathered.records.len() >= MAX_GROUP_ROWS
            || self.gathered.bytes.len() >= MAX_GROUP_BYTES;
        if full { self.flush() } else { Ok(()) }
    }

    /// Rows so far.
    pub fn records(&self) -> u64 {
        self.extent.records + u64::try_from(self.gathered.records.len()).unwrap_or(0)
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        let mut gathered = mem::take(&mut self.gathered);
        let mut rows = Vec::with_capacity(gathered.records.len());
        for (range, batch) in &gathered.records {
            let batch = gathered.batches.get(*batch).map_or("", String::as_str);
            let record = gathered.bytes.get(range.clone()).unwrap_or_default();
            let text = str::from_utf8(record).map_err(|e| malformed(batch, io_error(e)))?;
            let row: Row<'_> = serde_json::from_str(text).map_err(|e| malformed(batch, e))?;
            self.extent.add(row.time);
            rows.push((row, text, batch));
        }
        if rows.is_empty() {
            return Ok(());
        }
        let mut sorted: Vec<_> = rows.iter().map(sourced).collect();
        sort(&mut sorted);
        let batch = columns(&self.schema, &sorted).map_err(ParquetError::from)?;
        drop(sorted);
        drop(rows);
        gathered.clear();
        self.gathered = gathered;
        self.encoder.give(batch)
    }

    /// Writes what is left and the footer, with what `describe` adds to the metadata.
    pub fn finish(
        mut self,
        describe: impl FnOnce(&Extent) -> Vec<(String, String)>,
    ) -> Result<(W, Extent), WriteError> {
        self.flush()?;
        let mut writer = self.encoder.end()?;
        let version = ("reeve.columns".to_owned(), COLUMNS_SCHEMA.to_owned());
        for (key, value) in std::iter::once(version).chain(describe(&self.extent)) {
            let pair = KeyValue::new(key, value);
            writer.append_key_value_metadata(pair);
        }
        Ok((writer.into_inner()?, self.extent))
    }
}

/// The thread that writes row groups; it takes the next one when it has written the last.
#[derive(Debug)]
struct Encoder<W: Write + Send + 'static> {
    running: Option<(SyncSender<RecordBatch>, Encoding<W>)>,
}

type Encoding<W> = JoinHandle<Result<ArrowWriter<W>, ParquetError>>;

impl<W: Write + Send + 'static> Encoder<W> {
    fn start(mut writer: ArrowWriter<W>) -> Result<Self, WriteError> {
        let (groups, coming) = mpsc::sync_channel::<RecordBatch>(0);
        let encoding = thread::Builder::new().name("columns".to_owned());
        let encoding = encoding.spawn(move || {
            for group in coming {
                writer.write(&group)?;
                writer.flush()?;
            }
            Ok(writer)
        });
        let encoding = encoding.map_err(|error| ParquetError::External(Box::new(error)))?;
        Ok(Self {
            running: Some((groups, encoding)),
        })
    }

    /// Waits until the group before is written; the error may be about that one.
    fn give(&mut self, group: RecordBatch) -> Result<(), WriteError> {
        match &self.running {
            Some((groups, _)) if groups.send(group).is_ok() => Ok(()),
            _ => self.end().and(Err(ended())),
        }
    }

    /// Waits until everything is written.
    fn end(&mut self) -> Result<ArrowWriter<W>, WriteError> {
        let (groups, encoding) = self.running.take().ok_or_else(ended)?;
        drop(groups);
        Ok(encoding.join().map_err(|_panic| ended())??)
    }
}

/// What is given up on is written to no more.
impl<W: Write + Send + 'static> Drop for Encoder<W> {
    fn drop(&mut self) {
        drop(self.end());
    }
}

fn ended() -> WriteError {
    ParquetError::General("the thread that writes columns has ended".to_owned()).into()
}

/// A row as columns are made of it.
fn sourced<'a>((row, record, batch): &'a (Row<'a>, &'a str, &'a str)) -> Sourced<'a> {
    Sourced {
        row,
        id: Id::parse(&row.id),
        outcome_of: row.outcome_of(),
        record,
        batch,
    }
}

/// Denials first, then what was allowed, then the rest; within, as each worker wrote them.
fn sort(rows: &mut [Sourced<'_>]) {
    let mut proxies: Vec<_> = rows.iter().filter_map(|r| Some(r.id?.proxy)).collect();
    proxies.dedup();
    proxies.sort_unstable();
    proxies.dedup();
    // A row's proxy is mostly that of the row before, and numbers are compared faster than names.
    let mut last = ("", 0);
    rows.sort_by_cached_key(|row| {
        let rank = match row.row.answer().map(|a| a.effect.as_ref()) {
            Some("deny") => 0,
            Some(_) => 1,
            None => 2,
        };
        let place = row.id.map(|id| {
            if last.0 != id.proxy {
                last = (
                    id.proxy,
                    proxies.binary_search(&id.proxy).unwrap_or_default(),
                );
            }
            (last.1, id.epoch, id.worker, id.sequence)
        });
        (rank, place)
    });
}

fn place_of(name: &str) -> Option<usize> {
    schema()
        .fields()
        .iter()
        .position(|field| field.name() == name)
}

fn malformed(batch: &str, source: serde_json::Error) -> WriteError {
    WriteError::Record {
        batch: batch.to_owned(),
        source,
    }
}

fn io_error(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> serde_json::Error {
    serde_json::Error::io(io::Error::other(error))
}

impl Gathered {
    fn push(&mut self, record: &[u8], batch: &str) {
        if self.batches.last().map(String::as_str) != Some(batch) {
            self.batches.push(batch.to_owned());
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(record);
        self.records
            .push((start..self.bytes.len(), self.batches.len() - 1));
    }

    /// Empty, with its memory kept.
    fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        self.batches.clear();
    }
}

impl Extent {
    fn add(&mut self, time: i64) {
        let time = u64::try_from(time).unwrap_or(0);
        self.records += 1;
        let (first, last) = self.times.unwrap_or((time, time));
        self.times = Some((first.min(time), last.max(time)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is full.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_the_writing_thread_met_is_told() {
        // The magic at the file's beginning is written when the writer is made, or with the first group.
        let told = SegmentWriter::new(Full).and_then(|mut writer| {
            for _ in 0..3 {
                writer.push(br#"{"id":"a/1/0/1","kind":"event","time":1}"#, "batch")?;
                writer.flush()?;
            }
            writer.finish(|_| Vec::new())
        });
        let error = told.err().unwrap();
        let text = reeve_core::error_chain(&error);
        assert!(text.contains("no storage space"), "{text}");
    }
}
