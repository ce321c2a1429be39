//! Prometheus metrics with Istio's standard names and labels, and Reeve's own beside them.

use std::{collections::HashSet, sync::Mutex};

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};
use reeve_audit::WalStatus;
use reeve_core::{
    SpiffeId,
    decision::{Decision, Effect},
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
const UNKNOWN: &str = "unknown";

/// The two ends of a request or connection, for labels.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends {
    /// `source` (the caller's proxy) or `destination`.
    pub(crate) reporter: &'static str,
    pub(crate) source: PeerInfo,
    pub(crate) source_principal: String,
    pub(crate) destination: PeerInfo,
    pub(crate) destination_principal: String,
    /// Full host name of the service.
    pub(crate) service: String,
    /// `http`, `grpc` or `tcp`.
    pub(crate) protocol: &'static str,
    /// `mutual_tls` or `none`; the caller's proxy says `unknown`, as Istio's does.
    pub(crate) security: &'static str,
}

impl Ends {
    /// As the proxy beside the server sees them; what the caller's proxy said of it, if it did, names it.
    pub(crate) fn inbound(peer: &Peer, info: Option<PeerInfo>) -> Self {
        let id = peer.principal.spiffe_id();
        let parts = id.and_then(SpiffeId::namespace_and_account);
        let namespace = parts.map(|(namespace, _)| namespace.to_string());
        let unnamed = || PeerInfo {
            namespace: namespace.unwrap_or_default(),
            ..PeerInfo::default()
        };
        Self {
            reporter: "destination",
            source: info.unwrap_or_else(unnamed),
            source_principal: id.map(ToString::to_string).unwrap_or_default(),
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
}

/// What came of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Result<'a> {
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u16>,
    pub(crate) flags: &'a str,
    pub(crate) duration_ms: f64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// Every metric of the proxy.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    request_bytes: IntCounterVec,
    response_bytes: IntCounterVec,
    tcp_opened: IntCounterVec,
    tcp_closed: IntCounterVec,
    tcp_sent: IntCounterVec,
    tcp_received: IntCounterVec,
    decisions: IntCounterVec,
    wal_failures: IntCounterVec,
    wal: IntGaugeVec,
    connections: IntGaugeVec,
    handshake_failures: IntCounterVec,
    dropped_log_lines: IntCounterVec,
    ended: IntCounterVec,
    certificate_expiry: IntGauge,
    rotations: IntGauge,
    generation: IntGauge,
    series: Mutex<HashSet<Vec<String>>>,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let with_grpc: Vec<&str> = LABELS.into_iter().chain(["grpc_response_status"]).collect();
        let new = Registrar(registry);
        Ok(Self {
            requests: new.counter("istio_requests_total", &with_grpc)?,
            duration: new.histogram("istio_request_duration_milliseconds", &with_grpc)?,
            request_bytes: new.counter("istio_request_bytes_sum", &LABELS)?,
            response_bytes: new.counter("istio_response_bytes_sum", &LABELS)?,
            tcp_opened: new.counter("istio_tcp_connections_opened_total", &LABELS)?,
            tcp_closed: new.counter("istio_tcp_connections_closed_total", &LABELS)?,
            tcp_sent: new.counter("istio_tcp_sent_bytes_total", &LABELS)?,
            tcp_received: new.counter("istio_tcp_received_bytes_total", &LABELS)?,
            decisions: new.counter("reeve_decisions_total", &["effect", "reason"])?,
            wal_failures: new.counter("reeve_wal_append_failures_total", &["what"])?,
            wal: new.gauges("reeve_wal", &["figure"])?,
            connections: new.gauges("reeve_connections", &["direction"])?,
            handshake_failures: new.counter("reeve_tls_handshake_failures_total", &["side"])?,
            dropped_log_lines: new.counter("reeve_access_log_dropped_total", &["cause"])?,
            ended: new.counter("reeve_streams_ended_total", &["cause"])?,
            certificate_expiry: new.gauge("reeve_certificate_expiry_timestamp_seconds")?,
            rotations: new.gauge("reeve_certificate_rotations")?,
            generation: new.gauge("reeve_config_generation")?,
            series: Mutex::default(),
        })
    }

