//! A query, from its text to its rows.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use datafusion::{
    arrow::{csv, json, util::pretty::pretty_format_batches},
    dataframe::DataFrame,
    error::DataFusionError,
    execution::{
        SendableRecordBatchStream,
        context::{SQLOptions, SessionContext},
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        runtime_env::RuntimeEnvBuilder,
    },
    parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
    prelude::{ParquetReadOptions, SessionConfig},
};
use futures_util::StreamExt;
use reeve_audit::{Reader, Repeated, query::ReadError};
use reeve_columns::{Columns, SegmentWriter, WriteError};

use crate::once::counts_here;

/// The longest text of a query.
pub const MAX_QUERY_BYTES: usize = 64 << 10;
/// The most rows of an answer as a table; as JSON lines and CSV there is no bound.
pub const MAX_TABLE_ROWS: usize = 10_000;
/// Rows that are worked on at once.
const ROWS_AT_ONCE: usize = 4096;
/// Leaves whose batches are read at once.
const LEAVES_AT_ONCE: u64 = 256;
/// The table.
const RECORDS: &str = "records";

/// What a query may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory of the query itself; what the newest records take until they are in a segment comes to that.
    pub memory_bytes: usize,
    /// From the first row read to the last one written.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 512 << 20,
            time: Duration::from_secs(60),
        }
    }
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In a frame, for people.
    Table,
    /// An object a line.
    Json,
    /// With a line of names.
    Csv,
}

