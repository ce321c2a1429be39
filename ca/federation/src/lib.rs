//! Federation with other trust domains, by the SPIFFE Federation standard: our trust bundle served to them, theirs fetched.
//!
//! Flow: a [`Follower`] looks at what is wanted, fetches each bundle when it is due and hands all of them to its
//! [`FederationSink`], which is the certificate authority; members get them with our own bundle. A [`BundleEndpoint`]
//! serves ours to whoever asks.
//!
//! Invariants: a bundle that was fetched is for the trust domain that it was fetched for and no other; its sequence never
//! goes back; what cannot be fetched leaves the last good one in force, with its age told; a trust domain that is wanted
//! no longer is given up at once. Answers are bounded in size and time, and redirects are not followed.

mod endpoint;
mod fetch;
mod keeper;
mod kept;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use reeve_core::{Clock, TrustDomain, error_chain, model::Federation};
use reeve_svid::{BundleDocument, Federated, TrustBundle};
use tokio::sync::watch;

pub use endpoint::BundleEndpoint;
pub use keeper::{BundleSource, DomainStatus};

use fetch::{FetchError, Question};
use keeper::Keeper;

/// How often it is looked whether something is due, or wanted otherwise.
const TICK: Duration = Duration::from_millis(200);
/// Most fetches at once.
const MAX_FETCHES: usize = 8;

/// What federation is to be; none while nobody knows.
pub type Wanted = Arc<dyn Fn() -> Option<Federation> + Send + Sync>;

/// Who takes the bundles of other trust domains.
pub trait FederationSink: fmt::Debug + Send + Sync {
    /// Has them in force from now on, and no others; whether that was done.
    fn install(&self, federated: Arc<Federated>) -> bool;

    /// Takes note of a change.
    fn changed(&self, change: &FederationChange);
}

/// What became of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederationChange {
    /// Which.
    pub trust_domain: TrustDomain,
    /// What.
    pub what: ChangeKind,
}

/// What can become of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It has another bundle, of this sequence with so many authorities.
    Bundle {
        /// Its publisher's count of changes.
        sequence: u64,
        /// Its authorities.
        authorities: usize,
    },
    /// Its workloads are known no longer.
    Withdrawn,
}

/// What a follower needs.
#[derive(Clone)]
pub struct FollowerOptions {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The folder in which bundles are kept over restarts.
    pub state: PathBuf,
    /// What is to be.
    pub wanted: Wanted,
    /// Our own bundle, by which an endpoint of ours is known.
    pub own: watch::Receiver<Arc<TrustBundle>>,
    /// Who takes the bundles.
    pub sink: Arc<dyn FederationSink>,
}

/// Keeps the bundles of other trust domains fresh.
#[derive(Debug)]
pub struct Follower {
    options: FollowerOptions,
    keeper: Keeper,
    installed: bool,
    status: watch::Sender<Vec<DomainStatus>>,
}

impl Follower {
    /// Takes up what an earlier process kept, as far as it is wanted still, and has it installed.
    pub fn open(options: FollowerOptions) -> Self {
        let keeper = Keeper::new(kept::read(&options.state));
        let mut this = Self {
            keeper,
            installed: false,
            status: watch::Sender::default(),
            options,
        };
        this.settle_on((this.options.wanted)().as_ref());
        this
    }

    /// How each trust domain stands, as it changes.
    pub fn status(&self) -> watch::Receiver<Vec<DomainStatus>> {
        self.status.subscribe()
    }

    /// Fetches what is due, without end.
    pub async fn run(mut self) {
        let mut fetching = FuturesUnordered::new();
        loop {
            let wanted = (self.options.wanted)();
            self.settle_on(wanted.as_ref());
            let free = MAX_FETCHES.saturating_sub(fetching.len());
            for (number, question) in wanted.map(|w| self.due(&w, free)).unwrap_or_default() {
                let clock = Arc::clone(&self.options.clock);
                fetching.push(async move {
                    let fetched = fetch::fetch(&question, &clock).await;
                    (question.trust_domain, number, fetched)
                });
            }
            // Cancel-safe: a fetch stays in the set until it is done, and a pause is begun anew.
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                Some((domain, number, fetched)) = fetching.next(), if !fetching.is_empty() => {
                    self.take((&domain, number), fetched);
                }
            }
        }
    }

    fn settle_on(&mut self, wanted: Option<&Federation>) {
        if let Some(wanted) = wanted {
            let now = self.options.clock.now();
            let changes = self.keeper.follow(&wanted.domains, now);
            self.tell(&changes);
        }
        if !self.installed {
            self.install();
        }
    }

    fn take(&mut self, question: (&TrustDomain, u64), fetched: Result<BundleDocument, FetchError>) {
        let now = self.options.clock.now();
        let fetched = fetched.map_err(|error| error_chain(&error));
        let change = self.keeper.settle(question, fetched, now);
        self.tell(change.as_slice());
        self.status.send_replace(self.keeper.status());
    }

    fn tell(&mut self, changes: &[FederationChange]) {
        if !changes.is_empty() {
            self.install();
            kept::write(&self.options.state, &self.keeper.kept());
        }
        for change in changes {
            self.options.sink.changed(change);
        }
    }

    fn install(&mut self) {
        self.installed = self.options.sink.install(self.keeper.federated());
        self.status.send_replace(self.keeper.status());
    }

    /// At most `most` questions whose time has come.
    fn due(&mut self, wanted: &Federation, most: usize) -> Vec<(u64, Question)> {
        let own = Arc::clone(&self.options.own.borrow());
        let now = self.options.clock.now();
        self.keeper.due((now, most), &own, &wanted.settings)
    }
}

impl fmt::Debug for FollowerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FollowerOptions")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
