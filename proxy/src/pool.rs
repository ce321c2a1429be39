//! Connections to endpoints, kept for the next request. A pool belongs to one epoch of credentials and is never used
//! in another.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, Weak, atomic::AtomicBool},
    time::Duration,
};

use foldhash::HashMap;
use http::{Request, StatusCode};
use hyper::{
    client::conn::{http1, http2},
    ext::on_informational,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use reeve_svid::alpn;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    body::UploadBody,
    breaker::ClusterState,
    cluster::Security,
    connect::{self, ConnectError, Upstream},
    cork::Corked,
    credentials::Epoch,
    gauge::Slot,
    ledger::lock,
    limits::{
        CONNECTION_WINDOW_BYTES, IDLE_TIMEOUT, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT,
        MAX_HEADER_LIST_BYTES, MAX_POOLS, MAX_SEND_BUFFER_BYTES, STREAM_WINDOW_BYTES,
    },
    permit::{Recorded, UpstreamRequest},
    trust::Trust,
};

mod bounds;
mod lease;
mod links;
mod terms;

pub(crate) use self::{
    lease::{Kept, Lease, SendError, Sent},
    terms::Terms,
};
use bounds::{Bounds, Got};
use links::{Links, Stream};

/// What is spoken to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Dialect {
    /// HTTP/1.1, one request at a time.
    Http1,
    /// HTTP/2, many at once.
    Http2,
}

/// The pools of one worker.
#[derive(Debug)]
pub(crate) struct Pools {
    trust: Trust,
    pools: Mutex<HashMap<PoolKey, Arc<Pool>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PoolKey {
    address: SocketAddr,
    security: Security,
    dialect: Dialect,
    /// 0 for plaintext.
    epoch: u64,
    /// The cluster whose bounds hold for it; 0 where there are none, and clusters share connections.
    bounds: usize,
}

#[derive(Debug)]
pub(crate) struct Pool {
    key: PoolKey,
    links: Links,
    idle: Mutex<Vec<Kept>>,
    /// One connection attempt at a time for HTTP/2.
    connecting: tokio::sync::Mutex<()>,
    /// Of the cluster whose bounds hold for it.
    state: Option<Arc<ClusterState>>,
    /// How long idle connections are kept, if not [`IDLE_TIMEOUT`].
    idle_for: Option<Duration>,
    /// Whether somebody looks what has been idle for too long.
    watches_idle: AtomicBool,
    /// Requests that wait for a connection to be given back.
    waiting: Mutex<VecDeque<oneshot::Sender<Kept>>>,
}

impl Pools {
    /// No connections yet.
    pub(crate) fn new(trust: Trust) -> Self {
        Self {
            trust,
            pools: Mutex::default(),
        }
    }

    /// Sends to a mesh proxy, which judges for itself: any permit will do.
    pub(crate) async fn send_mesh<P>(
        &self,
        address: SocketAddr,
        security: &Security,
        dialect: Dialect,
        epoch: &Arc<Epoch>,
        request: UpstreamRequest<P, UploadBody>,
        terms: Terms<'_>,
    ) -> Sent {
        let key = PoolKey {
            address,
            security: security.clone(),
            dialect,
            epoch: epoch.number,
            bounds: terms.key(),
        };
        self.send(key, Some(epoch), request.into_http(), terms)
            .await
    }

    /// Sends in plaintext, where nobody judges after us: only with a recorded decision.
    pub(crate) async fn send_plain(
        &self,
        address: SocketAddr,
        dialect: Dialect,
        request: UpstreamRequest<Recorded, UploadBody>,
        terms: Terms<'_>,
    ) -> Sent {
        let key = PoolKey {
            address,
            security: Security::Plain,
            dialect,
            epoch: 0,
            bounds: terms.key(),
        };
        self.send(key, None, request.into_http(), terms).await
    }

