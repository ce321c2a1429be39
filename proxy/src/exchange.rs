//! What is known of one request while it goes through, and what is told of it when it is over: metrics, access log,
//! outcome record. An exchange is over when it is dropped, whatever way it ended.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, StatusCode};
use opentelemetry::KeyValue;
use reeve_audit::{OutcomeRecord, decision_id};
use reeve_core::{
    RecordId, ServiceName, SpiffeId, UnixTime,
    decision::{Decision, Effect},
};
use tokio::time::Instant;

use crate::{
    access_log::{Line, LogFormat, Told},
    busy::Busy,
    callers::Held,
    end::End,
    gauge::Entered,
    head::{Head, RawHead, is_grpc},
    io::Flow,
    judge::Question,
    ledger::micros,
    messages::Messages,
    metrics::{Ends, Live, Outcome, Unit},
    open::OpenGuard,
    pool::Lease,
    pressure::{CallerKey, Pressure},
    proxy::Shared,
    spans::{Attributes, OpenSpan, SpanEnd},
    tap::Bodies,
    transform::{Applying, Space},
    worker::Worker,
};

/// One request or TCP connection on its way through.
#[derive(Debug)]
pub(crate) struct Exchange {
    worker: Arc<Worker>,
    started: Instant,
    time: UnixTime,
    pub(crate) ends: Ends,
    peer_address: Option<IpAddr>,
    pub(crate) user: Option<String>,
    pub(crate) route: Option<Arc<str>>,
    /// The name under which its route counts it.
    pub(crate) stat_prefix: Option<Arc<str>>,
    pub(crate) upstream: Option<Arc<str>>,
    pub(crate) attempts: u32,
    /// The address that was reached.
    local: Option<SocketAddr>,
    peer_port: Option<u16>,
    /// Port and subset of the service asked for.
    pub(crate) destination: Option<(u16, Option<String>)>,
    /// The server name in the caller's ClientHello, where that was read.
    pub(crate) server_name: Option<String>,
    /// Why the upstream could not be reached.
    pub(crate) failure: Option<String>,
    /// `via_upstream`, or why the proxy answered.
    pub(crate) details: &'static str,
    response_after: Option<Duration>,
    /// Headers and trailers of the response, when somebody needs them.
    response: Option<Box<Response>>,
    head: Option<Arc<Head>>,
    raw: Option<RawHead>,
    decided: Option<Decided>,
    flags: Vec<&'static str>,
    status: u16,
    grpc_status: Option<u16>,
    bytes_in: Arc<AtomicU64>,
    bytes_out: u64,
    complete: bool,
    end: End,
    guard: Option<OpenGuard>,
    busy: Option<Busy>,
    /// Counts it among the requests to its cluster.
    counted: Option<Entered>,
    lease: Option<Lease>,
    held: Option<Held>,
    pressure: Option<(Arc<Pressure>, CallerKey)>,
    admitted: bool,
    span: Option<OpenSpan>,
    /// Counts the bytes of a TCP connection while it is open.
    tcp: Option<Live>,
    grpc: Option<Box<Grpc>>,
    /// What is kept of the bodies for taps.
    bodies: Option<Arc<Bodies>>,
    transforms: Option<Box<Applying>>,
}

/// What is counted of a gRPC call's messages.
#[derive(Debug, Default)]
struct Grpc {
    flow: Arc<Flow>,
    /// Of the response; the request's are counted where its body is read.
    messages: Messages,
    /// Whether the response is gRPC as well.
    answered: bool,
    live: Option<Live>,
}

#[derive(Debug)]
struct Decided {
    record: RecordId,
    decision: Arc<Decision>,
}

