//! What a rollout did, for people and for programs.

use std::{fs, path::Path, time::Duration};

use reeve_control::Split;
use serde::Serialize;

use super::measure::Counts;
use crate::{output::plain_table, problem::Problem};

/// A rollout, from its beginning to its end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Report {
    /// The service.
    pub(super) service: String,
    /// Where the weights stand.
    pub(super) place: String,
    /// The subset that had the traffic.
    pub(super) from: String,
    /// The subset that was to get it.
    pub(super) to: String,
    /// The weights at the beginning.
    pub(super) before: [u32; 2],
    /// The weights at the end.
    pub(super) after: [u32; 2],
    /// Whether all traffic is where it should be.
    pub(super) promoted: bool,
    /// Why it was rolled back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// Each step that was taken.
    pub(super) steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Step {
    /// Per cent of the two subsets' traffic.
    pub(super) percent: u32,
    /// The weights.
    pub(super) weights: [u32; 2],
    /// How long it was watched, in seconds.
    pub(super) held_s: f64,
    /// Requests that the new version answered, or should have.
    pub(super) requests: u64,
    /// How many of them failed.
    pub(super) failures: u64,
    /// Share that succeeded, in per cent.
    pub(super) success: f64,
    /// Latency in milliseconds.
    pub(super) p50_ms: Option<f64>,
    /// Latency in milliseconds.
    pub(super) p99_ms: Option<f64>,
    /// `good`, or why not.
    pub(super) verdict: String,
}

impl Step {
    pub(super) fn new(
        percent: u32,
        weights: (u32, u32),
        held: Duration,
        counts: &Counts,
        verdict: String,
    ) -> Self {
        Self {
            percent,
            weights: weights.into(),
            held_s: held.as_secs_f64(),
            requests: counts.requests,
            failures: counts.failures,
            success: counts.success() * 100.0,
            p50_ms: counts.quantile_ms(0.5),
            p99_ms: counts.quantile_ms(0.99),
            verdict,
        }
    }
}

impl Report {
    /// Nothing has happened yet.
    pub(super) fn begin(split: &Split, from: String, to: String) -> Self {
        let weights = [split.from.weight, split.to.weight];
        Self {
            service: split.service.to_string(),
            place: split.place.clone(),
            from,
            to,
            before: weights,
            after: weights,
            promoted: false,
            reason: None,
            steps: Vec::new(),
        }
    }

    /// Writes it as JSON.
    pub(super) fn write(&self, file: &Path) -> Result<(), Problem> {
        let text = serde_json::to_vec_pretty(self).map_err(Problem::new)?;
        fs::write(file, text).map_err(|error| {
            Problem::because("the report could not be written", &error).at(file.display())
        })
    }

    /// A table of its steps and what came of it.
    pub(super) fn describe(&self) -> String {
        let mut table = plain_table([
            "STEP", "WEIGHTS", "HELD", "REQUESTS", "SUCCESS", "P50", "P99", "VERDICT",
        ]);
        let millis = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.1} ms"));
        for step in &self.steps {
            table.add_row([
                format!("{} %", step.percent),
                format!("{}:{}", step.weights[0], step.weights[1]),
                format!("{:.0} s", step.held_s),
                step.requests.to_string(),
                format!("{:.2} %", step.success),
                millis(step.p50_ms),
                millis(step.p99_ms),
                step.verdict.clone(),
            ]);
        }
        let end = match &self.reason {
            None => format!("promoted: {} has the traffic", self.to),
            Some(why) => format!("rolled back to {}:{}: {why}", self.after[0], self.after[1]),
        };
        format!("{}\n{end}", table.trim_fmt())
    }
}
