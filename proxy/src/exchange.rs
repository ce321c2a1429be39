//! What is known of one request while it goes through, and what is told of it when it is over: metrics, access log,
//! outcome record. An exchange is over when it is dropped, whatever way it ended.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, StatusCode};
use reeve_audit::{OutcomeRecord, decision_id};
use reeve_core::{
    RecordId, UnixTime,
    decision::{Decision, Effect},
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    access_log::{AccessLog, Line},
    head::Head,
    headers,
    judge::Question,
    ledger::{Ledger, micros},
    metrics::{Ends, Metrics, Result as Outcome},
    open::OpenGuard,
    pool::Busy,
    spans::{OpenSpan, SpanEnd, Spans},
};

/// Where things are told.
#[derive(Debug)]
pub(crate) struct Telemetry {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) log: AccessLog,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) spans: Spans,
}

/// One request or TCP connection on its way through.
#[derive(Debug)]
pub(crate) struct Exchange {
    telemetry: Arc<Telemetry>,
    started: Instant,
    time: UnixTime,
    pub(crate) ends: Ends,
    pub(crate) peer_address: Option<IpAddr>,
    pub(crate) user: Option<String>,
    pub(crate) route: Option<String>,
    pub(crate) upstream: Option<String>,
    pub(crate) attempts: u32,
    head: Option<Arc<Head>>,
    raw: RawHead,
    trace_id: Option<String>,
    request_id: Option<String>,
    decided: Option<Decided>,
    flags: Vec<&'static str>,
    status: u16,
    grpc_status: Option<u16>,
    bytes_in: Arc<AtomicU64>,
    bytes_out: u64,
    complete: bool,
    end: CancellationToken,
    guard: Option<OpenGuard>,
    busy: Option<Busy>,
    admission: Option<OwnedSemaphorePermit>,
    span: Option<OpenSpan>,
}

/// What was asked, as long as it has not been read (or could not be).
#[derive(Debug, Default)]
struct RawHead {
    method: String,
    authority: String,
    path: String,
}

#[derive(Debug)]
struct Decided {
    record: RecordId,
    opaque: String,
    effect: &'static str,
    reason: &'static str,
    policies: Vec<String>,
}

impl Exchange {
    /// Begins now.
    pub(crate) fn begin(telemetry: &Arc<Telemetry>, ends: Ends) -> Self {
        Self {
            time: telemetry.ledger.now(),
            telemetry: telemetry.clone(),
            started: Instant::now(),
            ends,
            peer_address: None,
            user: None,
            route: None,
            upstream: None,
            attempts: 0,
            head: None,
            raw: RawHead::default(),
            trace_id: None,
            request_id: None,
            decided: None,
            flags: Vec::new(),
            status: 0,
            grpc_status: None,
            bytes_in: Arc::default(),
            bytes_out: 0,
            complete: false,
            end: CancellationToken::new(),
            guard: None,
            busy: None,
            admission: None,
            span: None,
        }
    }

    /// Notes what was asked before it is read.
    pub(crate) fn raw(&mut self, request: &http::request::Parts) {
        let host = request
            .headers
            .get(http::header::HOST)
            .and_then(|h| h.to_str().ok());
        let authority = request.uri.authority().map(http::uri::Authority::as_str);
        self.raw = RawHead {
            method: request.method.as_str().to_owned(),
            authority: authority.or(host).unwrap_or_default().to_owned(),
            path: request.uri.path().to_owned(),
        };
        self.trace_id = headers::trace_id(&request.headers);
    }

    /// Notes the head that was read.
    pub(crate) fn head(&mut self, head: &Arc<Head>) {
        self.ends.protocol = if head.is_grpc() { "grpc" } else { "http" };
        self.trace_id = headers::trace_id(&head.headers);
        self.request_id = head.header(headers::REQUEST_ID.as_str()).map(str::to_owned);
        self.head = Some(head.clone());
    }

    /// Notes the head that a question is about.
    pub(crate) fn head_of(&mut self, question: &Question) {
        if let Some(head) = &question.head {
            self.head(head);
        }
    }

    /// The opaque id of the recorded decision; empty when there is none.
    pub(crate) fn decision_id(&self) -> String {
        self.decided
            .as_ref()
            .map(|d| d.opaque.clone())
            .unwrap_or_default()
    }

    /// Notes a recorded decision.
    pub(crate) fn decided(&mut self, record: &RecordId, decision: &Decision) {
        let effect = match decision.effect {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        };
        self.decided = Some(Decided {
            record: record.clone(),
            opaque: decision_id(record),
            effect,
            reason: decision.reason.as_str(),
            policies: decision.policies.iter().map(ToString::to_string).collect(),
        });
    }

    /// Keeps the stream's place among the open ones.
    pub(crate) fn hold(&mut self, guard: OpenGuard) {
        self.guard = Some(guard);
    }

    /// Keeps the endpoint counted as busy until the exchange is over.
    pub(crate) fn busy(&mut self, busy: Busy) {
        self.busy = Some(busy);
    }

    /// Notes the span that ends with the exchange.
    pub(crate) fn span(&mut self, span: OpenSpan) {
        self.span = Some(span);
    }

    /// Keeps the request counted among those in flight.
    pub(crate) fn admit(&mut self, admission: OwnedSemaphorePermit) {
        self.admission = Some(admission);
    }

