//! Deciding: from what the proxy verified itself to a question, and from the question to a verdict.
//!
//! The request path, the re-judging of open streams and `route explain` all ask here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::HeaderName;
use reeve_audit::{AuthenticatedBy, DecisionRecordRef, Direction, Redacted};
use reeve_authz::{Engine, Needs};
use reeve_core::{
    UnixTime,
    decision::{
        AccessRequest, Action, AskedExternally, Decision, Effect, HttpContext, Principal, Reason,
        RequestContext, ResourceRef, User, apply_state,
    },
    model::{
        InboundListener, MtlsMode, OutboundListener, PathNormalization, Protocol, ServiceConfig,
        ServiceState, WorkloadConfig,
    },
};

use crate::{cluster::Cluster, external::Said, head::Head, query, snapshot::Snapshot};

/// The other end of a connection, as far as it was verified.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) principal: Principal,
    /// The client's address: the connection's own, or what a trusted proxy says.
    pub(crate) address: IpAddr,
    /// The connection's own, if that is another one.
    pub(crate) through: Option<IpAddr>,
    /// The server that its ClientHello names, in lower case.
    pub(crate) server_name: Option<Arc<str>>,
    pub(crate) authenticated_by: AuthenticatedBy,
}

impl Peer {
    /// A peer that has proved nothing.
    pub(crate) fn stranger(address: IpAddr) -> Self {
        Self {
            principal: Principal::Unauthenticated,
            address,
            through: None,
            server_name: None,
            authenticated_by: AuthenticatedBy::Nothing,
        }
    }

    /// The same, speaking for the client at `address`.
    pub(crate) fn for_client(self, address: IpAddr) -> Self {
        let own = self.connection_address();
        Self {
            address,
            through: (own != address).then_some(own),
            ..self
        }
    }

    /// Where the connection came from.
    pub(crate) fn connection_address(&self) -> IpAddr {
        self.through.unwrap_or(self.address)
    }

    /// The same, asking for the server `name`.
    pub(crate) fn asking_for(self, name: Option<&str>) -> Self {
        Self {
            server_name: name.map(|name| name.to_ascii_lowercase().into()),
            ..self
        }
    }

    /// The proxy's own workload, which asks for something itself.
    pub(crate) fn workload(workload: &WorkloadConfig) -> Self {
        Self {
            principal: Principal::Workload(workload.identity.clone()),
            ..Self::stranger(workload.address)
        }
    }

    pub(crate) fn is_mtls(&self) -> bool {
        self.authenticated_by == AuthenticatedBy::Mtls
    }
}

/// What is asked for, and the rules of the place where it is asked.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) direction: Direction,
    pub(crate) resource: ResourceRef,
    /// The address that the caller asked, where it is the workload's own.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) mtls: MtlsMode,
    pub(crate) state: ServiceState,
    /// What is expected there: on an HTTP port, a connection without requests is one that could not be read.
    pub(crate) protocol: Protocol,
    /// How paths are normalised there; none: as everywhere at this workload.
    pub(crate) path_normalization: Option<PathNormalization>,
}

impl Place {
    /// The workload behind an inbound listener.
    pub(crate) fn inbound(workload: &WorkloadConfig, listener: &InboundListener) -> Self {
        Self {
            direction: Direction::Inbound,
            resource: own_resource(workload),
            address: Some(listener.bind.ip()),
            port: listener.bind.port(),
            mtls: listener.mtls,
            state: listener.state,
            protocol: listener.protocol,
            path_normalization: Some(listener.path_normalization),
        }
    }

    /// What a connection here was made to, as far as it is known before it is judged.
    fn destination_ip(&self) -> Option<IpAddr> {
        let named = self.resource.address.map(|address| address.ip());
        self.address.or(named).filter(|ip| !ip.is_unspecified())
    }

    pub(crate) fn path_normalization(&self, snapshot: &Snapshot) -> PathNormalization {
        let own = self.path_normalization;
        own.unwrap_or(snapshot.workload().path_normalization)
    }

