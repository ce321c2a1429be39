//! `reeve audit query --sql`.

use std::path::PathBuf;

use super::read::Rows;
use crate::problem::Problem;

/// Answers the query `text` over these logs, in the time and with the MiB that are given; how many rows there are.
#[cfg(feature = "sql")]
pub(super) fn run(
    logs: &[PathBuf],
    text: &str,
    rows: Rows,
    limits: (&str, usize),
) -> Result<u64, Problem> {
    use reeve_query::{Form, Limits};

    let limits = Limits {
        time: crate::verb::duration(limits.0).map_err(Problem::new)?,
        memory_bytes: limits.1.saturating_mul(1 << 20),
    };
    let form = match rows {
        Rows::Human => Form::Table,
        Rows::Json => Form::Json,
        Rows::Csv => Form::Csv,
    };
    let mut out = std::io::stdout().lock();
    reeve_query::run(logs, text, form, &limits, &mut out).map_err(|error| {
        Problem::new(reeve_core::error_chain(&error))
            .fix("`describe records` tells the columns; docs/audit-record.md tells what they mean")
    })
}

/// This build has no SQL.
#[cfg(not(feature = "sql"))]
pub(super) fn run(
    _logs: &[PathBuf],
    _text: &str,
    _rows: Rows,
    _limits: (&str, usize),
) -> Result<u64, Problem> {
    Err(
        Problem::new("this build of reeve has no SQL: it was built without the feature `sql`").fix(
            "build it with `cargo build --release -p reeve-cli --features sql`, or ask with --effect, --from, --service and the other flags",
        ),
    )
}
