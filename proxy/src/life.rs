//! The life of a request, top to bottom.
//!
//! Inbound: read the head and normalise its path → verify tokens → decide → record (`gate.rs`) → forward to the application
//! (`forward.rs`).
//! Outbound: read → route → (gateway: verify, decide, record) → choose a destination → (endpoint outside the mesh:
//! decide, record) → try endpoints. What a connection proved (its [`Peer`]) comes from `listener.rs`.

use std::{
    borrow::Cow,
    net::SocketAddr,
    num::NonZeroU64,
    sync::{Arc, Mutex, OnceLock},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use reeve_core::{
    SpiffeId,
    model::{Destination, OutboundPolicy, Protocol, RouteAction},
};
use reeve_svid::ClientDetails;
use tokio::time::timeout_at;

use crate::{
    answer::Answer,
    balance::HashOf,
    body::{Download, ResponseBody, Upload, whole},
    callers::{Held, Share},
    chance,
    cluster::Cluster,
    deadline,
    edge::ServerKey,
    elsewhere::Unknown,
    exchange::Exchange,
    fault,
    forward::{self, Answered, Outgoing},
    forwarded,
    gate::{answer_refused, clean, enter, judge, unread},
    head::Head,
    headers,
    judge::{Peer, Place, Question},
    ledger::lock,
    local::{local_answer, redirect},
    metrics::Ends,
    mirror,
    open::Origin,
    peer_info::PeerInfo,
    permit::{self, Changes, Permit, Recorded},
    pool::Dialect,
    pressure::Pressure,
    rate_limit::Asker,
    route::{CompiledRoute, RequestView, pick},
    snapshot::{Outbound, Routed, Snapshot},
    upgrade::{self, Wanted},
    worker::Worker,
};

/// The connection that a request came in on.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// The listener.
    pub(crate) bind: SocketAddr,
    pub(crate) peer: Peer,
    /// The peer's port.
    port: u16,
    /// What it may hold of the application; `None` where the application itself calls.
    share: Option<Arc<Share>>,
    /// How busy the application is; `None` there too.
    pressure: Option<Arc<Pressure>>,
    /// How it came to a gateway.
    edge: Edge,
    /// What the peer last said of its workload: the same for all requests of a connection, as a rule.
    told: Mutex<Option<(HeaderValue, Ends)>>,
}

impl Arrival {
    /// A connection to `bind` from `peer`.
    pub(crate) fn new(bind: SocketAddr, peer: Peer, port: u16) -> Self {
        Self {
            bind,
            peer,
            port,
            share: None,
            pressure: None,
            edge: Edge::default(),
            told: Mutex::default(),
        }
    }

    /// The same at a gateway.
    pub(crate) fn at_edge(self, edge: Edge) -> Self {
        Self { edge, ..self }
    }

    /// A connection to the application behind `bind`, of which each peer has a share.
    pub(crate) fn sharing(bind: SocketAddr, peer: Peer, port: u16, worker: &Worker) -> Self {
        Self {
            share: Some(worker.proxy.callers.connected(bind, &peer)),
            pressure: Some(worker.pressures.of(bind)),
            ..Self::new(bind, peer, port)
        }
    }

    /// A connection from outside to a gateway, of which each client has a share.
    pub(crate) fn from_outside(bind: SocketAddr, peer: Peer, port: u16, worker: &Worker) -> Self {
        Self {
            share: Some(worker.proxy.callers.connected(bind, &peer)),
            ..Self::new(bind, peer, port)
        }
    }

