//! The life of a request, top to bottom.
//!
//! Inbound: read the head and normalise its path → verify tokens → decide → record → forward to the application.
//! Outbound: read → route → (gateway: verify, decide, record) → choose a destination → (endpoint outside the mesh:
//! decide, record) → try endpoints. What a connection proved (its [`Peer`](crate::judge::Peer)) comes from `listener.rs`.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use reeve_authz::{TokenLookup, Verified};
use reeve_core::{
    decision::{Reason, User},
    model::{Destination, InboundListener, Protocol, RouteAction},
};
use tokio::time::timeout_at;

use crate::{
    answer::Answer,
    body::{Download, ResponseBody, Upload, whole},
    cluster::{Cluster, Security},
    exchange::Exchange,
    forward::{self, Answered, Outgoing},
    head::{Head, HeadError, Unreadable},
    headers,
    judge::{Peer, Place, Question},
    metrics::Ends,
    open::Origin,
    path::PathError,
    peer_info::PeerInfo,
    permit::{self, Changes, Permit, Recorded, Refused},
    pool::Dialect,
    proxy::Shared,
    query,
    route::{CompiledRoute, pick},
    snapshot::{Outbound, Routed, Snapshot},
};

/// The connection that a request came in on.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    /// The listener.
    pub(crate) bind: SocketAddr,
    pub(crate) peer: Peer,
}

type Served = Response<ResponseBody>;

/// A request to the workload.
pub(crate) async fn inbound(
    proxy: Arc<Shared>,
    arrival: Arc<Arrival>,
    request: Request<Incoming>,
) -> Served {
    let (mut parts, body) = request.into_parts();
    let peer_info = PeerInfo::take(&mut parts.headers).filter(|_| arrival.peer.is_mtls());
    let mut exchange = Exchange::begin(&proxy.telemetry, inbound_ends(&arrival.peer, peer_info));
    exchange.peer_address = Some(arrival.peer.address);
    exchange.raw(&parts);
    if let Err(answer) = proxy.admit(&mut exchange) {
        return answer.into_response(exchange);
    }
    let Some(snapshot) = proxy.snapshot() else {
        return Answer::not_ready().into_response(exchange);
    };
    let Some(listener) = snapshot.inbound.get(&arrival.bind) else {
        return Answer::not_ready().into_response(exchange);
    };
    exchange.ends.destination = snapshot.own.clone();
    exchange.ends.destination_principal = snapshot.workload().identity.to_string();
    exchange.ends.service = listener
        .services
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();

    let place = Place::inbound(&snapshot, listener);
    let judged = judge(
        &proxy,
        &snapshot,
        &arrival.peer,
        place,
        parts,
        &mut exchange,
    );
    let (permit, question) = match judged {
        Ok(judged) => judged,
        Err(answer) => return answer.into_response(exchange),
    };
    enter(
        &proxy,
        &snapshot,
        question,
        Origin::Inbound(arrival.bind),
        &permit,
        &mut exchange,
    );

    let upload = Upload::new(body, exchange.bytes_in().clone(), exchange.end().clone());
    let dialect = app_dialect(listener, permit.head());
    let end = exchange.end().clone();
    let sending = forward::to_app(
        &proxy,
        listener.app,
        dialect,
        &permit,
        &upload,
        &mut exchange,
    );
    // Cancel-safe: a request that is no longer permitted is dropped with its connection.
    let answered = tokio::select! {
        answered = sending => answered,
        () = end.cancelled() => Err(Answer::ended()),
    };
    let mut response = match answered {
        Ok(response) => response,
        Err(answer) => return answer.into_response(exchange),
    };
    headers::remove_hop_by_hop(response.headers_mut());
    headers::remove_reserved(response.headers_mut());
    if arrival.peer.is_mtls()
        && let Some(own) = snapshot.own.to_value()
    {
        response.headers_mut().insert(headers::PEER, own);
    }
    deliver(response, exchange, None)
}

