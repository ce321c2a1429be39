//! Live taps: an operator watches requests and responses as they end. Costs one relaxed load while nobody does.
//!
//! SECURITY: credentials never leave: headers that carry them are `[redacted]`, queries are left out, and bodies are shown
//! only where configuration and the tap both say so, redacted as well ([`bodies`]). A tap's queue is bounded; what does not
//! fit is counted and dropped, so that a slow reader slows no traffic.

mod bodies;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::HeaderMap;
use reeve_core::model::TapMode;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use self::bodies::Bodies;
use self::bodies::{Room, ShownBody};
use crate::{
    access_log::{Line, Told},
    limits::{MAX_TAP_VALUE_BYTES, MAX_TAPS, TAP_QUEUE},
};

/// What stands for a value that is not shown.
const REDACTED: &str = "[redacted]";
/// Headers with one of these in their names carry credentials.
const SECRET_WORDS: [&str; 11] = [
    "authorization",
    "cookie",
    "token",
    "secret",
    "password",
    "api-key",
    "apikey",
    "session",
    "credential",
    "signature",
    "forwarded-client-cert",
];

/// Which requests are shown; everything that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TapFilter {
    /// The method.
    pub method: Option<String>,
    /// What the normalised path begins with.
    pub path: Option<String>,
    /// The status: a number (`503`) or a class (`5xx`).
    pub status: Option<String>,
    /// What the caller's SPIFFE ID contains.
    pub peer: Option<String>,
    /// Request headers by name, with the value they must have, if any.
    pub headers: Vec<(String, Option<String>)>,
    /// Only what was denied.
    pub denied: bool,
    /// Further headers that are not shown, by their names in lower case.
    pub redact: Vec<String>,
    /// Bodies are shown too.
    pub body: bool,
}

impl TapFilter {
    fn holds(&self, told: &Told<'_>) -> bool {
        let line = &told.line;
        let method = self.method.as_deref();
        let has = |(name, value): &(String, Option<String>)| {
            let found = told.request.and_then(|headers| headers.get(name));
            found.is_some_and(|found| {
                value
                    .as_ref()
                    .is_none_or(|value| found.as_bytes() == value.as_bytes())
            })
        };
        method.is_none_or(|method| method.eq_ignore_ascii_case(line.method))
            && self
                .path
                .as_ref()
                .is_none_or(|path| line.path.starts_with(path))
            && self
                .status
                .as_ref()
                .is_none_or(|status| is_status(status, line.response_code))
            && self
                .peer
                .as_ref()
                .is_none_or(|peer| line.peer.contains(peer))
            && self.headers.iter().all(has)
            && (!self.denied || line.effect == Some("deny"))
    }

    /// Whether what is called so is not shown.
    fn hides(&self, name: &str) -> bool {
        names_a_secret(name) || self.redact.iter().any(|hidden| hidden == name)
    }

    /// What must be allowed for it.
    fn needs(&self) -> TapMode {
        if self.body {
            TapMode::Bodies
        } else {
            TapMode::Heads
        }
    }
}

/// Whether a name, in lower case, speaks of credentials.
fn names_a_secret(name: &str) -> bool {
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

fn is_status(wanted: &str, status: u16) -> bool {
    match wanted.strip_suffix("xx") {
        Some(class) => class.parse() == Ok(status / 100),
        None => wanted.parse() == Ok(status),
    }
}

/// The taps of one proxy.
#[derive(Default)]
pub(crate) struct Taps {
    open: AtomicUsize,
    /// The [`TapMode`] in force, as a number; nothing before the first configuration.
    allowed: AtomicU8,
    /// Bodies that are kept for taps which want them.
    room: Arc<Room>,
    all: ArcSwap<Vec<Arc<Tap>>>,
}

impl fmt::Debug for Taps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taps").field("open", &self.open).finish()
    }
}

struct Tap {
    filter: TapFilter,
    queue: mpsc::Sender<Bytes>,
    /// Given when it is no longer allowed.
    end: CancellationToken,
    shown: AtomicU64,
    dropped: AtomicU64,
}

/// Requests as they end, one JSON object each; closed when dropped.
pub struct TapStream {
    events: mpsc::Receiver<Bytes>,
    tap: Arc<Tap>,
    taps: Arc<Taps>,
}

impl fmt::Debug for TapStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapStream")
            .field("filter", &self.tap.filter)
            .finish_non_exhaustive()
    }
}

/// Why a tap is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TapRefused {
    /// Too many are open.
    #[error("{MAX_TAPS} taps are open on this proxy already; end one of them")]
    TooMany,
    /// Configuration allows less.
    #[error(
        "{} by MeshConfig.spec.tap",
        if *bodies { "bodies may not be tapped here" } else { "nothing may be tapped here" }
    )]
    NotAllowed {
        /// Whether it is bodies alone that may not be shown.
        bodies: bool,
    },
}