    /// Who asks: at a gateway, whom the proxies that it trusts speak for.
    fn client(&self, headers: &mut HeaderMap, snapshot: &Snapshot) -> Cow<'_, Peer> {
        if !snapshot.is_gateway() {
            return Cow::Borrowed(&self.peer);
        }
        let topology = &snapshot.workload().topology;
        Cow::Owned(Peer {
            address: forwarded::tell(headers, &self.peer, &self.edge, topology),
            ..self.peer.clone()
        })
    }

    /// Holds one more of the gateway for `client`: the peer itself, or who it says it speaks for.
    fn hold_for(&self, client: &Peer, worker: &Worker) -> Result<Option<Held>, &'static str> {
        if client.address == self.peer.address {
            return self.hold();
        }
        let share = worker.proxy.callers.connected(self.bind, client);
        share.hold().map(Some)
    }

    /// Takes one request's share of the application, or answers it.
    fn share_with(&self, worker: &Worker, exchange: &mut Exchange) -> Result<(), Answer> {
        exchange.holds(self.hold().map_err(Answer::too_many_requests)?);
        if let (Some(pressure), Some(share)) = (&self.pressure, &self.share) {
            let caller = share.key();
            if pressure.is_full_for(caller) && !worker.proxy.tasks.is_closed() {
                return Err(Answer::overloaded("app_overload"));
            }
            exchange.will_wait(pressure.clone(), caller);
        }
        Ok(())
    }

    /// Holds one more of the application, or names the limit that forbids it.
    pub(crate) fn hold(&self) -> Result<Option<Held>, &'static str> {
        self.share.as_ref().map(Share::hold).transpose()
    }

    /// Notes where the connection came from and went.
    pub(crate) fn note(&self, exchange: &mut Exchange) {
        exchange.between(SocketAddr::new(self.peer.address, self.port), self.bind);
    }

    /// The two ends of a request, as far as the connection and its peer tell them. Takes the peer's header away.
    fn ends(&self, headers: &mut HeaderMap) -> Ends {
        let Some(value) = headers
            .remove(headers::PEER)
            .filter(|_| self.peer.is_mtls())
        else {
            return Ends::inbound(&self.peer, None);
        };
        let mut told = lock(&self.told);
        if let Some((_, ends)) = told.as_ref().filter(|(last, _)| *last == value) {
            return ends.clone();
        }
        let info = PeerInfo::read(&value).map(Arc::new);
        let ends = Ends::inbound(&self.peer, info);
        *told = Some((value, ends.clone()));
        ends
    }
}

/// How a connection came to a gateway.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edge {
    /// The server that ended its TLS.
    pub(crate) server: Option<ServerKey>,
    /// Whether it came by TLS.
    pub(crate) is_secure: bool,
    /// The client's certificate.
    pub(crate) client: Option<Arc<ClientDetails>>,
}

type Served = Response<ResponseBody>;

/// A request to the workload.
pub(crate) async fn inbound(
    worker: &Arc<Worker>,
    arrival: &Arrival,
    request: Request<Incoming>,
) -> Served {
    let (mut parts, body) = request.into_parts();
    let wanted = Wanted::take(&mut parts);
    let mut exchange = Exchange::begin(worker, arrival.ends(&mut parts.headers));
    arrival.note(&mut exchange);
    let admitted = worker.admit(&mut exchange);
    if let Err(answer) = admitted.and_then(|()| arrival.share_with(worker, &mut exchange)) {
        return answer.unread(&parts, exchange);
    }
    let Some(snapshot) = worker.proxy.snapshot() else {
        return Answer::not_ready().unread(&parts, exchange);
    };
    let Some(inbound) = snapshot.inbound.get(&arrival.bind) else {
        return Answer::not_ready().unread(&parts, exchange);
    };
    exchange.ends.destination = snapshot.own.clone();
    exchange.ends.destination_principal = Some(snapshot.workload().identity.clone());
    exchange.ends.service = inbound.listener.services.first().cloned();

    let place = inbound.place.clone();
    let judged = judge(
        worker,
        &snapshot,
        &arrival.peer,
        place,
        parts,
        &mut exchange,
    )
    .await;
    let (permit, question) = match within_rate(&snapshot, &arrival.peer, judged) {
        Ok(judged) => judged,
        Err(answer) => return answer.into_response(exchange),
    };
    let origin = Origin::Inbound(arrival.bind);
    let record = &permit.proof().record;
    enter(worker, &snapshot, question, origin, record, &mut exchange);

    let (headers, version) = (&permit.head().headers, permit.head().version);
    let upload = upload(body, headers, version, &mut exchange);
    let dialect = dialect(inbound.listener.protocol, permit.head());
    let changes = match upgrade::changes(wanted.as_ref(), dialect) {
        Ok(changes) => changes,
        Err(answer) => return answer.into_response(exchange),
    };
    let end = exchange.end().clone();
    let sending = forward::to_app(
        worker,
        inbound,
        dialect,
        &permit,
        &changes,
        &upload,
        &mut exchange,
    );
    // Cancel-safe: a request that is no longer permitted is dropped with its connection.
    let answered = tokio::select! {
        answered = sending => answered,
        () = end.wait() => Err(Answer::ended()),
    };
    let mut response = match answered {
        Ok(response) => response,
        Err(answer) => return answer.into_response(exchange),
    };
    let switch = match upgrade::agreed(wanted, &mut response) {
        Ok(switch) => switch,
        Err(answer) => return answer.into_response(exchange),
    };
    clean_response(&snapshot, &arrival.peer, response.headers_mut());
    match switch {
        Some(switch) => switch.begin(response, exchange),
        None => deliver(response, exchange, None, None),
    }
}

