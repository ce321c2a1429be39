//! The agent of a machine: serves registration entries to processes that are no workloads of a mesh.
//!
//! Flow: it follows the authority's entries that name it as parent; a process that connects is attested, and for every
//! entry whose selectors are all known of it an [`Agent`] of that identity is started – nobody's key is
//! made before somebody may have it. Entries that are taken away take their keys with them.

mod refusals;

pub use refusals::ToldEvents;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use reeve_core::{Clock, EntryName, InstanceName, RegistrationEntry, Selectors, SpiffeId};
use reeve_svid::CredentialsWatch;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::sleep,
};
use tokio_stream::wrappers::WatchStream;

use crate::{
    Agent, AgentHandle, AgentOptions, AttestError, Attestor, Evidence, GrpcIssuer, JwtSource,
    UnixPeer,
    agent::EntryStream,
    entries::{EntryUse, MAX_USES},
    identities::{Held, Identities, IdentitySource, Shown},
};

/// Most calls and streams that are served at one time.
const MAX_SESSIONS: usize = 4_096;
/// So often in a row a certificate could not be had, and others are served without it.
const FAILURES: u32 = 3;
/// Pause before the authority is asked again for entries.
const AGAIN: Duration = Duration::from_secs(1);

/// An agent of a machine. Clones are the same agent.
#[derive(Clone)]
pub struct NodeAgent(Arc<Node>);

struct Node {
    id: SpiffeId,
    issuer: GrpcIssuer,
    /// The agent's own.
    credentials: CredentialsWatch,
    attestor: Arc<dyn Attestor>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    shown: watch::Sender<Shown>,
    uses: watch::Sender<Vec<EntryUse>>,
    /// An identity has another certificate, or failed to get one.
    news: Notify,
}

#[derive(Default)]
struct State {
    /// None until the authority has told.
    entries: Option<Vec<RegistrationEntry>>,
    running: BTreeMap<EntryName, Running>,
    sessions: BTreeMap<u64, Session>,
    last_session: u64,
}

/// An identity that somebody asked for.
struct Running {
    entry: RegistrationEntry,
    credentials: CredentialsWatch,
    handle: AgentHandle,
    jwt: Arc<JwtSource>,
    follow: JoinHandle<()>,
}

/// A process that is served.
struct Session {
    known: Selectors,
    /// The entries that are for it.
    gets: Vec<EntryName>,
    pid: u32,
    uid: u32,
}

struct SessionGuard(Arc<Node>, u64);

impl NodeAgent {
    /// An agent with the identity `id`, which `credentials` prove to `issuer`. It knows no entries before it
    /// [runs](Self::run).
    pub fn new(
        id: SpiffeId,
        issuer: GrpcIssuer,
        credentials: CredentialsWatch,
        attestor: Arc<dyn Attestor>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self(Arc::new(Node {
            id,
            issuer,
            credentials,
            attestor,
            clock,
            state: Mutex::default(),
            shown: watch::Sender::default(),
            uses: watch::Sender::default(),
            news: Notify::new(),
        }))
    }

    /// Follows the entries and the certificates for ever. While the authority is away, the entries it told last hold.
    pub async fn run(&self) {
        tokio::join!(self.follow_entries(), self.follow_certificates());
    }

    async fn follow_entries(&self) {
        let node = &self.0;
        loop {
            let mut credentials = node.credentials.clone();
            let held = credentials.wait_for(Option::is_some).await;
            let held = held.ok().and_then(|held| held.clone());
            let uses = WatchStream::new(node.uses.subscribe()).boxed();
            match node.issuer.entries(&node.id, held, uses).await {
                Ok(told) => self.heed(told).await,
                Err(error) => tracing::debug!(%error, "the authority tells no entries"),
            }
            sleep(AGAIN).await;
        }
    }

    async fn heed(&self, mut told: EntryStream) {
        while let Some(entries) = told.next().await {
            match entries {
                Ok(entries) => self.0.take(entries),
                Err(error) => {
                    tracing::debug!(%error, "the authority tells no more entries");
                    return;
                }
            }
        }
    }

    async fn follow_certificates(&self) {
        loop {
            self.0.news.notified().await;
            self.0.show(&mut self.0.lock());
        }
    }
}

impl Node {
    /// These are the entries now.
    fn take(self: &Arc<Self>, mut entries: Vec<RegistrationEntry>) {
        entries.sort_by(|a, b| a.rank().cmp(&b.rank()));
        tracing::info!(entries = entries.len(), "registration entries are in force");
        let mut state = self.lock();
        // What runs under other terms than now is started anew.
        state
            .running
            .retain(|_, running| entries.contains(&running.entry));
        for session in state.sessions.values_mut() {
            session.gets = matching(&entries, &session.known);
        }
        state.entries = Some(entries);
        self.start_missing(&mut state);
        self.show(&mut state);
    }