impl Exchange {
    /// Begins now.
    pub(crate) fn begin(worker: &Arc<Worker>, ends: Ends) -> Self {
        Self {
            time: worker.ledger.now(),
            worker: worker.clone(),
            started: Instant::now(),
            ends,
            peer_address: None,
            user: None,
            route: None,
            stat_prefix: None,
            upstream: None,
            attempts: 0,
            local: None,
            peer_port: None,
            destination: None,
            server_name: None,
            failure: None,
            details: "",
            response_after: None,
            response: None,
            head: None,
            raw: None,
            decided: None,
            flags: Vec::new(),
            status: 0,
            grpc_status: None,
            bytes_in: Arc::default(),
            bytes_out: 0,
            complete: false,
            end: End::default(),
            guard: None,
            busy: None,
            counted: None,
            lease: None,
            held: None,
            pressure: None,
            admitted: false,
            span: None,
            tcp: None,
            grpc: None,
            bodies: None,
            transforms: None,
        }
    }

    /// Notes where it came from, and where it went.
    pub(crate) fn between(&mut self, peer: SocketAddr, local: SocketAddr) {
        self.peer_address = Some(peer.ip());
        self.peer_port = Some(peer.port());
        self.local = Some(local);
    }

    /// Notes what was asked for when it cannot be read, or there is no time to.
    pub(crate) fn unread(&mut self, raw: RawHead) {
        self.raw = Some(raw);
    }

    /// Notes the head that was read.
    pub(crate) fn head(&mut self, head: &Arc<Head>) {
        self.ends.protocol = if head.is_grpc() { "grpc" } else { "http" };
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
        let decided = self.decided.as_ref();
        decided.map(|d| decision_id(&d.record)).unwrap_or_default()
    }

    /// What it goes through.
    pub(crate) fn proxy(&self) -> &Arc<Shared> {
        &self.worker.proxy
    }

    /// Where its bodies are held, if transformations concern it.
    pub(crate) fn space(&self) -> Option<Space> {
        self.transforms.as_ref().map(|_| self.room())
    }

    /// Where a body of it is held.
    pub(crate) fn room(&self) -> Space {
        Space {
            room: self.worker.proxy.transform_room.clone(),
            share: self.held.as_ref().map(|held| held.share().clone()),
        }
    }

    /// Notes the transformations that concern it.
    pub(crate) fn transforming(&mut self, applying: Applying) {
        self.transforms = Some(Box::new(applying));
    }

    /// The transformations that concern it.
    pub(crate) fn transforms(&mut self) -> Option<&mut Applying> {
        self.transforms.as_deref_mut()
    }

    /// Notes a recorded decision.
    pub(crate) fn decided(&mut self, record: RecordId, decision: Arc<Decision>) {
        self.decided = Some(Decided { record, decision });
    }

    /// Keeps the stream's place among the open ones.
    pub(crate) fn hold(&mut self, guard: OpenGuard) {
        self.guard = Some(guard);
    }

    /// Keeps the endpoint counted as busy until the exchange is over.
    pub(crate) fn busy(&mut self, busy: Busy) {
        self.busy = Some(busy);
    }

    /// Keeps it counted among the requests to its cluster until it is over.
    pub(crate) fn counted(&mut self, entered: Option<Entered>) {
        self.counted = entered;
    }

    /// Keeps the caller's share of the application taken until the exchange is over.
    pub(crate) fn holds(&mut self, held: Option<Held>) {
        self.held = held;
    }

    /// Notes the application that will be waited for.
    pub(crate) fn will_wait(&mut self, pressure: Arc<Pressure>, caller: CallerKey) {
        self.pressure = Some((pressure, caller));
    }

    /// The application that will be waited for, and who waits.
    pub(crate) fn waits_for(&mut self) -> Option<(Arc<Pressure>, CallerKey)> {
        self.pressure.take()
    }

    /// Notes the span that ends with the exchange.
    pub(crate) fn span(&mut self, span: OpenSpan) {
        self.span = Some(span);
    }

    /// The request is counted among those in flight until it is over.
    pub(crate) fn admitted(&mut self) {
        self.admitted = true;
    }

    /// Counts that a limit refused the request.
    pub(crate) fn limited(&self, limit: &'static str) {
        self.worker.proxy.metrics.limit_hit(limit);
    }

    /// Counts a TCP connection as open, and the bytes through `flow` as the caller's.
    pub(crate) fn connected(&mut self, flow: Arc<Flow>) {
        let meters = self.worker.ledger.meters();
        self.tcp = Some(meters.watch(&self.ends, Unit::Bytes, flow));
    }