/// A request of the workload, or from outside to a gateway.
pub(crate) async fn outbound(
    proxy: Arc<Shared>,
    arrival: Arc<Arrival>,
    request: Request<Incoming>,
) -> Served {
    let (parts, body) = request.into_parts();
    let mut exchange = Exchange::begin(&proxy.telemetry, outbound_ends());
    exchange.peer_address = Some(arrival.peer.address);
    exchange.raw(&parts);
    if let Err(answer) = proxy.admit(&mut exchange) {
        return answer.into_response(exchange);
    }
    let Some(snapshot) = proxy.snapshot() else {
        return Answer::not_ready().into_response(exchange);
    };
    let Some(outbound) = snapshot.outbound.get(&arrival.bind) else {
        return Answer::not_ready().into_response(exchange);
    };
    if !snapshot.is_gateway() {
        exchange.ends.source = snapshot.own.clone();
        exchange.ends.source_principal = snapshot.workload().identity.to_string();
    }
    let upload = Upload::new(body, exchange.bytes_in().clone(), exchange.end().clone());
    let arrived = Arrived {
        proxy: &proxy,
        snapshot: &snapshot,
        outbound,
        peer: &arrival.peer,
    };
    let sent = arrived.serve(parts, &upload, &mut exchange).await;
    let (answered, route, deadline) = match sent {
        Ok(Sent::Upstream(answered, route, deadline)) => (answered, route, deadline),
        Ok(Sent::Local(response)) => {
            exchange.answered(response.status(), response.headers());
            let (parts, text) = response.into_parts();
            return Response::from_parts(parts, whole(text, exchange));
        }
        Err(answer) => return answer.into_response(exchange),
    };
    let mut response = answered;
    headers::remove_hop_by_hop(response.headers_mut());
    if let Some(info) = PeerInfo::take(response.headers_mut()) {
        exchange.ends.destination = info;
    }
    route.response_edits.apply(response.headers_mut());
    deliver(response, exchange, deadline)
}

/// Decode, normalise, verify tokens, decide, record: the way to a permit, inbound and at a gateway.
fn judge(
    proxy: &Shared,
    snapshot: &Snapshot,
    peer: &Peer,
    place: Place,
    parts: http::request::Parts,
    exchange: &mut Exchange,
) -> Result<(Permit<Recorded>, Question), Answer> {
    let now = proxy.ledger.now();
    let question = |head: Head, user| Question {
        peer: peer.clone(),
        place: place.clone(),
        user,
        head: Some(Arc::new(head)),
    };
    let refuse = |question: &Question, reason, exchange: &mut Exchange| {
        let verdict = question.refuse(snapshot, now, reason);
        let refused = permit::record_refusal(question, verdict, snapshot, &proxy.ledger);
        answer_refused(refused, exchange)
    };

    let mut head = match Head::read(parts, snapshot.workload().path_normalization) {
        Ok(head) => head,
        Err(Unreadable {
            error,
            raw: Some(raw),
        }) if error == HeadError::Path(PathError::Ambiguous) => {
            let question = question(*raw, None);
            let answer = refuse(&question, Reason::AmbiguousPath, exchange);
            return Err(if answer.status == StatusCode::FORBIDDEN {
                Answer::bad_head(error)
            } else {
                answer
            });
        }
        Err(Unreadable { error, .. }) => return Err(Answer::bad_head(error)),
    };
    clean(&mut head);

    let user = match snapshot.jwt.verify(&Tokens(&head), now) {
        Ok(verified) => apply_tokens(&mut head, verified),
        Err(error) => {
            tracing::debug!(%error, "a token does not verify");
            let question = question(head, None);
            exchange.head_of(&question);
            return Err(match refuse(&question, Reason::InvalidToken, exchange) {
                Answer {
                    status: StatusCode::FORBIDDEN,
                    ..
                } => Answer::invalid_token(exchange.decision_id()),
                answer => answer,
            });
        }
    };
    exchange.user = user.as_ref().map(|user| user.subject.clone());

    let question = question(head, user);
    exchange.head_of(&question);
    let Some(head) = &question.head else {
        return Err(Answer::unbuildable());
    };
    let permit = permit::permit_request(&question, head, snapshot, &proxy.ledger, now);
    let permit = permit.map_err(|refused| answer_refused(refused, exchange))?;
    exchange.decided(&permit.proof().record, &permit.proof().decision);
    Ok((permit, question))
}

