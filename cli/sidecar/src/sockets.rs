//! The sockets that a sidecar listens on: bound afresh, or taken from the process before it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

use reeve_core::error_chain;
use reeve_proxy::Proxy;
use tokio::{
    net::UnixListener,
    sync::{Mutex, watch},
};

use crate::{
    SidecarArgs,
    handover::{HandOverError, Listener, Place, Predecessor, Sockets},
    socket,
    whois::WhoIs,
};

/// The Unix sockets of this process; each is served only where its path was named.
#[derive(Debug, Default)]
pub(crate) struct UnixSockets {
    pub(crate) agent: Option<UnixListener>,
    pub(crate) admin: Option<UnixListener>,
    pub(crate) handover: Option<Listener>,
}

/// The way to the sockets: open at once, or, for a process that takes over, once the one before has let go.
#[derive(Clone, Debug)]
pub(crate) struct Door(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    args: SidecarArgs,
    /// Whom to take over from, while that is still to be done.
    before: Mutex<Option<Place>>,
    sockets: watch::Sender<Option<Arc<UnixSockets>>>,
}

/// What a process that takes over holds between taking and serving.
#[derive(Debug)]
pub(crate) struct Entering {
    predecessor: Option<Predecessor>,
    sockets: UnixSockets,
}

impl Door {
    /// Binds everything at once, so that a path that is taken is said at once; or notes whom to take over from.
    pub(crate) fn new(args: &SidecarArgs) -> anyhow::Result<Self> {
        let (before, sockets) = if args.take_over {
            (place(args), None)
        } else {
            (None, Some(Arc::new(UnixSockets::bind(args)?)))
        };
        Ok(Self(Arc::new(Inner {
            args: args.clone(),
            before: Mutex::new(before),
            sockets: watch::Sender::new(sockets),
        })))
    }

    /// The sockets, when they are this process's.
    pub(crate) async fn sockets(&self) -> Arc<UnixSockets> {
        let mut sockets = self.0.sockets.subscribe();
        let mine = sockets.wait_for(Option::is_some).await;
        match mine.ok().and_then(|mine| mine.clone()) {
            Some(mine) => mine,
            // The sender is `self`'s.
            None => std::future::pending().await,
        }
    }

    /// Lets go of the sockets: they are another process's.
    pub(crate) fn close(&self) {
        self.0.sockets.send_replace(None);
    }

    /// Takes the sockets, if that is still to be done, and gives the proxy its own. They serve both processes until
    /// [`Door::open`]; dropped before, they are the other one's alone again.
    pub(crate) async fn enter(&self, proxy: &Proxy) -> Result<Option<Entering>, String> {
        let before = self.0.before.lock().await;
        let Some(place) = &*before else {
            return Ok(None);
        };
        let (predecessor, taken) = match place.take().await {
            Ok((predecessor, taken)) => (Some(predecessor), taken),
            Err(HandOverError::Nobody { path, source }) => {
                tracing::warn!(path = %path.display(), error = %source, "nobody runs to take over from");
                (None, Sockets::default())
            }
            Err(error) => return Err(error_chain(&error)),
        };
        let wrong = |error: io::Error| format!("the sockets that were handed over: {error}");
        proxy.inherit(taken.proxy).map_err(wrong)?;
        let sockets = UnixSockets::take(&self.0.args, taken.agent, taken.admin, taken.handover)
            .map_err(|error| format!("{error:#}"))?;
        Ok(Some(Entering {
            predecessor,
            sockets,
        }))
    }

    /// Has the process before let go, now that this one listens.
    pub(crate) async fn open(&self, entering: Option<Entering>) {
        let Some(entering) = entering else {
            return;
        };
        if let Some(predecessor) = &entering.predecessor {
            match predecessor.ready().await {
                Ok(()) => tracing::info!("the sockets are taken over"),
                // It is gone, or will be: this process has the sockets either way.
                Err(error) => {
                    tracing::warn!(%error, "the process before did not say that it drains")
                }
            }
        }
        if let Some(Err(error)) = entering.sockets.handover.as_ref().map(Listener::claim) {
            tracing::error!(%error, "the next process will refuse to take over from this one");
        }
        *self.0.before.lock().await = None;
        self.0
            .sockets
            .send_replace(Some(Arc::new(entering.sockets)));
    }
}

/// Where the hand-over of this sidecar takes place.
pub(crate) fn place(args: &SidecarArgs) -> Option<Place> {
    Some(Place {
        path: args.handover_socket.clone()?,
        instance: args.instance.clone(),
        supervisor: args.supervisor_socket.as_deref().map(WhoIs::new),
    })
}

impl UnixSockets {
    fn bind(args: &SidecarArgs) -> anyhow::Result<Self> {
        Self::take(args, None, None, None)
    }

    /// Goes on with what was handed over, and binds the rest.
    fn take(
        args: &SidecarArgs,
        agent: Option<OwnedFd>,
        admin: Option<OwnedFd>,
        handover: Option<OwnedFd>,
    ) -> anyhow::Result<Self> {
        let unix = |path: &Option<PathBuf>, taken: Option<OwnedFd>, what| -> anyhow::Result<_> {
            Ok(match (path, taken) {
                (None, _) => None,
                (Some(_), Some(taken)) => Some(listener(taken)?),
                (Some(path), None) => Some(socket::bind(path, what)?),
            })
        };
        let handover = match (place(args), handover) {
            (None, _) => None,
            (Some(_), Some(taken)) => Some(Listener::of(taken)?),
            (Some(place), None) => Some(place.listen()?),
        };
        Ok(Self {
            agent: unix(&args.agent_socket, agent, "the agent's socket")?,
            admin: unix(&args.admin_socket, admin, "the admin socket")?,
            handover,
        })
    }

    /// All of them, for the process to come.
    pub(crate) fn share(&self, proxy: Vec<OwnedFd>) -> io::Result<Sockets> {
        let clone = |socket: &Option<UnixListener>| -> io::Result<_> {
            let fd = socket.as_ref();
            fd.map(|s| s.as_fd().try_clone_to_owned()).transpose()
        };
        let handover = self.handover.as_ref();
        Ok(Sockets {
            proxy,
            agent: clone(&self.agent)?,
            admin: clone(&self.admin)?,
            handover: handover
                .map(|h| h.as_fd().try_clone_to_owned())
                .transpose()?,
        })
    }
}

/// The same socket, to be served.
pub(crate) fn clone(socket: &UnixListener) -> io::Result<UnixListener> {
    listener(socket.as_fd().try_clone_to_owned()?)
}

fn listener(taken: OwnedFd) -> io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(taken);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}