    /// Cancelled when the exchange must end.
    pub(crate) fn end(&self) -> &CancellationToken {
        &self.end
    }

    /// The counter of body bytes from the caller.
    pub(crate) fn bytes_in(&self) -> &Arc<AtomicU64> {
        &self.bytes_in
    }

    /// Counts body bytes to the caller.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.bytes_out = self.bytes_out.saturating_add(bytes);
    }

    /// Adds one of Envoy's response flags.
    pub(crate) fn flag(&mut self, flag: &'static str) {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
    }

    /// Notes the response's head.
    pub(crate) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = status.as_u16();
        self.trailers(headers);
    }

    /// Notes gRPC's status, wherever it stands.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        let status = trailers.get("grpc-status").and_then(|v| v.to_str().ok());
        if let Some(code) = status.and_then(|text| text.parse().ok()) {
            self.grpc_status = Some(code);
        }
    }

    /// The last byte was handed on.
    pub(crate) fn finished(&mut self) {
        self.complete = true;
    }

    fn tell(&mut self) {
        if !self.complete && self.flags.is_empty() {
            self.flag("DC");
        }
        let duration = self.started.elapsed();
        let flags = self.flags.join(",");
        let bytes_in = self.bytes_in.load(Ordering::Relaxed);
        let is_tcp = self.ends.protocol == "tcp";
        if !is_tcp {
            let outcome = Outcome {
                status: self.status,
                grpc_status: self.grpc_status,
                flags: &flags,
                duration_ms: duration.as_secs_f64() * 1000.0,
                bytes_in,
                bytes_out: self.bytes_out,
            };
            self.telemetry.metrics.request(&self.ends, &outcome);
        } else if self.upstream.is_some() {
            self.telemetry
                .metrics
                .tcp_closed(&self.ends, &flags, bytes_in, self.bytes_out);
        }
        self.log_line(&flags, bytes_in, duration.as_secs_f64() * 1000.0);
        self.end_span(duration, &flags);
        if let Some(decided) = self.decided.take().filter(|d| d.effect == "allow") {
            self.telemetry.ledger.outcome(OutcomeRecord {
                decision: decided.record,
                status: (!is_tcp).then_some(self.status),
                grpc_status: self.grpc_status,
                bytes_in,
                bytes_out: self.bytes_out,
                duration_us: micros(duration),
                upstream: self.upstream.take(),
                flags,
            });
        }
    }

    fn end_span(&mut self, duration: Duration, flags: &str) {
        let Some(span) = self.span.take() else {
            return;
        };
        let head = self.head.as_deref();
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let mut attributes = vec![
            ("http.request.method", text(head.map(|h| h.method.as_str()))),
            ("url.path", text(head.map(|h| h.path.as_str()))),
            ("server.address", text(head.map(|h| h.host()))),
            ("http.response.status_code", self.status.to_string()),
            ("response_flags", flags.to_owned()),
            ("peer.id", self.ends.source_principal.clone()),
            ("upstream.service", self.ends.service.clone()),
            ("upstream.address", text(self.upstream.as_deref())),
            ("guid:x-request-id", text(self.request_id.as_deref())),
        ];
        if let Some(decided) = &self.decided {
            attributes.push(("reeve.decision_id", decided.opaque.clone()));
            attributes.push(("reeve.effect", decided.effect.to_owned()));
        }
        span.end(SpanEnd {
            name: format!(
                "{} {}",
                text(head.map(|h| h.method.as_str())),
                self.ends.service
            ),
            inbound: self.ends.reporter == "destination",
            started: self.time,
            duration,
            failed: self.status >= 500,
            attributes,
        });
    }

    fn log_line(&self, flags: &str, bytes_in: u64, duration_ms: f64) {
        let head = self.head.as_deref();
        let decided = self.decided.as_ref();
        let direction = match self.ends.reporter {
            "destination" => "inbound",
            _ => "outbound",
        };
        self.telemetry.log.write(&Line {
            log: "access",
            time: self.time,
            direction,
            trace_id: self.trace_id.as_deref(),
            request_id: self.request_id.as_deref(),
            decision_id: decided.map(|d| d.opaque.as_str()),
            record: decided.map(|d| d.record.to_string()),
            effect: decided.map(|d| d.effect),
            reason: decided.map(|d| d.reason),
            policies: decided.map(|d| d.policies.as_slice()).unwrap_or_default(),
            peer: &self.ends.source_principal,
            peer_address: self.peer_address.map(|a| a.to_string()).unwrap_or_default(),
            user: self.user.as_deref(),
            protocol: self.ends.protocol,
            method: head.map_or(self.raw.method.as_str(), |h| h.method.as_str()),
            authority: head.map_or(&self.raw.authority, |h| &h.authority),
            path: head.map(|h| h.path.as_str()).unwrap_or_default(),
            raw_path: &self.raw.path,
            route: self.route.as_deref(),
            service: &self.ends.service,
            upstream: self.upstream.as_deref(),
            attempts: self.attempts,
            response_code: self.status,
            grpc_status: self.grpc_status,
            flags,
            bytes_received: bytes_in,
            bytes_sent: self.bytes_out,
            duration_ms,
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.tell();
    }
}
