//! Closing in stages (RFC 9112 section 9.6): a server that answers before it has read a large body, and then closes, makes
//! the system reset the connection, and the client may lose the answer. So such a connection says that nothing more comes,
//! and takes what is still on its way for a while, before it is closed.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    runtime::Handle,
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::{
    io::Io,
    limits::{LINGER, MAX_LINGERING},
};

/// What is taken at a time, to be thrown away.
const PIECE: usize = 16 * 1024;

/// Room for those that are closed in stages; what finds none is closed at once.
static ROOM: Semaphore = Semaphore::const_new(MAX_LINGERING);

/// Whether a connection is closed in stages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patience(Arc<AtomicBool>);

impl Patience {
    /// From now on it is.
    pub(crate) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn is_asked_for(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A socket that is closed in stages, if that is asked for and its peer has not closed first.
#[derive(Debug)]
pub(crate) struct Lingering {
    /// There until it is dropped or taken.
    stream: Option<TcpStream>,
    patience: Patience,
}

impl From<TcpStream> for Lingering {
    fn from(stream: TcpStream) -> Self {
        Self {
            stream: Some(stream),
            patience: Patience::default(),
        }
    }
}

impl Lingering {
    pub(crate) fn stream(&self) -> Option<&TcpStream> {
        self.stream.as_ref()
    }

    /// The socket for another runtime.
    pub(crate) fn into_std(mut self) -> io::Result<std::net::TcpStream> {
        self.stream.take().ok_or_else(gone)?.into_std()
    }

    fn io(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(gone)
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl Io for Lingering {
    fn reset(&self) {
        self.patience.end();
        if let Some(stream) = &self.stream {
            stream.reset();
        }
    }

    fn patience(&self) -> Patience {
        self.patience.clone()
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = (buffer.filled().len(), buffer.remaining());
        let read = self.io()?.poll_read(cx, buffer);
        let nothing = buffer.filled().len() == before.0 && before.1 > 0;
        if matches!(&read, Poll::Ready(read) if read.is_err() || nothing) {
            // The peer has closed: nothing is on its way.
            self.patience.end();
        }
        read
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_shutdown(cx)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        if !self.patience.is_asked_for() {
            return;
        }
        if let (Ok(room), Ok(runtime)) = (ROOM.try_acquire(), Handle::try_current()) {
            runtime.spawn(leave(stream, room));
        }
    }
}

/// Says that nothing more comes, and takes what does until the peer closes.
async fn leave(mut stream: TcpStream, _room: SemaphorePermit<'static>) {
    let taken = async {
        stream.shutdown().await?;
        let mut piece = vec![0; PIECE];
        while stream.read(&mut piece).await? > 0 {}
        io::Result::Ok(())
    };
    if timeout(LINGER, taken).await.is_err() {
        tracing::debug!("a peer goes on sending what nobody reads");
    }
}