    /// The gateway itself, asked by the outside.
    pub(crate) fn gateway(workload: &WorkloadConfig, listener: &OutboundListener) -> Self {
        Self {
            direction: Direction::Outbound,
            resource: own_resource(workload),
            address: Some(listener.bind.ip()),
            port: listener.bind.port(),
            mtls: MtlsMode::Disable,
            state: ServiceState::Enforced,
            protocol: listener.protocol,
            path_normalization: listener.path_normalization,
        }
    }

    /// A service whose endpoint has no proxy that could judge.
    pub(crate) fn outside_service(service: &ServiceConfig, port: u16) -> Self {
        let known = service.ports.iter().find(|known| known.port == port);
        Self {
            direction: Direction::Outbound,
            resource: ResourceRef {
                workload: None,
                namespace: service.namespace.clone(),
                services: vec![service.name.clone()],
                address: None,
            },
            address: None,
            port,
            mtls: MtlsMode::Disable,
            state: ServiceState::Enforced,
            protocol: known.map_or(Protocol::Tcp, |known| known.protocol),
            path_normalization: None,
        }
    }

    /// The same of a cluster's; with the address where that was found by the host that is called.
    pub(crate) fn outside_cluster(cluster: &Cluster, port: u16) -> Self {
        let mut place = Self::outside_service(&cluster.service, port);
        if !cluster.service.patterns.is_empty() {
            place.resource.address = cluster.hops.first().map(|hop| hop.address);
        }
        place
    }

    /// An address outside the mesh, asked for by the workload itself; no policy can know it, so none is asked.
    pub(crate) fn passthrough(workload: &WorkloadConfig, to: SocketAddr) -> Self {
        Self {
            direction: Direction::Outbound,
            resource: somewhere(workload, Some(to)),
            address: None,
            port: to.port(),
            mtls: MtlsMode::Disable,
            state: ServiceState::Open,
            protocol: Protocol::Tcp,
            path_normalization: None,
        }
    }

    /// The same by HTTP, at an authority that stands for no service; without an address where nobody looked for one.
    pub(crate) fn elsewhere(workload: &WorkloadConfig, to: Option<SocketAddr>, port: u16) -> Self {
        Self {
            direction: Direction::Outbound,
            resource: somewhere(workload, to),
            address: None,
            port,
            mtls: MtlsMode::Disable,
            state: ServiceState::Open,
            protocol: Protocol::Http,
            path_normalization: None,
        }
    }
}

/// What is no service, as the resource of a decision about the workload's own call.
fn somewhere(workload: &WorkloadConfig, address: Option<SocketAddr>) -> ResourceRef {
    ResourceRef {
        workload: None,
        namespace: workload.namespace.clone(),
        services: Vec::new(),
        address,
    }
}

/// The workload itself as the resource of a decision: never what an authority header says.
fn own_resource(workload: &WorkloadConfig) -> ResourceRef {
    ResourceRef {
        workload: Some(workload.identity.clone()),
        namespace: workload.namespace.clone(),
        services: workload.services.clone(),
        address: None,
    }
}

/// A question: who asks for what, where. Kept while the stream is open, to be asked again.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) peer: Peer,
    pub(crate) place: Arc<Place>,
    pub(crate) user: Option<Arc<User>>,
    /// `None` = a TCP connection.
    pub(crate) head: Option<Arc<Head>>,
    /// What the request was before transformations changed it.
    pub(crate) transformed: Option<Arc<Transformed>>,
    /// What servers said that were asked about it beforehand.
    pub(crate) said: Option<Arc<Said>>,
}

/// A request that transformations changed.
#[derive(Clone, Debug)]
pub(crate) struct Transformed {
    /// As it was received.
    pub(crate) received: Arc<Head>,
    /// By whom it was changed.
    pub(crate) by: Vec<Arc<str>>,
}

/// A question answered.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) access: AccessRequest,
    pub(crate) decision: Decision,
    pub(crate) cost_us: u64,
    /// What is not recorded of the question; empty until it is recorded.
    pub(crate) redacted: Redacted,
    /// Whether it is about the request as it was received, before it was transformed.
    pub(crate) as_received: bool,
}

