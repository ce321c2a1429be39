//! Sending a permitted request: choosing an endpoint, trying, trying again.

use std::{net::SocketAddr, pin::pin, time::Duration};

use http::{Response, Version};
use hyper::body::Incoming;
use rand::Rng as _;
use reeve_core::{error_chain, model::H2Upgrade};
use tokio::time::{sleep, timeout};

use crate::{
    answer::{Answer, http_status_of},
    balance::Wish,
    body::Upload,
    chance,
    cluster::{Cluster, Hop, Security},
    connect::ConnectError,
    exchange::Exchange,
    gauge::Entered,
    headers::OUTCOME,
    limits::MAX_HTTP1_LINKS,
    outlier::Seen,
    permit::{Changes, Permit, Recorded},
    pool::{Dialect, Lease, SendError, Sent, Terms},
    route::{Failure, RetryOn},
    snapshot::Inbound,
    worker::Worker,
};

/// How often a request that was surely not processed is sent again beyond what the retry policy says: connections
/// end when credentials change, and no request may fail for that.
pub(crate) const MAX_SAFE_RESENDS: u32 = 4;

/// A response, and whether the tries are used up.
pub(crate) type Answered = Result<Response<Incoming>, Answer>;

/// Sends a judged request to the application itself.
pub(crate) async fn to_app(
    worker: &Worker,
    inbound: &Inbound,
    dialect: Dialect,
    permit: &Permit<Recorded>,
    changes: &Changes<'_>,
    upload: &Upload,
    exchange: &mut Exchange,
) -> Answered {
    let pressure = exchange.waits_for();
    let mut sending = pin!(try_app(
        worker, inbound, dialect, permit, changes, upload, exchange
    ));
    let Some((pressure, caller)) = pressure else {
        return sending.await;
    };
    // Cancel-safe: `sending` goes on below.
    tokio::select! {
        answered = &mut sending => return answered,
        () = upload.sent() => {}
    }
    let waiting = pressure.enter(caller);
    let answered = sending.await;
    match &answered {
        Ok(_) => waiting.answered(),
        Err(_) => waiting.failed(),
    }
    answered
}

async fn try_app(
    worker: &Worker,
    inbound: &Inbound,
    dialect: Dialect,
    permit: &Permit<Recorded>,
    changes: &Changes<'_>,
    upload: &Upload,
    exchange: &mut Exchange,
) -> Answered {
    let app = inbound.listener.app;
    exchange.upstream = Some(inbound.upstream.clone());
    if let Some(pool) = &inbound.listener.pool {
        let begun = inbound.under_way.begin(pool);
        exchange.counted(begun.map_err(Answer::overflow)?);
    }
    exchange.under_way();
    let mut resends = 0;
    loop {
        exchange.attempts += 1;
        let request = permit.request(version(dialect), changes, upload.attempt());
        let request = request.map_err(|_| Answer::unbuildable())?;
        let sent = worker
            .pools
            .send_plain(app, dialect, request, Terms::of_app(inbound))
            .await;
        match sent {
            Ok((response, lease)) => {
                exchange.lease(lease);
                return Ok(response);
            }
            Err(error) if resends < MAX_SAFE_RESENDS && is_safe(&error, permit, upload) => {
                resends += 1;
            }
            Err(SendError::Overflow(overflow)) => return Err(Answer::overflow(overflow)),
            Err(error) => {
                tracing::debug!(%error, %app, "the application did not answer");
                exchange.failure = Some(error_chain(&error));
                return Err(Answer::upstream_failed(error.flag()));
            }
        }
    }
}

fn version(dialect: Dialect) -> Version {
    match dialect {
        Dialect::Http1 => Version::HTTP_11,
        Dialect::Http2 => Version::HTTP_2,
    }
}

/// Whether sending once more cannot make the endpoint act twice (RFC 9110 section 9.2.2 for a stale connection).
fn is_safe<P>(error: &SendError, permit: &Permit<P>, upload: &Upload) -> bool {
    upload.is_whole()
        && match error {
            SendError::Unsent(_) | SendError::Refused(_) => true,
            SendError::Stale(_) => permit.head().method.is_idempotent(),
            SendError::Connect(_) | SendError::Reset(_) | SendError::Overflow(_) => false,
        }
}

