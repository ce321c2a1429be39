//! What is counted of requests and connections, in Istio's names and labels. Every worker counts for itself; a scrape
//! adds the workers up.

use std::{
    collections::hash_map::Entry,
    sync::{Arc, Mutex},
};

use foldhash::{HashMap, HashSet};
use prometheus::{
    core::{Collector, Desc},
    proto,
};
use reeve_core::{
    ServiceName, SpiffeId,
    decision::{Decision, Effect, Reason},
};

use crate::{judge::Peer, ledger::lock, limits::MAX_SERIES, peer_info::PeerInfo};

/// Istio's standard labels, in order (istio.io, "Istio Standard Metrics").
const LABELS: [&str; 24] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
    "response_code",
];
/// Upper bounds in milliseconds, as Istio's.
const BUCKETS_MS: [f64; 17] = [
    0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0,
    30_000.0, 60_000.0, 300_000.0,
];
/// Upper bounds in bytes, as Istio's.
const BUCKETS_BYTES: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
const UNKNOWN: &str = "unknown";

/// The two ends of a request or connection, for labels. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Ends {
    /// `source` (the caller's proxy) or `destination`.
    pub(crate) reporter: &'static str,
    pub(crate) source: Arc<PeerInfo>,
    pub(crate) source_principal: Option<SpiffeId>,
    pub(crate) destination: Arc<PeerInfo>,
    pub(crate) destination_principal: Option<SpiffeId>,
    pub(crate) service: Option<ServiceName>,
    /// `http`, `grpc` or `tcp`.
    pub(crate) protocol: &'static str,
    /// `mutual_tls` or `none`; the caller's proxy says `unknown`, as Istio's does.
    pub(crate) security: &'static str,
}

impl Ends {
    /// As the proxy beside the server sees them; what the caller's proxy said of it, if it did, names it.
    pub(crate) fn inbound(peer: &Peer, info: Option<Arc<PeerInfo>>) -> Self {
        let id = peer.principal.spiffe_id();
        let unnamed = || {
            let parts = id.and_then(SpiffeId::namespace_and_account);
            let namespace = parts.map(|(namespace, _)| namespace.to_string());
            Arc::new(PeerInfo {
                namespace: namespace.unwrap_or_default(),
                ..PeerInfo::default()
            })
        };
        Self {
            reporter: "destination",
            source: info.unwrap_or_else(unnamed),
            source_principal: id.cloned(),
            protocol: "http",
            security: if peer.is_mtls() { "mutual_tls" } else { "none" },
            ..Self::default()
        }
    }

    /// As the proxy beside the caller sees them.
    pub(crate) fn outbound() -> Self {
        Self {
            reporter: "source",
            protocol: "http",
            ..Self::default()
        }
    }

    /// Beyond the bound on series, whoever the two ends are.
    fn folded(&self) -> Self {
        Self {
            source: Arc::new(PeerInfo::other()),
            destination: Arc::new(PeerInfo::other()),
            source_principal: None,
            destination_principal: None,
            service: None,
            ..*self
        }
    }
}

/// What came of a request or connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome<'a> {
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u16>,
    /// Envoy's response flags.
    pub(crate) flags: &'a [&'static str],
    pub(crate) duration_ms: f64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// Names a series.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    ends: Ends,
    flags: Vec<&'static str>,
    status: u16,
    grpc_status: Option<u16>,
}

/// The figures of one series.
#[derive(Clone, Debug, Default)]
struct Figures {
    requests: u64,
    bytes_in: u64,
    bytes_out: u64,
    duration_sum_ms: f64,
    /// Per bucket, not cumulative; the last is beyond all bounds.
    durations: [u64; BUCKETS_MS.len() + 1],
    sizes_in: [u64; BUCKETS_BYTES.len() + 1],
    sizes_out: [u64; BUCKETS_BYTES.len() + 1],
    opened: u64,
    closed: u64,
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.duration_sum_ms += other.duration_sum_ms;
        let sums = self.durations.iter_mut().chain(&mut self.sizes_in);
        let ones = other.durations.iter().chain(&other.sizes_in);
        for (sum, one) in sums.zip(ones) {
            *sum += one;
        }
        for (sum, one) in self.sizes_out.iter_mut().zip(other.sizes_out) {
            *sum += one;
        }
        self.opened += other.opened;
        self.closed += other.closed;
    }
}

/// What one worker has counted.
#[derive(Debug, Default)]
struct Counts {
    series: HashMap<Key, Figures>,
    decisions: HashMap<(Effect, Reason), u64>,
}

type Shard = Arc<Mutex<Counts>>;