/// A query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// It is longer than any query.
    #[error("the query is longer than {MAX_QUERY_BYTES} bytes")]
    TooLong,
    /// It is wrong, or no query.
    #[error("the query cannot be answered")]
    Query(#[source] DataFusionError),
    /// It took more memory than it may.
    #[error("the query needs more memory than {memory_bytes} bytes; ask for less, or give it more")]
    Memory {
        /// What it may take.
        memory_bytes: usize,
    },
    /// It took longer than it may.
    #[error("the query took longer than {time:?}; ask for less, or give it more")]
    Time {
        /// How long it may take.
        time: Duration,
    },
    /// There are more rows than a table takes.
    #[error("there are more than {MAX_TABLE_ROWS} rows; add LIMIT, or write them as JSON or CSV")]
    Rows,
    /// The log cannot be read.
    #[error("the log cannot be read")]
    Read(#[from] ReadError),
    /// The newest records cannot be made columns.
    #[error("the newest records cannot be made columns")]
    Columns(#[from] WriteError),
    /// The answer cannot be written.
    #[error("the answer cannot be written")]
    Write(#[source] io::Error),
}

impl SqlError {
    fn of(error: DataFusionError, limits: &Limits) -> Self {
        match matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) {
            true => Self::Memory {
                memory_bytes: limits.memory_bytes,
            },
            false => Self::Query(error),
        }
    }
}

/// Answers the query `text` over a mesh's logs – the mesh log's folder, then its replicas' –, and says how many rows it has.
/// What two logs have counts once.
pub fn run(
    logs: &[PathBuf],
    text: &str,
    form: Form,
    limits: &Limits,
    out: &mut dyn Write,
) -> Result<u64, SqlError> {
    if text.len() > MAX_QUERY_BYTES {
        return Err(SqlError::TooLong);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()
        .map_err(SqlError::Write)?;
    let answered = runtime.block_on(async {
        let answering = answer(logs, text, form, limits, out);
        // Cancel-safe: what was begun is dropped with the runtime.
        tokio::time::timeout(limits.time, answering).await
    });
    runtime.shutdown_background();
    answered.unwrap_or(Err(SqlError::Time { time: limits.time }))
}

async fn answer(
    logs: &[PathBuf],
    text: &str,
    form: Form,
    limits: &Limits,
    out: &mut dyn Write,
) -> Result<u64, SqlError> {
    let wrong = |error| SqlError::of(error, limits);
    let context = context(limits).map_err(wrong)?;
    let records = records(&context, logs, limits).await?;
    context
        .register_table(RECORDS, records.into_view())
        .map_err(wrong)?;
    let plan = context.state().create_logical_plan(text).await;
    let plan = plan.map_err(wrong)?;
    // SECURITY: a query reads; CREATE, COPY, INSERT and SET are refused, wherever in it they stand.
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)
        .map_err(wrong)?;
    let answer = context.execute_logical_plan(plan).await.map_err(wrong)?;
    let batches = answer.execute_stream().await.map_err(wrong)?;
    let mut writing = Writing::new(form, out);
    match writing.all(batches, limits).await {
        // Whoever reads it has enough.
        Err(SqlError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(writing.rows)
}

fn context(limits: &Limits) -> Result<SessionContext, DataFusionError> {
    let mut config = SessionConfig::new()
        .with_information_schema(true)
        .with_batch_size(ROWS_AT_ONCE);
    let parquet = &mut config.options_mut().execution.parquet;
    // The types are those that the newest records have in memory.
    parquet.schema_force_view_types = false;
    parquet.pushdown_filters = true;
    parquet.reorder_filters = true;
    let none = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_limit(limits.memory_bytes, 1.0)
        .with_disk_manager_builder(none)
        .build_arc()?;
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

/// Everything that the logs hold, each record once.
async fn records(
    context: &SessionContext,
    logs: &[PathBuf],
    limits: &Limits,
) -> Result<DataFrame, SqlError> {
    let wrong = |error| SqlError::of(error, limits);
    // First: what comes to another log meanwhile is then seen twice, not never.
    let repeated = Arc::new(repeated(logs)?);
    let mut all = context.read_empty().map_err(wrong)?;
    for (log, dir) in logs.iter().enumerate() {
        let mut own = of_log(context, dir, limits).await?;
        if !repeated.is_empty() {
            let counts = counts_here(Arc::clone(&repeated), log);
            own = own.filter(counts).map_err(wrong)?;
        }
        all = match log {
            0 => own,
            _ => all.union(own).map_err(wrong)?,
        };
    }
    Ok(all)
}

fn repeated(logs: &[PathBuf]) -> Result<Repeated, SqlError> {
    let readers: Result<Vec<_>, _> = logs.iter().map(|dir| Reader::open(dir)).collect();
    let mut readers = readers?.into_iter();
    match readers.next() {
        Some(mesh) => Ok(mesh.with_replicas(readers.collect()).repeated()?),
        None => Ok(Repeated::default()),
    }
}

/// Everything that a log holds: segments, then what is in none yet.
async fn of_log(
    context: &SessionContext,
    dir: &Path,
    limits: &Limits,
) -> Result<DataFrame, SqlError> {
    let wrong = |error| SqlError::of(error, limits);
    let columns = Columns::open(dir)?;
    let newest = newest(dir, columns.end_leaf())?;
    let newest = context.read_batches(newest).map_err(wrong)?;
    let paths = columns.segments().iter().map(|segment| segment.path(dir));
    let paths: Vec<_> = paths.map(|path| path.display().to_string()).collect();
    if paths.is_empty() {
        return Ok(newest);
    }
    let kept = context.read_parquet(paths, ParquetReadOptions::default());
    let kept = kept.await.map_err(wrong)?;
    kept.union(newest).map_err(wrong)
}

/// The records from leaf `from` on as columns: as a segment in memory would have them, whose making bounds them.
fn newest(dir: &Path, from: u64) -> Result<Vec<RecordBatch>, SqlError> {
    let reader = Reader::open(dir)?;
    let size = reader.tree_size()?;
    let mut writer = SegmentWriter::new(Vec::new())?;
    let mut buffer = Vec::new();
    let mut at = from.max(reader.expired());
    while at < size {
        let end = size.min(at + LEAVES_AT_ONCE);
        for batch in reader.batches(at, end)? {
            let name = hex::encode(batch.hash);
            let mut pushed = Ok(());
            batch.read_checked(&mut buffer, &mut |record| {
                if pushed.is_ok() {
                    pushed = writer.push(record, &name);
                }
            })?;
            pushed?;
        }
        at = end;
    }
    let (segment, _) = writer.finish(|_| Vec::new())?;
    let wrong = |error| SqlError::Query(DataFusionError::from(error));
    let rows = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(segment));
    let rows = rows.map_err(wrong)?;
    let schema = Arc::clone(rows.schema());
    let rows = rows.with_batch_size(ROWS_AT_ONCE).build().map_err(wrong)?;
    // Without any records the table has its columns all the same.
    let mut batches = vec![RecordBatch::new_empty(schema)];
    for batch in rows {
        batches.push(batch.map_err(|error| SqlError::Query(DataFusionError::from(error)))?);
    }
    Ok(batches)
}

/// Rows on their way out.
struct Writing<'o> {
    out: &'o mut dyn Write,
    form: Form,
    rows: u64,
    /// Of a table, whose widths are known at its end only.
    kept: Vec<RecordBatch>,
}

impl<'o> Writing<'o> {
    fn new(form: Form, out: &'o mut dyn Write) -> Self {
        Self {
            out,
            form,
            rows: 0,
            kept: Vec::new(),
        }
    }

    async fn all(
        &mut self,
        mut batches: SendableRecordBatchStream,
        limits: &Limits,
    ) -> Result<(), SqlError> {
        while let Some(batch) = batches.next().await {
            self.take(batch.map_err(|error| SqlError::of(error, limits))?)?;
        }
        self.finish()
    }

    fn take(&mut self, batch: RecordBatch) -> Result<(), SqlError> {
        let first = self.rows == 0;
        self.rows += u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
        match self.form {
            Form::Json => {
                let mut lines = json::LineDelimitedWriter::new(&mut *self.out);
                lines.write(&batch).map_err(not_written)?;
                lines.finish().map_err(not_written)
            }
            Form::Csv if batch.num_rows() == 0 => Ok(()),
            Form::Csv => {
                let lines = csv::WriterBuilder::new().with_header(first);
                let batch = flat(&batch).map_err(not_written)?;
                lines
                    .build(&mut *self.out)
                    .write(&batch)
                    .map_err(not_written)
            }
            Form::Table => {
                if self.rows > u64::try_from(MAX_TABLE_ROWS).unwrap_or(u64::MAX) {
                    return Err(SqlError::Rows);
                }
                self.kept.push(batch);
                Ok(())
            }
        }
    }

    fn finish(&mut self) -> Result<(), SqlError> {
        if self.form == Form::Table {
            let table = pretty_format_batches(&self.kept);
            let table = table.map_err(not_written)?;
            writeln!(self.out, "{table}").map_err(SqlError::Write)?;
        }
        self.out.flush().map_err(SqlError::Write)
    }
}

fn not_written(error: ArrowError) -> SqlError {
    if let ArrowError::IoError(_, error) = error {
        return SqlError::Write(error);
    }
    SqlError::Write(io::Error::other(error))
}

/// CSV has no lists: theirs is the text that a table shows.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    use arrow_schema::{DataType, Field, Schema};
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if field.data_type().is_nested() {
            let text = datafusion::arrow::util::display::ArrayFormatter::try_new(
                column,
                &datafusion::arrow::util::display::FormatOptions::default(),
            )?;
            let texts = (0..column.len()).map(|row| Some(text.value(row).to_string()));
            fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
            columns.push(
                Arc::new(texts.collect::<arrow_array::StringArray>()) as arrow_array::ArrayRef
            );
        } else {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}
