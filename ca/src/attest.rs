//! Who is at the other end of a Unix socket, and who may say which workload that is.

use std::{fmt, io, os::fd::OwnedFd, sync::Arc};

use reeve_core::SpiffeId;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::net::UnixStream;

/// A process at the other end of a Unix socket, as the kernel says (`SO_PEERCRED`, unix(7)), held by a pidfd so that
/// its process id cannot come to mean another process unnoticed.
#[derive(Clone, Debug)]
pub struct UnixPeer {
    /// Process id.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    process: Option<Arc<OwnedFd>>,
}

/// Why a process was not attested.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    /// The process is none that may have an identity here.
    #[error("{0}")]
    Refused(String),
    /// Whoever knows the processes did not answer.
    #[error("the attestor did not answer: {0}")]
    Unavailable(String),
    /// The process is gone, so that its process id proves nothing.
    #[error("the process has ended")]
    Gone,
}

/// Says which identities a local process is entitled to.
#[tonic::async_trait]
pub trait Attestor: fmt::Debug + Send + Sync {
    /// Every identity that the process may have; never one of another node.
    async fn attest(&self, peer: &UnixPeer) -> Result<Vec<SpiffeId>, AttestError>;
}

/// Says whether a local process may have the identity of the agent it called.
#[tonic::async_trait]
pub trait PeerAttestor: fmt::Debug + Send + Sync {
    /// `Ok` if it may.
    async fn attest(&self, peer: &UnixPeer) -> Result<(), AttestError>;
}

impl UnixPeer {
    /// The process that connected `stream`.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid().unwrap_or_default();
        Ok(Self {
            pid: u32::try_from(pid).unwrap_or_default(),
            uid: credentials.uid(),
            gid: credentials.gid(),
            process: process_of(stream, pid).map(Arc::new),
        })
    }

    /// Refuses a process that ended meanwhile: its process id may be another's by now. Call it after asking about
    /// [`pid`](Self::pid). Without a pidfd it cannot be told, and the process is refused too.
    pub fn check_alive(&self) -> Result<(), AttestError> {
        let process = self.process.as_ref().ok_or(AttestError::Gone)?;
        // A pidfd becomes readable when its process ends (pidfd_open(2)).
        let mut fds = [PollFd::new(process.as_ref(), PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec::default())) {
            Ok(0) => Ok(()),
            Ok(_) | Err(_) => Err(AttestError::Gone),
        }
    }
}

impl fmt::Display for UnixPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of user {}", self.pid, self.uid)
    }
}

/// `SO_PEERPIDFD` (Linux 6.5); before it, the pidfd of the process id, which is as good unless the process ended before
/// we accepted.
fn process_of(stream: &UnixStream, pid: i32) -> Option<OwnedFd> {
    let exact = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerPidfd);
    exact
        .ok()
        .or_else(|| pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok())
}

#[cfg(test)]
mod tests;