    /// Starts what some process may have and nothing runs for.
    fn start_missing(self: &Arc<Self>, state: &mut State) {
        let entries = state.entries.as_deref().unwrap_or_default();
        let gets = state.sessions.values().flat_map(|session| &session.gets);
        let gets: BTreeSet<_> = gets.collect();
        let wanted = entries
            .iter()
            .filter(|entry| gets.contains(&entry.name) && !state.running.contains_key(&entry.name));
        let started: Vec<_> = wanted.filter_map(|entry| self.start(entry)).collect();
        for running in started {
            state.running.insert(running.entry.name.clone(), running);
        }
    }

    fn start(self: &Arc<Self>, entry: &RegistrationEntry) -> Option<Running> {
        let EntryName { namespace, name } = &entry.name;
        let instance = InstanceName::parse(&format!("entry.{namespace}.{name}")).ok()?;
        let issuer = self.issuer.under(&entry.name, self.credentials.clone());
        let issuer = Arc::new(issuer);
        let options = AgentOptions {
            id: entry.id.clone(),
            join_token: None,
            instance,
            installed: None,
        };
        let clock = Arc::clone(&self.clock);
        let (credentials, handle) = Agent::start(options, issuer.clone(), Arc::clone(&clock));
        let jwt = JwtSource::new(entry.id.clone(), issuer, credentials.clone(), clock);
        let (node, status) = (Arc::clone(self), handle.watch_status());
        let changes = stream::select(
            WatchStream::from_changes(credentials.clone()).map(drop),
            WatchStream::from_changes(status).map(drop),
        );
        let follow = tokio::spawn(changes.for_each(move |()| {
            node.news.notify_one();
            std::future::ready(())
        }));
        Some(Running {
            entry: entry.clone(),
            credentials,
            handle,
            jwt: Arc::new(jwt),
            follow,
        })
    }

    /// Shows what there is, and who uses it.
    fn show(&self, state: &mut State) {
        let entries = state.entries.as_deref().unwrap_or_default();
        let held = entries.iter().map(|entry| {
            let Some(running) = state.running.get(&entry.name) else {
                return Held::awaited(entry);
            };
            Held {
                credentials: running.credentials.borrow().clone(),
                failed: running.handle.status().failures >= FAILURES,
                jwt: Some(Arc::clone(&running.jwt)),
                ..Held::awaited(entry)
            }
        });
        self.shown.send_replace(Arc::new(held.collect()));
        let used = state.sessions.values().flat_map(|session| {
            session.gets.iter().map(|entry| EntryUse {
                entry: entry.clone(),
                pid: session.pid,
                uid: session.uid,
            })
        });
        // A process with several streams is one.
        let used: BTreeSet<_> = used.collect();
        let used: Vec<_> = used.into_iter().take(MAX_USES).collect();
        self.uses.send_if_modified(|shown| {
            let changed = *shown != used;
            *shown = used;
            changed
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries that are for a process of whom `known` is known.
fn matching(entries: &[RegistrationEntry], known: &Selectors) -> Vec<EntryName> {
    let those = entries
        .iter()
        .filter(|entry| !entry.selectors.is_empty() && known.have_all_of(&entry.selectors));
    those.map(|entry| entry.name.clone()).collect()
}

#[tonic::async_trait]
impl IdentitySource for NodeAgent {
    async fn identities(&self, peer: &UnixPeer) -> Result<Identities, AttestError> {
        let node = &self.0;
        let hashed = {
            let state = node.lock();
            let entries = state.entries.as_ref();
            let entries = entries.ok_or_else(|| {
                AttestError::Unavailable("the authority has told no entries yet".to_owned())
            })?;
            let mut asked = entries.iter().flat_map(|entry| entry.selectors.iter());
            asked.any(|selector| selector.kind() == "unix:sha256")
        };
        let known = node
            .attestor
            .attest(Evidence::Process { peer, hashed })
            .await?;
        let known = known.unwrap_or_default().selectors;
        let mut state = node.lock();
        let gets = matching(state.entries.as_deref().unwrap_or_default(), &known);
        if gets.is_empty() {
            let facts: Vec<_> = known.iter().map(ToString::to_string).collect();
            let facts = facts.join(" ");
            return Err(AttestError::Refused(format!(
                "no registration entry is for it; known are {facts}"
            )));
        }
        if state.sessions.len() >= MAX_SESSIONS {
            return Err(AttestError::Unavailable("too many are served".to_owned()));
        }
        state.last_session += 1;
        let number = state.last_session;
        let session = Session {
            known: known.clone(),
            gets,
            pid: peer.pid,
            uid: peer.uid,
        };
        state.sessions.insert(number, session);
        node.start_missing(&mut state);
        node.show(&mut state);
        let guard = SessionGuard(Arc::clone(node), number);
        let shown = node.shown.subscribe();
        Ok(Identities::new(shown, known, Some(Box::new(guard))))
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.sessions.remove(&self.1);
        self.0.show(&mut state);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.follow.abort();
    }
}

impl fmt::Debug for NodeAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeAgent")
            .field("id", &self.0.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
