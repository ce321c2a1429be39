//! Prometheus metrics with Istio's standard names and labels, and Reeve's own beside them.

mod live;
mod render;
mod traffic;

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};
use reeve_audit::WalStatus;

use self::traffic::Traffic;
pub(crate) use self::{
    live::{Live, Unit},
    traffic::{Ends, Meters, Outcome},
};

/// Every metric of the proxy.
#[derive(Debug)]
pub(crate) struct Metrics {
    wal_failures: IntCounterVec,
    wal: IntGaugeVec,
    connections: IntGaugeVec,
    without_mtls: IntGaugeVec,
    plaintext_refused: IntCounterVec,
    handshake_failures: IntCounterVec,
    dropped_log_lines: IntCounterVec,
    ended: IntCounterVec,
    app_metrics_missed: IntCounter,
    limits: IntCounterVec,
    global_limits: IntCounterVec,
    external: IntCounterVec,
    ejections: IntCounterVec,
    malformed: IntCounterVec,
    mirrored: IntCounterVec,
    routes: IntCounterVec,
    transformed: IntCounterVec,
    accept_failures: IntCounterVec,
    certificate_expiry: IntGauge,
    rotations: IntGauge,
    generation: IntGauge,
    break_glass: IntGauge,
    break_glass_mesh_wide: IntGauge,
    break_glass_requests: IntCounter,
    traffic: Traffic,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let new = Registrar(registry);
        let traffic = new.add(Traffic::new()?)?;
        Ok(Self {
            wal_failures: new.counter("reeve_wal_append_failures_total", &["what"])?,
            wal: new.gauges("reeve_wal", &["figure"])?,
            connections: new.gauges("reeve_connections", &["direction"])?,
            without_mtls: new.gauges("reeve_connections_without_mtls", &["port"])?,
            plaintext_refused: new.counter("reeve_plaintext_refused_total", &["port"])?,
            handshake_failures: new.counter("reeve_tls_handshake_failures_total", &["side"])?,
            dropped_log_lines: new.counter("reeve_access_log_dropped_total", &["cause"])?,
            ended: new.counter("reeve_streams_ended_total", &["cause"])?,
            app_metrics_missed: new.single("reeve_app_metrics_missed_total")?,
            ejections: new.counter("reeve_endpoint_ejections_total", &["cause"])?,
            limits: new.counter("reeve_limit_hits_total", &["limit"])?,
            global_limits: new.counter("reeve_global_rate_limit_total", &["result"])?,
            external: new.counter("reeve_external_authorization_total", &["result"])?,
            malformed: new.counter("reeve_malformed_connections_total", &["protocol"])?,
            mirrored: new.counter("reeve_mirrored_requests_total", &["result"])?,
            routes: new.counter(
                "reeve_route_requests_total",
                &["route", "response_code_class"],
            )?,
            transformed: new.counter(
                "reeve_transformations_total",
                &["transformation", "part", "result"],
            )?,
            accept_failures: new.counter("reeve_accept_failures_total", &["reason"])?,
            certificate_expiry: new.gauge("reeve_certificate_expiry_timestamp_seconds")?,
            rotations: new.gauge("reeve_certificate_rotations")?,
            generation: new.gauge("reeve_config_generation")?,
            break_glass: new.gauge("reeve_break_glass_active")?,
            break_glass_mesh_wide: new.gauge("reeve_break_glass_mesh_wide_active")?,
            break_glass_requests: new.single("reeve_break_glass_requests_total")?,
            traffic,
        })
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

    /// The gauge of open connections to a listener's port whose peers speak no mTLS.
    pub(crate) fn connections_without_mtls(&self, port: u16) -> IntGauge {
        self.without_mtls.with_label_values(&[&port.to_string()])
    }

    /// Counts a connection that was refused for its plaintext.
    pub(crate) fn plaintext_refused(&self, port: u16) {
        let port = port.to_string();
        self.plaintext_refused.with_label_values(&[&port]).inc();
    }

    /// Counts a failed handshake.
    pub(crate) fn handshake_failed(&self, side: &'static str) {
        self.handshake_failures.with_label_values(&[side]).inc();
    }

    /// Counts dropped access log lines.
    pub(crate) fn log_lines_dropped(&self, cause: &'static str, lines: u64) {
        self.dropped_log_lines
            .with_label_values(&[cause])
            .inc_by(lines);
    }

    /// What one more worker counts with.
    pub(crate) fn meters(&self) -> Meters {
        self.traffic.meters()
    }

    /// Counts a stream that was ended.
    pub(crate) fn ended(&self, cause: &'static str) {
        self.ended.with_label_values(&[cause]).inc();
    }

    /// Counts a scrape that the application's own metrics were missing from.
    pub(crate) fn app_metrics_missed(&self) {
        self.app_metrics_missed.inc();
    }

    /// Counts what a rate limit server said, in Envoy's words.
    pub(crate) fn global_limit(&self, result: &'static str) {
        self.global_limits.with_label_values(&[result]).inc();
    }

    /// Counts what a provider of external authorization said.
    pub(crate) fn external_authorization(&self, result: &'static str) {
        self.external.with_label_values(&[result]).inc();
    }

    /// Counts that a limit (`limits.rs`) bit.
    pub(crate) fn limit_hit(&self, limit: &'static str) {
        self.limits.with_label_values(&[limit]).inc();
    }

