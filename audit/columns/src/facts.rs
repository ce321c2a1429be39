//! What decisions come to: read from columns where there are any, and from records for what comes after.

use std::fs::File;

use arrow_array::{Array, Int32Array, Int64Array, RecordBatch, StringArray, cast::AsArray};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{ParquetRecordBatchReaderBuilder, RowFilter},
    },
    errors::ParquetError,
};
use reeve_audit::{
    Reader, ScanError,
    query::{Filter, unreadable},
};
use reeve_core::{RecordId, UnixTime};

use crate::{
    Columns, Segment,
    row::{Id, Row},
    search::Search,
};

/// Columns that facts are made of.
const NAMED: [&str; 18] = [
    "time",
    "proxy",
    "epoch",
    "worker",
    "sequence",
    "effect",
    "reason",
    "principal",
    "workload",
    "services",
    "action",
    "port",
    "source_ip",
    "policies",
    "authenticated_by",
    "mtls_mode",
    "path",
    "direction",
];

/// One decision, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fact<'a> {
    /// When, in milliseconds since 1970.
    pub time: u64,
    /// `allow` or `deny`.
    pub effect: &'a str,
    /// Why, in one word.
    pub reason: &'a str,
    /// `unauthenticated`, or a SPIFFE ID.
    pub principal: &'a str,
    /// The workload asked.
    pub workload: Option<&'a str>,
    /// Its services.
    pub services: Vec<&'a str>,
    /// The action.
    pub action: &'a str,
    /// The port.
    pub port: i32,
    /// The caller's address.
    pub source_ip: &'a str,
    /// The policies that decided.
    pub policies: Vec<&'a str>,
    /// How the principal was established.
    pub authenticated_by: &'a str,
    /// The mTLS mode of the listener.
    pub mtls_mode: &'a str,
    /// The path as it was judged; none of a connection.
    pub path: Option<&'a str>,
    /// `inbound` or `outbound`.
    pub direction: &'a str,
    /// The record: proxy, epoch, worker, sequence.
    pub id: (&'a str, u64, u16, u64),
}

impl Fact<'_> {
    /// The record's id.
    pub fn id(&self) -> Option<RecordId> {
        let (proxy, epoch, worker, sequence) = self.id;
        Some(RecordId {
            proxy: proxy.parse().ok()?,
            epoch,
            worker,
            sequence,
        })
    }
}

