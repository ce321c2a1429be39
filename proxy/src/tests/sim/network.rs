//! The simulated network and its time, as the proxy's own traits have them.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::FutureExt as _;
use reeve_core::{
    Clock, UnixTime,
    network::{Listener, Network, Pending, Stream},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// The network of the simulation that this thread runs.
#[derive(Debug)]
pub(super) struct SimNetwork;

impl Network for SimNetwork {
    fn connect(&self, to: SocketAddr) -> Pending<'static, Box<dyn Stream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            Ok(Box::new(SimStream(stream)) as Box<dyn Stream>)
        })
    }

    fn listen(&self, at: SocketAddr) -> io::Result<Box<dyn Listener>> {
        // A simulated host listens at its one address, which has no other name.
        let own = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), at.port());
        let bound = TcpListener::bind(own).now_or_never();
        let bound = bound.expect("nothing to wait for")?;
        Ok(Box::new(SimListener(bound)))
    }
}

struct SimListener(TcpListener);

impl std::fmt::Debug for SimListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SimListener").finish_non_exhaustive()
    }
}

impl Listener for SimListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn accept(&self) -> Pending<'_, (Box<dyn Stream>, SocketAddr)> {
        Box::pin(async {
            let (stream, from) = self.0.accept().await?;
            Ok((Box::new(SimStream(stream)) as Box<dyn Stream>, from))
        })
    }
}

#[derive(Debug)]
struct SimStream(TcpStream);

impl Stream for SimStream {
    /// Nothing: what is simulated here is HTTP, which tells a good end itself.
    fn reset(&self) {}
}

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The simulation's time, from a fixed day on.
#[derive(Debug)]
pub(super) struct SimClock;

impl Clock for SimClock {
    fn now(&self) -> UnixTime {
        let begin = UnixTime::from_secs(1_800_000_000);
        begin.plus(turmoil::sim_elapsed().unwrap_or_default())
    }
}
