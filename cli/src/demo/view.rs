//! What the table shows: counters of every sidecar over the last seconds, and what its processes use.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use reeve_control::instances::Instance;
use reeve_core::{Clock, InstanceName, SystemClock, UnixTime};

use super::{
    processes::{Usage, Watcher},
    prometheus::{self, Sample},
};
use crate::supervisor::Roster;

/// A sidecar that takes longer is shown without figures.
const PATIENCE: Duration = Duration::from_millis(500);
/// Rates and quantiles are those of the last so many looks.
const WINDOW: usize = 10;

/// One instance, as the table shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Row {
    /// The instance.
    pub(crate) instance: String,
    /// Whether it takes traffic.
    pub(crate) healthy: bool,
    /// Its identity without the scheme.
    pub(crate) identity: String,
    /// Since when its certificate is valid.
    pub(crate) certificate_age: Option<Duration>,
    /// Share of requests and connections that came by mTLS: lately, or, where nothing came lately, ever.
    pub(crate) mtls: Option<f64>,
    /// Requests or connections a second.
    pub(crate) rate: f64,
    /// Share of requests answered without a server error.
    pub(crate) success: Option<f64>,
    /// Latency quantiles in milliseconds.
    pub(crate) p50_p95_p99: [Option<f64>; 3],
    /// Decisions since the sidecar started.
    pub(crate) allowed: f64,
    /// Denials since the sidecar started.
    pub(crate) denied: f64,
    /// What the application uses.
    pub(crate) app: Option<Usage>,
    /// What the sidecar uses.
    pub(crate) sidecar: Option<Usage>,
    /// Certificates obtained after the first.
    pub(crate) rotations: f64,
}

/// A sidecar's counters at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
struct Totals {
    requests: f64,
    succeeded: f64,
    mutual: f64,
    buckets: BTreeMap<String, f64>,
    allowed: f64,
    denied: f64,
    certificate_end: Option<f64>,
    rotations: f64,
}

/// Looks at a mesh again and again.
#[derive(Debug)]
pub(crate) struct View {
    certificate_ttl: Duration,
    watcher: Watcher,
    history: BTreeMap<InstanceName, VecDeque<(Instant, Totals)>>,
}

impl View {
    /// A view of a mesh whose certificates live for `certificate_ttl`.
    pub(crate) fn new(certificate_ttl: Duration) -> Self {
        Self {
            certificate_ttl,
            watcher: Watcher::default(),
            history: BTreeMap::new(),
        }
    }

    /// What is to be seen now.
    pub(crate) async fn look(&mut self, roster: &Roster) -> Vec<Row> {
        let instances = roster.instances().instances;
        let live = roster.live();
        let scraped = instances.iter().map(async |instance| {
            let samples = prometheus::scrape(instance, PATIENCE).await?;
            Some(totals(&samples))
        });
        let scraped = futures_util::future::join_all(scraped).await;
        let pids: Vec<_> = instances
            .iter()
            .flat_map(|i| [i.app_pid, i.sidecar_pid])
            .flatten()
            .collect();
        self.watcher.keep(&pids);
        self.history
            .retain(|name, _| instances.iter().any(|i| i.instance == *name));
        let rows = instances.iter().zip(scraped).map(|(instance, totals)| {
            let account = live
                .get(&instance.instance)
                .map(|l| l.service_account.to_string());
            let mut row = self.row(instance, totals);
            row.identity = format!("{}/{}", instance.namespace, account.unwrap_or_default());
            row
        });
        rows.collect()
    }

    fn row(&mut self, instance: &Instance, totals: Option<Totals>) -> Row {
        let mut row = Row {
            instance: instance.instance.to_string(),
            healthy: instance.healthy,
            app: instance.app_pid.and_then(|pid| self.watcher.look(pid)),
            sidecar: instance.sidecar_pid.and_then(|pid| self.watcher.look(pid)),
            ..Row::default()
        };
        let Some(totals) = totals else {
            return row;
        };
        let history = self.history.entry(instance.instance.clone()).or_default();
        if history
            .back()
            .is_some_and(|(_, last)| totals.requests < last.requests)
        {
            // The sidecar was started again and counts from zero.
            history.clear();
        }
        row.certificate_age = totals
            .certificate_end
            .map(|end| age(end, self.certificate_ttl, SystemClock.now()));
        history.push_back((Instant::now(), totals));
        while history.len() > WINDOW + 1 {
            history.pop_front();
        }
        if let (Some(first), Some(last)) = (history.front(), history.back()) {
            fill(&mut row, first, last);
        }
        row
    }
}

fn fill(row: &mut Row, (from, first): &(Instant, Totals), (to, last): &(Instant, Totals)) {
    let requests = last.requests - first.requests;
    let seconds = to.duration_since(*from).as_secs_f64();
    let share = |part: f64| (requests > 0.0).then(|| part / requests);
    row.rate = if seconds > 0.0 {
        requests / seconds
    } else {
        0.0
    };
    row.success = share(last.succeeded - first.succeeded);
    let ever = (last.requests > 0.0).then(|| last.mutual / last.requests);
    row.mtls = share(last.mutual - first.mutual).or(ever);
    let mut buckets: Vec<_> = last
        .buckets
        .iter()
        .filter_map(|(bound, count)| {
            let before = first.buckets.get(bound).copied().unwrap_or_default();
            Some((bound.parse::<f64>().ok()?, count - before))
        })
        .collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    row.p50_p95_p99 = [0.5, 0.95, 0.99].map(|q| prometheus::quantile(&buckets, q));
    (row.allowed, row.denied, row.rotations) = (last.allowed, last.denied, last.rotations);
}

