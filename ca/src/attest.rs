//! Who is at the other end of a Unix socket, and who may say what is known of a caller.
//!
//! An [`Attestor`] is the plug point: it takes [`Evidence`] and says what it knows by it.

mod unix;

use std::{fmt, io, os::fd::OwnedFd, sync::Arc};

use reeve_core::{Selectors, SpiffeId};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::net::UnixStream;

pub use unix::UnixAttestor;

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

/// Why a caller was not attested.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    /// The evidence is none that gives an identity here.
    #[error("{0}")]
    Refused(String),
    /// Whoever could tell did not answer.
    #[error("the attestor did not answer: {0}")]
    Unavailable(String),
    /// The process is gone, so that its process id proves nothing.
    #[error("the process has ended")]
    Gone,
}

/// What a caller is known by.
#[derive(Clone, Copy)]
pub enum Evidence<'a> {
    /// It is a process of this machine.
    Process {
        /// The process.
        peer: &'a UnixPeer,
        /// Whether the hash of its executable is of interest; reading it takes long.
        hashed: bool,
    },
    /// It showed a service account's token of a Kubernetes cluster.
    KubernetesToken(&'a str),
}

/// What is known of a caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attestation {
    /// Facts, which registration entries are matched with.
    pub selectors: Selectors,
    /// Identities that are its own by what the evidence says; never one of another node.
    pub identities: Vec<SpiffeId>,
}

/// Says what is known of whoever shows some evidence.
#[tonic::async_trait]
pub trait Attestor: fmt::Debug + Send + Sync {
    /// What is known; none if evidence of this kind says nothing to this attestor.
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attestation>, AttestError>;
}

/// Several attestors as one, which knows what any of them does.
#[derive(Debug, Default)]
pub struct Attestors(Vec<Arc<dyn Attestor>>);

impl Attestors {
    /// All of `attestors`.
    pub fn new(attestors: Vec<Arc<dyn Attestor>>) -> Self {
        Self(attestors)
    }
}

#[tonic::async_trait]
impl Attestor for Attestors {
    /// INVARIANT: what one of them refuses is refused, whatever the others know.
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attestation>, AttestError> {
        let mut known: Option<Attestation> = None;
        for attestor in &self.0 {
            if let Some(more) = attestor.attest(evidence).await? {
                let known = known.get_or_insert_default();
                known.selectors.extend(more.selectors);
                known.identities.extend(more.identities);
            }
        }
        Ok(known)
    }
}

impl fmt::Debug for Evidence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { peer, .. } => write!(f, "{peer}"),
            Self::KubernetesToken(_) => f.write_str("a Kubernetes token"),
        }
    }
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