    /// Sends where nobody judges after us, in plaintext or by TLS as anyone speaks it: only with a recorded decision.
    pub(crate) async fn send_outside(
        &self,
        address: SocketAddr,
        security: &Security,
        dialect: Dialect,
        request: UpstreamRequest<Recorded, UploadBody>,
        terms: Terms<'_>,
    ) -> Sent {
        let key = PoolKey {
            address,
            security: security.clone(),
            dialect,
            epoch: 0,
            bounds: terms.key(),
        };
        let mut request = request.into_http();
        if dialect == Dialect::Http2 && matches!(security, Security::Tls(_)) {
            secure(&mut request);
        }
        self.send(key, None, request, terms).await
    }

    /// Forgets pools of earlier epochs: their connections end when what is in flight has ended.
    pub(crate) fn forget_before(&self, epoch: u64) {
        lock(&self.pools).retain(|key, _| key.epoch == 0 || key.epoch >= epoch);
    }

    /// Forgets endpoints that are no more.
    pub(crate) fn forget_unless(&self, known: impl Fn(SocketAddr) -> bool) {
        lock(&self.pools).retain(|key, _| known(key.address));
    }

    fn pool(&self, key: PoolKey, terms: Terms<'_>) -> Arc<Pool> {
        let mut pools = lock(&self.pools);
        if let Some(pool) = pools.get(&key) {
            return pool.clone();
        }
        if pools.len() >= MAX_POOLS {
            pools.clear();
        }
        let pool = Arc::new(Pool {
            key: key.clone(),
            links: Links::default(),
            idle: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            state: terms.bounds.map(|bounds| bounds.state.clone()),
            watches_idle: AtomicBool::new(false),
            idle_for: terms.bounds.and_then(|bounds| bounds.idle()),
            waiting: Mutex::default(),
        });
        pools.insert(key, pool.clone());
        drop(pools);
        if let Some(state) = &pool.state {
            // Those that are no more go: what has no fixed address has ever new ones.
            let mut own = lock(&state.pools);
            own.retain(|pool| pool.strong_count() > 0);
            own.push(Arc::downgrade(&pool));
        }
        pool
    }