    /// Counts that a connection could not be accepted.
    pub(crate) fn accept_failed(&self, reason: &'static str) {
        self.accept_failures.with_label_values(&[reason]).inc();
    }

    /// Counts an endpoint that was taken out for failing.
    pub(crate) fn ejected(&self, cause: &'static str) {
        self.ejections.with_label_values(&[cause]).inc();
    }

    /// Counts a connection that ended because its messages could be read in two ways, or in none.
    pub(crate) fn malformed(&self, protocol: &'static str) {
        self.malformed.with_label_values(&[protocol]).inc();
    }

    /// Counts a mirrored request by what came of it.
    pub(crate) fn mirrored(&self, result: &'static str) {
        self.mirrored.with_label_values(&[result]).inc();
    }

    /// Counts what a transformation did to a part of a message, or why it could not.
    pub(crate) fn transformed(&self, name: &str, part: &'static str, result: &'static str) {
        self.transformed
            .with_label_values(&[name, part, result])
            .inc();
    }

    /// Counts a request under the name that its route gives it (`statPrefix`).
    pub(crate) fn route_request(&self, name: &str, status: u16) {
        let class = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            500..=599 => "5xx",
            _ => "none",
        };
        self.routes.with_label_values(&[name, class]).inc();
    }

    /// Exports the certificate in force.
    pub(crate) fn certificate(&self, certificates: u64, not_after_secs: u64) {
        self.rotations
            .set(i64::try_from(certificates.saturating_sub(1)).unwrap_or(i64::MAX));
        self.certificate_expiry
            .set(i64::try_from(not_after_secs).unwrap_or(i64::MAX));
    }

    /// Exports how many break-glass grants are in force, and how many of them open every namespace.
    pub(crate) fn break_glass(&self, grants: usize, mesh_wide: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.break_glass.set(number(grants));
        self.break_glass_mesh_wide.set(number(mesh_wide));
    }

    /// Counts a request or connection that break-glass alone permits.
    pub(crate) fn break_glass_request(&self) {
        self.break_glass_requests.inc();
    }

    /// Exports the generation in force.
    pub(crate) fn generation(&self, generation: u64) {
        self.generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
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

    fn single(&self, name: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help(name))?)
    }

    fn gauges(&self, name: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help(name)), labels)?)
    }

    fn gauge(&self, name: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help(name))?)
    }
}

fn help(name: &str) -> &'static str {
    match name {
        "istio_requests_total" => "Requests.",
        "istio_request_duration_milliseconds" => {
            "Time from the first byte of a request to the last of its response."
        }
        "istio_request_bytes" => "Bytes of request bodies.",
        "istio_response_bytes" => "Bytes of response bodies.",
        "istio_tcp_connections_opened_total" => "TCP connections opened.",
        "istio_tcp_connections_closed_total" => "TCP connections closed.",
        "istio_tcp_sent_bytes_total" => "Bytes sent to TCP callers.",
        "istio_tcp_received_bytes_total" => "Bytes received from TCP callers.",
        "istio_request_messages_total" => "Messages of gRPC callers.",
        "istio_response_messages_total" => "Messages to gRPC callers.",
        "reeve_decisions_total" => "Decisions, by what they rest on.",
        "reeve_wal_append_failures_total" => "Records that could not be written.",
        "reeve_wal" => "The write-ahead log in figures: bytes, records, minutes of room left.",
        "reeve_connections" => "Open connections.",
        "reeve_connections_without_mtls" => {
            "Open connections to the workload's ports whose peers speak no mTLS."
        }
        "reeve_plaintext_refused_total" => "Connections refused for their plaintext.",
        "reeve_tls_handshake_failures_total" => "TLS handshakes that failed.",
        "reeve_access_log_dropped_total" => "Access log lines dropped.",
        "reeve_streams_ended_total" => "Open streams and connections that lost their permit.",
        "reeve_endpoint_ejections_total" => "Endpoints taken out for failing, by cause.",
        "reeve_global_rate_limit_total" => {
            "Requests that a rate limit server was asked about, by what it said."
        }
        "reeve_external_authorization_total" => {
            "Requests and connections that a provider was asked about, by what it said."
        }
        "reeve_limit_hits_total" => "Times that a limit bit, by its name.",
        "reeve_accept_failures_total" => "Times that a connection could not be accepted.",
        "reeve_malformed_connections_total" => {
            "Connections ended for bytes that servers could read in different ways."
        }
        "reeve_mirrored_requests_total" => "Copies of requests, by what came of them.",
        "reeve_transformations_total" => {
            "What transformations did to parts of messages, or why they could not."
        }
        "reeve_route_requests_total" => "Requests of routes that have a statPrefix.",
        "reeve_certificate_expiry_timestamp_seconds" => "When the proxy's certificate ends.",
        "reeve_app_metrics_missed_total" => {
            "Scrapes that the application's own metrics were missing from."
        }
        "reeve_certificate_rotations" => "Certificates held since the start, less one.",
        "reeve_config_generation" => "The configuration generation in force.",
        "reeve_break_glass_active" => "Break-glass grants in force.",
        "reeve_break_glass_mesh_wide_active" => {
            "Break-glass grants in force that open every namespace."
        }
        "reeve_break_glass_requests_total" => {
            "Requests and connections that break-glass alone permits."
        }
        _ => "No description.",
    }
}