/// Takes the tokens of a permitted request, or answers it: only now is it known who asks.
fn within_rate(
    snapshot: &Snapshot,
    peer: &Peer,
    judged: Result<(Permit<Recorded>, Question), Answer>,
) -> Result<(Permit<Recorded>, Question), Answer> {
    let (permit, question) = judged?;
    let asker = Asker {
        identity: peer.principal.spiffe_id().map(SpiffeId::as_str),
        address: peer.address,
        user: question.user.as_deref(),
    };
    let taken = snapshot.rate_limits.take(permit.head(), asker);
    taken.map_err(Answer::rate_limited)?;
    Ok((permit, question))
}

/// A request's body, counted as its exchange's.
fn upload(
    body: Incoming,
    headers: &HeaderMap,
    version: Version,
    exchange: &mut Exchange,
) -> Upload {
    let (messages, bodies) = (exchange.messages_of(headers), exchange.bodies());
    Upload::new(body, exchange.bytes_in().clone(), exchange.end().clone())
        .watched(messages, bodies)
        .when_wanted(headers, version)
}

/// What the application may not say goes; a mesh peer is told whose answer it is.
fn clean_response(snapshot: &Snapshot, peer: &Peer, headers: &mut HeaderMap) {
    headers::remove_hop_by_hop(headers);
    headers::remove_reserved(headers);
    if peer.is_mtls()
        && let Some(own) = snapshot.own_header.clone()
    {
        headers.insert(headers::PEER, own);
    }
}

/// A request of the workload, or from outside to a gateway.
pub(crate) async fn outbound(
    worker: &Arc<Worker>,
    arrival: &Arrival,
    request: Request<Incoming>,
) -> Served {
    let (mut parts, body) = request.into_parts();
    let wanted = Wanted::take(&mut parts);
    let mut exchange = Exchange::begin(worker, Ends::outbound());
    arrival.note(&mut exchange);
    if let Err(answer) = worker.admit(&mut exchange) {
        return answer.unread(&parts, exchange);
    }
    let Some(snapshot) = worker.proxy.snapshot() else {
        return Answer::not_ready().unread(&parts, exchange);
    };
    let outbound = snapshot.outbound.get(&arrival.bind);
    let server = arrival.edge.server.as_ref();
    let Some(outbound) = outbound.and_then(|outbound| outbound.inside(server)) else {
        return Answer::not_ready().unread(&parts, exchange);
    };
    if !snapshot.is_gateway() {
        exchange.ends.source = snapshot.own.clone();
        exchange.ends.source_principal = Some(snapshot.workload().identity.clone());
    }
    let upload = upload(body, &parts.headers, parts.version, &mut exchange);
    let peer = &*arrival.client(&mut parts.headers, &snapshot);
    match arrival.hold_for(peer, worker) {
        Ok(held) => exchange.holds(held),
        Err(limit) => return Answer::too_many_requests(limit).unread(&parts, exchange),
    }
    let arrived = Arrived {
        worker,
        snapshot: &snapshot,
        outbound,
        peer,
        scheme: match arrival.edge.is_secure {
            true => "https",
            false => "http",
        },
        wanted: wanted.as_ref(),
        origin: OnceLock::new(),
        chosen: OnceLock::new(),
    };
    let sent = arrived.serve(parts, &upload, &mut exchange).await;
    let (origin, chosen) = (arrived.origin.into_inner(), arrived.chosen.into_inner());
    let served = finish(sent, wanted, chosen, exchange);
    match origin {
        Some((route, origin)) => readable(served, &route, &origin),
        None => served,
    }
}

/// Lets `origin` read the answer, whoever gave it.
fn readable(mut served: Served, route: &CompiledRoute, origin: &HeaderValue) -> Served {
    if let Some(cors) = &route.cors {
        cors.mark(origin, served.headers_mut());
    }
    served
}

