//! What the demo ends with.

use reeve_audit::{
    query::{Filter, MAX_RESULTS},
    verify::Report,
};
use reeve_core::decision::Effect;
use serde::Serialize;

use super::traffic::Seen;
use crate::{state::StateDir, verb::audit::open_live};

/// The demo's summary.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    /// Instances that ran at the end.
    pub(crate) workloads: usize,
    /// Requests of visitors.
    pub(crate) requests: u64,
    /// Those that failed.
    pub(crate) failed: u64,
    /// Decisions of all proxies that allowed.
    pub(crate) allowed: usize,
    /// Decisions of all proxies that denied.
    pub(crate) denied: usize,
    /// Certificates that were renewed.
    pub(crate) rotations: u64,
    /// Records in the audit log.
    pub(crate) records: u64,
    /// Whether the audit log verified.
    pub(crate) verified: bool,
    /// Median latency of visitors.
    pub(crate) p50_ms: f64,
    /// 99th percentile of it.
    pub(crate) p99_ms: f64,
}

impl Summary {
    /// Sums up a mesh that has ended.
    pub(crate) fn new(
        workloads: usize,
        rotations: u64,
        seen: &Seen,
        report: &Report,
        state: &StateDir,
    ) -> Self {
        let quantile = |share| round(seen.latencies.quantile_ms(share).unwrap_or_default());
        Self {
            workloads,
            requests: seen.requests,
            failed: seen.failed,
            allowed: decisions(state, Effect::Allow),
            denied: decisions(state, Effect::Deny),
            rotations,
            records: report.records,
            verified: report.ok,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
        }
    }

    /// Whether all is well.
    pub(crate) fn is_fine(&self) -> bool {
        self.failed == 0 && self.verified
    }
}

fn round(ms: f64) -> f64 {
    (ms * 100.0).round() / 100.0
}

/// Counts decisions in the log, up to what one query gives.
fn decisions(state: &StateDir, effect: Effect) -> usize {
    let filter = Filter {
        effect: Some(effect),
        kind: Some("decision".to_owned()),
        limit: MAX_RESULTS,
        ..Filter::default()
    };
    let found = open_live(&state.audit()).and_then(|reader| reader.query(&filter));
    found.map_or(0, |found| found.len())
}