/// One request on its way out of the workload or gateway.
#[derive(Debug)]
pub(crate) struct Outgoing<'a, P> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) permit: &'a Permit<P>,
    /// The permit for endpoints where nobody judges after us.
    pub(crate) plain: Option<&'a Permit<Recorded>>,
    pub(crate) changes: &'a Changes<'a>,
    pub(crate) upload: &'a Upload,
    pub(crate) retry: &'a RetryOn,
    pub(crate) dialect: Dialect,
    /// What it is hashed to, where that says which endpoint is its own.
    pub(crate) hash: Option<u64>,
    /// The address that the caller asked for.
    pub(crate) original: Option<SocketAddr>,
}

/// Why a try was in vain.
enum Vain {
    Failed(SendError),
    Timeout,
}

type Tried = Result<(Response<Incoming>, Option<Lease>), Vain>;

/// What comes after a try.
enum Next {
    /// Its outcome is the request's.
    Done,
    /// The same once more: it surely was not processed.
    Resend,
    /// Another try, counted while it is outstanding.
    Retry(Option<Entered>),
}

impl<P> Outgoing<'_, P> {
    /// Tries one endpoint once, within the cluster's bounds: how copies are sent.
    pub(crate) async fn send_copy(
        &self,
        worker: &Worker,
    ) -> Option<(Response<Incoming>, Option<Lease>)> {
        self.cluster.spare(&mut chance::rng()).ok()?;
        let _counted = self.cluster.state().begin(&self.cluster.traffic).ok()?;
        let wish = self.wish(&[]);
        let hop = self.cluster.choose(&wish, &mut chance::rng())?.clone();
        let _busy = hop.load.enter();
        match self.attempt(worker, &hop).await {
            Ok(answered) => Some(answered),
            Err(vain) => {
                tracing::debug!(failure = ?vain.failure(), "a copy of a request was not answered");
                None
            }
        }
    }

    /// Tries endpoints until one answers, within the retry policy.
    pub(crate) async fn send(&self, worker: &Worker, exchange: &mut Exchange) -> Answered {
        let cluster = self.cluster;
        let spared = cluster.spare(&mut chance::rng());
        spared.map_err(Answer::overflow)?;
        let begun = cluster.state().begin(&cluster.traffic);
        exchange.counted(begun.map_err(Answer::overflow)?);
        let mut tried: Vec<SocketAddr> = Vec::new();
        let (mut retries, mut resends) = (0, 0);
        let mut retrying = None;
        loop {
            let Some(hop) = cluster
                .choose(&self.wish(&tried), &mut chance::rng())
                .cloned()
            else {
                return Err(Answer::no_endpoint());
            };
            exchange.attempts += 1;
            note_upstream(exchange, &hop);
            exchange.under_way();
            exchange.busy(hop.load.enter());
            let outcome = self.attempt(worker, &hop).await;
            // The retry is no longer outstanding.
            drop(retrying.take());
            match self.after(&outcome, retries, resends, exchange) {
                Next::Done => {
                    self.see(worker, &hop, &outcome);
                    return self.done(outcome, exchange);
                }
                Next::Resend => resends += 1,
                Next::Retry(counted) => {
                    self.see(worker, &hop, &outcome);
                    drop(outcome);
                    tried.push(hop.address);
                    sleep(jittered(self.retry.most_backoff(retries))).await;
                    retrying = counted;
                    retries += 1;
                }
            }
        }
    }

    fn wish<'t>(&self, tried: &'t [SocketAddr]) -> Wish<'t> {
        // As in Istio, a request with a home goes back there, unless the route says otherwise.
        let passes_over = self.retry.ignore_previous;
        let passes_over = passes_over.unwrap_or(self.cluster.table.is_none());
        Wish {
            tried,
            again: !passes_over,
            elsewhere: self.retry.remote_localities,
            hash: self.hash,
            original: self.original,
        }
    }

    /// What to do after a try.
    fn after(&self, outcome: &Tried, retries: u32, resends: u32, exchange: &mut Exchange) -> Next {
        let wanted = match outcome {
            Ok((response, _)) => {
                let (status, headers) = (response.status(), response.headers());
                let asked = &self.permit.head().headers;
                // The far proxy's own answer, for an application that may have acted.
                let unknown = headers.contains_key(OUTCOME);
                self.retry.attempts > 0
                    && self.retry.covers_response(status, headers, asked)
                    && (!unknown || self.permit.head().method.is_idempotent())
            }
            Err(Vain::Failed(error))
                if resends < MAX_SAFE_RESENDS && is_safe(error, self.permit, self.upload) =>
            {
                return Next::Resend;
            }
            Err(vain) => self.retry.attempts > 0 && self.may_repeat(vain.kind()),
        };
        if !wanted || !self.upload.is_whole() {
            return Next::Done;
        }
        if retries >= self.retry.attempts {
            exchange.flag("URX");
            return Next::Done;
        }
        let cluster = self.cluster;
        match cluster.state().retry(&cluster.traffic) {
            Ok(counted) => Next::Retry(counted),
            Err(overflow) => {
                exchange.flag("UO");
                exchange.limited(overflow.limit());
                Next::Done
            }
        }
    }

    /// Whether a try that failed in this way may be repeated. INVARIANT: a request that may have been processed, and is
    /// not idempotent, never is, whatever the policy says: nobody knows what came of it, and so it has failed.
    fn may_repeat(&self, failure: Failure) -> bool {
        let harmless = failure.is_harmless() || self.permit.head().method.is_idempotent();
        harmless && self.retry.covers(failure)
    }

    fn done(&self, outcome: Tried, exchange: &mut Exchange) -> Answered {
        match outcome {
            Ok((response, lease)) => {
                exchange.lease(lease);
                Ok(response)
            }
            Err(vain) => {
                exchange.failure = vain.failure();
                Err(vain.answer())
            }
        }
    }

    /// Counts what came of a try against the endpoint, where that is looked at.
    fn see(&self, worker: &Worker, hop: &Hop, outcome: &Tried) {
        if self.cluster.traffic.outlier.is_none() {
            return;
        }
        let seen = match outcome {
            Ok((response, _)) => Seen::Status(effective_status(response)),
            Err(Vain::Failed(SendError::Overflow(_))) => return,
            Err(Vain::Failed(_)) => Seen::Local(503),
            Err(Vain::Timeout) => Seen::Local(504),
        };
        if let Some(cause) = self.cluster.saw(hop, seen) {
            worker.proxy.ejected(self.cluster, hop, cause);
        }
    }

    /// What is spoken on the mesh hop. An HTTP/1.1 request alone costs least on a connection of its own; many at once
    /// cost least together on HTTP/2 (docs/performance.md). What needs HTTP/2 has it.
    fn link(&self, hop: &Hop) -> Dialect {
        // Interim responses and upgrades come through on HTTP/1.1 alone.
        if self.changes.upgrade.is_some() || self.upload.awaits_continue() {
            return Dialect::Http1;
        }
        let simple =
            self.permit.head().version != Version::HTTP_2 && self.dialect == Dialect::Http1;
        let http = &self.cluster.traffic.http;
        // Where nothing is shared, HTTP/2 has nothing to give; where connections are bounded, each carries one request,
        // as the bound means it.
        let alone = || {
            let terms = self.cluster.terms();
            terms.is_one_each() || terms.bounds_connections()
        };
        let wanted = match http.upgrade {
            H2Upgrade::Upgrade => false,
            H2Upgrade::DoNotUpgrade | H2Upgrade::UseClientProtocol => true,
            H2Upgrade::Default => hop.load.now() <= MAX_HTTP1_LINKS || alone(),
        };
        if simple && wanted {
            Dialect::Http1
        } else {
            Dialect::Http2
        }
    }

    /// What is spoken to an endpoint outside the mesh.
    fn plain_dialect(&self) -> Dialect {
        let special = self.changes.upgrade.is_some() || self.upload.awaits_continue();
        let client = self.permit.head().version;
        match self.cluster.traffic.http.upgrade {
            H2Upgrade::Upgrade if !special => Dialect::Http2,
            H2Upgrade::UseClientProtocol if client == Version::HTTP_2 => Dialect::Http2,
            H2Upgrade::Default
            | H2Upgrade::DoNotUpgrade
            | H2Upgrade::Upgrade
            | H2Upgrade::UseClientProtocol => self.dialect,
        }
    }

    async fn attempt(&self, worker: &Worker, hop: &Hop) -> Tried {
        let sending = self.send_once(worker, hop);
        match self.retry.per_try_timeout {
            Some(limit) => match timeout(limit, sending).await {
                Ok(sent) => sent.map_err(Vain::Failed),
                Err(_) => Err(Vain::Timeout),
            },
            None => sending.await.map_err(Vain::Failed),
        }
    }

    async fn send_once(&self, worker: &Worker, hop: &Hop) -> Sent {
        let terms = self.cluster.terms();
        let unbuildable = |_| SendError::Connect(ConnectError::Protocol);
        match (&hop.security, self.plain) {
            (Security::Mesh(_), _) => {
                let epoch = worker.proxy.epoch().ok_or(ConnectError::NoCredentials)?;
                let body = self.upload.attempt();
                let link = self.link(hop);
                let request = self.permit.request(version(link), self.changes, body);
                let request = request.map_err(unbuildable)?;
                let pools = &worker.pools;
                pools
                    .send_mesh(hop.address, &hop.security, link, &epoch, request, terms)
                    .await
            }
            (outside @ (Security::Plain | Security::Tls(_)), Some(permit)) => {
                let (body, dialect) = (self.upload.attempt(), self.plain_dialect());
                let request = permit.request(version(dialect), self.changes, body);
                let request = request.map_err(unbuildable)?;
                let pools = &worker.pools;
                pools
                    .send_outside(hop.address, outside, dialect, request, terms)
                    .await
            }
            (Security::Plain | Security::Tls(_) | Security::Unreachable, _) => {
                Err(ConnectError::NotInMesh.into())
            }
        }
    }
}