/// The response that the caller gets.
fn finish(
    sent: Result<Sent, Answer>,
    wanted: Option<Wanted>,
    chosen: Option<usize>,
    mut exchange: Exchange,
) -> Served {
    let (answered, route, deadline) = match sent {
        Ok(Sent::Upstream(answered, route, deadline)) => (answered, route, deadline),
        Ok(Sent::Local(response)) => {
            exchange.details = "direct_response";
            exchange.answered(response.status(), response.headers());
            let (parts, text) = response.into_parts();
            return Response::from_parts(parts, whole(text, exchange));
        }
        Err(answer) => return answer.into_response(exchange),
    };
    let mut response = answered;
    let switch = match upgrade::agreed(wanted, &mut response) {
        Ok(switch) => switch,
        Err(answer) => return answer.into_response(exchange),
    };
    headers::remove_hop_by_hop(response.headers_mut());
    response.headers_mut().remove(headers::OUTCOME);
    if let Some(info) = PeerInfo::take(response.headers_mut()) {
        exchange.ends.destination = Arc::new(info);
    }
    let own = chosen.and_then(|at| route.destination_edits.get(at)?.as_ref());
    if let Some(own) = own {
        own.response.apply(response.headers_mut());
    }
    route.response_edits.apply(response.headers_mut());
    match switch {
        Some(switch) => switch.begin(response, exchange),
        None => {
            let pace = fault::pace(&route, &exchange);
            deliver(response, exchange, deadline, pace)
        }
    }
}

/// An outbound request and what it is routed by.
struct Arrived<'a> {
    worker: &'a Arc<Worker>,
    snapshot: &'a Arc<Snapshot>,
    outbound: &'a Outbound,
    peer: &'a Peer,
    /// By which the caller came.
    scheme: &'static str,
    /// The upgrade that the caller asks for.
    wanted: Option<&'a Wanted>,
    /// The origin that may read the answer.
    origin: OnceLock<(Arc<CompiledRoute>, HeaderValue)>,
    /// Which of several destinations it went to, where that one has changes of its own.
    chosen: OnceLock<usize>,
}

/// Where a request goes.
enum Way {
    /// By this route, with this path.
    Route(Arc<CompiledRoute>, Option<String>),
    /// To where its authority says, if that may be.
    Elsewhere(OutboundPolicy),
}

enum Sent {
    Upstream(
        Response<Incoming>,
        Arc<CompiledRoute>,
        Option<tokio::time::Instant>,
    ),
    Local(Response<Bytes>),
}