impl Question {
    /// Asks the policies of `snapshot`. SECURITY: a request that was transformed must be permitted as it was received as
    /// well, so that no transformation lets anything through.
    pub(crate) fn ask(&self, snapshot: &Snapshot, now: UnixTime) -> Verdict {
        let mut verdict = self.ask_policies(snapshot, now);
        verdict.decision.asked = self.asked();
        verdict
    }

    fn asked(&self) -> Vec<AskedExternally> {
        let said = self.said.as_ref();
        said.map(|said| said.asked.clone()).unwrap_or_default()
    }

    fn ask_policies(&self, snapshot: &Snapshot, now: UnixTime) -> Verdict {
        let Some(transformed) = &self.transformed else {
            return self.ask_about(self.head.as_ref(), snapshot, now);
        };
        let received = self.ask_about(Some(&transformed.received), snapshot, now);
        if !received.decision.is_allow() {
            return Verdict {
                as_received: true,
                ..received
            };
        }
        let mut sent = self.ask_about(self.head.as_ref(), snapshot, now);
        sent.cost_us = sent.cost_us.saturating_add(received.cost_us);
        // What would have been answered to either is told.
        sent.decision.shadow = sent.decision.shadow.or(received.decision.shadow);
        sent
    }

    fn ask_about(&self, head: Option<&Arc<Head>>, snapshot: &Snapshot, now: UnixTime) -> Verdict {
        let started = tokio::time::Instant::now();
        let access = self.access(head, snapshot, now);
        let decision = match self.place.state {
            ServiceState::Open => Decision::without_policy(Effect::Allow, Reason::ServiceOpen),
            state @ (ServiceState::Shadow | ServiceState::Enforced) => {
                apply_state(state, self.decide(&snapshot.engine, &access))
            }
        };
        let decision = if self.strict_refuses() {
            Decision::without_policy(Effect::Deny, Reason::PlaintextRefused)
        } else {
            decision
        };
        let cost_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        Verdict {
            access,
            decision,
            cost_us,
            redacted: Redacted::NONE,
            as_received: false,
        }
    }

    /// SECURITY: what cannot be read as HTTP where HTTP is expected does not slip past the policies on HTTP.
    fn decide(&self, engine: &Engine, access: &AccessRequest) -> Decision {
        match self.is_opaque() {
            true => engine.decide_opaque(access),
            false => engine.decide(access),
        }
    }

    /// Whether nothing could be read where HTTP is expected.
    pub(crate) fn is_opaque(&self) -> bool {
        self.head.is_none() && self.place.protocol.is_http()
    }

    /// An answer that was clear before the policies were asked.
    pub(crate) fn refuse(&self, snapshot: &Snapshot, now: UnixTime, reason: Reason) -> Verdict {
        Verdict {
            access: self.access(self.head.as_ref(), snapshot, now),
            decision: Decision {
                asked: self.asked(),
                ..Decision::without_policy(Effect::Deny, reason)
            },
            cost_us: 0,
            redacted: Redacted::NONE,
            as_received: false,
        }
    }

    /// STRICT takes nobody without a mesh certificate.
    pub(crate) fn strict_refuses(&self) -> bool {
        self.place.mtls == MtlsMode::Strict && !self.peer.is_mtls()
    }

    fn access(
        &self,
        head: Option<&Arc<Head>>,
        snapshot: &Snapshot,
        now: UnixTime,
    ) -> AccessRequest {
        let wanted = &snapshot.wanted_headers;
        self.access_with(head, snapshot.engine.needs(), wanted, now)
    }

    /// The same question to another engine, which looks at these headers.
    pub(crate) fn access_for(
        &self,
        engine: &Engine,
        wanted: &[HeaderName],
        now: UnixTime,
    ) -> AccessRequest {
        self.access_with(self.head.as_ref(), engine.needs(), wanted, now)
    }