impl Taps {
    /// Whether anybody watches.
    pub(crate) fn is_on(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// What may be tapped from now on. Taps that show more end.
    pub(crate) fn allow(&self, mode: TapMode) {
        self.allowed.store(mode as u8, Ordering::Release);
        for tap in self.all.load().iter() {
            if tap.filter.needs() > mode {
                tap.end.cancel();
            }
        }
    }

    fn allows(&self, needed: TapMode) -> bool {
        self.allowed.load(Ordering::Acquire) >= needed as u8
    }

    /// Where the bodies of one more request are kept, if a tap wants them and there is room.
    pub(crate) fn bodies(&self) -> Option<Arc<Bodies>> {
        self.room.take()
    }

    /// Opens one more.
    pub(crate) fn open(self: &Arc<Self>, filter: TapFilter) -> Result<TapStream, TapRefused> {
        if !self.allows(filter.needs()) {
            let bodies = self.allows(TapMode::Heads);
            return Err(TapRefused::NotAllowed { bodies });
        }
        if self.open.fetch_add(1, Ordering::Relaxed) >= MAX_TAPS {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(TapRefused::TooMany);
        }
        let (queue, events) = mpsc::channel(TAP_QUEUE);
        let tap = Arc::new(Tap {
            filter,
            queue,
            end: CancellationToken::new(),
            shown: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        self.all.rcu(|all| {
            let mut all = Vec::clone(all);
            all.push(tap.clone());
            all
        });
        if tap.filter.body {
            self.room.want();
        }
        // Configuration may have changed meanwhile, and `allow` not have seen this tap.
        if !self.allows(tap.filter.needs()) {
            tap.end.cancel();
        }
        Ok(TapStream {
            events,
            tap,
            taps: self.clone(),
        })
    }

    /// Shows a finished exchange to whoever wants it.
    pub(crate) fn offer(&self, told: &Told<'_>) {
        for tap in self.all.load().iter() {
            if tap.filter.holds(told) {
                tap.offer(told);
            }
        }
    }
}

impl Tap {
    fn offer(&self, told: &Told<'_>) {
        let headers = |headers| Shown {
            headers,
            filter: &self.filter,
        };
        let bodies = told.bodies.filter(|_| self.filter.body);
        let event = Event {
            line: &told.line,
            details: told.details,
            response_ms: told.response_ms,
            request_headers: headers(told.request),
            response_headers: headers(told.response),
            request_body: bodies.map(|kept| kept.request(told.request, &self.filter)),
            response_body: bodies.map(|kept| kept.response(told.response, &self.filter)),
            dropped: self.dropped.load(Ordering::Relaxed),
        };
        let queued = match (self.queue.try_reserve(), serde_json::to_vec(&event)) {
            (Ok(place), Ok(mut text)) => {
                text.push(b'\n');
                place.send(text.into());
                true
            }
            _ => false,
        };
        let count = if queued { &self.shown } else { &self.dropped };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl TapStream {
    /// The next one, with the end of its line.
    pub async fn next(&mut self) -> Option<Bytes> {
        // Cancel-safe: `recv` loses nothing when dropped.
        tokio::select! {
            biased;
            () = self.tap.end.cancelled() => None,
            event = self.events.recv() => event,
        }
    }

    /// How many were shown and how many were dropped.
    pub fn counts(&self) -> (u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (count(&self.tap.shown), count(&self.tap.dropped))
    }
}

impl Drop for TapStream {
    fn drop(&mut self) {
        let same = |other: &Arc<Tap>| Arc::ptr_eq(other, &self.tap);
        self.taps.all.rcu(|all| {
            let others = all.iter().filter(|tap| !same(tap));
            others.cloned().collect::<Vec<_>>()
        });
        if self.tap.filter.body {
            self.taps.room.unwant();
        }
        self.taps.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Serialize)]
struct Event<'a> {
    #[serde(flatten)]
    line: &'a Line<'a>,
    details: &'static str,
    response_ms: Option<f64>,
    request_headers: Shown<'a>,
    response_headers: Shown<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_body: Option<ShownBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_body: Option<ShownBody>,
    /// How many did not fit into this tap's queue so far.
    dropped: u64,
}

/// Headers without their secrets.
struct Shown<'a> {
    headers: Option<&'a HeaderMap>,
    filter: &'a TapFilter,
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for name in self.headers.into_iter().flat_map(HeaderMap::keys) {
            if self.filter.hides(name.as_str()) {
                map.serialize_entry(name.as_str(), REDACTED)?;
                continue;
            }
            let all = self.headers.into_iter().flat_map(|h| h.get_all(name));
            let text = |bytes: &[u8]| {
                let cut = bytes.get(..MAX_TAP_VALUE_BYTES).unwrap_or(bytes);
                String::from_utf8_lossy(cut).into_owned()
            };
            let values: Vec<String> = all.map(|value| text(value.as_bytes())).collect();
            map.serialize_entry(name.as_str(), &values.join(", "))?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests;
