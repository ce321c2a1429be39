//! The network as a proxy sees it, so that a simulation can take its place. A proxy that is given none uses the operating
//! system's sockets directly: nothing here is on the way of its bytes.

use std::{fmt, io, net::SocketAddr, pin::Pin};

use tokio::io::{AsyncRead, AsyncWrite};

/// A network.
pub trait Network: fmt::Debug + Send + Sync {
    /// Connects.
    fn connect(&self, to: SocketAddr) -> Pending<'static, Box<dyn Stream>>;

    /// Listens from now on.
    fn listen(&self, at: SocketAddr) -> io::Result<Box<dyn Listener>>;
}

/// Something that a network does in its own time.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// Where connections come in.
pub trait Listener: fmt::Debug + Send + Sync {
    /// The address, with the port that was chosen.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// The next connection, and where it is from. Dropped before it is ready, it loses none.
    fn accept(&self) -> Pending<'_, (Box<dyn Stream>, SocketAddr)>;
}

/// A connection.
pub trait Stream: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin {
    /// From now on, dropping it resets the connection: the other end does not take it for a good end.
    fn reset(&self);
}
