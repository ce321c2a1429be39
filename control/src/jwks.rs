//! JSON Web Key Sets (RFC 7517) of token issuers: fetched, kept over restarts, and told of when they grow old.
//!
//! Every place is asked for its keys each [`REFRESH`], several places at once, so that a slow one holds up no other. What
//! fails is tried again after [`FIRST_RETRY`], then after twice as long each time. Keys that were fetched once stay good
//! for [`MAX_STALE`] while nobody answers; then tokens of that issuer are refused. A token that names a key nobody knows
//! makes a place be asked early, at most once in [`EARLY`].

mod fetch;
mod kept;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use reeve_core::{UnixTime, model::JwksDocument};
use serde::{Deserialize, Serialize};

use crate::{
    Controller, FetchedKeys, Mesh,
    mesh::{Jwks, KeyPlace, KeySource},
};
pub(crate) use fetch::WELL_KNOWN;
use fetch::{Fetcher, Reach};
use source::{Fetched, Source};

/// Largest key set.
pub(crate) const MAX_JWKS_BYTES: usize = 256 * 1024;
/// Most places that keys of one mesh are fetched from.
pub(crate) const MAX_SOURCES: usize = 256;
/// Longest text of the mesh's own authorities.
pub(crate) const MAX_AUTHORITIES_BYTES: usize = 64 * 1024;
/// Most fetches at once.
const MAX_FETCHES: usize = 16;

/// How often keys are fetched again.
const REFRESH: Duration = Duration::from_secs(300);
/// First wait after a failure; doubles up to [`REFRESH`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// How long keys are kept that cannot be fetched any more.
const MAX_STALE: Duration = Duration::from_secs(24 * 3600);
/// Shortest time between two fetches of one place because of tokens with unknown keys.
const EARLY: Duration = Duration::from_secs(10);
/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_millis(200);

/// Whether `json` is a key set with at least one key that proxies can use.
pub(crate) fn check_document(json: &str) -> Result<usize, String> {
    if json.len() > MAX_JWKS_BYTES {
        return Err(format!("longer than {MAX_JWKS_BYTES} bytes"));
    }
    reeve_authz::jwt::check_jwks(json).map_err(|e| e.to_string())
}

/// Whether `pem` is certificates of authorities, and nothing else.
pub(crate) fn check_authorities(pem: &str) -> Result<(), String> {
    fetch::roots(pem).map(drop)
}

/// The document with a generation that follows from its content (FNV-1a), the same after a restart.
pub(crate) fn document(json: &str) -> JwksDocument {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    JwksDocument {
        generation: json.bytes().fold(0xcbf2_9ce4_8422_2325, step),
        json: json.to_owned(),
    }
}

/// The keys that an earlier process kept in `state`, as far as they are still good.
pub(crate) fn kept_keys(state: &std::path::Path, now: UnixTime) -> FetchedKeys {
    let kept = kept::read(state, now).into_iter();
    kept.map(|(place, keys)| (place, keys.document)).collect()
}

/// What `reeve status` shows of one issuer's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// The URL that is asked.
    pub uri: String,
    /// Issuers whose tokens are verified with them.
    pub issuers: Vec<String>,
    /// When they were last fetched; `None` = never, and every token of the issuers is refused.
    pub fetched_at: Option<UnixTime>,
    /// How many of them can be used.
    pub keys: usize,
    /// How often in a row fetching has failed.
    pub failures: u32,
    /// Why it did last.
    pub error: Option<String>,
    /// Until when they are used though nobody answers.
    pub usable_until: Option<UnixTime>,
}

/// Keeps the keys of `controller`'s mesh fresh, without end.
pub(crate) async fn run(controller: Arc<Controller>) {
    let mut fetcher = Arc::new(Fetcher::new(None));
    let options = controller.options();
    let mut keeper = Keeper::new(kept::read(&options.state, options.clock.now()));
    let mesh = controller.mesh();
    let mut fetching = FuturesUnordered::new();
    let mut changed = false;
    loop {
        let current = mesh.borrow().clone();
        if let Some(current) = current {
            let now = options.clock.now();
            changed |= keeper.follow(&current, &controller.take_wanted_keys(), now);
            if fetcher.authorities() != current.settings.jwks_authorities.as_deref() {
                fetcher = Arc::new(Fetcher::new(current.settings.jwks_authorities.as_deref()));
            }
            let reach = match current.settings.danger_allow_internal_jwks {
                true => Reach::Anywhere,
                false => Reach::PublicOnly,
            };
            let free = MAX_FETCHES.saturating_sub(fetching.len());
            for source in keeper.due(now, free) {
                fetching.push(fetch_one(Arc::clone(&fetcher), source, reach));
            }
            if changed {
                kept::write(&options.state, keeper.kept());
                controller.take_keys(keeper.usable(), keeper.status(&current));
            }
            changed = false;
        }
        // Cancel-safe: a fetch stays in the set until it is done, and a pause is begun anew.
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            Some((place, fetched)) = fetching.next(), if !fetching.is_empty() => {
                changed |= keeper.settle(&place, fetched, options.clock.now());
            }
        }
    }
}

