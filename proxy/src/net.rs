//! The network that a proxy is on: the operating system's, or one that it was given in its place. Which of the two is
//! settled once, at the start; on the way of bytes it is one branch that always goes the same way.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use reeve_core::network::{Listener, Network, Stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

use crate::{
    io::Io,
    linger::{Lingering, Patience},
};

/// A network.
#[derive(Clone, Debug, Default)]
pub(crate) enum Net {
    /// The operating system's.
    #[default]
    Os,
    /// Another.
    Given(Arc<dyn Network>),
}

impl From<Option<Arc<dyn Network>>> for Net {
    fn from(given: Option<Arc<dyn Network>>) -> Self {
        given.map_or(Self::Os, Self::Given)
    }
}

impl Net {
    /// Connects.
    pub(crate) async fn connect(&self, to: SocketAddr) -> io::Result<Socket> {
        match self {
            Self::Os => {
                let stream = TcpStream::connect(to).await?;
                Ok(Socket::Os(stream.into()))
            }
            Self::Given(network) => network.connect(to).await.map(Socket::Given),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Of the operating system's network.
    Os(Lingering),
    /// Of another.
    Given(Box<dyn Stream>),
}

impl Socket {
    /// The operating system's socket, if it is one.
    pub(crate) fn os(&self) -> Option<&TcpStream> {
        match self {
            Self::Os(stream) => stream.stream(),
            Self::Given(_) => None,
        }
    }

    /// Has small writes sent at once.
    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        self.os().map_or(Ok(()), |stream| stream.set_nodelay(true))
    }
}

impl Io for Socket {
    fn reset(&self) {
        match self {
            Self::Os(stream) => stream.reset(),
            Self::Given(stream) => stream.reset(),
        }
    }

    fn patience(&self) -> Patience {
        match self {
            Self::Os(stream) => stream.patience(),
            Self::Given(_) => Patience::default(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Os(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Given(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Os(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Given(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Os(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Given(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Os(stream) => stream.is_write_vectored(),
            Self::Given(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Os(stream) => Pin::new(stream).poll_flush(cx),
            Self::Given(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Os(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Given(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A bound address, before a runtime accepts at it.
#[derive(Debug)]
pub(crate) enum Bound {
    /// Of the operating system's network.
    Os(std::net::TcpListener),
    /// Of another.
    Given(Box<dyn Listener>),
}

impl Bound {
    /// The address, with the port that was chosen.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Os(listener) => listener.local_addr(),
            Self::Given(listener) => listener.local_addr(),
        }
    }

    /// Accepts in the present runtime.
    pub(crate) fn open(self) -> io::Result<Door> {
        match self {
            Self::Os(listener) => TcpListener::from_std(listener).map(Door::Os),
            Self::Given(listener) => Ok(Door::Given(listener)),
        }
    }
}

/// Where connections come in.
#[derive(Debug)]
pub(crate) enum Door {
    /// Of the operating system's network.
    Os(TcpListener),
    /// Of another.
    Given(Box<dyn Listener>),
}

impl Door {
    /// The address.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Os(listener) => listener.local_addr(),
            Self::Given(listener) => listener.local_addr(),
        }
    }

    /// The next connection. Cancel-safe: it loses no connection when dropped.
    pub(crate) async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        match self {
            Self::Os(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok((Socket::Os(stream.into()), from))
            }
            Self::Given(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok((Socket::Given(stream), from))
            }
        }
    }
}