/// Lists the stream as open; if the configuration changed meanwhile, asks again at once.
fn enter(
    proxy: &Shared,
    snapshot: &Arc<Snapshot>,
    question: Question,
    origin: Origin,
    permit: &Permit<Recorded>,
    exchange: &mut Exchange,
) {
    let record = permit.proof().record.clone();
    let guard = proxy
        .open
        .enter(question, origin, record, exchange.end().clone());
    if let Some(newer) = proxy
        .snapshot()
        .filter(|newer| !Arc::ptr_eq(newer, snapshot))
    {
        proxy
            .open
            .judge_one_again(&guard, &newer, &proxy.ledger, &proxy.metrics);
    }
    exchange.hold(guard);
}

/// An outbound request and what it is routed by.
struct Arrived<'a> {
    proxy: &'a Arc<Shared>,
    snapshot: &'a Arc<Snapshot>,
    outbound: &'a Outbound,
    peer: &'a Peer,
}

enum Sent {
    Upstream(
        Response<Incoming>,
        Arc<CompiledRoute>,
        Option<tokio::time::Instant>,
    ),
    Local(Response<String>),
}

impl Arrived<'_> {
    async fn serve(
        &self,
        parts: http::request::Parts,
        upload: &Upload,
        exchange: &mut Exchange,
    ) -> Result<Sent, Answer> {
        let gateway = self.snapshot.is_gateway();
        let (head, judged) = if gateway {
            let place = Place::gateway(self.snapshot, self.outbound.listener.bind.port());
            let (permit, question) =
                judge(self.proxy, self.snapshot, self.peer, place, parts, exchange)?;
            let (proxy, snapshot) = (self.proxy, self.snapshot);
            enter(
                proxy,
                snapshot,
                question,
                Origin::Outbound,
                &permit,
                exchange,
            );
            (permit.head().clone(), Some(permit))
        } else {
            let mode = self.snapshot.workload().path_normalization;
            let head = Head::read(parts, mode).map_err(|e| Answer::bad_head(e.error))?;
            let mut head = head;
            clean(&mut head);
            let head = Arc::new(head);
            exchange.head(&head);
            (head, None)
        };

        let (route, rewritten) = self.route(&head, exchange)?;
        let local = local_answer(&route, &head);
        if let Some(local) = local {
            return Ok(Sent::Local(local));
        }
        let RouteAction::Forward {
            destinations,
            rewrite_authority,
            ..
        } = &route.rule.action
        else {
            return Err(Answer::no_route());
        };
        let destination = pick(destinations, &mut rand::rng()).ok_or_else(Answer::no_cluster)?;
        exchange.ends.service = destination.service.to_string();
        let cluster = self.cluster(destination).ok_or_else(Answer::no_cluster)?;
        let changes = Changes {
            path: rewritten.as_deref(),
            authority: rewrite_authority.as_deref(),
            edits: Some(&route.request_edits),
            headers: self.own_headers(&cluster),
        };
        let plain = self.judge_outside(&cluster, destination, &head, exchange)?;
        let deadline = forward::deadline(route.rule.timeout);
        let permits = Permits {
            judged: judged.as_ref(),
            plain: plain.as_ref(),
        };
        let sending = self.send(&cluster, permits, &head, &changes, upload, &route, exchange);
        let end_sent = match deadline {
            Some(at) => timeout_at(at, sending)
                .await
                .unwrap_or_else(|_| Err(Answer::timeout())),
            None => sending.await,
        };
        Ok(Sent::Upstream(end_sent?, route, deadline))
    }

    fn route(
        &self,
        head: &Head,
        exchange: &mut Exchange,
    ) -> Result<(Arc<CompiledRoute>, Option<String>), Answer> {
        match self.snapshot.route(self.outbound, &head.view()) {
            Routed::None { host } => {
                exchange.route = host.map(str::to_owned);
                Err(Answer::no_route())
            }
            Routed::Route {
                route,
                host,
                index,
                rewritten,
            } => {
                let name = route.rule.name.clone().unwrap_or_else(|| index.to_string());
                let host = host.unwrap_or("-");
                exchange.route = Some(format!("{host}/{name}"));
                Ok((route, rewritten))
            }
        }
    }

    fn cluster(&self, to: &Destination) -> Option<Arc<Cluster>> {
        let key = (to.service.clone(), to.subset.clone(), to.port);
        self.snapshot.clusters.get(&key).cloned()
    }

    fn own_headers(&self, cluster: &Cluster) -> Vec<(HeaderName, HeaderValue)> {
        let meshed = cluster
            .hops
            .iter()
            .any(|hop| matches!(hop.security, Security::Mesh(_)));
        let own = self.snapshot.own.to_value().filter(|_| meshed);
        own.map(|value| (headers::PEER, value))
            .into_iter()
            .collect()
    }

    /// Where an endpoint has no proxy that judges, this one does, before anything is sent.
    fn judge_outside(
        &self,
        cluster: &Cluster,
        destination: &Destination,
        head: &Arc<Head>,
        exchange: &mut Exchange,
    ) -> Result<Option<Permit<Recorded>>, Answer> {
        if cluster
            .hops
            .iter()
            .all(|hop| hop.security != Security::Plain)
        {
            return Ok(None);
        }
        let place = Place::outside_service(&cluster.service, destination.port);
        let question = Question {
            peer: self.own_peer(),
            place,
            user: None,
            head: Some(head.clone()),
        };
        let now = self.proxy.ledger.now();
        let ledger = &self.proxy.ledger;
        let permit = permit::permit_request(&question, head, self.snapshot, ledger, now);
        let permit = permit.map_err(|refused| answer_refused(refused, exchange))?;
        if !self.snapshot.is_gateway() {
            exchange.decided(&permit.proof().record, &permit.proof().decision);
            let (proxy, snapshot) = (self.proxy, self.snapshot);
            enter(
                proxy,
                snapshot,
                question,
                Origin::Outbound,
                &permit,
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
        let dialect = outside_dialect(cluster.protocol, head);
        let (retry, plain) = (&route.retry, permits.plain);
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
                    }
                    .send(self.proxy, exchange)
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
                    }
                    .send(self.proxy, exchange)
                    .await
                }
            }
        };
        // Cancel-safe: a request that is no longer permitted is dropped with its stream.
        tokio::select! {
            answered = sending => answered,
            () = end.cancelled() => Err(Answer::ended()),
        }
    }
}