    async fn send(
        &self,
        key: PoolKey,
        epoch: Option<&Arc<Epoch>>,
        mut request: Request<UploadBody>,
        terms: Terms<'_>,
    ) -> Sent {
        let pool = self.pool(key, terms);
        let trust = &self.trust;
        match pool.key.dialect {
            Dialect::Http2 => {
                if let Some(wanted) = request.body().wanted() {
                    wanted.give();
                }
                let (mut sender, stream) = pool.http2(epoch, trust, terms).await?;
                match sender.try_send_request(request).await {
                    Ok(response) => Ok((response, Some(Lease::Stream(stream)))),
                    Err(error) => {
                        stream.ended();
                        Err(pool.classify(error, Reused::No))
                    }
                }
            }
            Dialect::Http1 => {
                if let Some(wanted) = request.body().wanted().cloned() {
                    on_informational(&mut request, move |interim| {
                        if interim.status() == StatusCode::CONTINUE {
                            wanted.give();
                        }
                    });
                }
                let (mut kept, reused) = pool.http1(epoch, trust, terms).await?;
                let sent = kept.sender.try_send_request(request).await;
                let response = sent.map_err(|e| {
                    pool.distrust_idle(reused);
                    pool.classify(e, reused)
                })?;
                let pool = Arc::downgrade(&pool);
                Ok((response, Some(Lease::Whole(pool, kept))))
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reused {
    Yes,
    No,
}

impl Pool {
    async fn http2(
        self: &Arc<Self>,
        epoch: Option<&Arc<Epoch>>,
        trust: &Trust,
        terms: Terms<'_>,
    ) -> Result<(http2::SendRequest<UploadBody>, Stream), SendError> {
        if let Some(bounds) = terms.bounds {
            return self.http2_within(bounds, epoch, trust, terms).await;
        }
        if terms.is_one_each() {
            let (sender, drain) = self.connect_http2(epoch, trust, terms, None).await?;
            return Ok(self.links.add(sender, drain, terms));
        }
        if let Some(place) = self.links.with_room(terms, self.idle_time()) {
            return Ok(place);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(place) = self.links.with_room(terms, self.idle_time()) {
            return Ok(place);
        }
        if !self.links.may_grow()
            && let Some(place) = self.links.least_busy(terms)
        {
            return Ok(place);
        }
        match self.connect_http2(epoch, trust, terms, None).await {
            Ok((sender, drain)) => Ok(self.links.add(sender, drain, terms)),
            Err(error) => Ok(self.links.least_busy(terms).ok_or(error)?),
        }
    }

    /// The same where connections are bounded: a request waits for a place on one, or for leave to make one.
    async fn http2_within(
        self: &Arc<Self>,
        bounds: Bounds<'_>,
        epoch: Option<&Arc<Epoch>>,
        trust: &Trust,
        terms: Terms<'_>,
    ) -> Result<(http2::SendRequest<UploadBody>, Stream), SendError> {
        let idle = self.idle_time();
        if let Some(place) = self.links.with_room(terms, idle) {
            return Ok(place);
        }
        let _pending = bounds.queue()?;
        let _one_at_a_time = self.connecting.lock().await;
        // Cancel-safe: places and leave are given back when dropped.
        let slot = tokio::select! {
            biased;
            place = self.links.room(terms, idle) => return Ok(place),
            slot = bounds.leave() => slot,
        };
        let (sender, drain) = self.connect_http2(epoch, trust, terms, slot).await?;
        self.close_when_idle();
        Ok(self.links.add(sender, drain, terms))
    }

    async fn connect_http2(
        self: &Arc<Self>,
        epoch: Option<&Arc<Epoch>>,
        trust: &Trust,
        terms: Terms<'_>,
        slot: Option<Slot>,
    ) -> Result<(http2::SendRequest<UploadBody>, CancellationToken), ConnectError> {
        let address = self.key.address;
        let (line, drain) = self.connect(alpn::H2, epoch, trust, terms).await?;
        retire_on(drain.clone(), line.gone(), Arc::downgrade(self));
        if let Some(bounds) = terms.bounds {
            self.bound_life(bounds, &drain, line.gone());
        }
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        let handshake = builder.handshake(TokioIo::new(Corked::new(line))).await;
        let (sender, connection) = handshake.map_err(ConnectError::Http)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, %address, "an HTTP/2 connection ended");
            }
            drop(slot);
        });
        Ok((sender, drain))
    }

    /// A connection, and the token that is cancelled when it should drain.
    async fn connect(
        &self,
        protocol: &'static [u8],
        epoch: Option<&Arc<Epoch>>,
        trust: &Trust,
        terms: Terms<'_>,
    ) -> Result<(Upstream, CancellationToken), ConnectError> {
        let address = self.key.address;
        match (&self.key.security, epoch) {
            (Security::Mesh(expected), Some(epoch)) => {
                connect::mesh(address, expected, protocol, epoch, trust, terms.dial).await
            }
            (Security::Mesh(_), None) => Err(ConnectError::NoCredentials),
            (Security::Plain, _) => {
                let line = connect::plain(&trust.net, address, terms.dial).await?;
                Ok((line, CancellationToken::new()))
            }
            (Security::Tls(tls), _) => {
                let config = if protocol == alpn::H2 {
                    &tls.http2
                } else {
                    &tls.http1
                };
                let line = connect::outside(&trust.net, address, tls, config, terms.dial).await?;
                Ok((line, CancellationToken::new()))
            }
            (Security::Unreachable, _) => Err(ConnectError::NotInMesh),
        }
    }

    async fn http1(
        self: &Arc<Self>,
        epoch: Option<&Arc<Epoch>>,
        trust: &Trust,
        terms: Terms<'_>,
    ) -> Result<(Kept, Reused), SendError> {
        if let Some(mut kept) = self.idle_one(terms) {
            kept.enter(terms);
            return Ok((kept, Reused::Yes));
        }
        let (slot, _pending) = match terms.bounds {
            None => (None, None),
            Some(bounds) => match self.wait(bounds).await? {
                Got::Leave(slot, pending) => (slot, pending),
                Got::Kept(mut kept) => {
                    kept.sender.ready().await.map_err(SendError::Unsent)?;
                    kept.enter(terms);
                    return Ok((kept, Reused::Yes));
                }
            },
        };
        let (line, drain) = self.connect(alpn::HTTP1, epoch, trust, terms).await?;
        if let Some(bounds) = terms.bounds {
            self.bound_life(bounds, &drain, line.gone());
        }
        let mut builder = http1::Builder::new();
        builder.max_headers(crate::limits::MAX_HEADERS);
        let handshake = builder.handshake(TokioIo::new(line)).await;
        let (sender, connection) = handshake.map_err(ConnectError::Http)?;
        let address = self.key.address;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, %address, "an HTTP/1.1 connection ended");
            }
            drop(slot);
        });
        let mut kept = Kept {
            since: Instant::now(),
            requests: 0,
            is_last: false,
            sender,
            drain,
        };
        kept.enter(terms);
        Ok((kept, Reused::No))
    }

    /// The connection given back last that can be used again. One that has not come to rest yet stays.
    fn idle_one(&self, terms: Terms<'_>) -> Option<Kept> {
        let (mut idle, time) = (lock(&self.idle), self.idle_time());
        let may = |kept: &Kept| terms.allow_another_after(kept.requests);
        if let Some(at) = idle.iter().rposition(|k| k.is_usable(time) && may(k)) {
            return Some(idle.swap_remove(at));
        }
        idle.retain(|k| !k.sender.is_closed() && !k.drain.is_cancelled() && may(k));
        None
    }

    fn idle_time(&self) -> Duration {
        self.idle_for.unwrap_or(IDLE_TIMEOUT)
    }

    /// Where one idle connection turned out to be closed the others probably are: the next try gets a fresh one.
    fn distrust_idle(&self, reused: Reused) {
        if reused == Reused::Yes {
            lock(&self.idle).clear();
        }
    }

    fn classify(
        &self,
        mut failed: hyper::client::conn::TrySendError<Request<UploadBody>>,
        reused: Reused,
    ) -> SendError {
        // Others that were idle may have been closed with it: the next try has a fresh connection.
        lock(&self.idle).clear();
        let unsent = failed.take_message().is_some();
        let error = failed.into_error();
        if unsent {
            return SendError::Unsent(error);
        }
        if is_refused(&error) {
            return SendError::Refused(error);
        }
        if reused == Reused::Yes && !error.is_parse() && !error.is_user() {
            return SendError::Stale(error);
        }
        SendError::Reset(error)
    }
}

/// HTTP/2 tells the scheme (RFC 9113 section 8.3.1).
fn secure(request: &mut Request<UploadBody>) {
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTPS);
    if let Ok(uri) = http::Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// When the connection should drain, it gets no new requests; those in flight go on.
fn retire_on(drain: CancellationToken, gone: CancellationToken, pool: Weak<Pool>) {
    tokio::spawn(async move {
        // Cancel-safe: tokens only.
        tokio::select! {
            () = gone.cancelled() => return,
            () = drain.cancelled() => {}
        }
        if let Some(pool) = pool.upgrade() {
            pool.links.forget_draining();
        }
    });
}

/// REFUSED_STREAM, or a GOAWAY that names an earlier last stream (RFC 9113 sections 6.8 and 8.7).
fn is_refused(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            let refused = h2.reason() == Some(h2::Reason::REFUSED_STREAM);
            return refused || (h2.is_go_away() && h2.is_remote());
        }
        source = cause.source();
    }
    false
}
