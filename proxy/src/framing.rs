//! Strict HTTP/1.1 framing (RFC 9112): one reading of where each message begins and ends, or none.
//!
//! The HTTP library forgives what RFC 9112 lets it forgive – bare LF, both `Content-Length` and `Transfer-Encoding`,
//! blanks after a chunk's size. What two servers may read differently is how requests are smuggled, so a [`Framed`]
//! connection checks the bytes on their way to the library, and from the first doubtful line on gives it one byte that
//! it must refuse (with 400, when no answer has begun) and the end of the stream. In HTTP/2, where framing is plain, it
//! counts frames that do nothing.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{limits::MAX_HTTP1_BUFFER_BYTES, metrics::Metrics};

mod http2;
mod screen;

use http2::Frames;
use screen::{HTTP2_REST, Screen, Verdict};

/// In no place of an HTTP/1.1 message is this legal.
const POISON: &[u8] = b"\0";

/// A connection whose HTTP/1.1 messages are framed in one way only, and whose HTTP/2 frames do something. What follows
/// an upgrade passes as it is.
#[derive(Debug)]
pub(crate) struct Framed<I> {
    inner: I,
    screen: Screen,
    /// Once HTTP/2 is spoken.
    frames: Option<Frames>,
    ended: bool,
    metrics: Arc<Metrics>,
}

impl<I> Framed<I> {
    /// Checks what is read from `inner`.
    pub(crate) fn new(inner: I, metrics: Arc<Metrics>) -> Self {
        Self {
            inner,
            metrics,
            screen: Screen::new(MAX_HTTP1_BUFFER_BYTES),
            frames: None,
            ended: false,
        }
    }

    /// Checks the bytes in `buffer` from `before` on.
    fn check(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        let (verdict, poison) = match &mut self.frames {
            Some(frames) => (frames.read(fresh), http2::POISON.as_slice()),
            None => (self.read_http1(fresh), POISON),
        };
        let Verdict::Refused { at } = verdict else {
            return;
        };
        self.ended = true;
        if self.frames.is_some() {
            self.metrics.limit_hit("max_idle_frames");
        } else {
            self.metrics.malformed("http1");
        }
        // What is refused is in the buffer, and no shorter than what takes its place.
        buffer.set_filled(before.saturating_add(at));
        buffer.put_slice(poison);
    }

    fn answer(&mut self, bytes: &[u8]) {
        match &mut self.frames {
            Some(frames) => frames.sent(bytes.len()),
            None => self.screen.answer(bytes),
        }
    }

    fn read_http1(&mut self, bytes: &[u8]) -> Verdict {
        match self.screen.read(bytes) {
            Verdict::Http2 { at } => {
                let frames = self.frames.insert(Frames::new(HTTP2_REST));
                // No connection spends its allowance within its first bytes.
                let _fine = frames.read(bytes.get(at..).unwrap_or_default());
                Verdict::Fine
            }
            verdict @ (Verdict::Fine | Verdict::Refused { .. }) => verdict,
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Framed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        self.check(buffer, before);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Framed<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answer(bytes);
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.answer(bytes.first().map_or(&[], |first| first));
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