struct Permits<'a> {
    judged: Option<&'a Permit<Recorded>>,
    plain: Option<&'a Permit<Recorded>>,
}

/// What never crosses a hop goes, what every request carries is there; before anything is judged.
fn clean(head: &mut Head) {
    headers::remove_hop_by_hop(&mut head.headers);
    headers::remove_reserved(&mut head.headers);
    headers::ensure_ids(&mut head.headers);
}

fn answer_refused(refused: Refused, exchange: &mut Exchange) -> Answer {
    match refused {
        Refused::Denied {
            decision,
            decision_id,
            record,
        } => {
            exchange.decided(&record, &decision);
            if decision.reason == Reason::PlaintextRefused {
                Answer::plaintext_refused(decision_id)
            } else {
                Answer::denied(decision_id)
            }
        }
        Refused::NotRecorded => Answer::not_recorded(),
    }
}

/// Removes and sets what the tokens' rules say, before the request is judged: it is judged as it is sent.
fn apply_tokens(head: &mut Head, verified: Verified) -> Option<User> {
    for name in &verified.strip_headers {
        head.headers.remove(name.as_str());
    }
    if !verified.strip_query.is_empty()
        && let Some(text) = head.query.take()
    {
        head.query = query::without(&text, &verified.strip_query);
    }
    for (name, value) in &verified.set_headers {
        let pair = (
            HeaderName::try_from(name.as_str()),
            HeaderValue::try_from(value.as_str()),
        );
        if let (Ok(name), Ok(value)) = pair {
            head.headers.append(name, value);
        }
    }
    verified.user
}