/// The counts of all workers.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    shards: Arc<Mutex<Vec<Shard>>>,
    known: Arc<Mutex<HashSet<Key>>>,
    /// Of the first family; the registry tells collectors apart by it.
    desc: Desc,
}

/// The counts of one worker.
#[derive(Debug)]
pub(crate) struct Meters {
    shard: Shard,
    known: Arc<Mutex<HashSet<Key>>>,
}

impl Traffic {
    /// No workers yet.
    pub(super) fn new() -> prometheus::Result<Self> {
        let name = "istio_requests_total";
        let labels = LABELS.iter().map(|label| (*label).to_owned()).collect();
        Ok(Self {
            shards: Arc::default(),
            known: Arc::default(),
            desc: Desc::new(
                name.to_owned(),
                super::help(name).to_owned(),
                labels,
                std::collections::HashMap::new(),
            )?,
        })
    }

    /// Counts of one more worker.
    pub(super) fn meters(&self) -> Meters {
        let shard = Shard::default();
        lock(&self.shards).push(shard.clone());
        Meters {
            shard,
            known: self.known.clone(),
        }
    }

    fn sum(&self) -> Counts {
        let mut sum = Counts::default();
        for shard in &*lock(&self.shards) {
            let counts = lock(shard);
            for (key, figures) in &counts.series {
                sum.series.entry(key.clone()).or_default().add(figures);
            }
            for (kind, count) in &counts.decisions {
                *sum.decisions.entry(*kind).or_default() += count;
            }
        }
        sum
    }
}

impl Meters {
    /// Counts a finished request.
    pub(crate) fn request(&self, ends: &Ends, outcome: &Outcome<'_>) {
        self.count(ends, outcome, |figures| {
            figures.requests += 1;
            figures.bytes_in += outcome.bytes_in;
            figures.bytes_out += outcome.bytes_out;
            figures.duration_sum_ms += outcome.duration_ms;
            place(&BUCKETS_MS, outcome.duration_ms, &mut figures.durations);
            place(
                &BUCKETS_BYTES,
                float(outcome.bytes_in),
                &mut figures.sizes_in,
            );
            place(
                &BUCKETS_BYTES,
                float(outcome.bytes_out),
                &mut figures.sizes_out,
            );
        });
    }

    /// Counts an opened TCP connection.
    pub(crate) fn tcp_opened(&self, ends: &Ends) {
        let nothing_yet = Outcome {
            status: 0,
            grpc_status: None,
            flags: &[],
            duration_ms: 0.0,
            bytes_in: 0,
            bytes_out: 0,
        };
        self.count(ends, &nothing_yet, |figures| figures.opened += 1);
    }

    /// Counts a closed TCP connection and its bytes.
    pub(crate) fn tcp_closed(&self, ends: &Ends, outcome: &Outcome<'_>) {
        self.count(ends, outcome, |figures| {
            figures.closed += 1;
            figures.bytes_in += outcome.bytes_in;
            figures.bytes_out += outcome.bytes_out;
        });
    }

    /// Counts a decision.
    pub(crate) fn decided(&self, decision: &Decision) {
        let kind = (decision.effect, decision.reason);
        *lock(&self.shard).decisions.entry(kind).or_default() += 1;
    }

    fn count(&self, ends: &Ends, outcome: &Outcome<'_>, count: impl FnOnce(&mut Figures)) {
        let key = Key {
            ends: ends.clone(),
            flags: outcome.flags.to_vec(),
            status: outcome.status,
            grpc_status: outcome.grpc_status,
        };
        let series = &mut lock(&self.shard).series;
        match series.entry(key) {
            Entry::Occupied(figures) => count(figures.into_mut()),
            Entry::Vacant(new) if self.may_begin(new.key()) => {
                count(new.insert_entry(Figures::default()).into_mut())
            }
            Entry::Vacant(refused) => {
                let key = refused.into_key();
                let folded = Key {
                    ends: key.ends.folded(),
                    ..key
                };
                count(series.entry(folded).or_default());
            }
        }
    }

    /// Series are bounded across the workers, whatever peers call themselves.
    fn may_begin(&self, key: &Key) -> bool {
        let mut known = lock(&self.known);
        if known.contains(key) {
            return true;
        }
        let room = known.len() < MAX_SERIES;
        if room {
            known.insert(key.clone());
        }
        room
    }
}

