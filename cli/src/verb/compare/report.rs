//! What the comparison says.

use std::collections::BTreeMap;

use reeve_core::{UnixTime, WorkloadName};
use serde::Serialize;

use super::{
    pairs::{Pair, Pairs},
    test::{Bounds, mcnemar, quantile, wilcoxon},
};
use crate::{output::plain_table, supervisor::logfile::timestamp};

/// Examples that are shown.
const EXAMPLES: usize = 5;

/// The stretch of the log that was read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Window {
    pub(super) since: UnixTime,
    pub(super) until: UnixTime,
    /// It holds more records than were read; the newest were.
    pub(super) cut: bool,
}

/// Two versions on the same requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Report {
    a: WorkloadName,
    b: WorkloadName,
    window: Window,
    /// Requests that both answered.
    pairs: usize,
    /// Requests that one of them alone answered.
    alone: [usize; 2],
    /// How often each failed.
    failures: [usize; 2],
    /// Failed with the first and not with the second.
    mended: u64,
    /// Failed with the second and not with the first.
    broken: u64,
    /// How probable such a split is by chance.
    status_p: f64,
    /// Status of the first → status of the second → how many.
    statuses: BTreeMap<u16, BTreeMap<u16, usize>>,
    /// Latency at the servers' sidecars, in milliseconds.
    p50_ms: [f64; 2],
    /// Latency at the servers' sidecars, in milliseconds.
    p99_ms: [f64; 2],
    /// How probable such differences are by chance.
    latency_p: f64,
    /// Answers of the same status whose length differs.
    lengths_differ: usize,
    /// Some of the pairs that differ.
    examples: Vec<Example>,
    /// What it comes to.
    pub(super) verdict: Verdict,
}

/// A pair that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Example {
    request: String,
    status: [u16; 2],
    bytes: [u64; 2],
    /// For `reeve audit explain`.
    decision_ids: [String; 2],
}

/// Whether the second does worse, in words for programs and people.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    TooFewPairs,
    FailsMore,
    Slower,
    FailsLess,
    Faster,
    Same,
}

impl Verdict {
    /// Whether the second version does no worse.
    pub(super) fn is_fine(&self) -> bool {
        matches!(self, Self::FailsLess | Self::Faster | Self::Same)
    }
}

impl Report {
    pub(super) fn of(
        a: &WorkloadName,
        b: &WorkloadName,
        window: Window,
        pairs: &Pairs,
        bounds: &Bounds,
    ) -> Self {
        let both = &pairs.both;
        let count = |is: fn(&Pair) -> bool| both.iter().filter(|pair| is(pair)).count();
        let mended = count(|p| p.a.failed && !p.b.failed);
        let broken = count(|p| !p.a.failed && p.b.failed);
        let (mended, broken) = (wide(mended), wide(broken));
        let mut statuses: BTreeMap<u16, BTreeMap<u16, usize>> = BTreeMap::new();
        for pair in both {
            let row = statuses.entry(pair.a.status).or_default();
            *row.entry(pair.b.status).or_default() += 1;
        }
        let differences: Vec<i64> = both
            .iter()
            .map(|p| signed(p.b.duration_us) - signed(p.a.duration_us))
            .collect();
        let latency = |share: f64| {
            let mut of_a: Vec<u64> = both.iter().map(|p| p.a.duration_us).collect();
            let mut of_b: Vec<u64> = both.iter().map(|p| p.b.duration_us).collect();
            [&mut of_a, &mut of_b].map(|v| millis(quantile(v, share).unwrap_or_default()))
        };
        let mut report = Self {
            a: a.clone(),
            b: b.clone(),
            window,
            pairs: both.len(),
            alone: pairs.alone,
            failures: [count(|p| p.a.failed), count(|p| p.b.failed)],
            mended,
            broken,
            status_p: mcnemar(mended, broken),
            statuses,
            p50_ms: latency(0.5),
            p99_ms: latency(0.99),
            latency_p: wilcoxon(&differences),
            lengths_differ: count(|p| p.a.status == p.b.status && p.a.bytes != p.b.bytes),
            examples: both
                .iter()
                .filter(differs)
                .take(EXAMPLES)
                .map(Example::of)
                .collect(),
            verdict: Verdict::Same,
        };
        report.verdict = report.judge(bounds);
        report
    }