struct Tokens<'h>(&'h Head);

impl TokenLookup for Tokens<'_> {
    fn header_values(&self, name: &str) -> Vec<&[u8]> {
        self.0
            .headers
            .get_all(name)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect()
    }

    fn query_values(&self, name: &str) -> Vec<String> {
        query::values(self.0.query.as_deref().unwrap_or_default(), name)
    }
}

/// HTTP/2 where the application's port says so, or where the request can be nothing else.
fn app_dialect(listener: &InboundListener, head: &Head) -> Dialect {
    outside_dialect(listener.protocol, head)
}

fn outside_dialect(protocol: Protocol, head: &Head) -> Dialect {
    match protocol {
        Protocol::Http2 | Protocol::Grpc => Dialect::Http2,
        Protocol::Http | Protocol::Tcp | Protocol::Tls => {
            let grpc = head.version == Version::HTTP_2 && head.is_grpc();
            if grpc { Dialect::Http2 } else { Dialect::Http1 }
        }
    }
}

/// The answer of a route that needs no upstream.
fn local_answer(route: &CompiledRoute, head: &Head) -> Option<Response<String>> {
    let mut response = match &route.rule.action {
        RouteAction::Forward { .. } => return None,
        RouteAction::Respond { status, body } => {
            let mut response = Response::new(body.clone());
            *response.status_mut() = StatusCode::from_u16(*status).unwrap_or_default();
            response
        }
        RouteAction::Redirect {
            uri,
            authority,
            code,
        } => {
            let authority = authority.as_deref().unwrap_or(&head.authority);
            let target = uri.clone().unwrap_or_else(|| head.target());
            let location = HeaderValue::try_from(format!("http://{authority}{target}")).ok()?;
            let mut response = Response::new(String::new());
            *response.status_mut() = StatusCode::from_u16(*code).unwrap_or_default();
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
    };
    route.response_edits.apply(response.headers_mut());
    Some(response)
}

fn deliver(
    response: Response<Incoming>,
    mut exchange: Exchange,
    deadline: Option<tokio::time::Instant>,
) -> Served {
    exchange.answered(response.status(), response.headers());
    response.map(|body| ResponseBody::new(Download::new(body, exchange, deadline)))
}

fn inbound_ends(peer: &Peer, info: Option<PeerInfo>) -> Ends {
    let id = peer.principal.spiffe_id();
    let namespace = || {
        let parts = id.and_then(reeve_core::SpiffeId::namespace_and_account);
        parts
            .map(|(namespace, _)| namespace.to_string())
            .unwrap_or_default()
    };
    let source = info.unwrap_or_else(|| PeerInfo {
        namespace: namespace(),
        ..PeerInfo::default()
    });
    Ends {
        reporter: "destination",
        source,
        source_principal: id.map(ToString::to_string).unwrap_or_default(),
        protocol: "http",
        security: if peer.is_mtls() { "mutual_tls" } else { "none" },
        ..Ends::default()
    }
}

fn outbound_ends() -> Ends {
    Ends {
        reporter: "source",
        protocol: "http",
        ..Ends::default()
    }
}
