//! The life of a request, top to bottom.
//!
//! Inbound: read the head and normalise its path → verify tokens → decide → record (`gate.rs`) → forward to the application
//! (`forward.rs`).
//! Outbound: read → route → (gateway: verify, decide, record) → choose a destination → (endpoint outside the mesh:
//! decide, record) → try endpoints. What a connection proved (its [`Peer`]) comes from `listener.rs`.

mod arrived;

use std::{
    num::NonZeroU64,
    sync::{Arc, OnceLock},
};

use http::{HeaderMap, HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use reeve_core::{SpiffeId, model::Protocol};

use self::arrived::{Arrived, Sent};
use crate::{
    answer::Answer,
    arrival::Arrival,
    body::{Download, ResponseBody, Upload, whole},
    exchange::Exchange,
    fault,
    forward::{self, Answered},
    gate::{enter, judge},
    head::Head,
    headers,
    judge::{Peer, Question},
    metrics::Ends,
    open::Origin,
    peer_info::PeerInfo,
    permit::{Permit, Recorded},
    pool::Dialect,
    rate_limit::Asker,
    route::CompiledRoute,
    snapshot::{Inbound, Snapshot},
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