    fn access_with(
        &self,
        head: Option<&Arc<Head>>,
        needs: &Needs,
        wanted: &[HeaderName],
        now: UnixTime,
    ) -> AccessRequest {
        let action = match head {
            Some(head) => Action::from_method(head.method.as_str()),
            None => Action::Connect,
        };
        AccessRequest {
            principal: self.peer.principal.clone(),
            user: self.user.clone(),
            action,
            resource: self.place.resource.clone(),
            context: RequestContext {
                destination_ip: self.place.destination_ip(),
                remote_ip: self.peer.through.map(|_| self.peer.address),
                sni: self.peer.server_name.clone(),
                source_ip: self.peer.connection_address(),
                port: self.place.port,
                mtls: self.peer.is_mtls(),
                time: now,
                http: head.map(|head| http_context(head, needs, wanted)),
            },
        }
    }

    /// The record of `verdict`, made under `snapshot`. What must not be recorded is taken out of it first, so that nothing
    /// is asked of it afterwards.
    pub(crate) fn record<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        verdict: &'a mut Verdict,
    ) -> DecisionRecordRef<'a> {
        verdict.redacted = snapshot.redaction.apply(&mut verdict.access);
        let head = self.head.as_deref();
        DecisionRecordRef {
            request: &verdict.access,
            decision: &verdict.decision,
            authenticated_by: self.peer.authenticated_by,
            direction: self.place.direction,
            generation: Some(snapshot.generation()),
            policy_hash: snapshot.policy_hash(),
            projection_hash: &snapshot.projection_hash,
            looked_for: &snapshot.looked_for,
            redacted: &verdict.redacted,
            mtls_mode: self.place.mtls,
            strict_would_refuse: self.place.direction == Direction::Inbound && !self.peer.is_mtls(),
            path_normalization: match head {
                Some(head) => head.normalization,
                None => self.place.path_normalization(snapshot),
            },
            trace_id: head.and_then(|h| h.trace_id.as_deref()),
            request_id: head.and_then(Head::request_id),
            transformations: match &self.transformed {
                Some(transformed) if !verdict.as_received => &transformed.by,
                Some(_) | None => &[],
            },
            cost_us: verdict.cost_us,
        }
    }
}

/// What policies and records see of a head.
pub(crate) fn http_context(head: &Head, needs: &Needs, wanted: &[HeaderName]) -> HttpContext {
    let query = head.query.as_deref().unwrap_or_default();
    let mut parameters = BTreeMap::new();
    for name in &needs.query {
        let values: BTreeSet<String> = query::values(query, name).into_iter().collect();
        if !values.is_empty() {
            parameters.insert(name.clone(), values);
        }
    }
    let mut named = BTreeMap::new();
    for name in wanted {
        let values = head.headers.get_all(name).iter();
        let text =
            |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let values: BTreeSet<String> = values.map(text).collect();
        if !values.is_empty() {
            named.insert(name.as_str().to_owned(), values);
        }
    }
    HttpContext {
        method: head.method.as_str().to_owned(),
        host: head.host().to_owned(),
        path: head.path.clone(),
        grpc: head.grpc(),
        headers: named,
        query: parameters,
    }
}

/// Reads heads of requests as the data path does, for those who measure what that costs.
#[derive(Debug)]
pub struct HeadReader {
    mode: PathNormalization,
    needs: Needs,
    wanted: Vec<HeaderName>,
}

impl HeadReader {
    /// For policies with these needs.
    pub fn new(needs: &Needs, mode: PathNormalization) -> Self {
        let named = needs.headers.iter();
        Self {
            mode,
            wanted: named
                .filter_map(|name| HeaderName::try_from(name).ok())
                .collect(),
            needs: needs.clone(),
        }
    }

    /// What policies see of it; `None` if it is answered before it is judged.
    pub fn read(&self, parts: http::request::Parts) -> Option<HttpContext> {
        let head = Head::read(parts, self.mode).ok()?;
        Some(http_context(&head, &self.needs, &self.wanted))
    }
}
