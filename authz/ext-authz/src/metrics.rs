//! What is counted; labels are words of our own.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use crate::judge::{Verdict, seconds};

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `envoy.service.auth.v3`.
    Grpc,
    /// The request itself, without its body.
    Http,
}

impl Form {
    fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Metrics {
    checks: IntCounterVec,
    seconds: HistogramVec,
    not_recorded: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let checks = Opts::new(
            "reeve_ext_authz_checks_total",
            "Questions of other proxies, by form and answer.",
        );
        let buckets = vec![
            0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0,
        ];
        let took = HistogramOpts::new(
            "reeve_ext_authz_check_seconds",
            "From a question to its answer, its record included.",
        );
        let metrics = Self {
            checks: IntCounterVec::new(checks, &["form", "answer"])?,
            seconds: HistogramVec::new(took.buckets(buckets), &["form"])?,
            not_recorded: IntCounter::new(
                "reeve_ext_authz_not_recorded_total",
                "Decisions that could not be recorded, and were denied.",
            )?,
        };
        registry.register(Box::new(metrics.checks.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.not_recorded.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn answered(&self, form: Form, verdict: &Verdict, took: Duration) {
        let answer = match verdict {
            Verdict::Allowed { .. } => "allowed",
            Verdict::Denied(denial) => denial.error,
        };
        let form = form.as_str();
        self.checks.with_label_values(&[form, answer]).inc();
        let took = seconds(took);
        self.seconds.with_label_values(&[form]).observe(took);
    }

    pub(crate) fn not_recorded(&self) {
        self.not_recorded.inc();
    }
}
