//! The hand-over: a sidecar that starts takes the listening sockets from the one that runs, and goes on with them, so
//! that no connection attempt is refused or lost between the two.
//!
//! ```text
//!  the new one                              the old one
//!  has certificate and configuration
//!  ── take {version, instance} ───────────►  checks who asks; holds configurations back
//!  ◄───────────── sockets, some at a time ──
//!  listens on them, beside the old one
//!  ── ready ──────────────────────────────►  stops accepting
//!  ◄────────────────────────────── draining ──
//!  serves alone                             lets open connections finish, ships its records, ends
//! ```
//!
//! Both hold the same sockets, not copies with queues of their own: what the kernel has queued for the old one is
//! accepted by the new one. Until `ready` nothing has changed for the old one; whatever goes wrong before, it goes on.
//!
//! SECURITY: each end asks the kernel who the other is. It must be of the same user, and where there is a supervisor,
//! a sidecar of the same instance by the supervisor's word.

mod channel;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use reeve_core::InstanceName;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

pub(crate) use self::channel::Listener;
use self::channel::{Channel, MAX_DESCRIPTORS};
use crate::{
    socket,
    whois::{Role, WhoIs},
};

/// The version of the protocol above; another one is refused, and the old process goes on.
const VERSION: u32 = 1;
/// Bound on the wait for one message.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most sockets of one sidecar that are handed over.
const MAX_SOCKETS: usize = 4096;

/// Where the hand-over takes place, and between whom.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) instance: InstanceName,
    pub(crate) supervisor: Option<WhoIs>,
}

/// The sockets of a sidecar.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// Those of the data plane: its address says which is which.
    pub(crate) proxy: Vec<OwnedFd>,
    /// The agent's socket.
    pub(crate) agent: Option<OwnedFd>,
    /// The admin socket.
    pub(crate) admin: Option<OwnedFd>,
    /// The socket of the hand-over itself.
    pub(crate) handover: Option<OwnedFd>,
}

