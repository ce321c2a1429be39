//! Records that several logs have count once, in SQL too: a filter over a log's rows.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BooleanArray, Int32Array, Int64Array, StringArray, cast::AsArray,
};
use arrow_schema::DataType;
use datafusion::{
    error::DataFusionError,
    logical_expr::{ColumnarValue, Expr, Volatility, col, create_udf},
};
use reeve_audit::Repeated;

/// The rows of the `log`th log that count for no other one.
pub(crate) fn counts_here(repeated: Arc<Repeated>, log: usize) -> Expr {
    let columns = vec![
        DataType::Utf8,
        DataType::Int64,
        DataType::Int32,
        DataType::Int64,
    ];
    let judge = move |values: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(values)?;
        Ok(ColumnarValue::Array(judged(&repeated, log, &arrays)?))
    };
    let function = create_udf(
        &format!("counts_in_log_{log}"),
        columns,
        DataType::Boolean,
        Volatility::Immutable,
        Arc::new(judge),
    );
    function.call(["proxy", "epoch", "worker", "sequence"].map(col).to_vec())
}

fn judged(
    repeated: &Repeated,
    log: usize,
    columns: &[ArrayRef],
) -> Result<ArrayRef, DataFusionError> {
    let rows = Rows::of(columns).ok_or_else(|| {
        DataFusionError::Internal("a segment's columns are not those of records".to_owned())
    })?;
    // Rows come by worker, so that the line of the row before is mostly the row's own.
    let mut line = None;
    let mut spans: &[(u64, u64)] = &[];
    let counts = (0..rows.proxies.len()).map(|row| {
        let (now, sequence) = rows.at(row)?;
        if line != Some(now) {
            let (proxy, worker, epoch) = now;
            spans = repeated.of_line(log, proxy.parse().ok()?, worker, epoch);
            line = Some(now);
        }
        let within = |(first, last): &(u64, u64)| (*first..=*last).contains(&sequence);
        Some(!spans.iter().any(within))
    });
    // What has no readable id is nobody's repetition.
    let counts: BooleanArray = counts.map(|counts| Some(counts.unwrap_or(true))).collect();
    Ok(Arc::new(counts))
}

struct Rows<'a> {
    proxies: &'a StringArray,
    epochs: &'a Int64Array,
    workers: &'a Int32Array,
    sequences: &'a Int64Array,
}

impl<'a> Rows<'a> {
    fn of(columns: &'a [ArrayRef]) -> Option<Self> {
        let [proxies, epochs, workers, sequences] = columns else {
            return None;
        };
        Some(Self {
            proxies: proxies.as_string_opt()?,
            epochs: epochs.as_primitive_opt()?,
            workers: workers.as_primitive_opt()?,
            sequences: sequences.as_primitive_opt()?,
        })
    }

    /// The line of a row – proxy, worker, epoch – and its sequence.
    fn at(&self, row: usize) -> Option<((&'a str, u16, u64), u64)> {
        if self.proxies.is_null(row) {
            return None;
        }
        let worker = u16::try_from(self.workers.value(row)).ok()?;
        let epoch = u64::try_from(self.epochs.value(row)).ok()?;
        let sequence = u64::try_from(self.sequences.value(row)).ok()?;
        Some(((self.proxies.value(row), worker, epoch), sequence))
    }
}