    fn judge(&self, bounds: &Bounds) -> Verdict {
        if self.pairs < bounds.min_pairs.max(1) {
            return Verdict::TooFewPairs;
        }
        if self.status_p < bounds.alpha {
            return match self.broken > self.mended {
                true => Verdict::FailsMore,
                false => Verdict::FailsLess,
            };
        }
        let [a, b] = self.p50_ms;
        if self.latency_p < bounds.alpha && b > a * (1.0 + bounds.tolerance) {
            return Verdict::Slower;
        }
        if self.latency_p < bounds.alpha && b < a * (1.0 - bounds.tolerance) {
            return Verdict::Faster;
        }
        Verdict::Same
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let mut table = plain_table(["", self.a.as_str(), self.b.as_str(), "BY CHANCE"]);
        let row = |name: &str, [a, b]: [String; 2], p: Option<f64>| {
            let p = p.map_or(String::new(), |p| format!("p = {p:.4}"));
            [name.to_owned(), a, b, p]
        };
        table.add_row(row(
            "failed",
            self.failures.map(|n| n.to_string()),
            Some(self.status_p),
        ));
        let ms = |v: [f64; 2]| v.map(|ms| format!("{ms:.2} ms"));
        table.add_row(row("p50", ms(self.p50_ms), Some(self.latency_p)));
        table.add_row(row("p99", ms(self.p99_ms), None));
        table.add_row(row(
            "answered alone",
            self.alone.map(|n| n.to_string()),
            None,
        ));
        let mut text = format!(
            "{} requests that both answered, {} to {}{}\n{}\n",
            self.pairs,
            timestamp(self.window.since),
            timestamp(self.window.until),
            match self.window.cut {
                true => " (only the newest records of the window were read: make it shorter)",
                false => "",
            },
            table.trim_fmt()
        );
        let of_length = match self.lengths_differ {
            0 => String::new(),
            n => format!("; {n} answers of the same status have another length"),
        };
        text.push_str(&format!(
            "{} failed with {} alone, {} with {} alone{of_length}\n",
            self.mended, self.a, self.broken, self.b
        ));
        for example in &self.examples {
            text.push_str(&example.describe());
        }
        text.push_str(&self.conclusion());
        text
    }

    fn conclusion(&self) -> String {
        let b = &self.b;
        match self.verdict {
            Verdict::TooFewPairs => format!(
                "too few to say. Mirror what {} is asked to {b}, and let some requests come by",
                self.a
            ),
            Verdict::FailsMore => format!("{b} fails where {} does not", self.a),
            Verdict::FailsLess => format!("{b} mends it: it answers where {} fails", self.a),
            Verdict::Slower => format!("{b} is slower"),
            Verdict::Faster => format!("{b} is faster, and fails no more"),
            Verdict::Same => "no difference that is more than chance".to_owned(),
        }
    }
}

fn differs(pair: &&Pair) -> bool {
    pair.a.status != pair.b.status || pair.a.bytes != pair.b.bytes
}

impl Example {
    fn of(pair: &Pair) -> Self {
        Self {
            request: format!("{} {}", pair.method, pair.path),
            status: [pair.a.status, pair.b.status],
            bytes: [pair.a.bytes, pair.b.bytes],
            decision_ids: [pair.a.decision_id.clone(), pair.b.decision_id.clone()],
        }
    }

    fn describe(&self) -> String {
        format!(
            "  {}: {} with {} bytes, {} with {} bytes ({}, {})\n",
            self.request,
            self.status[0],
            self.bytes[0],
            self.status[1],
            self.bytes[1],
            self.decision_ids[0],
            self.decision_ids[1]
        )
    }
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn signed(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

fn millis(micros: u64) -> f64 {
    f64::from(u32::try_from(micros).unwrap_or(u32::MAX)) / 1000.0
}

#[cfg(test)]
mod tests;
