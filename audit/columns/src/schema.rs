//! The columns: which there are, how each is kept, and how rows become one row group.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, TimestampMillisecondArray,
    builder::{ListBuilder, StringBuilder},
};
use arrow_schema::{ArrowError, Field, Schema, SchemaRef};
use parquet::{
    basic::{Compression, Encoding, ZstdLevel},
    file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder},
    schema::types::ColumnPath,
};

use crate::row::{Id, Row};

/// The version of the columns, `reeve.columns` in a segment's metadata.
pub const COLUMNS_SCHEMA: &str = "reeve.columns/v1";

/// The record's canonical JSON, from which everything else in a row was taken.
pub(crate) const RECORD: &str = "record";

/// Compressed page of records: small enough that a few records cost little to read.
const RECORD_PAGE_BYTES: usize = 256 << 10;
/// Different values of a row group's bloom filter for identities.
const IDENTITIES: u64 = 1024;
/// Wrong answers of bloom filters.
const FALSE_POSITIVES: f64 = 0.01;

/// Each column's name, and how it is filled.
type Column = (&'static str, fn(&[Sourced<'_>]) -> ArrayRef);

/// A row and where it comes from; small, so that sorting moves little.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sourced<'a> {
    pub(crate) row: &'a Row<'a>,
    /// Its id, taken apart once.
    pub(crate) id: Option<Id<'a>>,
    /// Of an outcome, the id of its decision.
    pub(crate) outcome_of: Option<Id<'a>>,
    pub(crate) record: &'a str,
    pub(crate) batch: &'a str,
}

/// Text, for which there is room at once: it is not moved as it grows.
fn texts<'a>(rows: &[Sourced<'a>], of: fn(&Sourced<'a>) -> Option<&'a str>) -> ArrayRef {
    let bytes = rows.iter().map(|row| of(row).map_or(0, str::len)).sum();
    let mut texts = StringBuilder::with_capacity(rows.len(), bytes);
    rows.iter().for_each(|row| texts.append_option(of(row)));
    Arc::new(texts.finish())
}

fn longs<'a>(rows: &[Sourced<'a>], of: fn(&Sourced<'a>) -> Option<i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter(rows.iter().map(of)))
}

fn ints<'a>(rows: &[Sourced<'a>], of: fn(&Sourced<'a>) -> Option<i32>) -> ArrayRef {
    Arc::new(Int32Array::from_iter(rows.iter().map(of)))
}