/// Why there was no hand-over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandOverError {
    /// Nobody is there to hand over.
    #[error("nobody hands over at {path}: {source}")]
    Nobody {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The other end is not who it should be.
    #[error("process {pid} is refused: {why}")]
    Stranger {
        /// Its process.
        pid: u32,
        /// Why.
        why: String,
    },
    /// The other end said no.
    #[error("the process that runs refused: {0}")]
    Refused(String),
    /// The other end said something else than was agreed.
    #[error("the other process does not keep to the protocol: {0}")]
    Protocol(String),
    /// The conversation broke off.
    #[error("the conversation with the other process broke off: {0}")]
    Io(#[from] io::Error),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Message {
    Take {
        version: u32,
        instance: InstanceName,
    },
    Sockets {
        kinds: Vec<Kind>,
        more: bool,
    },
    Ready {},
    Draining {},
    Refused {
        why: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Proxy,
    Agent,
    Admin,
    HandOver,
}

impl Place {
    /// Listens for successors.
    pub(crate) fn listen(&self) -> anyhow::Result<Listener> {
        socket::prepare(&self.path, "the hand-over socket", || {
            Channel::connect(&self.path).is_ok()
        })?;
        let listener = Listener::bind(&self.path).map_err(|error| {
            anyhow::anyhow!("the hand-over socket at {}: {error}", self.path.display())
        })?;
        socket::make_private(&self.path, "the hand-over socket")?;
        Ok(listener)
    }

    /// Waits for a successor that asks by right.
    pub(crate) async fn successor(&self, listener: &Listener) -> Result<Successor, HandOverError> {
        let channel = listener.accept().await?;
        self.check(&channel).await?;
        let message = receive(&channel).await?.0;
        let Message::Take { version, instance } = &message else {
            return Err(unexpected(&message));
        };
        let fault = if *version != VERSION {
            format!("it speaks version {version} of the hand-over, not {VERSION}")
        } else if *instance != self.instance {
            let own = &self.instance;
            format!("this is the sidecar of {own}, not of {instance}")
        } else {
            return Ok(Successor(channel));
        };
        let why = fault.clone();
        send(&channel, &Message::Refused { why }, &[]).await?;
        Err(HandOverError::Protocol(fault))
    }

    /// Takes the sockets of the process that runs.
    pub(crate) async fn take(&self) -> Result<(Predecessor, Sockets), HandOverError> {
        let channel = Channel::connect(&self.path).map_err(|source| HandOverError::Nobody {
            path: self.path.clone(),
            source,
        })?;
        self.check(&channel).await?;
        let take = Message::Take {
            version: VERSION,
            instance: self.instance.clone(),
        };
        send(&channel, &take, &[]).await?;
        let sockets = receive_sockets(&channel).await?;
        Ok((Predecessor(channel), sockets))
    }

    /// SECURITY: whoever holds the sockets is the workload to all who connect.
    async fn check(&self, channel: &Channel) -> Result<(), HandOverError> {
        let peer = channel.peer()?;
        let stranger = |why| HandOverError::Stranger { pid: peer.pid, why };
        let own = rustix::process::getuid().as_raw();
        if peer.uid != own {
            return Err(stranger(format!("user {} is not user {own}", peer.uid)));
        }
        let Some(supervisor) = &self.supervisor else {
            return Ok(());
        };
        let known = supervisor.ask(peer.pid).await;
        let known = known.map_err(|error| stranger(error.to_string()))?;
        if known.role == Role::Sidecar && known.instance == self.instance {
            return Ok(());
        }
        Err(stranger(format!("it belongs to {}", known.instance)))
    }
}

/// A process that waits for the sockets of this one.
#[derive(Debug)]
pub(crate) struct Successor(Channel);

impl Successor {
    /// Passes the sockets on and waits until it serves them. Until this returns, nothing has changed for this process.
    pub(crate) async fn hand_over(&self, sockets: &Sockets) -> Result<(), HandOverError> {
        let all = sockets.list();
        if all.len() > MAX_SOCKETS {
            let why = format!("{} sockets are more than {MAX_SOCKETS}", all.len());
            send(&self.0, &Message::Refused { why: why.clone() }, &[]).await?;
            return Err(HandOverError::Protocol(why));
        }
        let parts = all.len().div_ceil(MAX_DESCRIPTORS).max(1);
        for number in 1..=parts {
            let part = all
                .iter()
                .skip((number - 1) * MAX_DESCRIPTORS)
                .take(MAX_DESCRIPTORS);
            let (kinds, fds): (Vec<_>, Vec<_>) = part.copied().unzip();
            let more = number < parts;
            send(&self.0, &Message::Sockets { kinds, more }, &fds).await?;
        }
        expect(receive(&self.0).await?.0, |message| {
            matches!(message, Message::Ready {})
        })
    }

    /// Says that this process accepts nothing any more.
    pub(crate) async fn draining(&self) {
        if let Err(error) = send(&self.0, &Message::Draining {}, &[]).await {
            tracing::debug!(%error, "the successor went on without waiting");
        }
    }
}

/// The process whose sockets this one has taken.
#[derive(Debug)]
pub(crate) struct Predecessor(Channel);

impl Predecessor {
    /// Says that this process serves, and waits until the other one does not accept any more.
    pub(crate) async fn ready(&self) -> Result<(), HandOverError> {
        send(&self.0, &Message::Ready {}, &[]).await?;
        expect(receive(&self.0).await?.0, |message| {
            matches!(message, Message::Draining {})
        })
    }
}

impl Sockets {
    fn list(&self) -> Vec<(Kind, BorrowedFd<'_>)> {
        let own = [
            (Kind::Agent, &self.agent),
            (Kind::Admin, &self.admin),
            (Kind::HandOver, &self.handover),
        ];
        let proxy = self.proxy.iter().map(|fd| (Kind::Proxy, fd.as_fd()));
        let own = own
            .into_iter()
            .filter_map(|(kind, fd)| Some((kind, fd.as_ref()?.as_fd())));
        proxy.chain(own).collect()
    }

    fn add(&mut self, kind: Kind, fd: OwnedFd) {
        match kind {
            Kind::Proxy => self.proxy.push(fd),
            Kind::Agent => self.agent = Some(fd),
            Kind::Admin => self.admin = Some(fd),
            Kind::HandOver => self.handover = Some(fd),
        }
    }
}

async fn receive_sockets(channel: &Channel) -> Result<Sockets, HandOverError> {
    let mut sockets = Sockets::default();
    let mut count = 0;
    loop {
        let (message, fds) = receive(channel).await?;
        let Message::Sockets { kinds, more } = message else {
            return Err(unexpected(&message));
        };
        count += fds.len();
        if kinds.len() != fds.len() || count > MAX_SOCKETS || (more && fds.is_empty()) {
            let what = format!("{} sockets with {} names", fds.len(), kinds.len());
            return Err(HandOverError::Protocol(what));
        }
        for (kind, fd) in kinds.into_iter().zip(fds) {
            sockets.add(kind, fd);
        }
        if !more {
            return Ok(sockets);
        }
    }
}

async fn send(channel: &Channel, message: &Message, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(message).map_err(io::Error::other)?;
    timeout(PATIENCE, channel.send(&text, fds)).await?
}

async fn receive(channel: &Channel) -> Result<(Message, Vec<OwnedFd>), HandOverError> {
    let received = timeout(PATIENCE, channel.receive())
        .await
        .map_err(io::Error::from)?;
    let (text, fds) = received?;
    if text.is_empty() {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let message = serde_json::from_slice(&text);
    let message = message.map_err(|error| HandOverError::Protocol(error.to_string()))?;
    Ok((message, fds))
}

fn expect(message: Message, wanted: impl Fn(&Message) -> bool) -> Result<(), HandOverError> {
    if wanted(&message) {
        return Ok(());
    }
    Err(unexpected(&message))
}

fn unexpected(message: &Message) -> HandOverError {
    let what = match message {
        Message::Take { .. } => "take",
        Message::Sockets { .. } => "sockets",
        Message::Ready {} => "ready",
        Message::Draining {} => "draining",
        Message::Refused { why } => return HandOverError::Refused(why.clone()),
    };
    HandOverError::Protocol(format!("{what:?} at the wrong time"))
}

#[cfg(test)]
mod tests;