impl Collector for Traffic {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let sum = self.sum();
        let tcp = |key: &Key| key.ends.protocol == "tcp";
        let family = |name: &str, kind, of: &dyn Fn(&Key, &Figures) -> Option<proto::Metric>| {
            let mut family = proto::MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(super::help(name).to_owned());
            family.set_field_type(kind);
            family.set_metric(
                sum.series
                    .iter()
                    .filter_map(|(key, figures)| of(key, figures))
                    .collect(),
            );
            family
        };
        let counter = |name: &str, of: &dyn Fn(&Key, &Figures) -> Option<u64>| {
            family(name, proto::MetricType::COUNTER, &|key, figures| {
                of(key, figures).map(|count| counted(label_pairs(key), count))
            })
        };
        let spread = |name: &str, of: &dyn Fn(&Key, &Figures) -> proto::Metric| {
            family(name, proto::MetricType::HISTOGRAM, &|key, figures| {
                (!tcp(key)).then(|| of(key, figures))
            })
        };
        let http =
            |of: fn(&Figures) -> u64| move |key: &Key, f: &Figures| (!tcp(key)).then(|| of(f));
        let bytes = |of: fn(&Figures) -> u64| {
            move |key: &Key, f: &Figures| (tcp(key) && f.closed > 0).then(|| of(f))
        };
        let some = |of: fn(&Figures) -> u64| {
            move |_: &Key, f: &Figures| Some(of(f)).filter(|count| *count > 0)
        };
        let mut families = vec![
            counter("istio_requests_total", &http(|f| f.requests)),
            spread("istio_request_duration_milliseconds", &|key, f| {
                histogram(
                    key,
                    f.requests,
                    f.duration_sum_ms,
                    &BUCKETS_MS,
                    &f.durations,
                )
            }),
            spread("istio_request_bytes", &|key, f| {
                histogram(
                    key,
                    f.requests,
                    float(f.bytes_in),
                    &BUCKETS_BYTES,
                    &f.sizes_in,
                )
            }),
            spread("istio_response_bytes", &|key, f| {
                histogram(
                    key,
                    f.requests,
                    float(f.bytes_out),
                    &BUCKETS_BYTES,
                    &f.sizes_out,
                )
            }),
            counter("istio_tcp_connections_opened_total", &some(|f| f.opened)),
            counter("istio_tcp_connections_closed_total", &some(|f| f.closed)),
            counter("istio_tcp_sent_bytes_total", &bytes(|f| f.bytes_out)),
            counter("istio_tcp_received_bytes_total", &bytes(|f| f.bytes_in)),
        ];
        families.push(decisions(&sum.decisions));
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

fn decisions(counts: &HashMap<(Effect, Reason), u64>) -> proto::MetricFamily {
    let name = "reeve_decisions_total";
    let mut family = proto::MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(super::help(name).to_owned());
    family.set_field_type(proto::MetricType::COUNTER);
    let metric = |((effect, reason), count): (&(Effect, Reason), &u64)| {
        let effect = match effect {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        };
        let labels = vec![
            pair("effect", effect.to_owned()),
            pair("reason", reason.as_str().to_owned()),
        ];
        counted(labels, *count)
    };
    family.set_metric(counts.iter().map(metric).collect());
    family
}

fn counted(labels: Vec<proto::LabelPair>, count: u64) -> proto::Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(float(count));
    let mut metric = proto::Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

/// Counts a value in the bucket that it belongs to; the last is beyond all bounds.
fn place(bounds: &[f64], value: f64, counts: &mut [u64]) {
    let bucket = bounds.partition_point(|bound| *bound < value);
    if let Some(count) = counts.get_mut(bucket) {
        *count += 1;
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in f64")]
fn float(count: u64) -> f64 {
    count as f64
}

fn histogram(key: &Key, count: u64, sum: f64, bounds: &[f64], counts: &[u64]) -> proto::Metric {
    let mut cumulative = 0;
    let bucket = |(bound, count): (&f64, &u64)| {
        cumulative += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulative);
        bucket
    };
    let buckets = bounds.iter().zip(counts).map(bucket).collect();
    let mut histogram = proto::Histogram::default();
    histogram.set_sample_count(count);
    histogram.set_sample_sum(sum);
    histogram.set_bucket(buckets);
    let mut metric = proto::Metric::from_label(label_pairs(key));
    metric.set_histogram(histogram);
    metric
}

/// In the order of the names, as Prometheus' own collectors give them.
fn label_pairs(key: &Key) -> Vec<proto::LabelPair> {
    let mut values = label_values(key);
    let mut names = LABELS.to_vec();
    if key.ends.protocol != "tcp" {
        names.push("grpc_response_status");
        values.push(
            key.grpc_status
                .map(|code| code.to_string())
                .unwrap_or_default(),
        );
    }
    let mut pairs: Vec<_> = names.into_iter().zip(values).collect();
    pairs.sort_unstable_by_key(|(name, _)| *name);
    pairs
        .into_iter()
        .map(|(name, value)| pair(name, value))
        .collect()
}

fn pair(name: &str, value: String) -> proto::LabelPair {
    let mut pair = proto::LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value);
    pair
}

/// The values of [`LABELS`].
fn label_values(key: &Key) -> Vec<String> {
    let ends = &key.ends;
    let known = |text: &str| if text.is_empty() { UNKNOWN } else { text }.to_owned();
    let service = ends
        .service
        .as_ref()
        .map(ServiceName::as_str)
        .unwrap_or_default();
    let mut parts = service.split('.');
    let (name, namespace) = (parts.next().unwrap_or_default(), parts.next());
    let end = |info: &PeerInfo, principal: Option<&SpiffeId>| {
        let principal = principal.map(SpiffeId::as_str).unwrap_or_default();
        let app = if info.app.is_empty() {
            &info.workload
        } else {
            &info.app
        };
        [
            known(&info.workload),
            known(&info.namespace),
            // Istio leaves out the scheme.
            known(principal.strip_prefix("spiffe://").unwrap_or(principal)),
            known(&info.app),
            known(&info.version),
            "reeve".to_owned(),
            known(app),
            if info.version.is_empty() {
                "latest".to_owned()
            } else {
                info.version.clone()
            },
        ]
    };
    let mut labels = vec![ends.reporter.to_owned()];
    labels.extend(end(&ends.source, ends.source_principal.as_ref()));
    labels.extend(end(&ends.destination, ends.destination_principal.as_ref()));
    labels.extend([
        known(service),
        known(name),
        known(namespace.unwrap_or_default()),
        ends.protocol.to_owned(),
        if key.flags.is_empty() {
            "-".to_owned()
        } else {
            key.flags.join(",")
        },
        known(ends.security),
        key.status.to_string(),
    ]);
    labels
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    fn ends(workload: &str) -> Ends {
        Ends {
            reporter: "destination",
            source: Arc::new(PeerInfo {
                workload: workload.into(),
                ..PeerInfo::default()
            }),
            source_principal: SpiffeId::parse("spiffe://mesh.local/ns/default/sa/a").ok(),
            service: "reviews.default.svc.cluster.local".parse().ok(),
            protocol: "http",
            security: "mutual_tls",
            ..Ends::default()
        }
    }

    fn outcome() -> Outcome<'static> {
        Outcome {
            status: 200,
            grpc_status: None,
            flags: &[],
            duration_ms: 1.0,
            bytes_in: 1,
            bytes_out: 2,
        }
    }

