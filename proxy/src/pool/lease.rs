//! A connection while it is used, and what came of a try.

use std::{sync::Weak, time::Duration};

use http::Response;
use hyper::{body::Incoming, client::conn::http1};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Pool, Terms, links::Stream};
use crate::{
    body::UploadBody, breaker::Overflow, connect::ConnectError, ledger::lock,
    limits::MAX_IDLE_PER_ENDPOINT, route::Failure,
};

/// An HTTP/1.1 connection that can take another request.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(super) since: Instant,
    /// Requests that it took.
    pub(super) requests: u32,
    /// Whether it ends with the request that it has.
    pub(super) is_last: bool,
    pub(super) sender: http1::SendRequest<UploadBody>,
    /// Cancelled when it should take no more requests; never for plaintext.
    pub(super) drain: CancellationToken,
}

impl Kept {
    /// Gives it a request.
    pub(super) fn enter(&mut self, terms: Terms<'_>) {
        self.requests = self.requests.saturating_add(1);
        self.is_last = !terms.allow_another_after(self.requests);
    }

    pub(super) fn is_usable(&self, idle: Duration) -> bool {
        self.sender.is_ready() && self.is_fresh(idle)
    }

    /// Whether it is neither too old nor closed.
    pub(super) fn is_fresh(&self, idle: Duration) -> bool {
        self.since.elapsed() < idle && !self.sender.is_closed() && !self.drain.is_cancelled()
    }
}

/// A connection while its response is read.
#[derive(Debug)]
pub(crate) enum Lease {
    /// HTTP/1.1. Given back after the last byte of the body, it is kept for the next request; dropped before, it is closed.
    Whole(Weak<Pool>, Kept),
    /// HTTP/2: one stream.
    Stream(Stream),
}

impl Lease {
    /// The response was read to its end.
    pub(crate) fn give_back(self) {
        let (pool, mut kept) = match self {
            Self::Whole(pool, kept) => (pool, kept),
            Self::Stream(stream) => return stream.ended(),
        };
        let Some(pool) = pool.upgrade().filter(|_| !kept.is_last) else {
            return;
        };
        kept.since = Instant::now();
        let Some(kept) = pool.hand_on(kept) else {
            return;
        };
        let mut idle = lock(&pool.idle);
        if idle.len() >= MAX_IDLE_PER_ENDPOINT {
            idle.remove(0);
        }
        idle.push(kept);
        drop(idle);
        pool.close_when_idle();
    }
}

/// A response, and the connection to give back once it is read.
pub(crate) type Sent = Result<(Response<Incoming>, Option<Lease>), SendError>;

/// Why a try brought no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("no connection to the endpoint")]
    Connect(#[from] ConnectError),
    /// The connection ended before the request was on it: any other connection can take it, without risk.
    #[error("the connection closed before the request was sent")]
    Unsent(#[source] hyper::Error),
    /// The endpoint says that it did not process the request.
    #[error("the endpoint refused the stream")]
    Refused(#[source] hyper::Error),
    /// A connection that had been idle closed as the request was sent.
    #[error("an idle connection closed as the request was sent")]
    Stale(#[source] hyper::Error),
    #[error("the connection or stream ended before the response")]
    Reset(#[source] hyper::Error),
    /// A circuit breaker is open.
    #[error(transparent)]
    Overflow(Overflow),
}

impl SendError {
    /// In the words of retry policies.
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Self::Connect(_) => Failure::Connect,
            Self::Unsent(_) | Self::Refused(_) => Failure::Refused,
            Self::Stale(_) | Self::Reset(_) => Failure::Reset,
            Self::Overflow(_) => Failure::Overflow,
        }
    }

    /// Envoy's response flag.
    pub(crate) fn flag(&self) -> &'static str {
        match self {
            Self::Connect(_) => "UF",
            Self::Refused(_) => "UR",
            Self::Unsent(_) | Self::Stale(_) | Self::Reset(_) => "UC",
            Self::Overflow(_) => "UO",
        }
    }
}