/// How long ago a certificate that lives for `ttl` and ends at `end` (seconds since 1970) was issued.
fn age(end: f64, ttl: Duration, now: UnixTime) -> Duration {
    let end = Duration::try_from_secs_f64(end).unwrap_or_default();
    let left = end.saturating_sub(now.since(UnixTime::default()));
    ttl.saturating_sub(left)
}

/// Sums up a sidecar's counters: what came in to its workload, or, where nothing ever does (a gateway), what it sent.
fn totals(samples: &[Sample]) -> Totals {
    let inbound = samples
        .iter()
        .any(|s| is_traffic(s) && s.label("reporter") == "destination");
    let side = if inbound { "destination" } else { "source" };
    let mut totals = Totals::default();
    for sample in samples {
        let (value, ours) = (sample.value, sample.label("reporter") == side);
        match sample.name.as_str() {
            "istio_requests_total" if ours => {
                totals.requests += value;
                totals.succeeded += if sample.label("response_code").starts_with('5')
                    || sample.label("response_code") == "0"
                {
                    0.0
                } else {
                    value
                };
                totals.mutual += mutual(sample);
            }
            "istio_tcp_connections_opened_total" if ours => {
                totals.requests += value;
                totals.succeeded += value;
                totals.mutual += mutual(sample);
            }
            "istio_request_duration_milliseconds_bucket" if ours => {
                *totals
                    .buckets
                    .entry(sample.label("le").to_owned())
                    .or_default() += value;
            }
            "reeve_decisions_total" => match sample.label("effect") {
                "allow" => totals.allowed += value,
                _ => totals.denied += value,
            },
            "reeve_certificate_expiry_timestamp_seconds" if value > 0.0 => {
                totals.certificate_end = Some(value)
            }
            "reeve_certificate_rotations" => totals.rotations += value,
            _ => {}
        }
    }
    totals
}

fn is_traffic(sample: &Sample) -> bool {
    matches!(
        sample.name.as_str(),
        "istio_requests_total" | "istio_tcp_connections_opened_total"
    )
}

fn mutual(sample: &Sample) -> f64 {
    if sample.label("connection_security_policy") == "mutual_tls" {
        sample.value
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
istio_requests_total{reporter=\"destination\",response_code=\"200\",connection_security_policy=\"mutual_tls\"} 90
istio_requests_total{reporter=\"destination\",response_code=\"503\",connection_security_policy=\"none\"} 10
istio_requests_total{reporter=\"source\",response_code=\"200\",connection_security_policy=\"unknown\"} 1000
istio_request_duration_milliseconds_bucket{reporter=\"destination\",le=\"10\"} 50
istio_request_duration_milliseconds_bucket{reporter=\"destination\",le=\"+Inf\"} 100
reeve_decisions_total{effect=\"allow\",reason=\"permitted\"} 99
reeve_decisions_total{effect=\"deny\",reason=\"no_permit\"} 1
";

    #[test]
    fn a_workload_is_judged_by_what_came_in() {
        let totals = totals(&prometheus::parse(TEXT));
        assert_eq!(
            (totals.requests, totals.succeeded, totals.mutual),
            (100.0, 90.0, 90.0)
        );
        assert_eq!((totals.allowed, totals.denied), (99.0, 1.0));
    }

    #[test]
    fn a_gateway_is_judged_by_what_it_sent() {
        let sent: String = TEXT.lines().skip(2).take(1).collect();
        assert_eq!(totals(&prometheus::parse(&sent)).requests, 1000.0);
    }

    #[test]
    fn a_certificates_age_is_what_its_life_lacks() {
        let now = UnixTime::from_secs(1000);
        let ttl = Duration::from_secs(60);
        assert_eq!(age(1045.0, ttl, now), Duration::from_secs(15));
        assert_eq!(age(2000.0, ttl, now), Duration::ZERO);
    }

    #[test]
    fn figures_are_those_of_the_window() {
        let (then, first) = (Instant::now(), totals(&prometheus::parse(TEXT)));
        let mut last = first.clone();
        last.requests += 40.0;
        last.succeeded += 30.0;
        last.buckets = BTreeMap::from([("10".into(), 70.0), ("+Inf".into(), 140.0)]);
        let mut row = Row::default();
        fill(
            &mut row,
            &(then, first),
            &(then + Duration::from_secs(10), last),
        );
        assert_eq!(
            (row.rate, row.success, row.mtls),
            (4.0, Some(0.75), Some(0.0))
        );
        assert_eq!(row.p50_p95_p99[0], Some(10.0));
    }

    #[test]
    fn a_connection_from_before_the_window_still_counts_as_mtls() {
        let (then, totals) = (Instant::now(), totals(&prometheus::parse(TEXT)));
        let mut row = Row::default();
        fill(&mut row, &(then, totals.clone()), &(then, totals));
        assert_eq!((row.rate, row.success, row.mtls), (0.0, None, Some(0.9)));
    }
}
