//! What a process's metrics say of its certificate: how much of its life is left, and whether that is an alarm.

use std::sync::Arc;

use prometheus::{
    Gauge, IntGauge, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use reeve_ca::{AgentStatus, Urgency};
use reeve_core::Clock;
use tokio::sync::watch;

/// The metrics of one agent.
struct Renewal {
    status: watch::Receiver<AgentStatus>,
    clock: Arc<dyn Clock>,
    left: Gauge,
    failures: IntGauge,
    late: IntGauge,
}

/// Adds `reeve_certificate_left_ratio`, `reeve_certificate_renewal_failures` and `reeve_certificate_alarm`.
pub fn register(
    registry: &Registry,
    status: watch::Receiver<AgentStatus>,
    clock: Arc<dyn Clock>,
) -> prometheus::Result<()> {
    registry.register(Box::new(Renewal {
        status,
        clock,
        left: Gauge::new(
            "reeve_certificate_left_ratio",
            "How much of the certificate's life is left: 1 when it is new, 0 when it has ended.",
        )?,
        failures: IntGauge::new(
            "reeve_certificate_renewal_failures",
            "Attempts to renew the certificate that failed since the last one that did not.",
        )?,
        late: IntGauge::new(
            "reeve_certificate_alarm",
            "1 when less than a quarter of the certificate's life is left, 2 when it has ended, else 0.",
        )?,
    }))
}

impl Collector for Renewal {
    fn desc(&self) -> Vec<&Desc> {
        let parts = [self.left.desc(), self.failures.desc(), self.late.desc()];
        parts.concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let status = self.status.borrow().clone();
        let now = self.clock.now();
        if let (Some(issued_at), Some(not_after)) = (status.issued_at, status.not_after) {
            let life = not_after.since(issued_at).as_secs_f64();
            let left = not_after.since(now).as_secs_f64();
            self.left.set(if life > 0.0 { left / life } else { 0.0 });
        }
        self.failures.set(i64::from(status.failures));
        self.late.set(match status.urgency(now) {
            Urgency::None => 0,
            Urgency::Late => 1,
            Urgency::Over => 2,
        });
        let parts = [
            self.left.collect(),
            self.failures.collect(),
            self.late.collect(),
        ];
        parts.concat()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use reeve_core::{UnixTime, clock::ManualClock};

    use super::*;

    /// The metrics as they would be scraped, by name.
    fn scraped(registry: &Registry) -> HashMap<String, f64> {
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather());
        let text = text.unwrap_or_default();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.split_once(' '));
        pairs
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    #[test]
    fn a_certificate_about_to_end_is_an_alarm() {
        let start = UnixTime::from_secs(1_000);
        let clock = Arc::new(ManualClock::at(start));
        let (_held, status) = watch::channel(AgentStatus {
            issued_at: Some(start),
            not_after: Some(start.plus(Duration::from_secs(100))),
            failures: 3,
            ..AgentStatus::default()
        });
        let registry = Registry::new();
        register(&registry, status, Arc::clone(&clock) as _).unwrap();
        for (at, left, alarm) in [
            (0, 1.0, 0.0),
            (70, 0.3, 0.0),
            (80, 0.2, 1.0),
            (100, 0.0, 2.0),
        ] {
            clock.set(start.plus(Duration::from_secs(at)));
            let page = scraped(&registry);
            assert_eq!(page["reeve_certificate_alarm"], alarm, "at {at}");
            assert!((page["reeve_certificate_left_ratio"] - left).abs() < 1e-9);
            assert_eq!(page["reeve_certificate_renewal_failures"], 3.0);
        }
    }
}
