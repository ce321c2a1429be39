//! The life of a request, top to bottom.
//!
//! Inbound: read the head and normalise its path → verify tokens → decide → record (`gate.rs`) → forward to the application
//! (`forward.rs`).
//! Outbound: read → route → (gateway: verify, decide, record) → choose a destination → (endpoint outside the mesh:
//! decide, record) → try endpoints. What a connection proved (its [`Peer`]) comes from `listener.rs`.

use std::{
    num::NonZeroU64,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use reeve_core::{
    SpiffeId,
    decision::User,
    model::{Destination, OutboundPolicy, Protocol, RouteAction},
};
use tokio::time::timeout_at;

use crate::{
    answer::Answer,
    arrival::Arrival,
    balance::HashOf,
    body::{Download, ResponseBody, Upload, whole},
    chance,
    cluster::Cluster,
    deadline,
    elsewhere::{self, Unknown},
    exchange::Exchange,
    fault,
    forward::{self, Answered, Outgoing},
    gate::{answer_refused, clean, enter, judge, unread},
    head::Head,
    headers,
    judge::{Peer, Place, Question},
    local::{local_answer, redirect},
    metrics::Ends,
    mirror,
    open::Origin,
    peer_info::PeerInfo,
    permit::{self, Changes, Permit, Recorded},
    pool::Dialect,
    rate_limit::Asker,
    route::{CompiledRoute, RequestView, pick},
    snapshot::{Inbound, Outbound, Routed, Snapshot},
    transform,
    upgrade::{self, Wanted},
    worker::Worker,
};

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
    let peer = &*arrival.client(&mut parts.headers, &snapshot);
    let upload = upload(body, &parts.headers, parts.version, &mut exchange);
    let asked = (parts, shown(&upload, wanted.as_ref()));
    let judged = judge(worker, &snapshot, peer, place, asked, &mut exchange).await;
    let within = within_rate(worker, &snapshot, peer, judged).await;
    let (permit, question, told) = match within {
        Ok(judged) => judged,
        Err(answer) => return answer.into_response(exchange),
    };
    let origin = Origin::Inbound(arrival.bind);
    let proof = permit.proof();
    enter(worker, &snapshot, question, origin, proof, &mut exchange);

    let sent = (&permit, wanted.as_ref(), &upload);
    let answered = to_app(worker, inbound, sent, &mut exchange).await;
    let mut response = match answered {
        Ok(response) => response,
        Err(answer) => return answer.into_response(exchange),
    };
    let switch = match upgrade::agreed(wanted, &mut response) {
        Ok(switch) => switch,
        Err(answer) => return answer.into_response(exchange),
    };
    clean_response(&snapshot, peer, response.headers_mut());
    response.headers_mut().extend(told);
    match switch {
        Some(switch) => switch.begin(response, exchange),
        None => deliver(response, exchange, None, None).await,
    }
}

/// Takes the tokens of a permitted request, or answers it: only now is it known who asks. With it comes what rate limit servers
/// have the caller told.
async fn within_rate(
    worker: &Worker,
    snapshot: &Snapshot,
    peer: &Peer,
    judged: Result<(Permit<Recorded>, Question), Answer>,
) -> Result<(Permit<Recorded>, Question, HeaderMap), Answer> {
    let (permit, question) = judged?;
    let mut told = question
        .said
        .as_ref()
        .map(|said| said.told.clone())
        .unwrap_or_default();
    let asker = Asker {
        identity: peer.principal.spiffe_id().map(SpiffeId::as_str),
        address: peer.address,
        user: question.user.as_deref(),
    };
    let taken = snapshot.rate_limits.take(permit.head(), asker);
    taken.map_err(Answer::rate_limited)?;
    let globals = &snapshot.global_limits;
    if !globals.is_empty() {
        let asking = globals.ask(permit.head(), asker, &worker.proxy.metrics);
        told.extend(Box::pin(asking).await?);
    }
    Ok((permit, question, told))
}

/// Sends a request to the application, as long as it is permitted.
async fn to_app(
    worker: &Worker,
    inbound: &Inbound,
    (permit, wanted, upload): (&Permit<Recorded>, Option<&Wanted>, &Upload),
    exchange: &mut Exchange,
) -> Answered {
    if wanted.is_none() {
        transform::upload(worker, &permit.head().headers, upload, exchange).await?;
    }
    let dialect = dialect(inbound.listener.protocol, permit.head());
    let changes = upgrade::changes(wanted, dialect)?;
    let end = exchange.end().clone();
    let sending = forward::to_app(worker, inbound, dialect, permit, &changes, upload, exchange);
    // Cancel-safe: a request that is no longer permitted is dropped with its connection.
    tokio::select! {
        answered = sending => answered,
        () = end.wait() => Err(Answer::ended()),
    }
}