fn lists<'a, I>(rows: &[Sourced<'a>], of: fn(&Sourced<'a>) -> Option<I>) -> ArrayRef
where
    I: Iterator<Item = &'a str>,
{
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in rows {
        let some = of(row);
        let is_some = some.is_some();
        for text in some.into_iter().flatten() {
            lists.values().append_value(text);
        }
        lists.append(is_some);
    }
    Arc::new(lists.finish())
}

/// Required columns first; `docs/audit-record.md` tells what each means.
const COLUMNS: &[Column] = &[
    ("time", |rows| {
        let times = rows.iter().map(|r| r.row.time);
        Arc::new(TimestampMillisecondArray::from_iter_values(times).with_timezone("UTC"))
    }),
    ("proxy", |rows| texts(rows, |r| Some(r.id?.proxy))),
    ("epoch", |rows| longs(rows, |r| Some(r.id?.epoch))),
    ("worker", |rows| ints(rows, |r| Some(r.id?.worker))),
    ("sequence", |rows| longs(rows, |r| Some(r.id?.sequence))),
    ("kind", |rows| texts(rows, |r| Some(&r.row.kind))),
    ("effect", |rows| {
        texts(rows, |r| Some(&r.row.answer()?.effect))
    }),
    ("reason", |rows| {
        texts(rows, |r| Some(&r.row.answer()?.reason))
    }),
    ("principal", |rows| texts(rows, |r| r.row.principal())),
    ("workload", |rows| {
        texts(rows, |r| {
            r.row.request.as_ref()?.resource.workload.as_deref()
        })
    }),
    ("services", |rows| {
        lists(rows, |r| {
            let resource = &r.row.request.as_ref()?.resource;
            Some(resource.services.iter().map(AsRef::as_ref))
        })
    }),
    ("namespace", |rows| {
        texts(rows, |r| Some(&r.row.request.as_ref()?.resource.namespace))
    }),
    ("action", |rows| {
        texts(rows, |r| Some(&r.row.request.as_ref()?.action))
    }),
    ("port", |rows| {
        ints(rows, |r| Some(r.row.request.as_ref()?.context.port))
    }),
    ("host", |rows| texts(rows, |r| Some(&r.row.http()?.host))),
    ("path", |rows| texts(rows, |r| Some(&r.row.http()?.path))),
    ("source_ip", |rows| {
        texts(rows, |r| Some(&r.row.request.as_ref()?.context.source_ip))
    }),
    ("user_issuer", |rows| {
        texts(rows, |r| {
            Some(&r.row.request.as_ref()?.user.as_ref()?.issuer)
        })
    }),
    ("user", |rows| {
        texts(rows, |r| {
            Some(&r.row.request.as_ref()?.user.as_ref()?.subject)
        })
    }),
    ("policies", |rows| {
        lists(rows, |r| {
            Some(r.row.answer()?.policies.iter().map(AsRef::as_ref))
        })
    }),
    ("authenticated_by", |rows| {
        texts(rows, |r| r.row.authenticated_by.as_deref())
    }),
    ("direction", |rows| {
        texts(rows, |r| r.row.direction.as_deref())
    }),
    ("generation", |rows| longs(rows, |r| r.row.generation)),
    ("policy_hash", |rows| {
        texts(rows, |r| r.row.policy_hash.as_deref())
    }),
    ("mtls_mode", |rows| {
        texts(rows, |r| r.row.mtls_mode.as_deref())
    }),
    ("strict_would_refuse", |rows| {
        let refuse = rows.iter().map(|r| r.row.strict_would_refuse);
        Arc::new(BooleanArray::from_iter(refuse))
    }),
    ("trace_id", |rows| {
        texts(rows, |r| r.row.trace_id.as_deref())
    }),
    ("cost_us", |rows| longs(rows, |r| r.row.cost_us)),
    ("outcome_of_epoch", |rows| {
        longs(rows, |r| Some(r.outcome_of?.epoch))
    }),
    ("outcome_of_sequence", |rows| {
        longs(rows, |r| Some(r.outcome_of?.sequence))
    }),
    ("status", |rows| ints(rows, |r| r.row.status)),
    ("bytes_in", |rows| longs(rows, |r| r.row.bytes_in)),
    ("bytes_out", |rows| longs(rows, |r| r.row.bytes_out)),
    ("duration_us", |rows| longs(rows, |r| r.row.duration_us)),
    ("flags", |rows| texts(rows, |r| r.row.flags.as_deref())),
    ("event", |rows| texts(rows, |r| r.row.event.as_deref())),
    ("subject", |rows| texts(rows, |r| r.row.subject.as_deref())),
    ("count", |rows| longs(rows, |r| r.row.count)),
    ("batch", |rows| texts(rows, |r| Some(r.batch))),
    (RECORD, |rows| texts(rows, |r| Some(r.record))),
];

/// The columns' names and types.
pub(crate) fn schema() -> SchemaRef {
    let required = [
        "time", "proxy", "epoch", "worker", "sequence", "kind", "batch", RECORD,
    ];
    let fields = COLUMNS.iter().map(|(name, fill)| {
        // The array of times says its zone itself.
        let of = fill(&[]).data_type().clone();
        Field::new(*name, of, !required.contains(name))
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// One row group's worth of columns.
pub(crate) fn columns(schema: &SchemaRef, rows: &[Sourced<'_>]) -> Result<RecordBatch, ArrowError> {
    let arrays = COLUMNS.iter().map(|(_, fill)| fill(rows)).collect();
    RecordBatch::try_new(Arc::clone(schema), arrays)
}

/// The columns that rows are sorted by, each with whether it descends: denials first, then what was allowed, then the rest.
pub(crate) const SORTED_BY: [(&str, bool); 5] = [
    ("effect", true),
    ("proxy", false),
    ("epoch", false),
    ("worker", false),
    ("sequence", false),
];

/// How columns are written: statistics on all, bloom filters where equality is asked for, dictionaries but for what never
/// repeats.
pub(crate) fn properties() -> WriterPropertiesBuilder {
    let column = |name: &str| ColumnPath::from(name);
    let level = ZstdLevel::try_new(LEVEL).unwrap_or_default();
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("reeve ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_bloom_filter_fpp(FALSE_POSITIVES)
        .set_column_dictionary_enabled(column(RECORD), false)
        .set_column_data_page_size_limit(column(RECORD), RECORD_PAGE_BYTES)
        .set_column_statistics_enabled(column(RECORD), EnabledStatistics::None)
        .set_column_dictionary_enabled(column("trace_id"), false)
        .set_column_bloom_filter_enabled(column("trace_id"), true);
    for number in ["time", "sequence", "outcome_of_sequence"] {
        properties = properties
            .set_column_dictionary_enabled(column(number), false)
            .set_column_encoding(column(number), Encoding::DELTA_BINARY_PACKED);
    }
    let identities = ["principal", "workload"].map(column);
    let services = ColumnPath::new(["services", "list", "element"].map(str::to_owned).to_vec());
    for identity in identities.into_iter().chain([services]) {
        properties = properties
            .set_column_bloom_filter_enabled(identity.clone(), true)
            .set_column_bloom_filter_max_ndv(identity, IDENTITIES);
    }
    properties
}

/// Of zstd: higher ones take several times as long for a tenth less.
const LEVEL: i32 = 1;
