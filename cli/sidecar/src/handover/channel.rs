//! Messages with file descriptors between two processes of this machine: a Unix socket that keeps the bounds of
//! messages (`SOCK_SEQPACKET`, unix(7)) and passes descriptors (`SCM_RIGHTS`).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    sockopt,
};
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
};

/// Longest message.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Descriptors with one message; the kernel's own bound is 253 (`SCM_MAX_FD`).
pub(super) const MAX_DESCRIPTORS: usize = 64;
/// Successors that may wait to be heard.
const BACKLOG: i32 = 4;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) pid: u32,
    pub(super) uid: u32,
}

/// One end of a conversation. tokio's type for streams is used for waiting alone.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

/// Where conversations begin.
#[derive(Debug)]
pub(crate) struct Listener(UnixListener);

impl Listener {
    /// Listens at `path`, which must be free.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let socket = socket()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Self::of(socket)
    }

    /// Goes on with a socket that listens already.
    pub(crate) fn of(socket: OwnedFd) -> io::Result<Self> {
        if !sockopt::socket_acceptconn(&socket)? {
            return Err(invalid("the descriptor is no listening socket"));
        }
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(Self)
    }

    /// Makes this the process that the kernel names to those who connect: the one that last called listen(2). A socket
    /// that was handed over names the process before, until this is done.
    pub(crate) fn claim(&self) -> io::Result<()> {
        Ok(rustix::net::listen(&self.0, BACKLOG)?)
    }

    /// The next conversation. Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<Channel> {
        let (stream, _) = self.0.accept().await?;
        Ok(Channel(stream))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// Begins a conversation at `path`. Never waits: a backlog that is full is an error.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        UnixStream::from_std(socket.into()).map(Self)
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> io::Result<Peer> {
        let peer = self.0.peer_cred()?;
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
        Ok(Peer {
            pid: pid.ok_or_else(|| invalid("the other process is not known"))?,
            uid: peer.uid(),
        })
    }

    /// Sends one message.
    pub(super) async fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if message.len() > MAX_MESSAGE_BYTES || fds.len() > MAX_DESCRIPTORS {
            return Err(invalid("the message is too long"));
        }
        let sent = self.0.async_io(Interest::WRITABLE, || {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(invalid("the descriptors do not fit"));
            }
            let parts = [IoSlice::new(message)];
            Ok(rustix::net::sendmsg(
                &self.0,
                &parts,
                &mut control,
                SendFlags::NOSIGNAL,
            )?)
        });
        sent.await.map(drop)
    }

    /// The next message with its descriptors; an empty one is the end. Cancel-safe.
    pub(super) async fn receive(&self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let socket = &self.0;
        socket
            .async_io(Interest::READABLE, || receive(socket))
            .await
    }
}

fn receive(socket: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut message = vec![0; MAX_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut message)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut parts, &mut control, flags)?;
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = part {
            fds.extend(passed);
        }
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(invalid("a message was cut: it is longer than allowed"));
    }
    message.truncate(received.bytes);
    Ok((message, fds))
}

fn socket() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socket_with(family, kind, FLAGS, None)?)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
