//! What was counted, as Prometheus' families with Istio's labels.

use foldhash::HashMap;
use prometheus::{
    core::{Collector, Desc},
    proto,
};
use reeve_core::{
    ServiceName, SpiffeId,
    decision::{Effect, Reason},
};

use super::traffic::{BUCKETS_BYTES, BUCKETS_MS, Ends, Figures, Key, Traffic, float};
use crate::peer_info::PeerInfo;

/// Istio's labels that every metric has, in order (istio.io, "Istio Standard Metrics").
pub(super) const LABELS: [&str; 20] = [
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
];
const UNKNOWN: &str = "unknown";

impl Collector for Traffic {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let sum = self.sum();
        let family = |name: &str, kind, of: &dyn Fn(&Key, &Figures) -> Option<proto::Metric>| {
            let mut family = named(name, kind);
            let metrics = sum.series.iter();
            family.set_metric(
                metrics
                    .filter_map(|(key, figures)| of(key, figures))
                    .collect(),
            );
            family
        };
        let counter = |name: &str, of: &dyn Fn(&Figures) -> Option<u64>| {
            family(name, proto::MetricType::COUNTER, &|key, figures| {
                of(figures).map(|count| counted(label_pairs(key, Form::of(name)), count))
            })
        };
        let spread = |name: &str, of: &dyn Fn(&Key, &Figures) -> proto::Metric| {
            family(name, proto::MetricType::HISTOGRAM, &|key, figures| {
                (figures.requests > 0).then(|| of(key, figures))
            })
        };
        let some = |of: fn(&Figures) -> u64| move |f: &Figures| Some(of(f)).filter(|n| *n > 0);
        let bytes = |of: fn(&Figures) -> u64| move |f: &Figures| (f.opened > 0).then(|| of(f));
        let messages = |of: fn(&Figures) -> u64| move |f: &Figures| (f.calls > 0).then(|| of(f));
        let mut families = vec![
            counter("istio_requests_total", &some(|f| f.requests)),
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
            counter("istio_request_messages_total", &messages(|f| f.messages_in)),
            counter(
                "istio_response_messages_total",
                &messages(|f| f.messages_out),
            ),
        ];
        families.push(decisions(&sum.decisions));
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

/// A family without metrics.
fn named(name: &str, kind: proto::MetricType) -> proto::MetricFamily {
    let mut family = proto::MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(super::help(name).to_owned());
    family.set_field_type(kind);
    family
}

fn decisions(counts: &HashMap<(Effect, Reason), u64>) -> proto::MetricFamily {
    let mut family = named("reeve_decisions_total", proto::MetricType::COUNTER);
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
    let mut metric = proto::Metric::from_label(label_pairs(key, Form::Http));
    metric.set_histogram(histogram);
    metric
}

/// What a metric is about; it decides on the labels beside [`LABELS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Http,
    Tcp,
    Messages,
}

impl Form {
    fn of(name: &str) -> Self {
        if name.starts_with("istio_tcp_") {
            Self::Tcp
        } else if name.ends_with("_messages_total") {
            Self::Messages
        } else {
            Self::Http
        }
    }

    /// As Istio's proxy has them: connections have no response code, messages are counted before there is one.
    fn further_labels(self, key: &Key) -> Vec<(&'static str, String)> {
        let mut labels = Vec::new();
        if self == Self::Messages {
            return labels;
        }
        let flags = if key.flags.is_empty() {
            "-".to_owned()
        } else {
            key.flags.join(",")
        };
        labels.push(("request_protocol", key.ends.protocol.to_owned()));
        labels.push(("response_flags", flags));
        let security = known(key.ends.security);
        labels.push(("connection_security_policy", security));
        if self == Self::Http {
            let grpc = key.grpc_status.map(|code| code.to_string());
            labels.push(("response_code", key.status.to_string()));
            labels.push(("grpc_response_status", grpc.unwrap_or_default()));
        }
        labels
    }
}

/// In the order of the names, as Prometheus' own collectors give them.
fn label_pairs(key: &Key, form: Form) -> Vec<proto::LabelPair> {
    let mut pairs: Vec<_> = LABELS.into_iter().zip(label_values(&key.ends)).collect();
    pairs.extend(form.further_labels(key));
    pairs.sort_unstable_by_key(|(name, _)| *name);
    pairs
        .into_iter()
        .map(|(name, value)| pair(name, value))
        .collect()
}

fn known(text: &str) -> String {
    if text.is_empty() { UNKNOWN } else { text }.to_owned()
}

fn pair(name: &str, value: String) -> proto::LabelPair {
    let mut pair = proto::LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value);
    pair
}

/// The values of [`LABELS`].
fn label_values(ends: &Ends) -> Vec<String> {
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
    ]);
    labels
}