    /// Where the request's body is kept for taps, if one wants it.
    pub(crate) fn bodies(&mut self) -> Option<Arc<Bodies>> {
        self.bodies = self.worker.proxy.taps.bodies();
        self.bodies.clone()
    }

    /// Where the messages of a request with these headers are to be counted, if it is gRPC.
    pub(crate) fn messages_of(&mut self, headers: &HeaderMap) -> Option<Arc<Flow>> {
        let grpc = is_grpc(headers).then(|| self.grpc.get_or_insert_default());
        grpc.map(|grpc| grpc.flow.clone())
    }

    /// The two ends are known from here on: a gRPC call's messages are counted as theirs.
    pub(crate) fn under_way(&mut self) {
        if let Some(grpc) = &mut self.grpc {
            let meters = self.worker.ledger.meters();
            grpc.live = Some(meters.watch(&self.ends, Unit::Messages, grpc.flow.clone()));
        }
    }

    /// Counts a piece of the response's body.
    pub(crate) fn sent_data(&mut self, data: &[u8]) {
        self.sent(data.len() as u64);
        if let Some(bodies) = &self.bodies {
            bodies.add_response(data);
        }
        if let Some(grpc) = self.grpc.as_deref_mut().filter(|grpc| grpc.answered) {
            grpc.flow.count_written(grpc.messages.read(data));
        }
    }

    /// The time.
    pub(crate) fn now(&self) -> UnixTime {
        self.worker.ledger.now()
    }

    /// Given when the exchange must end.
    pub(crate) fn end(&self) -> &End {
        &self.end
    }

    /// The counter of body bytes from the caller.
    pub(crate) fn bytes_in(&self) -> &Arc<AtomicU64> {
        &self.bytes_in
    }

    /// Counts bytes from the caller that no body counted.
    pub(crate) fn received(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
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
        self.response_after = Some(self.started.elapsed());
        if let Some(grpc) = &mut self.grpc {
            grpc.answered = is_grpc(headers);
        }
        let proxy = &self.worker.proxy;
        if proxy.taps.is_on() || proxy.log_format(LogFormat::needs_response) {
            self.response = Some(Box::new(Response {
                headers: headers.clone(),
                trailers: HeaderMap::new(),
            }));
        }
        self.note_grpc_status(headers);
    }

