//! Reading ahead of TLS, which asks for 4 KiB at a time: one system call brings what is there.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{io::Io, limits::READ_AHEAD_BYTES, linger::Patience};

thread_local! {
    /// What all connections of a thread read into: only what was not asked for yet is kept.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection that is read [`READ_AHEAD_BYTES`] at a time. Idle, it holds nothing.
#[derive(Debug)]
pub(crate) struct ReadAhead<I> {
    inner: I,
    ahead: Bytes,
}

impl<I> ReadAhead<I> {
    /// Wraps `inner`.
    pub(crate) fn new(inner: I) -> Self {
        Self {
            inner,
            ahead: Bytes::new(),
        }
    }
}

impl<I: Io> Io for ReadAhead<I> {
    fn reset(&self) {
        self.inner.reset();
    }

    fn patience(&self) -> Patience {
        self.inner.patience()
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for ReadAhead<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            if buffer.remaining() >= READ_AHEAD_BYTES {
                return Pin::new(&mut self.inner).poll_read(cx, buffer);
            }
            let mut scratch = SCRATCH.take();
            scratch.resize(READ_AHEAD_BYTES, 0);
            let mut read = ReadBuf::new(&mut scratch);
            let polled = Pin::new(&mut self.inner).poll_read(cx, &mut read);
            let (now, later) = split(read.filled(), buffer.remaining());
            buffer.put_slice(now);
            if !later.is_empty() {
                self.ahead = Bytes::copy_from_slice(later);
            }
            SCRATCH.set(scratch);
            return polled;
        }
        let count = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead.split_to(count));
        Poll::Ready(Ok(()))
    }
}

fn split(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at_checked(at).unwrap_or((bytes, &[]))
}

impl<I: AsyncWrite + Unpin> AsyncWrite for ReadAhead<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
