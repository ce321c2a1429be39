//! What the sidecars served altogether: the mesh's real traffic, and the drill's load with it.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, stream};
use reeve_control::instances::Instances;

use crate::demo::prometheus::{self, Sample};

/// A sidecar that takes longer is counted the next time.
const PATIENCE: Duration = Duration::from_secs(1);
/// Sidecars that are asked at one time.
const AT_ONCE: usize = 16;

/// Envoy's response flags of answers that a proxy gave because it could not reach anybody: no healthy upstream,
/// connection failed, connection broke, reset, timed out
/// (<https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>).
const BROKEN: [&str; 5] = ["UH", "UF", "UC", "UR", "UT"];

/// What each sidecar had counted when it was last asked.
#[derive(Debug, Default)]
pub(super) struct Totals(BTreeMap<String, Counted>);

/// What a sidecar has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counted {
    served: f64,
    broken: f64,
    handshakes_failed: f64,
}

/// What is new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    pub(super) served: u64,
    pub(super) broken: u64,
    pub(super) handshakes_failed: u64,
}

/// Asks every sidecar, and tells what it has counted since it was asked before.
pub(super) async fn news(totals: &mut Totals, instances: &Instances) -> News {
    let answers = stream::iter(&instances.instances).map(async |instance| {
        let samples = prometheus::scrape(instance, PATIENCE).await?;
        Some((instance.instance.to_string(), count(&samples)))
    });
    let answers: Vec<_> = answers.buffer_unordered(AT_ONCE).collect().await;
    let mut news = News::default();
    for (instance, now) in answers.into_iter().flatten() {
        let before = totals.0.insert(instance, now);
        add(&mut news, before.unwrap_or_default(), now);
    }
    news
}

fn add(news: &mut News, before: Counted, now: Counted) {
    // A sidecar that was started again counts from zero.
    let restarted = now.served < before.served;
    let before = if restarted {
        Counted::default()
    } else {
        before
    };
    news.served += whole(now.served - before.served);
    news.broken += whole(now.broken - before.broken);
    news.handshakes_failed += whole(now.handshakes_failed - before.handshakes_failed);
}

fn count(samples: &[Sample]) -> Counted {
    let mut counted = Counted::default();
    for sample in samples {
        match sample.name.as_str() {
            "istio_requests_total" if sample.label("reporter") == "source" => {
                let flags = sample.label("response_flags");
                match flags.split(',').any(|flag| BROKEN.contains(&flag)) {
                    true => counted.broken += sample.value,
                    false => counted.served += sample.value,
                }
            }
            "reeve_tls_handshake_failures_total" => counted.handshakes_failed += sample.value,
            _ => {}
        }
    }
    counted
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count that Prometheus writes as a float"
)]
fn whole(count: f64) -> u64 {
    count.max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
istio_requests_total{reporter=\"source\",response_code=\"200\",response_flags=\"-\"} 90
istio_requests_total{reporter=\"source\",response_code=\"503\",response_flags=\"UF\"} 3
istio_requests_total{reporter=\"source\",response_code=\"503\",response_flags=\"-\"} 2
istio_requests_total{reporter=\"destination\",response_code=\"200\",response_flags=\"-\"} 1000
reeve_tls_handshake_failures_total{side=\"client\"} 4
";

    #[test]
    fn what_nobody_could_be_reached_for_is_broken_and_an_applications_error_is_not() {
        let now = count(&prometheus::parse(TEXT));
        let mut news = News::default();
        add(&mut news, Counted::default(), now);
        assert_eq!((news.served, news.broken), (92, 3));
        assert_eq!(news.handshakes_failed, 4);
        let mut none = News::default();
        add(&mut none, now, now);
        assert_eq!(none, News::default());
    }

    #[test]
    fn a_sidecar_that_was_started_again_counts_from_zero() {
        let now = count(&prometheus::parse(TEXT));
        let before = Counted {
            served: 1e6,
            ..Counted::default()
        };
        let mut news = News::default();
        add(&mut news, before, now);
        assert_eq!(news.served, 92);
    }
}