impl Arrived<'_> {
    async fn serve(
        &self,
        parts: http::request::Parts,
        upload: &Upload,
        exchange: &mut Exchange,
    ) -> Result<Sent, Answer> {
        let (head, judged) = self.read(parts, exchange).await?;
        if let Some(location) = self.outbound.by_https(&head) {
            return redirect(&location).map(Sent::Local);
        }
        let (route, rewritten) = match self.route(&head, exchange)? {
            Way::Route(route, path) => (route, path),
            Way::Elsewhere(policy) => return self.elsewhere(policy, &head, upload, exchange).await,
        };
        if let Some(preflight) = self.cross_origin(&route, &head) {
            return Ok(Sent::Local(preflight));
        }
        fault::inject(&route, self.worker.ledger.now(), exchange).await?;
        let local = local_answer(&route, rewritten.as_deref(), &head, self.scheme);
        if let Some(local) = local {
            if let Some(wanted) = self.wanted {
                wanted.bears(local.status())?;
            }
            return Ok(Sent::Local(local));
        }
        let RouteAction::Forward {
            destinations,
            rewrite,
        } = &route.rule.action
        else {
            return Err(Answer::no_route());
        };
        let destination = pick(destinations, &mut chance::rng()).ok_or_else(Answer::no_cluster)?;
        exchange.ends.service = Some(destination.service.clone());
        exchange.destination = Some((destination.port, destination.subset.clone()));
        let cluster = self.cluster(destination).ok_or_else(Answer::no_cluster)?;
        let dialect = dialect(cluster.protocol, &head);
        let own_edits = route.edits_of(destination);
        let authority = rewrite.authority.as_deref();
        let authority = authority.or_else(|| route.request_edits.authority());
        let changes = Changes {
            path: rewritten.as_deref(),
            authority: authority.or_else(|| own_edits?.request.authority()),
            first_edits: own_edits.map(|edits| &edits.request),
            edits: Some(&route.request_edits),
            header: self.own_header(&cluster),
            ..upgrade::changes(self.wanted, dialect)?
        };
        self.mirror(&route, &head, &changes, upload);
        if own_edits.is_some() {
            self.note_choice(destinations, destination);
        }
        let hashed = self.hashed(&cluster, &head);
        route.retry.prepare(upload, &head);
        let plain = self
            .judge_outside(&cluster, destination, &head, exchange)
            .await?;
        let deadline = deadline::of(route.rule.timeout, &head);
        let permits = Permits {
            judged: judged.as_ref(),
            plain: plain.as_ref(),
            hash: hashed.hash,
        };
        let sending = self.send(&cluster, permits, &head, &changes, upload, &route, exchange);
        let mut response = match deadline {
            Some(at) => timeout_at(at, sending)
                .await
                .unwrap_or_else(|_| Err(Answer::timeout())),
            None => sending.await,
        }?;
        hashed.keep(response.headers_mut());
        Ok(Sent::Upstream(response, route, deadline))
    }

    fn note_choice(&self, all: &[Destination], chosen: &Destination) {
        let at = all.iter().position(|d| std::ptr::eq(d, chosen));
        let _once = self.chosen.set(at.unwrap_or_default());
    }

    /// What a request is hashed to, where that says which endpoint is its own.
    fn hashed(&self, cluster: &Cluster, head: &Head) -> HashOf {
        let by = cluster.traffic.hash.as_ref();
        let hashed = by.map(|by| HashOf::request(&by.key, head, self.peer.address));
        hashed.unwrap_or_default()
    }

    /// Reads the head; at a gateway it is judged as well.
    async fn read(
        &self,
        parts: http::request::Parts,
        exchange: &mut Exchange,
    ) -> Result<(Arc<Head>, Option<Permit<Recorded>>), Answer> {
        if self.snapshot.is_gateway() {
            let (worker, snapshot) = (self.worker, self.snapshot);
            let listener = &self.outbound.listener;
            let (port, protocol) = (listener.bind.port(), listener.protocol);
            let place = Arc::new(Place::gateway(snapshot.workload(), port, protocol));
            let (permit, question) =
                judge(worker, snapshot, self.peer, place, parts, exchange).await?;
            let record = &permit.proof().record;
            enter(
                worker,
                snapshot,
                question,
                Origin::Outbound,
                record,
                exchange,
            );
            Ok((permit.head().clone(), Some(permit)))
        } else {
            let mode = self.snapshot.workload().path_normalization;
            let mut head = Head::read(parts, mode).map_err(|e| unread(e, exchange))?;
            clean(self.worker, &mut head, exchange);
            let head = Arc::new(head);
            exchange.head(&head);
            Ok((head, None))
        }
    }

    fn route(&self, head: &Head, exchange: &mut Exchange) -> Result<Way, Answer> {
        let view = RequestView {
            scheme: self.scheme,
            ..head.view()
        };
        match self.snapshot.route(self.outbound, &view) {
            Routed::None { host } => {
                exchange.route = host.map(Into::into);
                Err(Answer::no_route())
            }
            Routed::Elsewhere(policy) => Ok(Way::Elsewhere(policy)),
            Routed::Route { route, taken, .. } => {
                exchange.route = Some(route.name.clone());
                exchange.stat_prefix = taken.stat_prefix;
                Ok(Way::Route(route, taken.path))
            }
        }
    }

    /// To an authority that stands for no service.
    async fn elsewhere(
        &self,
        policy: OutboundPolicy,
        head: &Arc<Head>,
        upload: &Upload,
        exchange: &mut Exchange,
    ) -> Result<Sent, Answer> {
        let unknown = Unknown {
            worker: self.worker,
            snapshot: self.snapshot,
            outbound: self.outbound,
            peer: self.own_peer(),
            head,
            wanted: self.wanted,
        };
        let (response, route, deadline) = unknown.serve(policy, upload, exchange).await?;
        Ok(Sent::Upstream(response, route, deadline))
    }

    /// Sends the copies that the route asks for; nobody waits for them. An upgrade has none.
    fn mirror(
        &self,
        route: &Arc<CompiledRoute>,
        head: &Arc<Head>,
        changes: &Changes<'_>,
        upload: &Upload,
    ) {
        if !route.rule.mirrors.is_empty() && self.wanted.is_none() {
            let from = mirror::From {
                worker: self.worker,
                snapshot: self.snapshot,
                peer: self.own_peer(),
                head,
                changes,
                route,
            };
            from.mirror(upload);
        }
    }

    /// Notes an origin that may read the answer; the answer itself, if this asks for nothing but that.
    fn cross_origin(&self, route: &Arc<CompiledRoute>, head: &Head) -> Option<Response<Bytes>> {
        let cors = route.cors.as_ref()?;
        if let Some(preflight) = cors.preflight(&head.method, &head.headers) {
            return Some(preflight);
        }
        if let Some(origin) = cors.allowed(&head.headers) {
            let _once = self.origin.set((route.clone(), origin));
        }
        None
    }

    fn cluster(&self, to: &Destination) -> Option<Arc<Cluster>> {
        let key = (to.service.clone(), to.subset.clone(), to.port);
        self.snapshot.clusters.get(&key).cloned()
    }

    fn own_header(&self, cluster: &Cluster) -> Option<(HeaderName, HeaderValue)> {
        let own = self
            .snapshot
            .own_header
            .clone()
            .filter(|_| cluster.is_meshed);
        own.map(|value| (headers::PEER, value))
    }

    /// Where an endpoint has no proxy that judges, this one does, before anything is sent.
    async fn judge_outside(
        &self,
        cluster: &Cluster,
        destination: &Destination,
        head: &Arc<Head>,
        exchange: &mut Exchange,
    ) -> Result<Option<Permit<Recorded>>, Answer> {
        if cluster.hops.iter().all(|hop| !hop.security.is_outside()) {
            return Ok(None);
        }
        let place = Arc::new(Place::outside_service(&cluster.service, destination.port));
        let question = Question {
            peer: self.own_peer(),
            place,
            user: None,
            head: Some(head.clone()),
        };
        let (worker, snapshot) = (self.worker, self.snapshot);
        let now = worker.ledger.now();
        let permit = permit::permit_request(&question, head, snapshot, &worker.ledger, now).await;
        let permit = permit.map_err(|refused| answer_refused(refused, exchange))?;
        if !snapshot.is_gateway() {
            let proof = permit.proof();
            exchange.decided(proof.record.clone(), proof.decision.clone());
            enter(
                worker,
                snapshot,
                question,
                Origin::Outbound,
                &proof.record,
                exchange,
            );
        }
        Ok(Some(permit))
    }

    /// The workload that this proxy stands beside, as the one who asks.
    fn own_peer(&self) -> Peer {
        Peer {
            principal: reeve_core::decision::Principal::Workload(
                self.snapshot.workload().identity.clone(),
            ),
            ..Peer::stranger(self.peer.address)
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the pieces of one upstream request"
    )]
    async fn send(
        &self,
        cluster: &Cluster,
        permits: Permits<'_>,
        head: &Arc<Head>,
        changes: &Changes<'_>,
        upload: &Upload,
        route: &CompiledRoute,
        exchange: &mut Exchange,
    ) -> Answered {
        let dialect = dialect(cluster.protocol, head);
        let (retry, plain, hash) = (&route.retry, permits.plain, permits.hash);
        let original = Some(self.outbound.listener.bind);
        let end = exchange.end().clone();
        let sending = async {
            match permits.judged {
                Some(permit) => {
                    Outgoing {
                        cluster,
                        permit,
                        plain,
                        changes,
                        upload,
                        retry,
                        dialect,
                        hash,
                        original,
                    }
                    .send(self.worker, exchange)
                    .await
                }
                None => {
                    let permit = &Permit::for_mesh_hop(head.clone());
                    Outgoing {
                        cluster,
                        permit,
                        plain,
                        changes,
                        upload,
                        retry,
                        dialect,
                        hash,
                        original,
                    }
                    .send(self.worker, exchange)
                    .await
                }
            }
        };
        // Cancel-safe: a request that is no longer permitted is dropped with its stream.
        tokio::select! {
            answered = sending => answered,
            () = end.wait() => Err(Answer::ended()),
        }
    }
}

struct Permits<'a> {
    judged: Option<&'a Permit<Recorded>>,
    plain: Option<&'a Permit<Recorded>>,
    hash: Option<u64>,
}

/// HTTP/2 where the port says so, or where the request can be nothing else.
pub(crate) fn dialect(protocol: Protocol, head: &Head) -> Dialect {
    match protocol {
        Protocol::Http2 | Protocol::Grpc => Dialect::Http2,
        Protocol::Http | Protocol::Tcp | Protocol::Tls => {
            let grpc = head.version == Version::HTTP_2 && head.is_grpc();
            if grpc { Dialect::Http2 } else { Dialect::Http1 }
        }
    }
}

fn deliver(
    response: Response<Incoming>,
    mut exchange: Exchange,
    deadline: Option<tokio::time::Instant>,
    pace: Option<NonZeroU64>,
) -> Served {
    exchange.details = "via_upstream";
    exchange.answered(response.status(), response.headers());
    response.map(|body| ResponseBody::new(Download::new(body, exchange, deadline).paced(pace)))
}
