//! An outbound request on its way: read, routed, sent to an endpoint of where it leads.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use hyper::body::Incoming;
use reeve_core::{
    decision::User,
    model::{Destination, OutboundPolicy, RouteAction},
};
use tokio::time::timeout_at;

use super::{dialect, shown, within_rate};
use crate::{
    answer::Answer,
    balance::HashOf,
    body::Upload,
    chance,
    cluster::Cluster,
    deadline,
    elsewhere::{self, Unknown},
    exchange::Exchange,
    fault,
    forward::{Answered, Outgoing},
    gate::{answer_refused, clean, enter, judge, unread},
    head::Head,
    headers,
    judge::{Peer, Place, Question},
    local::{local_answer, redirect},
    mirror,
    open::Origin,
    permit::{self, Changes, Permit, Recorded},
    route::{CompiledRoute, RequestView, pick},
    snapshot::{Outbound, Routed, Snapshot},
    transform,
    upgrade::{self, Wanted},
    worker::Worker,
};

/// An outbound request and what it is routed by.
pub(super) struct Arrived<'a> {
    pub(super) worker: &'a Arc<Worker>,
    pub(super) snapshot: &'a Arc<Snapshot>,
    pub(super) outbound: &'a Outbound,
    pub(super) peer: &'a Peer,
    /// By which the caller came.
    pub(super) scheme: &'static str,
    /// The upgrade that the caller asks for.
    pub(super) wanted: Option<&'a Wanted>,
    /// The origin that may read the answer.
    pub(super) origin: OnceLock<(Arc<CompiledRoute>, HeaderValue)>,
    /// Which of several destinations it went to, where that one has changes of its own.
    pub(super) chosen: OnceLock<usize>,
    /// What rate limit servers have the caller told.
    pub(super) told: OnceLock<HeaderMap>,
}

/// Where a request goes.
enum Way {
    /// By this route, with this path.
    Route(Arc<CompiledRoute>, Option<String>),
    /// To where its authority says, if that may be.
    Elsewhere(OutboundPolicy),
}

/// What came of it.
pub(super) enum Sent {
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
    pub(super) async fn serve(
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
