//! The process at the other end of a Unix socket, as the kernel names it.

use std::{
    fmt,
    os::fd::OwnedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt};
use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::Connected;

/// A local process. Where the kernel can (Linux 6.5), it is held by a pidfd, which tells a reused pid from the original.
#[derive(Clone, Debug)]
pub struct UnixPeer {
    pid: i32,
    uid: u32,
    gid: u32,
    pidfd: Option<Arc<OwnedFd>>,
}

impl UnixPeer {
    /// The process that connected this socket.
    pub fn of(stream: &UnixStream) -> std::io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid().ok_or_else(|| {
            std::io::Error::other("the kernel does not tell the peer's process id")
        })?;
        Ok(Self {
            pid,
            uid: credentials.uid(),
            gid: credentials.gid(),
            pidfd: getsockopt(stream, sockopt::PeerPidfd).ok().map(Arc::new),
        })
    }

    /// Process id, in our own pid namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// User id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Group id.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Whether the very process that connected is still there. To be asked *after* looking something up by its pid:
    /// what was found then was not about a later process with the same number. Without a pidfd the answer is yes.
    pub fn is_alive(&self) -> bool {
        let Some(pidfd) = &self.pidfd else {
            return true;
        };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut fds, Some(&now)), Ok(0))
    }
}

impl fmt::Display for UnixPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of user {}", self.pid, self.uid)
    }
}

/// A Unix connection that knows its peer; tonic puts the [`UnixPeer`] into each request's extensions.
#[derive(Debug)]
pub struct PeerStream {
    stream: UnixStream,
    peer: UnixPeer,
}

/// The connections of a listener. One whose peer the kernel cannot name is dropped.
pub fn accept_peers(listener: UnixListener) -> impl Stream<Item = std::io::Result<PeerStream>> {
    UnixListenerStream::new(listener).filter_map(async |stream| match stream {
        Ok(stream) => UnixPeer::of(&stream)
            .ok()
            .map(|peer| Ok(PeerStream { stream, peer })),
        Err(error) => Some(Err(error)),
    })
}

impl Connected for PeerStream {
    type ConnectInfo = UnixPeer;

    fn connect_info(&self) -> UnixPeer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_is_this_very_process() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = UnixPeer::of(&a).unwrap();
        assert_eq!(u32::try_from(peer.pid()).unwrap(), std::process::id());
        assert!(peer.is_alive());
    }

    #[tokio::test]
    async fn a_peer_that_ended_is_not_alive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let script =
            "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)";
        let mut child = tokio::process::Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let peer = UnixPeer::of(&stream).unwrap();
        assert_eq!(Some(u32::try_from(peer.pid()).unwrap()), child.id());
        assert!(peer.is_alive());
        drop(stream);
        child.wait().await.unwrap();
        assert!(!peer.is_alive());
    }
}
