//! Passing bytes between two connections, in both directions, until both have ended.
//!
//! Each direction ends on its own: an end of stream is passed on as one (half-close), and the other direction goes
//! on. A failure of either end is passed on as a reset, so that nobody takes a broken stream for a whole one. A slow
//! reader holds its writer back: at most [`RELAY_BUFFER_BYTES`] wait per direction, and nothing while it is idle.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use reeve_core::model::TcpPool;
use tokio::{io::ReadBuf, time::sleep};

use crate::{
    end::End,
    exchange::Exchange,
    io::{Io, Line},
    limits::{RELAY_BUFFER_BYTES, RELAY_IDLE_TIMEOUT},
};

thread_local! {
    /// What all relays of a thread read into: only what cannot be written at once is kept.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Why a relay ended before both ends did.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    /// One of the ends failed.
    #[error("a connection broke")]
    Broken(#[source] io::Error),
    /// It is no longer permitted.
    #[error("the connection is no longer permitted")]
    Ended,
    /// Nothing passed for [`RELAY_IDLE_TIMEOUT`], or what its service has instead.
    #[error("nothing passed for too long")]
    Idle,
    /// It is as old as its service allows.
    #[error("the connection is as old as it may be")]
    Old,
}

/// How long a relay may last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelayBounds {
    /// Without anything passing; `None` = for ever.
    idle: Option<Duration>,
    /// At all; `None` = for ever.
    life: Option<Duration>,
}

impl Default for RelayBounds {
    fn default() -> Self {
        Self {
            idle: Some(RELAY_IDLE_TIMEOUT),
            life: None,
        }
    }
}

impl RelayBounds {
    /// As `connectionPool.tcp` says; zero idle time is no bound, as in Istio.
    pub(crate) fn of(pool: &TcpPool) -> Self {
        let idle = pool.idle_timeout.unwrap_or(RELAY_IDLE_TIMEOUT);
        Self {
            idle: (!idle.is_zero()).then_some(idle),
            life: pool.max_duration,
        }
    }
}

async fn after(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

impl RelayError {
    /// Envoy's response flag.
    fn flag(&self) -> &'static str {
        match self {
            Self::Broken(_) => "UC",
            Self::Ended => "UAEX",
            Self::Idle => "SI",
            Self::Old => "DT",
        }
    }
}

/// Passes bytes until both ends have closed, one breaks, or the permit of `exchange` is gone; then the exchange is
/// over.
pub(crate) async fn relay<N: Io, F: Io>(near: Line<N>, far: Line<F>, exchange: Exchange) {
    relay_within(RelayBounds::default(), near, far, exchange).await;
}

/// The same, no longer than `bounds` allow.
pub(crate) async fn relay_within<N: Io, F: Io>(
    bounds: RelayBounds,
    mut near: Line<N>,
    mut far: Line<F>,
    mut exchange: Exchange,
) {
    let passed = pass(bounds, &mut near, &mut far, exchange.end()).await;
    let (read, written) = near.flow().passed();
    exchange.received(read);
    exchange.sent(written);
    match passed {
        Ok(()) => exchange.finished(),
        Err(error) => {
            tracing::debug!(%error, "a relay ended");
            exchange.flag(error.flag());
            near.reset();
            far.reset();
        }
    }
}

async fn pass<N: Io, F: Io>(
    bounds: RelayBounds,
    near: &mut Line<N>,
    far: &mut Line<F>,
    end: &End,
) -> Result<(), RelayError> {
    let flow = near.flow();
    let idle = async {
        let mut last = flow.passed();
        loop {
            after(bounds.idle).await;
            let now = flow.passed();
            if now == last {
                return;
            }
            last = now;
        }
    };
    // Cancel-safe: whatever is chosen, the relay is over.
    tokio::select! {
        both = both_ways(near, far) => both.map_err(RelayError::Broken),
        () = end.wait() => Err(RelayError::Ended),
        () = idle => Err(RelayError::Idle),
        () = after(bounds.life) => Err(RelayError::Old),
    }
}

async fn both_ways<N: Io, F: Io>(near: &mut N, far: &mut F) -> io::Result<()> {
    let (mut out, mut back) = (Way::default(), Way::default());
    poll_fn(|cx| {
        let out = out.poll(cx, near, far)?;
        let back = back.poll(cx, far, near)?;
        ready!(out);
        ready!(back);
        Poll::Ready(Ok(()))
    })
    .await
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    state: State,
    /// What was read and not yet written, from `at` on.
    waiting: Vec<u8>,
    at: usize,
    unflushed: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The reading end has closed.
    Closing,
    Closed,
}

impl Way {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Io,
        to: &mut impl Io,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_drain(cx, to))?;
            match self.state {
                State::Open => match self.poll_read(cx, from, to) {
                    Poll::Ready(read) => read?,
                    Poll::Pending => {
                        if self.unflushed {
                            ready!(Pin::new(&mut *to).poll_flush(cx))?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
                State::Closing => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = State::Closed;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Writes what waits; its memory goes with it.
    fn poll_drain(&mut self, cx: &mut Context<'_>, to: &mut impl Io) -> Poll<io::Result<()>> {
        while let Some(rest) = self.waiting.get(self.at..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut *to).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.at += count,
            }
        }
        self.waiting = Vec::new();
        self.at = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes as much of it as goes at once.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Io,
        to: &mut impl Io,
    ) -> Poll<io::Result<()>> {
        let mut scratch = SCRATCH.take();
        scratch.resize(RELAY_BUFFER_BYTES, 0);
        let mut buffer = ReadBuf::new(&mut scratch);
        let polled = Pin::new(&mut *from).poll_read(cx, &mut buffer);
        let filled = buffer.filled();
        let result = match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) if filled.is_empty() => {
                self.state = State::Closing;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(())) => self.pass_on(cx, filled, to),
        };
        SCRATCH.set(scratch);
        result
    }

    fn pass_on(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        to: &mut impl Io,
    ) -> Poll<io::Result<()>> {
        self.unflushed = true;
        let count = match Pin::new(&mut *to).poll_write(cx, bytes) {
            Poll::Pending => 0,
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
        };
        if let Some(rest) = bytes.get(count..).filter(|rest| !rest.is_empty()) {
            self.waiting = rest.to_vec();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
