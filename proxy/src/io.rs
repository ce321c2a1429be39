//! Connections that can be cut from outside, that count their bytes, and that give back what was peeked.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use crate::linger::Patience;
use bytes::{Buf as _, Bytes};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{client, server};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// Bytes that went through a connection.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    pub(crate) read: AtomicU64,
    pub(crate) written: AtomicU64,
}

impl Flow {
    /// Counts what was read.
    pub(crate) fn count_read(&self, count: u64) {
        self.read.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts what was written.
    pub(crate) fn count_written(&self, count: u64) {
        self.written.fetch_add(count, Ordering::Relaxed);
    }

    /// Bytes read and written so far.
    pub(crate) fn passed(&self) -> (u64, u64) {
        (
            self.read.load(Ordering::Relaxed),
            self.written.load(Ordering::Relaxed),
        )
    }
}

/// A connection whose first bytes were read ahead, that counts, and that ends when its token is cancelled.
#[derive(Debug)]
pub(crate) struct Line<I> {
    inner: I,
    ahead: Bytes,
    flow: Arc<Flow>,
    cut: CancellationToken,
    cutting: Pin<Box<WaitForCancellationFutureOwned>>,
    gone: CancellationToken,
    _gone: DropGuard,
}

/// A byte stream.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {
    /// From now on, dropping it resets the connection: the other end does not take it for a good end.
    fn reset(&self);

    /// By which it is told to be closed in stages; of no effect where the socket is out of reach.
    fn patience(&self) -> Patience {
        Patience::default()
    }
}

impl Io for TcpStream {
    fn reset(&self) {
        // A socket that cannot linger is gone already.
        let lingers = SockRef::from(self).set_linger(Some(Duration::ZERO));
        lingers.unwrap_or_default();
    }
}

impl<I: Io> Io for server::TlsStream<I> {
    fn reset(&self) {
        self.get_ref().0.reset();
    }

    fn patience(&self) -> Patience {
        self.get_ref().0.patience()
    }
}

impl<I: Io> Io for client::TlsStream<I> {
    fn reset(&self) {
        self.get_ref().0.reset();
    }

    fn patience(&self) -> Patience {
        self.get_ref().0.patience()
    }
}

impl<I: Io> Io for Line<I> {
    fn reset(&self) {
        self.inner.reset();
    }

    fn patience(&self) -> Patience {
        self.inner.patience()
    }
}

impl Io for Box<dyn Io> {
    fn reset(&self) {
        (**self).reset();
    }

    fn patience(&self) -> Patience {
        (**self).patience()
    }
}

impl Io for TokioIo<Upgraded> {
    /// Nothing: the connection is out of reach, and protocols that follow an upgrade tell a good end themselves.
    fn reset(&self) {}
}

#[cfg(test)]
impl Io for tokio::io::DuplexStream {
    fn reset(&self) {}
}

impl<I> Line<I> {
    /// Wraps `inner`; `ahead` is read first.
    pub(crate) fn new(inner: I, ahead: Bytes, cut: CancellationToken) -> Self {
        let gone = CancellationToken::new();
        Self {
            _gone: gone.clone().drop_guard(),
            gone,
            inner,
            ahead,
            flow: Arc::default(),
            cutting: Box::pin(cut.clone().cancelled_owned()),
            cut,
        }
    }

    /// The counters.
    pub(crate) fn flow(&self) -> Arc<Flow> {
        self.flow.clone()
    }

    /// Gives back what was read ahead: it is read again.
    pub(crate) fn put_back(&mut self, read: Bytes) {
        let count = u64::try_from(read.len()).unwrap_or_default();
        self.flow.read.fetch_sub(count, Ordering::Relaxed);
        self.ahead = match self.ahead.is_empty() {
            true => read,
            false => [read, std::mem::take(&mut self.ahead)].concat().into(),
        };
    }

    /// Cancelling it cuts the connection.
    pub(crate) fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }

    /// Cancelled when the connection is no more.
    pub(crate) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cutting.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn check_cut(&self) -> io::Result<()> {
        if self.cut.is_cancelled() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Line<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        let before = buffer.filled().len();
        if self.ahead.has_remaining() {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(count));
        } else {
            ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        }
        let count = buffer.filled().len().saturating_sub(before);
        self.flow.count_read(count as u64);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Line<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_cut()?;
        let count = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.flow.count_written(count as u64);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_cut()?;
        let count = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bytes))?;
        self.flow.count_written(count as u64);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_cut()?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