/// What of a request may be shown to servers that are asked about it: what is upgraded has no body.
fn shown<'u>(upload: &'u Upload, wanted: Option<&Wanted>) -> Option<&'u Upload> {
    wanted.is_none().then_some(upload)
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
        told: OnceLock::new(),
    };
    let sent = arrived.serve(parts, &upload, &mut exchange).await;
    let (origin, chosen) = (arrived.origin.into_inner(), arrived.chosen.into_inner());
    let told = arrived.told.into_inner();
    let mut served = finish(sent, wanted, chosen, exchange).await;
    served.headers_mut().extend(told.unwrap_or_default());
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
async fn finish(
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
            deliver(response, exchange, deadline, pace).await
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
    /// What rate limit servers have the caller told.
    told: OnceLock<HeaderMap>,
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

/// A head that was read; at a gateway, its permit and the verified token.
type Read = (Arc<Head>, Option<Permit<Recorded>>, Option<Arc<User>>);

impl Arrived<'_> {
    async fn serve(
        &self,
        parts: http::request::Parts,
        upload: &Upload,
        exchange: &mut Exchange,
    ) -> Result<Sent, Answer> {
        let (head, judged, user) = self.read(parts, upload, exchange).await?;
        if let Some(location) = self.outbound.by_https(&head) {
            return redirect(&location).map(Sent::Local);
        }
        let (route, rewritten) = match self.route(&head, user.as_deref(), exchange)? {
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
        let cluster = self.cluster(destination, &head, exchange).await?;
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
        self.prepare(&head, upload, exchange).await?;
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
        upload: &Upload,
        exchange: &mut Exchange,
    ) -> Result<Read, Answer> {
        if self.snapshot.is_gateway() {
            let (worker, snapshot) = (self.worker, self.snapshot);
            let listener = &self.outbound.listener;
            let place = Arc::new(Place::gateway(snapshot.workload(), listener));
            let asked = (parts, shown(upload, self.wanted));
            let judged = judge(worker, snapshot, self.peer, place, asked, exchange).await;
            let within = within_rate(worker, snapshot, self.peer, judged).await;
            let (permit, question, told) = within?;
            let _once = self.told.set(told);
            let proof = permit.proof();
            let user = question.user.clone();
            enter(
                worker,
                snapshot,
                question,
                Origin::Outbound,
                proof,
                exchange,
            );
            Ok((permit.head().clone(), Some(permit), user))
        } else {
            let mode = |host: &str| self.snapshot.path_normalization(self.outbound, host);
            let mut head = Head::read_for(parts, mode).map_err(|e| unread(e, exchange))?;
            clean(self.worker, &mut head, exchange);
            let head = Arc::new(head);
            exchange.head(&head);
            Ok((head, None, None))
        }
    }

    fn route(
        &self,
        head: &Head,
        claims: Option<&User>,
        exchange: &mut Exchange,
    ) -> Result<Way, Answer> {
        let view = RequestView {
            scheme: self.scheme,
            claims,
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
        // On the heap, since few requests go there.
        let serving = Box::pin(unknown.serve(policy, upload, exchange));
        let (response, route, deadline) = serving.await?;
        Ok(Sent::Upstream(response, route, deadline))
    }

    /// Changes the body, where a transformation asks for that. An upgrade has none.
    async fn prepare(
        &self,
        head: &Head,
        upload: &Upload,
        exchange: &mut Exchange,
    ) -> Result<(), Answer> {
        match self.wanted {
            None => transform::upload(self.worker, &head.headers, upload, exchange).await,
            Some(_) => Ok(()),
        }
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

    /// Where a destination runs; one that has no place of its own, where the host that is called does.
    async fn cluster(
        &self,
        to: &Destination,
        head: &Arc<Head>,
        exchange: &mut Exchange,
    ) -> Result<Arc<Cluster>, Answer> {
        let key = (to.service.clone(), to.subset.clone(), to.port);
        let cluster = self.snapshot.clusters.get(&key).cloned();
        let cluster = cluster.ok_or_else(Answer::no_cluster)?;
        if cluster.service.patterns.is_empty() {
            return Ok(cluster);
        }
        let asked = (head.host(), to.port);
        let who = (self.own_peer(), Some(head));
        elsewhere::found(self.worker, self.snapshot, &cluster, asked, who, exchange).await
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
        let place = Place::outside_cluster(cluster, destination.port);
        let place = Arc::new(place);
        let question = Question {
            peer: self.own_peer(),
            place,
            user: None,
            head: Some(head.clone()),
            transformed: None,
            said: None,
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
                proof,
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

/// Hands a response on, changed where transformations ask for that.
async fn deliver(
    response: Response<Incoming>,
    mut exchange: Exchange,
    deadline: Option<tokio::time::Instant>,
    pace: Option<NonZeroU64>,
) -> Served {
    let response = match transform::response(response, deadline, &mut exchange).await {
        Ok(response) => response,
        Err(answer) => return answer.into_response(exchange),
    };
    exchange.details = "via_upstream";
    exchange.answered(response.status(), response.headers());
    response.map(|body| ResponseBody::new(Download::new(body, exchange, deadline).paced(pace)))
}