    #[test]
    fn labels_are_istios() {
        let registry = Registry::new();
        let metrics = crate::metrics::Metrics::register(&registry).unwrap();
        let meters = metrics.meters();
        meters.request(&ends("a-v1"), &outcome());
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        for part in [
            "istio_requests_total{",
            "source_workload=\"a-v1\"",
            "source_principal=\"mesh.local/ns/default/sa/a\"",
            "destination_service_name=\"reviews\"",
            "destination_service_namespace=\"default\"",
            "response_code=\"200\"",
            "response_flags=\"-\"",
            "connection_security_policy=\"mutual_tls\"",
            "istio_request_duration_milliseconds_bucket",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn series_are_bounded_whatever_peers_call_themselves() {
        let registry = Registry::new();
        let metrics = crate::metrics::Metrics::register(&registry).unwrap();
        let meters = metrics.meters();
        for i in 0..MAX_SERIES + 50 {
            meters.request(&ends(&format!("w{i}")), &outcome());
        }
        let families = registry.gather();
        let requests = families
            .iter()
            .find(|f| f.name() == "istio_requests_total")
            .unwrap();
        assert_eq!(requests.get_metric().len(), MAX_SERIES + 1);
    }

    #[test]
    fn a_scrape_adds_the_workers_up() {
        let registry = Registry::new();
        let metrics = crate::metrics::Metrics::register(&registry).unwrap();
        let workers = [metrics.meters(), metrics.meters()];
        for meters in workers.iter().chain(&workers) {
            meters.request(&ends("a-v1"), &outcome());
        }
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        let line = |name: &str| {
            let found = text.lines().find(|line| line.starts_with(name));
            found
                .and_then(|line| line.rsplit(' ').next())
                .unwrap()
                .to_owned()
        };
        assert_eq!(line("istio_requests_total{"), "4");
        assert_eq!(line("istio_request_duration_milliseconds_count{"), "4");
        assert_eq!(line("istio_response_bytes_sum{"), "8");
        let le = "le=\"1\"";
        let first = text.lines().find(|line| line.contains(le)).unwrap();
        assert!(first.ends_with(" 4"), "{first}");
    }
}