    /// Counts a finished request.
    pub(crate) fn request(&self, ends: &Ends, result: &Result<'_>) {
        let mut labels = self.labels(ends, result.flags, result.status);
        let refs: Vec<&str> = labels.iter().map(String::as_str).collect();
        self.request_bytes
            .with_label_values(&refs)
            .inc_by(result.bytes_in);
        self.response_bytes
            .with_label_values(&refs)
            .inc_by(result.bytes_out);
        labels.push(
            result
                .grpc_status
                .map(|code| code.to_string())
                .unwrap_or_default(),
        );
        let refs: Vec<&str> = labels.iter().map(String::as_str).collect();
        self.requests.with_label_values(&refs).inc();
        self.duration
            .with_label_values(&refs)
            .observe(result.duration_ms);
    }

    /// Counts an opened TCP connection.
    pub(crate) fn tcp_opened(&self, ends: &Ends) {
        let labels = self.labels(ends, "", 0);
        let refs: Vec<&str> = labels.iter().map(String::as_str).collect();
        self.tcp_opened.with_label_values(&refs).inc();
    }

    /// Counts a closed TCP connection and its bytes.
    pub(crate) fn tcp_closed(&self, ends: &Ends, flags: &str, received: u64, sent: u64) {
        let labels = self.labels(ends, flags, 0);
        let refs: Vec<&str> = labels.iter().map(String::as_str).collect();
        self.tcp_closed.with_label_values(&refs).inc();
        self.tcp_received.with_label_values(&refs).inc_by(received);
        self.tcp_sent.with_label_values(&refs).inc_by(sent);
    }

    /// Counts a decision.
    pub(crate) fn decided(&self, decision: &Decision) {
        let effect = match decision.effect {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        };
        self.decisions
            .with_label_values(&[effect, decision.reason.as_str()])
            .inc();
    }

    /// Counts a record that could not be written.
    pub(crate) fn wal_failed(&self, what: &'static str) {
        self.wal_failures.with_label_values(&[what]).inc();
    }

    /// Exports how the write-ahead log stands.
    pub(crate) fn wal_status(&self, status: &WalStatus) {
        let minutes = status.minutes_left.unwrap_or(u64::MAX >> 1);
        for (figure, value) in [
            ("bytes", status.bytes),
            ("max_bytes", status.max_bytes),
            ("backlog", status.backlog),
            ("shipped", status.shipped),
            ("minutes_left", minutes),
            ("epoch", status.epoch),
        ] {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            self.wal.with_label_values(&[figure]).set(value);
        }
    }

    /// The gauge of open connections.
    pub(crate) fn connections(&self, direction: &'static str) -> IntGauge {
        self.connections.with_label_values(&[direction])
    }

    /// Counts a failed handshake.
    pub(crate) fn handshake_failed(&self, side: &'static str) {
        self.handshake_failures.with_label_values(&[side]).inc();
    }

    /// Counts a dropped access log line.
    pub(crate) fn log_line_dropped(&self, cause: &'static str) {
        self.dropped_log_lines.with_label_values(&[cause]).inc();
    }

    /// Counts a stream that was ended.
    pub(crate) fn ended(&self, cause: &'static str) {
        self.ended.with_label_values(&[cause]).inc();
    }

    /// Exports the certificate in force.
    pub(crate) fn certificate(&self, epoch: u64, not_after_secs: u64) {
        self.rotations
            .set(i64::try_from(epoch.saturating_sub(1)).unwrap_or(i64::MAX));
        self.certificate_expiry
            .set(i64::try_from(not_after_secs).unwrap_or(i64::MAX));
    }

    /// Exports the generation in force.
    pub(crate) fn generation(&self, generation: u64) {
        self.generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// The values of [`LABELS`]. Beyond the bound on series, both ends are folded into `other`.
    fn labels(&self, ends: &Ends, flags: &str, status: u16) -> Vec<String> {
        let labels = label_values(ends, flags, status);
        let mut series = lock(&self.series);
        if series.contains(&labels) {
            return labels;
        }
        if series.len() < MAX_SERIES {
            series.insert(labels.clone());
            return labels;
        }
        let other = || PeerInfo {
            workload: "other".to_owned(),
            ..PeerInfo::default()
        };
        let folded = Ends {
            source: other(),
            destination: other(),
            source_principal: "other".to_owned(),
            destination_principal: "other".to_owned(),
            service: "other".to_owned(),
            ..ends.clone()
        };
        label_values(&folded, flags, status)
    }
}

/// Makes metrics and registers them; what each means stands in [`help`].
struct Registrar<'r>(&'r Registry);