/// Hands out every decision of `reader`'s logs from `since` to before `until`, in no order: those in the columns of each log
/// from there.
pub fn facts(
    reader: &Reader,
    columns: &[Columns],
    (since, until): (Option<UnixTime>, Option<UnixTime>),
    each: &mut dyn FnMut(&Fact<'_>),
) -> Result<(), ScanError> {
    let filter = Filter {
        since,
        until,
        kind: Some("decision".to_owned()),
        ..Filter::default()
    };
    let search = Search::new(&filter);
    let repeated = reader.repeated()?;
    for (log, columns) in columns.iter().enumerate() {
        // What another log has, too, is counted there.
        let mut once = |fact: &Fact<'_>| {
            let counts = repeated.is_empty() || !fact.id().is_some_and(|id| repeated.has(log, &id));
            if counts {
                each(fact);
            }
        };
        for segment in columns.between(since, until) {
            of_segment(columns, segment, &search, &mut once).map_err(|error| {
                unreadable(&segment.path(columns.log()), std::io::Error::other(error))
            })?;
        }
    }
    let (from, to) = (
        since.map_or(0, UnixTime::as_millis),
        until.map_or(u64::MAX, UnixTime::as_millis),
    );
    let ends: Vec<_> = columns.iter().map(Columns::end_leaf).collect();
    let scan = reader.scan_after(&ends, since)?;
    let mut buffer = Vec::new();
    for part in 0..scan.parts() {
        scan.read(part, &mut buffer, &mut |record| {
            let row: Row<'_> =
                serde_json::from_slice(record).map_err(|e| ScanError::record(record, e))?;
            if let Some(fact) = of_row(&row).filter(|f| (from..to).contains(&f.time)) {
                each(&fact);
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn of_row<'a>(row: &'a Row<'a>) -> Option<Fact<'a>> {
    let (answer, request) = (row.answer()?, row.request.as_ref()?);
    let id = Id::parse(&row.id)?;
    Some(Fact {
        time: u64::try_from(row.time).ok()?,
        effect: &answer.effect,
        reason: &answer.reason,
        principal: row.principal()?,
        workload: request.resource.workload.as_deref(),
        services: request
            .resource
            .services
            .iter()
            .map(AsRef::as_ref)
            .collect(),
        action: &request.action,
        port: request.context.port,
        source_ip: &request.context.source_ip,
        policies: answer.policies.iter().map(AsRef::as_ref).collect(),
        authenticated_by: row.authenticated_by.as_deref().unwrap_or_default(),
        mtls_mode: row.mtls_mode.as_deref().unwrap_or_default(),
        path: request.context.http.as_ref().map(|http| http.path.as_ref()),
        direction: row.direction.as_deref().unwrap_or_default(),
        id: (
            id.proxy,
            u64::try_from(id.epoch).ok()?,
            u16::try_from(id.worker).ok()?,
            u64::try_from(id.sequence).ok()?,
        ),
    })
}

fn of_segment(
    columns: &Columns,
    segment: &Segment,
    search: &Search<'_>,
    each: &mut dyn FnMut(&Fact<'_>),
) -> Result<(), ParquetError> {
    let file = File::open(segment.path(columns.log()))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file.try_clone()?)?;
    let mut groups = Vec::new();
    for (at, group) in builder.metadata().row_groups().iter().enumerate() {
        if search.may_match(&file, group)? {
            groups.push(at);
        }
    }
    let mask = ProjectionMask::columns(builder.parquet_schema(), NAMED);
    let predicates = search.predicates(builder.parquet_schema());
    let reader = builder
        .with_row_groups(groups)
        .with_projection(mask)
        .with_row_filter(RowFilter::new(predicates))
        .build()?;
    for rows in reader {
        let rows = rows?;
        let table = Table::of(&rows).ok_or_else(|| {
            ParquetError::General("the columns are not those of a segment".to_owned())
        })?;
        (0..rows.num_rows()).for_each(|row| each(&table.fact(row)));
    }
    Ok(())
}

/// The columns of some rows.
struct Table<'a> {
    texts: Vec<&'a StringArray>,
    services: &'a arrow_array::ListArray,
    policies: &'a arrow_array::ListArray,
    times: &'a arrow_array::TimestampMillisecondArray,
    epochs: &'a Int64Array,
    sequences: &'a Int64Array,
    workers: &'a Int32Array,
    ports: &'a Int32Array,
}

/// The columns of text, in the order in which [`Table`] holds them.
const TEXTS: [&str; 11] = [
    "effect",
    "reason",
    "principal",
    "workload",
    "action",
    "source_ip",
    "authenticated_by",
    "mtls_mode",
    "proxy",
    "path",
    "direction",
];

impl<'a> Table<'a> {
    fn of(rows: &'a RecordBatch) -> Option<Self> {
        let named = |name| rows.column_by_name(name);
        let longs = |name| named(name)?.as_primitive_opt();
        let ints = |name| named(name)?.as_primitive_opt();
        let texts = TEXTS.iter().map(|name| named(name)?.as_string_opt());
        Some(Self {
            texts: texts.collect::<Option<_>>()?,
            services: named("services")?.as_list_opt()?,
            policies: named("policies")?.as_list_opt()?,
            times: named("time")?.as_primitive_opt()?,
            epochs: longs("epoch")?,
            sequences: longs("sequence")?,
            workers: ints("worker")?,
            ports: ints("port")?,
        })
    }

    fn text(&self, column: usize, row: usize) -> Option<&'a str> {
        let texts = self.texts.get(column)?;
        texts.is_valid(row).then(|| texts.value(row))
    }

    fn fact(&self, row: usize) -> Fact<'a> {
        let text = |column| self.text(column, row).unwrap_or_default();
        let long = |n: i64| u64::try_from(n).unwrap_or_default();
        Fact {
            time: long(self.times.value(row)),
            effect: text(0),
            reason: text(1),
            principal: text(2),
            workload: self.text(3, row),
            services: list(self.services, row),
            action: text(4),
            port: self.ports.value(row),
            source_ip: text(5),
            policies: list(self.policies, row),
            authenticated_by: text(6),
            mtls_mode: text(7),
            path: self.text(9, row),
            direction: text(10),
            id: (
                text(8),
                long(self.epochs.value(row)),
                u16::try_from(self.workers.value(row)).unwrap_or_default(),
                long(self.sequences.value(row)),
            ),
        }
    }
}

/// The texts of one list, borrowed from the column.
fn list(lists: &arrow_array::ListArray, row: usize) -> Vec<&str> {
    let Some(texts) = lists.values().as_string_opt::<i32>() else {
        return Vec::new();
    };
    let bounds = lists.value_offsets().get(row..row.saturating_add(2));
    let Some(&[from, to]) = bounds else {
        return Vec::new();
    };
    let range = usize::try_from(from).unwrap_or(0)..usize::try_from(to).unwrap_or(0);
    range.map(|at| texts.value(at)).collect()
}
