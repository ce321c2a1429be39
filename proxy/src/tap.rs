//! Live taps: an operator watches requests and responses as they end. Costs one relaxed load while nobody does.
//!
//! SECURITY: credentials never leave: headers that carry them are `[redacted]`, and queries are left out. A tap's queue
//! is bounded; what does not fit is counted and dropped, so that a slow reader slows no traffic.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::HeaderMap;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};
use tokio::sync::mpsc;

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

    fn hides(&self, name: &str) -> bool {
        SECRET_WORDS.iter().any(|word| name.contains(word))
            || self.redact.iter().any(|hidden| hidden == name)
    }
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

/// Too many taps are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_TAPS} taps are open on this proxy already; end one of them")]
pub struct TooManyTaps;

impl Taps {
    /// Whether anybody watches.
    pub(crate) fn is_on(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// Opens one more.
    pub(crate) fn open(self: &Arc<Self>, filter: TapFilter) -> Result<TapStream, TooManyTaps> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= MAX_TAPS {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(TooManyTaps);
        }
        let (queue, events) = mpsc::channel(TAP_QUEUE);
        let tap = Arc::new(Tap {
            filter,
            queue,
            shown: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        self.all.rcu(|all| {
            let mut all = Vec::clone(all);
            all.push(tap.clone());
            all
        });
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
        let event = Event {
            line: &told.line,
            details: told.details,
            response_ms: told.response_ms,
            request_headers: headers(told.request),
            response_headers: headers(told.response),
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
        self.events.recv().await
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
mod tests {
    use http::HeaderValue;

    use super::*;

    fn told<'a>(line: Line<'a>, headers: &'a HeaderMap) -> Told<'a> {
        Told {
            line,
            request: Some(headers),
            query: Some("token=1"),
            version: None,
            response: None,
            trailers: None,
            details: "denied",
            failure: None,
            destination: None,
            server: None,
            server_name: None,
            local: None,
            peer_port: None,
            response_ms: None,
        }
    }

    fn line() -> Line<'static> {
        Line {
            method: "GET",
            path: "/a/b",
            peer: "spiffe://mesh.local/ns/default/sa/client",
            response_code: 403,
            effect: Some("deny"),
            ..Line::default()
        }
    }

    #[tokio::test]
    async fn secrets_are_redacted_and_the_rest_is_shown() {
        let taps = Arc::new(Taps::default());
        assert!(!taps.is_on());
        let redact = vec!["x-mine".to_owned()];
        let mut tap = taps
            .open(TapFilter {
                redact,
                ..TapFilter::default()
            })
            .unwrap();
        assert!(taps.is_on());
        let mut headers = HeaderMap::new();
        for name in [
            "authorization",
            "cookie",
            "x-auth-token",
            "x-mine",
            "x-api-key",
        ] {
            headers.insert(name, HeaderValue::from_static("hunter2"));
        }
        headers.insert("accept", HeaderValue::from_static("text/plain"));
        taps.offer(&told(line(), &headers));
        let shown = String::from_utf8(tap.next().await.unwrap().to_vec()).unwrap();
        assert!(
            !shown.contains("hunter2") && !shown.contains("token=1"),
            "{shown}"
        );
        assert!(
            shown.contains("text/plain") && shown.contains(REDACTED),
            "{shown}"
        );
        drop(tap);
        assert!(!taps.is_on());
    }

    #[test]
    fn a_filter_holds_when_all_of_it_does() {
        let headers = HeaderMap::from_iter([(http::header::ACCEPT, HeaderValue::from_static("a"))]);
        let text = |text: &str| Some(text.to_owned());
        let all = TapFilter {
            method: text("get"),
            path: text("/a"),
            status: text("4xx"),
            peer: text("sa/client"),
            headers: vec![("accept".into(), text("a"))],
            denied: true,
            redact: Vec::new(),
        };
        assert!(all.holds(&told(line(), &headers)));
        for other in [
            TapFilter {
                method: text("POST"),
                ..all.clone()
            },
            TapFilter {
                path: text("/b"),
                ..all.clone()
            },
            TapFilter {
                status: text("404"),
                ..all.clone()
            },
            TapFilter {
                peer: text("sa/other"),
                ..all.clone()
            },
            TapFilter {
                headers: vec![("accept".into(), text("b"))],
                ..all.clone()
            },
            TapFilter {
                headers: vec![("host".into(), None)],
                ..all.clone()
            },
        ] {
            assert!(!other.holds(&told(line(), &headers)), "{other:?}");
        }
        let allowed = Line {
            effect: Some("allow"),
            ..line()
        };
        assert!(!all.holds(&told(allowed, &headers)));
    }

    #[test]
    fn a_slow_reader_loses_events_and_they_are_counted() {
        let taps = Arc::new(Taps::default());
        let tap = taps.open(TapFilter::default()).unwrap();
        let headers = HeaderMap::new();
        for _ in 0..TAP_QUEUE + 3 {
            taps.offer(&told(line(), &headers));
        }
        assert_eq!(tap.counts(), (TAP_QUEUE as u64, 3));
    }

    #[test]
    fn taps_are_bounded() {
        let taps = Arc::new(Taps::default());
        let open: Vec<_> = (0..MAX_TAPS)
            .map(|_| taps.open(TapFilter::default()).unwrap())
            .collect();
        assert_eq!(taps.open(TapFilter::default()).err(), Some(TooManyTaps));
        drop(open);
        assert!(taps.open(TapFilter::default()).is_ok());
    }
}