impl Registrar<'_> {
    fn add<C: Collector + Clone + 'static>(&self, collector: C) -> prometheus::Result<C> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&self, name: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help(name)), labels)?)
    }

    fn gauges(&self, name: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help(name)), labels)?)
    }

    fn gauge(&self, name: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help(name))?)
    }

    fn histogram(&self, name: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help(name)).buckets(BUCKETS_MS.to_vec());
        self.add(HistogramVec::new(options, labels)?)
    }
}

fn help(name: &str) -> &'static str {
    match name {
        "istio_requests_total" => "Requests.",
        "istio_request_duration_milliseconds" => {
            "Time from the first byte of a request to the last of its response."
        }
        "istio_request_bytes_sum" => "Bytes of request bodies.",
        "istio_response_bytes_sum" => "Bytes of response bodies.",
        "istio_tcp_connections_opened_total" => "TCP connections opened.",
        "istio_tcp_connections_closed_total" => "TCP connections closed.",
        "istio_tcp_sent_bytes_total" => "Bytes sent to TCP callers.",
        "istio_tcp_received_bytes_total" => "Bytes received from TCP callers.",
        "reeve_decisions_total" => "Decisions, by what they rest on.",
        "reeve_wal_append_failures_total" => "Records that could not be written.",
        "reeve_wal" => "The write-ahead log in figures: bytes, records, minutes of room left.",
        "reeve_connections" => "Open connections.",
        "reeve_tls_handshake_failures_total" => "TLS handshakes that failed.",
        "reeve_access_log_dropped_total" => "Access log lines dropped.",
        "reeve_streams_ended_total" => "Open streams and connections that lost their permit.",
        "reeve_certificate_expiry_timestamp_seconds" => "When the proxy's certificate ends.",
        "reeve_certificate_rotations" => "Certificates held since the start, less one.",
        "reeve_config_generation" => "The configuration generation in force.",
        _ => "No description.",
    }
}

fn label_values(ends: &Ends, flags: &str, status: u16) -> Vec<String> {
    let known = |text: &str| if text.is_empty() { UNKNOWN } else { text }.to_owned();
    let mut service = ends.service.split('.');
    let (name, namespace) = (service.next().unwrap_or_default(), service.next());
    let end = |info: &PeerInfo, principal: &str| {
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
    labels.extend(end(&ends.source, &ends.source_principal));
    labels.extend(end(&ends.destination, &ends.destination_principal));
    labels.extend([
        known(&ends.service),
        known(name),
        known(namespace.unwrap_or_default()),
        ends.protocol.to_owned(),
        if flags.is_empty() {
            "-".to_owned()
        } else {
            flags.to_owned()
        },
        known(ends.security),
        status.to_string(),
    ]);
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(workload: &str) -> Ends {
        Ends {
            reporter: "destination",
            source: PeerInfo {
                workload: workload.into(),
                ..PeerInfo::default()
            },
            source_principal: "spiffe://mesh.local/ns/default/sa/a".into(),
            service: "reviews.default.svc.cluster.local".into(),
            protocol: "http",
            security: "mutual_tls",
            ..Ends::default()
        }
    }

    fn result() -> Result<'static> {
        Result {
            status: 200,
            grpc_status: None,
            flags: "",
            duration_ms: 1.0,
            bytes_in: 1,
            bytes_out: 2,
        }
    }

    #[test]
    fn labels_are_istios() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        metrics.request(&ends("a-v1"), &result());
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
        let metrics = Metrics::register(&registry).unwrap();
        for i in 0..MAX_SERIES + 50 {
            metrics.request(&ends(&format!("w{i}")), &result());
        }
        let families = registry.gather();
        let requests = families
            .iter()
            .find(|f| f.name() == "istio_requests_total")
            .unwrap();
        assert_eq!(requests.get_metric().len(), MAX_SERIES + 1);
    }
}
