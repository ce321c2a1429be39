//! Searching segments: by name, by statistics, by bloom filter, and only then by reading what is left.

use std::{fs::File, path::Path, sync::Arc};

use arrow_array::{Array, BooleanArray, ListArray, RecordBatch, StringArray, cast::AsArray};
use arrow_schema::ArrowError;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowPredicate, ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions,
            ParquetRecordBatchReaderBuilder, RowFilter,
        },
    },
    bloom_filter::Sbbf,
    errors::ParquetError,
    file::{
        metadata::{PageIndexPolicy, RowGroupMetaData},
        statistics::Statistics,
    },
    schema::types::SchemaDescriptor,
};
use reeve_audit::{
    Archive, Newest, Reader, Record,
    query::{Filter, ReadError, archived, unreadable},
};
use reeve_core::{UnixTime, decision::Effect};

use crate::{
    schema::RECORD,
    segment::{self, Segment},
};

/// Rows that are decoded at once.
const ROWS_AT_ONCE: usize = 4096;

/// The segments of a log folder.
#[derive(Debug)]
pub struct Columns {
    log: std::path::PathBuf,
    segments: Vec<Segment>,
}

/// One thing a filter asks of a column.
#[derive(Clone, Debug)]
enum Test {
    /// It is this text.
    Is(&'static str, String),
    /// It begins so.
    Begins(&'static str, String),
    /// One of the list is this text.
    Holds(&'static str, String),
    /// It is this number.
    Number(&'static str, i64),
    /// It is at least and at most.
    Within(&'static str, i64, i64),
}

impl Columns {
    /// The segments of the log folder `log` as they are now.
    pub fn open(log: &Path) -> Result<Self, ReadError> {
        let folder = log.join(segment::FOLDER);
        let expired = Reader::open(log)?.expired();
        Ok(Self {
            log: log.to_owned(),
            segments: segment::list(log, expired).map_err(|e| unreadable(&folder, e))?,
        })
    }

    /// The segments, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The log folder.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// The first leaf that no segment has.
    pub fn end_leaf(&self) -> u64 {
        segment::end(&self.segments)
    }

    /// Segments that may hold records of that time.
    pub fn between(
        &self,
        since: Option<UnixTime>,
        until: Option<UnixTime>,
    ) -> impl Iterator<Item = &Segment> {
        let since = since.map_or(0, UnixTime::as_millis);
        let until = until.map_or(u64::MAX, UnixTime::as_millis);
        let wanted = move |s: &&Segment| s.latest >= since && s.earliest < until;
        self.segments.iter().filter(wanted)
    }

    fn search_segment(
        &self,
        segment: &Segment,
        search: &Search<'_>,
        newest: &mut Newest,
    ) -> Result<(), ParquetError> {
        let file = File::open(segment.path(&self.log))?;
        let options = ArrowReaderOptions::new();
        let metadata = ArrowReaderMetadata::load(&file, options)?;
        let mut groups: Vec<_> = (metadata.metadata().row_groups().iter().enumerate())
            .map(|(at, group)| (latest(group), at, group))
            .collect();
        groups.sort_by_key(|(latest, at, _)| (std::cmp::Reverse(*latest), *at));
        let mut indexed = None;
        for (latest, at, group) in groups {
            if !newest.wants(latest) || !search.may_match(&file, group)? {
                continue;
            }
            let metadata = match &indexed {
                Some(metadata) => metadata,
                None => indexed.insert(ArrowReaderMetadata::load(
                    &file,
                    ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required),
                )?),
            };
            search.read_group(&file, metadata, at, &self.log, newest)?;
        }
        Ok(())
    }
}

impl Archive for Columns {
    fn end(&self) -> u64 {
        segment::end(&self.segments)
    }

    fn search(&self, filter: &Filter, newest: &mut Newest) -> Result<(), ReadError> {
        let search = Search::new(filter);
        let mut wanted: Vec<_> = self.between(filter.since, filter.until).collect();
        wanted.sort_by_key(|s| std::cmp::Reverse(s.latest));
        for segment in wanted {
            if newest.wants(UnixTime::from_millis(segment.latest)) {
                self.search_segment(segment, &search, newest)
                    .map_err(|e| unreadable(&segment.path(&self.log), std::io::Error::other(e)))?;
            }
        }
        Ok(())
    }
}

/// A filter, and the same as tests of columns.
pub(crate) struct Search<'a> {
    filter: &'a Filter,
    tests: Vec<Test>,
}

impl<'a> Search<'a> {
    pub(crate) fn new(filter: &'a Filter) -> Self {
        Self {
            filter,
            tests: tests(filter),
        }
    }

    /// Its tests, each reading its own column.
    pub(crate) fn predicates(&self, schema: &SchemaDescriptor) -> Vec<Box<dyn ArrowPredicate>> {
        self.tests.iter().map(|t| t.predicate(schema)).collect()
    }

    /// Whether statistics and bloom filters leave it open that the row group has a match.
    pub(crate) fn may_match(
        &self,
        file: &File,
        group: &RowGroupMetaData,
    ) -> Result<bool, ParquetError> {
        for test in &self.tests {
            let column = group.columns().iter().find(|c| {
                let path = c.column_path().parts();
                path.first().map(String::as_str) == Some(test.column())
            });
            let Some(column) = column else { continue };
            let statistics = column.statistics();
            if statistics.is_some_and(|s| test.excluded_by(s)) {
                return Ok(false);
            }
            if let Some(text) = test.equals() {
                let bloom = Sbbf::read_from_column_chunk(column, file)?;
                if bloom.is_some_and(|bloom| !bloom.check(text)) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Offers what matches in one row group: tests read their own columns, and records only where all of them hold.
    fn read_group(
        &self,
        file: &File,
        metadata: &ArrowReaderMetadata,
        group: usize,
        log: &Path,
        newest: &mut Newest,
    ) -> Result<(), ParquetError> {
        let schema = metadata.parquet_schema();
        let reader =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file.try_clone()?, metadata.clone())
                .with_row_groups(vec![group])
                .with_batch_size(ROWS_AT_ONCE)
                .with_projection(ProjectionMask::columns(schema, ["batch", RECORD]))
                .with_row_filter(RowFilter::new(self.predicates(schema)))
                .build()?;
        for rows in reader {
            self.offer(&rows?, log, newest)?;
        }
        Ok(())
    }

    fn offer(
        &self,
        rows: &RecordBatch,
        log: &Path,
        newest: &mut Newest,
    ) -> Result<(), ParquetError> {
        let batches = texts(rows, "batch")?;
        for (record, batch) in texts(rows, RECORD)?.iter().zip(batches) {
            let (record, batch) = (record.unwrap_or_default(), batch.unwrap_or_default());
            let record = Record::from_slice(record.as_bytes())
                .map_err(|error| ParquetError::External(Box::new(error)))?;
            // What no column can tell, the record does.
            if self.filter.matches(&record) && newest.wants(record.time) {
                newest.offer(archived(record, batch, log));
            }
        }
        Ok(())
    }
}

/// The time of a row group's latest record.
fn latest(group: &RowGroupMetaData) -> UnixTime {
    let time = group
        .columns()
        .iter()
        .find(|c| c.column_path().string() == "time");
    let latest = time.and_then(|c| numbers(c.statistics()?));
    let latest = latest.map_or(i64::MAX, |(_, latest)| latest);
    UnixTime::from_millis(u64::try_from(latest).unwrap_or(0))
}

fn tests(filter: &Filter) -> Vec<Test> {
    let millis = |t: UnixTime| i64::try_from(t.as_millis()).unwrap_or(i64::MAX);
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let mut tests = Vec::new();
    if let Some(id) = &filter.id {
        tests.push(Test::Number("sequence", number(id.sequence)));
        tests.push(Test::Number("epoch", number(id.epoch)));
        tests.push(Test::Is("proxy", id.proxy.to_string()));
    }
    if let Some(id) = &filter.outcome_of {
        tests.push(Test::Number("outcome_of_sequence", number(id.sequence)));
        tests.push(Test::Number("outcome_of_epoch", number(id.epoch)));
    }
    if let Some(effect) = filter.effect {
        let effect = match effect {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        };
        tests.push(Test::Is("effect", effect.to_owned()));
    }
    let event = filter
        .event
        .and_then(|event| serde_json::to_value(event).ok());
    let equal = [
        ("event", event.and_then(|e| e.as_str().map(str::to_owned))),
        ("kind", filter.kind.clone()),
        ("reason", filter.reason.map(|r| r.as_str().to_owned())),
        (
            "principal",
            filter.principal.as_ref().map(ToString::to_string),
        ),
        (
            "workload",
            filter.workload.as_ref().map(ToString::to_string),
        ),
        ("trace_id", filter.trace.clone()),
    ];
    tests.extend((equal.into_iter()).filter_map(|(name, text)| Some(Test::Is(name, text?))));
    if let Some(service) = &filter.service {
        tests.push(Test::Holds("services", service.to_string()));
    }
    if let Some(path) = &filter.path {
        tests.push(Test::Begins("path", path.clone()));
    }
    if filter.since.is_some() || filter.until.is_some() {
        let since = filter.since.map_or(i64::MIN, millis);
        let until = filter
            .until
            .map_or(i64::MAX, |t| millis(t).saturating_sub(1));
        tests.push(Test::Within("time", since, until));
    }
    tests
}

impl Test {
    fn column(&self) -> &'static str {
        match self {
            Self::Is(name, _)
            | Self::Begins(name, _)
            | Self::Holds(name, _)
            | Self::Number(name, _)
            | Self::Within(name, ..) => name,
        }
    }

    /// The text that a bloom filter can be asked for.
    fn equals(&self) -> Option<&str> {
        match self {
            Self::Is(_, text) | Self::Holds(_, text) => Some(text),
            Self::Begins(..) | Self::Number(..) | Self::Within(..) => None,
        }
    }

    /// Whether nothing between a column's bounds passes.
    fn excluded_by(&self, statistics: &Statistics) -> bool {
        match self {
            Self::Number(_, wanted) => {
                numbers(statistics).is_some_and(|(least, most)| !(least..=most).contains(wanted))
            }
            Self::Within(_, from, to) => {
                numbers(statistics).is_some_and(|(least, most)| least > *to || most < *from)
            }
            Self::Is(_, text) | Self::Holds(_, text) => bounds(statistics)
                .is_some_and(|(least, most)| text.as_bytes() < least || text.as_bytes() > most),
            Self::Begins(_, text) => bounds(statistics).is_some_and(|(least, most)| {
                let begin = text.as_bytes();
                let least = least.get(..begin.len().min(least.len())).unwrap_or(least);
                begin < least || begin > most
            }),
        }
    }

    fn predicate(&self, schema: &SchemaDescriptor) -> Box<dyn ArrowPredicate> {
        let mask = ProjectionMask::columns(schema, [self.column()]);
        let test = self.clone();
        Box::new(ArrowPredicateFn::new(mask, move |rows| {
            test.evaluate(&rows)
        }))
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<BooleanArray, ArrowError> {
        let name = self.column();
        let column = rows
            .column_by_name(name)
            .ok_or_else(|| ArrowError::SchemaError(format!("there is no column {name}")))?;
        let wrong = || ArrowError::SchemaError(format!("the column {name} is of another type"));
        let each = |test: &dyn Fn(&str) -> bool| {
            let texts = column.as_string_opt::<i32>().ok_or_else(wrong)?;
            Ok(texts
                .iter()
                .map(|text| Some(text.is_some_and(test)))
                .collect())
        };
        match self {
            Self::Is(_, wanted) => each(&|text| text == wanted),
            Self::Begins(_, begin) => each(&|text| text.starts_with(begin)),
            Self::Holds(_, wanted) => {
                let lists = column.as_list_opt::<i32>().ok_or_else(wrong)?;
                Ok(holds(lists, wanted))
            }
            Self::Number(_, wanted) => {
                let numbers = whole(column).ok_or_else(wrong)?;
                Ok(numbers.map(|n| Some(n == Some(*wanted))).collect())
            }
            Self::Within(_, from, to) => {
                let numbers = whole(column).ok_or_else(wrong)?;
                let within = |n: i64| (*from..=*to).contains(&n);
                Ok(numbers.map(|n| Some(n.is_some_and(within))).collect())
            }
        }
    }
}

/// A column of whole numbers or times.
fn whole(column: &Arc<dyn Array>) -> Option<Box<dyn Iterator<Item = Option<i64>> + '_>> {
    use arrow_array::types::{Int64Type, TimestampMillisecondType};
    if let Some(numbers) = column.as_primitive_opt::<Int64Type>() {
        return Some(Box::new(numbers.iter()));
    }
    let times = column.as_primitive_opt::<TimestampMillisecondType>()?;
    Some(Box::new(times.iter()))
}

fn holds(lists: &ListArray, wanted: &str) -> BooleanArray {
    let has = |list: Arc<dyn Array>| {
        let texts = list.as_string_opt::<i32>();
        texts.is_some_and(|texts| texts.iter().any(|text| text == Some(wanted)))
    };
    lists
        .iter()
        .map(|list| Some(list.is_some_and(has)))
        .collect()
}

fn texts<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a StringArray, ParquetError> {
    let column = rows.column_by_name(name);
    column
        .and_then(|c| c.as_string_opt::<i32>())
        .ok_or_else(|| ParquetError::General(format!("there is no column {name}")))
}

fn numbers(statistics: &Statistics) -> Option<(i64, i64)> {
    let Statistics::Int64(s) = statistics else {
        return None;
    };
    Some((*s.min_opt()?, *s.max_opt()?))
}

fn bounds(statistics: &Statistics) -> Option<(&[u8], &[u8])> {
    let Statistics::ByteArray(s) = statistics else {
        return None;
    };
    Some((s.min_opt()?.data(), s.max_opt()?.data()))
}