impl Vain {
    /// In the words of retry policies.
    fn kind(&self) -> Failure {
        match self {
            Self::Failed(error) => error.failure(),
            Self::Timeout => Failure::Timeout,
        }
    }

    /// What kept the endpoint from answering.
    fn failure(&self) -> Option<String> {
        match self {
            Self::Failed(error) => Some(error_chain(error)),
            Self::Timeout => None,
        }
    }

    fn answer(&self) -> Answer {
        match self {
            Self::Failed(SendError::Overflow(overflow)) => Answer::overflow(*overflow),
            Self::Failed(error) => {
                tracing::debug!(%error, "an endpoint failed");
                Answer::upstream_failed(error.flag())
            }
            Self::Timeout => Answer::timeout(),
        }
    }
}

/// Notes where a request or connection goes.
pub(crate) fn note_upstream(exchange: &mut Exchange, hop: &Hop) {
    let ends = &mut exchange.ends;
    ends.destination = hop.info.clone();
    ends.destination_principal = hop.identity.clone();
    ends.security = match hop.security {
        Security::Mesh(_) => "mutual_tls",
        Security::Plain | Security::Tls(_) | Security::Unreachable => "none",
    };
    exchange.upstream = Some(hop.upstream.clone());
}

/// The status that stands for a response: a gRPC one in the head, where there is one.
fn effective_status(response: &Response<Incoming>) -> u16 {
    let grpc = response.headers().get("grpc-status");
    let grpc = grpc.and_then(|code| code.to_str().ok()?.parse().ok());
    grpc.map_or_else(|| response.status().as_u16(), http_status_of)
}

/// Full jitter.
fn jittered(most: Duration) -> Duration {
    most.mul_f64(chance::rng().random_range(0.0..1.0))
}
