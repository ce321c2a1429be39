//! The life of a request, top to bottom.
//!
//! Inbound: read the head and normalise its path → verify tokens → decide → record (`gate.rs`) → forward to the application
//! (`forward.rs`).
//! Outbound: read → route → (gateway: verify, decide, record) → choose a destination → (endpoint outside the mesh:
//! decide, record) → try endpoints. What a connection proved (its [`Peer`]) comes from `listener.rs`.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use reeve_core::model::{Destination, InboundListener, Protocol, RouteAction};
use tokio::time::timeout_at;

use crate::{
    answer::Answer,
    body::{Download, ResponseBody, Upload, whole},
    cluster::{Cluster, Security},
    exchange::Exchange,
    forward::{self, Answered, Outgoing},
    gate::{answer_refused, clean, enter, judge},
    head::Head,
    headers,
    judge::{Peer, Place, Question},
    local::local_answer,
    metrics::Ends,
    open::Origin,
    peer_info::PeerInfo,
    permit::{self, Changes, Permit, Recorded},
    pool::Dialect,
    proxy::Shared,
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
    let mut exchange = Exchange::begin(&proxy.telemetry, Ends::inbound(&arrival.peer, peer_info));
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
    clean_response(&snapshot, &arrival.peer, response.headers_mut());
    deliver(response, exchange, None)
}

/// What the application may not say goes; a mesh peer is told whose answer it is.
fn clean_response(snapshot: &Snapshot, peer: &Peer, headers: &mut HeaderMap) {
    headers::remove_hop_by_hop(headers);
    headers::remove_reserved(headers);
    if peer.is_mtls()
        && let Some(own) = snapshot.own.to_value()
    {
        headers.insert(headers::PEER, own);
    }
}

/// A request of the workload, or from outside to a gateway.
pub(crate) async fn outbound(
    proxy: Arc<Shared>,
    arrival: Arc<Arrival>,
    request: Request<Incoming>,
) -> Served {
    let (parts, body) = request.into_parts();
    let mut exchange = Exchange::begin(&proxy.telemetry, Ends::outbound());
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
            clean(self.proxy, &mut head, exchange);
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

fn deliver(
    response: Response<Incoming>,
    mut exchange: Exchange,
    deadline: Option<tokio::time::Instant>,
) -> Served {
    exchange.answered(response.status(), response.headers());
    response.map(|body| ResponseBody::new(Download::new(body, exchange, deadline)))
}