    /// Notes the response's trailers.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(response) = &mut self.response {
            response.trailers = trailers.clone();
        }
        self.note_grpc_status(trailers);
    }

    /// gRPC's status stands in the head or in the trailers.
    fn note_grpc_status(&mut self, trailers: &HeaderMap) {
        let status = trailers.get("grpc-status").and_then(|v| v.to_str().ok());
        if let Some(code) = status.and_then(|text| text.parse().ok()) {
            self.grpc_status = Some(code);
        }
    }

    /// Keeps the upstream connection until the response is read.
    pub(crate) fn lease(&mut self, lease: Option<Lease>) {
        self.lease = lease;
    }

    /// The last byte was handed on.
    pub(crate) fn finished(&mut self) {
        self.complete = true;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    fn tell(&mut self) {
        if !self.complete && self.flags.is_empty() {
            self.flag("DC");
        }
        // In Envoy's order: why the last try failed, then that there was no other.
        self.flags.sort_by_key(|flag| *flag == "URX");
        let duration = self.started.elapsed();
        let outcome = Outcome {
            status: self.status,
            grpc_status: self.grpc_status,
            flags: &self.flags,
            duration_ms: duration.as_secs_f64() * 1000.0,
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out,
        };
        let meters = self.worker.ledger.meters();
        let is_tcp = self.ends.protocol == "tcp";
        if !is_tcp {
            meters.request(&self.ends, &outcome);
        } else if self.tcp.take().is_some() {
            meters.tcp_closed(&self.ends, &outcome);
        }
        if let Some(name) = &self.stat_prefix {
            self.worker.proxy.metrics.route_request(name, self.status);
        }
        let flags = self.flags.join(",");
        self.log_line(&flags, &outcome);
        let record = self.outcome_record(&flags, &outcome, duration);
        self.end_span(duration, &flags);
        if let Some(record) = record {
            self.worker.ledger.outcome(&record);
        }
        self.worker.flush_soon();
    }

    fn outcome_record(
        &self,
        flags: &str,
        outcome: &Outcome<'_>,
        duration: Duration,
    ) -> Option<OutcomeRecord> {
        let decided = self.decided.as_ref().filter(|d| d.decision.is_allow())?;
        Some(OutcomeRecord {
            decision: decided.record.clone(),
            status: (self.ends.protocol != "tcp").then_some(self.status),
            grpc_status: self.grpc_status,
            bytes_in: outcome.bytes_in,
            bytes_out: outcome.bytes_out,
            duration_us: micros(duration),
            upstream: self.upstream.as_deref().map(str::to_owned),
            flags: flags.to_owned(),
            transformations: self
                .transforms
                .as_ref()
                .map(|applying| applying.acted().to_vec())
                .unwrap_or_default(),
        })
    }

    fn end_span(&mut self, duration: Duration, flags: &str) {
        let Some(span) = self.span.take() else {
            return;
        };
        let attributes = self.span_attributes(flags);
        let head = self.head.as_deref();
        span.end(SpanEnd {
            name: format!(
                "{} {}",
                head.map_or("", |h| h.method.as_str()),
                self.service().unwrap_or_default()
            ),
            inbound: self.is_inbound(),
            started: self.time,
            duration,
            failed: self.status >= if self.is_inbound() { 500 } else { 400 },
            attributes,
        });
    }

    /// Whether another proxy of the mesh asks, and will read what this one says of itself.
    pub(crate) fn is_for_mesh_peer(&self) -> bool {
        self.is_inbound() && self.ends.security == "mutual_tls"
    }

    fn is_inbound(&self) -> bool {
        self.ends.reporter == "destination"
    }

    /// By OpenTelemetry's semantic conventions for HTTP and RPC spans where they have a name, by Envoy's for response
    /// flags, by our own for decisions.
    fn span_attributes(&self, flags: &str) -> Vec<KeyValue> {
        let mut all = Attributes::default();
        if let Some(head) = self.head.as_deref() {
            all.text("http.request.method", head.method.as_str());
            all.text("url.path", &head.path);
            all.text("url.scheme", "http");
            all.text("server.address", head.host());
            all.known("user_agent.original", head.header("user-agent"));
            all.known("guid:x-request-id", head.request_id());
            let version = match head.version {
                http::Version::HTTP_2 => "2",
                http::Version::HTTP_10 => "1.0",
                _ => "1.1",
            };
            all.text("network.protocol.version", version);
            if let Some(grpc) = head.grpc() {
                all.text("rpc.system", "grpc");
                all.text("rpc.service", &grpc.service);
                all.text("rpc.method", &grpc.method);
            }
        }
        all.number("http.response.status_code", self.status.into());
        if let Some(code) = self.grpc_status {
            all.number("rpc.grpc.status_code", code.into());
        }
        all.number(
            "http.request.body.size",
            self.bytes_in.load(Ordering::Relaxed),
        );
        all.number("http.response.body.size", self.bytes_out);
        if self.attempts > 1 {
            all.number("http.request.resend_count", u64::from(self.attempts - 1));
        }
        if self.status >= 500 {
            all.text("error.type", &self.status.to_string());
        }
        all.known("http.route", self.route.as_deref());
        let peer = if self.is_inbound() {
            &self.ends.source.app
        } else {
            &self.ends.destination.app
        };
        all.text("peer.service", peer);
        all.known(
            "network.peer.address",
            self.upstream.as_deref().filter(|_| !self.is_inbound()),
        );
        all.known("reeve.service", self.service());
        let address = self.peer_address.map(|a| a.to_string());
        all.known("client.address", address.as_deref());
        all.known("reeve.peer.spiffe_id", self.peer_id());
        all.text("response_flags", flags);
        if let Some(decided) = &self.decided {
            all.text("reeve.decision.id", &decision_id(&decided.record));
            all.text("reeve.decision.effect", decided.effect());
            all.text("reeve.decision.reason", decided.decision.reason.as_str());
            let policies = decided.decision.policies.iter();
            let policies: Vec<String> = policies.map(ToString::to_string).collect();
            all.text("reeve.decision.policies", &policies.join(","));
        }
        all.0
    }

    fn peer_id(&self) -> Option<&str> {
        self.ends.source_principal.as_ref().map(SpiffeId::as_str)
    }

    fn service(&self) -> Option<&str> {
        self.ends.service.as_ref().map(ServiceName::as_str)
    }

    fn log_line(&self, flags: &str, outcome: &Outcome<'_>) {
        let (head, raw) = (self.head.as_deref(), self.raw.as_ref());
        let decided = self.decided.as_ref();
        let decision_id = decided.map(|d| decision_id(&d.record));
        let direction = match self.ends.reporter {
            "destination" => "inbound",
            _ => "outbound",
        };
        let of_raw = |part: fn(&RawHead) -> &str| raw.map(part).unwrap_or_default();
        let line = Line {
            log: "access",
            time: self.time,
            direction,
            trace_id: head.map_or_else(
                || raw.and_then(|raw| raw.trace_id.as_deref()),
                |h| h.trace_id.as_deref(),
            ),
            request_id: head.and_then(Head::request_id),
            decision_id: decision_id.as_deref(),
            record: decided.map(|d| &d.record),
            effect: decided.map(Decided::effect),
            reason: decided.map(|d| d.decision.reason.as_str()),
            policies: decided
                .map(|d| d.decision.policies.as_slice())
                .unwrap_or_default(),
            peer: self.peer_id().unwrap_or_default(),
            peer_address: self.peer_address,
            user: self.user.as_deref(),
            protocol: self.ends.protocol,
            method: head.map_or(of_raw(|raw| raw.method.as_str()), |h| h.method.as_str()),
            server_name: self.server_name.as_deref(),
            authority: head.map_or(of_raw(|raw| &raw.authority), |h| &h.authority),
            path: head.map(|h| h.path.as_str()).unwrap_or_default(),
            raw_path: head.map_or(of_raw(|raw| &raw.path), |h| &h.raw_path),
            route: self.route.as_deref(),
            service: self.service().unwrap_or_default(),
            upstream: self.upstream.as_deref(),
            attempts: self.attempts,
            response_code: self.status,
            grpc_status: self.grpc_status,
            flags,
            bytes_received: outcome.bytes_in,
            bytes_sent: outcome.bytes_out,
            duration_ms: outcome.duration_ms,
        };
        let told = Told {
            line,
            request: head.map(|h| &h.headers),
            query: head.and_then(|h| h.query.as_deref()),
            version: head.map(Head::protocol),
            response: self.response.as_ref().map(|r| &r.headers),
            trailers: self.response.as_ref().map(|r| &r.trailers),
            details: self.details,
            failure: self.failure.as_deref(),
            destination: self
                .destination
                .as_ref()
                .map(|(port, subset)| (*port, subset.as_deref())),
            server: self
                .ends
                .destination_principal
                .as_ref()
                .map(SpiffeId::as_str),
            server_name: self.server_name.as_deref(),
            local: self.local,
            peer_port: self.peer_port,
            response_ms: self.response_after.map(|t| t.as_secs_f64() * 1000.0),
            bodies: self.bodies.as_deref(),
        };
        self.hand_on(&told);
    }

    /// To the access log, and to whoever watches.
    fn hand_on(&self, told: &Told<'_>) {
        let proxy = &self.worker.proxy;
        proxy.log_format(|format| self.worker.log.write(told, format));
        if proxy.taps.is_on() {
            proxy.taps.offer(told);
        }
    }
}

/// What is kept of a response.
#[derive(Debug)]
struct Response {
    headers: HeaderMap,
    trailers: HeaderMap,
}

impl Decided {
    fn effect(&self) -> &'static str {
        match self.decision.effect {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.tell();
        if self.admitted {
            self.worker.proxy.in_flight.leave();
        }
    }
}
