//! Sending a permitted request: choosing an endpoint, trying, trying again.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use http::{Response, Version};
use hyper::body::Incoming;
use rand::Rng as _;
use reeve_core::error_chain;
use tokio::time::{sleep, timeout};

use crate::{
    answer::Answer,
    balance,
    body::Upload,
    cluster::{Cluster, Hop, Security},
    connect::ConnectError,
    exchange::Exchange,
    limits::{BASE_RETRY_BACKOFF, MAX_HTTP1_LINKS, MAX_RETRY_BACKOFF},
    permit::{Changes, Permit, Recorded},
    pool::{Dialect, Lease, SendError, Sent, Terms},
    route::{Failure, RetryOn},
    snapshot::Inbound,
    worker::Worker,
};

/// How often a request that was surely not processed is sent again beyond what the retry policy says: connections
/// end when credentials change, and no request may fail for that.
const MAX_SAFE_RESENDS: u32 = 4;

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
    exchange.under_way();
    let mut resends = 0;
    loop {
        exchange.attempts += 1;
        let request = permit.request(version(dialect), changes, upload.attempt());
        let request = request.map_err(|_| Answer::unbuildable())?;
        let sent = worker
            .pools
            .send_plain(app, dialect, request, Terms::of_app())
            .await;
        match sent {
            Ok((response, lease)) => {
                exchange.lease(lease);
                return Ok(response);
            }
            Err(error) if resends < MAX_SAFE_RESENDS && is_safe(&error, permit, upload) => {
                resends += 1;
            }
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
            SendError::Connect(_) | SendError::Reset(_) => false,
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
}

/// Why a try was in vain.
enum Vain {
    Failed(SendError),
    Timeout,
}

impl<P> Outgoing<'_, P> {
    /// Tries one endpoint once, and counts as nobody's request: how copies are sent.
    pub(crate) async fn send_copy(
        &self,
        worker: &Worker,
    ) -> Option<(Response<Incoming>, Option<Lease>)> {
        let hop = self.choose(&[])?;
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
        let mut tried: Vec<SocketAddr> = Vec::new();
        let (mut retries, mut resends) = (0, 0);
        loop {
            let Some(hop) = self.choose(&tried) else {
                return Err(Answer::no_endpoint());
            };
            exchange.attempts += 1;
            note_upstream(exchange, &hop);
            exchange.under_way();
            exchange.busy(hop.load.enter());
            let vain = match self.attempt(worker, &hop).await {
                Ok((response, lease)) if !self.is_bad(&response, retries) => {
                    exchange.lease(lease);
                    return Ok(response);
                }
                Ok(_bad) => None,
                Err(vain) => Some(vain),
            };
            tried.push(hop.address);
            match vain {
                Some(Vain::Failed(error))
                    if resends < MAX_SAFE_RESENDS && is_safe(&error, self.permit, self.upload) =>
                {
                    resends += 1;
                    tried.pop();
                }
                Some(vain) if !self.may_retry(&vain, retries) => {
                    exchange.failure = vain.failure();
                    return Err(vain.answer());
                }
                Some(_) | None => {
                    sleep(backoff(retries)).await;
                    retries += 1;
                }
            }
        }
    }

    fn is_bad(&self, response: &Response<Incoming>, retries: u32) -> bool {
        retries < self.retry.attempts
            && self.upload.is_whole()
            && self
                .retry
                .covers_response(response.status(), response.headers())
    }

    fn may_retry(&self, vain: &Vain, retries: u32) -> bool {
        let failure = match vain {
            Vain::Failed(error) => error.failure(),
            Vain::Timeout => Failure::Timeout,
        };
        retries < self.retry.attempts && self.upload.is_whole() && self.retry.covers(failure)
    }

    /// An endpoint not tried yet, or any when all were.
    fn choose(&self, tried: &[SocketAddr]) -> Option<Arc<Hop>> {
        let untried = |hop: &&Arc<Hop>| !tried.contains(&hop.address);
        let mut candidates: Vec<&Arc<Hop>> = self.cluster.hops.iter().filter(untried).collect();
        if candidates.is_empty() {
            candidates = self.cluster.hops.iter().collect();
        }
        let load = |hop: &Arc<Hop>| hop.load.now();
        let how = self.cluster.traffic.load_balancer;
        balance::pick(&candidates, how, &self.cluster.turn, load, &mut rand::rng()).cloned()
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
        // Where nothing is shared, HTTP/2 has nothing to give.
        let is_alone = || Terms::from(&self.cluster.traffic).is_one_each();
        if simple && (hop.load.now() <= MAX_HTTP1_LINKS || is_alone()) {
            Dialect::Http1
        } else {
            Dialect::Http2
        }
    }

    async fn attempt(
        &self,
        worker: &Worker,
        hop: &Hop,
    ) -> Result<(Response<Incoming>, Option<Lease>), Vain> {
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
        let terms = Terms::from(&self.cluster.traffic);
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
                let body = self.upload.attempt();
                let request = permit.request(version(self.dialect), self.changes, body);
                let request = request.map_err(unbuildable)?;
                worker
                    .pools
                    .send_outside(hop.address, outside, self.dialect, request, terms)
                    .await
            }
            (Security::Plain | Security::Tls(_) | Security::Unreachable, _) => {
                Err(ConnectError::NotInMesh.into())
            }
        }
    }
}

impl Vain {
    /// What kept the endpoint from answering.
    fn failure(&self) -> Option<String> {
        match self {
            Self::Failed(error) => Some(error_chain(error)),
            Self::Timeout => None,
        }
    }

    fn answer(&self) -> Answer {
        match self {
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

/// Full jitter over an exponentially growing wait.
fn backoff(retries: u32) -> Duration {
    let most = BASE_RETRY_BACKOFF
        .saturating_mul(1 << retries.min(8))
        .min(MAX_RETRY_BACKOFF);
    most.mul_f64(rand::rng().random_range(0.0..1.0))
}