async fn fetch_one(
    fetcher: Arc<Fetcher>,
    source: KeySource,
    reach: Reach,
) -> (KeyPlace, Result<String, String>) {
    let fetched = fetcher.fetch(&source, reach).await;
    (source.place, fetched.map_err(|e| e.to_string()))
}

/// Every place that keys are fetched from.
#[derive(Debug)]
struct Keeper {
    sources: BTreeMap<KeyPlace, Source>,
    /// What an earlier process fetched of places that the mesh has not named yet.
    kept: BTreeMap<KeyPlace, Fetched>,
}

impl Keeper {
    fn new(kept: BTreeMap<KeyPlace, Fetched>) -> Self {
        Self {
            sources: BTreeMap::new(),
            kept,
        }
    }

    /// Takes up the places that `mesh` names and no others; `wanted` are rules by which a token came with an unknown key.
    fn follow(&mut self, mesh: &Mesh, wanted: &BTreeSet<String>, now: UnixTime) -> bool {
        let mut named: BTreeMap<&KeyPlace, Duration> = BTreeMap::new();
        for (name, source) in rules(mesh) {
            let timeout = named.entry(&source.place).or_default();
            *timeout = source.timeout.max(*timeout);
            if wanted.contains(name)
                && let Some(known) = self.sources.get_mut(&source.place)
            {
                known.want(now);
            }
        }
        let before = self.sources.len();
        self.sources.retain(|place, _| named.contains_key(place));
        let mut changed = before != self.sources.len();
        for (place, timeout) in named.into_iter().take(MAX_SOURCES) {
            let source = self.sources.entry(place.clone()).or_insert_with(|| {
                changed = true;
                Source::new(self.kept.remove(place))
            });
            source.timeout = timeout;
        }
        changed
    }

    /// At most `most` places to ask now.
    fn due(&mut self, now: UnixTime, most: usize) -> Vec<KeySource> {
        let due = self.sources.iter_mut().filter(|(_, s)| s.is_due(now));
        let begun = due.take(most).map(|(place, source)| {
            source.begin(now);
            KeySource {
                place: place.clone(),
                timeout: source.timeout,
            }
        });
        begun.collect()
    }

    /// Notes what came of a fetch, of a place that may be named no more.
    fn settle(&mut self, place: &KeyPlace, fetched: Result<String, String>, now: UnixTime) -> bool {
        let source = self.sources.get_mut(place);
        source.is_some_and(|source| {
            source.settle(place.uri(), fetched, now);
            true
        })
    }

    fn kept(&self) -> impl Iterator<Item = (&KeyPlace, &Fetched)> {
        let sources = self.sources.iter();
        sources.filter_map(|(place, source)| Some((place, source.keys.as_ref()?)))
    }

    fn usable(&self) -> FetchedKeys {
        self.kept()
            .map(|(place, keys)| (place.clone(), keys.document.clone()))
            .collect()
    }

    fn status(&self, mesh: &Mesh) -> Vec<KeyStatus> {
        let mut issuers: BTreeMap<&KeyPlace, BTreeSet<&str>> = BTreeMap::new();
        let all = mesh.request_authentications.iter().flat_map(|r| &r.rules);
        for rule in all {
            if let Jwks::From(source) = &rule.jwks {
                let known = issuers.entry(&source.place).or_default();
                known.insert(&rule.rule.issuer);
            }
        }
        let sources = self.sources.iter();
        sources
            .map(|(place, source)| {
                let issuers = issuers.get(place).into_iter().flatten();
                source.status(place, issuers.map(|i| (*i).to_owned()).collect())
            })
            .collect()
    }
}

/// The rules whose keys are fetched, by name.
fn rules(mesh: &Mesh) -> impl Iterator<Item = (&String, &KeySource)> {
    let all = mesh.request_authentications.iter().flat_map(|r| &r.rules);
    all.filter_map(|rule| match &rule.jwks {
        Jwks::From(source) => Some((&rule.rule.name, source)),
        Jwks::Inline | Jwks::Of(_) => None,
    })
}

#[cfg(test)]
mod tests;
