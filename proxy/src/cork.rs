//! Writes that wait for one another: what an HTTP/2 connection says in one go leaves in one TLS record and one call.
//!
//! The HTTP/2 library flushes after every DATA frame, as it must make room for the next one. Over TLS that is a record
//! and a system call per response. A [`Corked`] connection keeps what is written until its owner has been polled once
//! more, by when everything that was ready has been written.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{io::Io, limits::CORK_BYTES, linger::Patience};

thread_local! {
    /// An emptied buffer, for whichever connection writes next.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection whose owner reads on whenever it is polled, as HTTP/2 does.
#[derive(Debug)]
pub(crate) struct Corked<I> {
    inner: I,
    /// Written and not handed on yet, from `at` on; at most [`CORK_BYTES`].
    waiting: Vec<u8>,
    at: usize,
}

impl<I> Corked<I> {
    /// Wraps `inner`.
    pub(crate) fn new(inner: I) -> Self {
        Self {
            inner,
            waiting: Vec::new(),
            at: 0,
        }
    }

    /// Keeps as much of `bytes` as there is room for.
    fn keep(&mut self, bytes: &[u8]) -> usize {
        if self.waiting.capacity() == 0 {
            self.waiting = SPARE.take();
        }
        let room = CORK_BYTES.saturating_sub(self.waiting.len());
        let kept = bytes.get(..room).unwrap_or(bytes);
        self.waiting.extend_from_slice(kept);
        kept.len()
    }
}

impl<I: AsyncWrite + Unpin> Corked<I> {
    /// Hands on everything that waits.
    fn poll_uncork(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.waiting.get(self.at..).filter(|r| !r.is_empty()) {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.at = self.at.saturating_add(count),
            }
        }
        self.at = 0;
        let mut empty = std::mem::take(&mut self.waiting);
        empty.clear();
        SPARE.set(empty);
        Poll::Ready(Ok(()))
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl<I: Io> Io for Corked<I> {
    fn reset(&self) {
        self.inner.reset();
    }

    fn patience(&self) -> Patience {
        self.inner.patience()
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_empty() && self.poll_uncork(cx)?.is_ready() {
            // Whether it is through or not: the writer is woken when there is room.
            let _flushed = Pin::new(&mut self.inner).poll_flush(cx)?;
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Corked<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= CORK_BYTES {
            ready!(self.poll_uncork(cx))?;
        }
        let mut count = 0_usize;
        for slice in bytes {
            let kept = self.keep(slice);
            count = count.saturating_add(kept);
            if kept < slice.len() {
                break;
            }
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Has its owner polled again, which then reads, and so hands on what waits.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_empty() {
            return Pin::new(&mut self.inner).poll_flush(cx);
        }
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_uncork(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
