//! Bodies as a tap shows them: their beginnings, and only in forms that can be read well enough to redact them.
//!
//! SECURITY: JSON is shown when it is whole, forms and text as far as they were kept; members, fields and lines that
//! speak of credentials are `[redacted]`. All else (binary, compressed, broken) is only counted.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use http::{HeaderMap, HeaderName, header};
use serde::Serialize;
use serde_json::Value;

use super::{REDACTED, TapFilter, names_a_secret};
use crate::{
    ledger::lock,
    limits::{MAX_TAP_BODIES, MAX_TAP_BODY_BYTES},
    query,
};

/// How many requests' bodies are kept at present, and for how many taps.
#[derive(Debug, Default)]
pub(super) struct Room {
    taps: AtomicUsize,
    kept: AtomicUsize,
}

/// The bodies of one request, as far as they are kept.
#[derive(Debug)]
pub(crate) struct Bodies {
    request: Mutex<Kept>,
    response: Mutex<Kept>,
    room: Arc<Room>,
}

#[derive(Debug, Default)]
struct Kept {
    beginning: Vec<u8>,
    /// Bytes in all.
    bytes: u64,
}

/// A body in a tap's event.
#[derive(Debug, Serialize)]
pub(super) struct ShownBody {
    /// How long it was.
    bytes: u64,
    /// What is shown of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// Why nothing is: `binary`, `compressed`, `too_long` or `broken`.
    #[serde(skip_serializing_if = "Option::is_none")]
    hidden: Option<&'static str>,
    /// Whether there was more than is shown.
    cut: bool,
}

impl Room {
    /// One more tap wants bodies.
    pub(super) fn want(&self) {
        self.taps.fetch_add(1, Ordering::Relaxed);
    }

    /// It wants them no longer.
    pub(super) fn unwant(&self) {
        self.taps.fetch_sub(1, Ordering::Relaxed);
    }

    /// Room for one more request's.
    pub(super) fn take(self: &Arc<Self>) -> Option<Arc<Bodies>> {
        if self.taps.load(Ordering::Relaxed) == 0 {
            return None;
        }
        if self.kept.fetch_add(1, Ordering::Relaxed) >= MAX_TAP_BODIES {
            self.kept.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Arc::new(Bodies {
            request: Mutex::default(),
            response: Mutex::default(),
            room: self.clone(),
        }))
    }
}

impl Drop for Bodies {
    fn drop(&mut self) {
        self.room.kept.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Bodies {
    /// A piece of the request's body.
    pub(crate) fn add_request(&self, data: &[u8]) {
        lock(&self.request).add(data);
    }

    /// A piece of the response's.
    pub(crate) fn add_response(&self, data: &[u8]) {
        lock(&self.response).add(data);
    }

    pub(super) fn request(&self, headers: Option<&HeaderMap>, filter: &TapFilter) -> ShownBody {
        lock(&self.request).show(headers, filter)
    }

    pub(super) fn response(&self, headers: Option<&HeaderMap>, filter: &TapFilter) -> ShownBody {
        lock(&self.response).show(headers, filter)
    }
}

impl Kept {
    fn add(&mut self, data: &[u8]) {
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        let room = MAX_TAP_BODY_BYTES.saturating_sub(self.beginning.len());
        let fitting = data.get(..room).unwrap_or(data);
        self.beginning.extend_from_slice(fitting);
    }

    fn show(&self, headers: Option<&HeaderMap>, filter: &TapFilter) -> ShownBody {
        let shown = if self.bytes == 0 {
            Ok(None)
        } else {
            self.text(headers, filter).map(Some)
        };
        ShownBody {
            bytes: self.bytes,
            hidden: shown.as_ref().err().copied(),
            text: shown.ok().flatten(),
            cut: self.is_cut(),
        }
    }

    fn is_cut(&self) -> bool {
        self.bytes > self.beginning.len() as u64
    }

    fn text(
        &self,
        headers: Option<&HeaderMap>,
        filter: &TapFilter,
    ) -> Result<String, &'static str> {
        let all = |name: HeaderName| {
            let values = headers.into_iter().flat_map(move |h| h.get_all(&name));
            values.map(|v| String::from_utf8_lossy(v.as_bytes()).to_ascii_lowercase())
        };
        if all(header::CONTENT_ENCODING).any(|coding| coding.trim() != "identity") {
            return Err("compressed");
        }
        let declared = all(header::CONTENT_TYPE).next().unwrap_or_default();
        let essence = declared.split(';').next().unwrap_or_default().trim();
        let text = String::from_utf8_lossy(&self.beginning);
        match essence {
            "application/x-www-form-urlencoded" => Ok(form(&text, filter)),
            "application/json" => self.json(filter),
            other if other.ends_with("+json") => self.json(filter),
            other if other.starts_with("text/") => Ok(lines(&text, filter)),
            _ => Err("binary"),
        }
    }

    fn json(&self, filter: &TapFilter) -> Result<String, &'static str> {
        if self.is_cut() {
            return Err("too_long");
        }
        let mut value: Value = serde_json::from_slice(&self.beginning).map_err(|_| "broken")?;
        redact(&mut value, filter);
        Ok(value.to_string())
    }
}

/// As deep as `serde_json` reads: 128 levels.
fn redact(value: &mut Value, filter: &TapFilter) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if filter.hides(&name.to_lowercase()) {
                    *member = REDACTED.into();
                } else {
                    redact(member, filter);
                }
            }
        }
        Value::Array(members) => members.iter_mut().for_each(|member| redact(member, filter)),
        Value::String(text) if speaks(text) => *text = REDACTED.to_owned(),
        Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {}
    }
}

/// Whether a text may itself hold a credential.
fn speaks(text: &str) -> bool {
    let lower = text.to_lowercase();
    names_a_secret(&lower) || lower.starts_with("bearer ") || lower.starts_with("basic ")
}

fn form(text: &str, filter: &TapFilter) -> String {
    let pairs = query::pairs(text).map(|(name, value)| {
        let hidden = filter.hides(&name.to_lowercase()) || speaks(&value);
        let value = if hidden { REDACTED } else { &value };
        format!("{name}={value}")
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn lines(text: &str, filter: &TapFilter) -> String {
    let shown = text.split('\n').map(|line| {
        let lower = line.to_lowercase();
        let named = filter.redact.iter().any(|name| lower.contains(name));
        if speaks(line) || named {
            REDACTED
        } else {
            line
        }
    });
    shown.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn shown(kind: &'static str, body: &[u8]) -> ShownBody {
        let mut kept = Kept::default();
        for piece in body.chunks(1000) {
            kept.add(piece);
        }
        let headers =
            HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
        let filter = TapFilter {
            redact: vec!["mine".to_owned()],
            ..TapFilter::default()
        };
        kept.show(Some(&headers), &filter)
    }

    #[test]
    fn secrets_are_redacted_in_every_form_that_is_shown() {
        for (kind, body, expected) in [
            (
                "application/json; charset=utf-8",
                r#"{"a":{"Session_Id":["hunter2"],"mine":"hunter2"},"b":["token=hunter2","Bearer hunter2",7]}"#,
                r#"{"a":{"Session_Id":"[redacted]","mine":"[redacted]"},"b":["[redacted]","[redacted]",7]}"#,
            ),
            ("application/problem+json", r#"{"a":1}"#, r#"{"a":1}"#),
            (
                "application/x-www-form-urlencoded",
                "user=a&pass%77ord=hunter2&x=Basic+hunter2&mine=hunter2",
                "user=a&password=[redacted]&x=[redacted]&mine=[redacted]",
            ),
            (
                "text/plain",
                "hello\nmy PASSWORD is hunter2\nmine: hunter2\nbye",
                "hello\n[redacted]\n[redacted]\nbye",
            ),
        ] {
            let shown = shown(kind, body.as_bytes());
            assert_eq!(shown.text.as_deref(), Some(expected), "{kind}");
            assert_eq!((shown.bytes, shown.cut), (body.len() as u64, false));
        }
    }

    #[test]
    fn what_cannot_be_redacted_is_not_shown() {
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_TAP_BODY_BYTES));
        for (kind, body, why) in [
            ("application/json", &b"{\"a\":"[..], "broken"),
            ("application/json", long.as_bytes(), "too_long"),
            ("application/grpc", b"\0\0\0\0\x01a", "binary"),
            ("application/octet-stream", b"secret", "binary"),
        ] {
            let shown = shown(kind, body);
            assert_eq!((shown.text, shown.hidden), (None, Some(why)), "{kind}");
        }
        let mut kept = Kept::default();
        kept.add(b"text");
        let headers = HeaderMap::from_iter([
            (header::CONTENT_TYPE, HeaderValue::from_static("text/plain")),
            (header::CONTENT_ENCODING, HeaderValue::from_static("gzip")),
        ]);
        let shown = kept.show(Some(&headers), &TapFilter::default());
        assert_eq!(shown.hidden, Some("compressed"));
        assert_eq!(
            kept.show(None, &TapFilter::default()).hidden,
            Some("binary")
        );
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let body = vec![b'a'; MAX_TAP_BODY_BYTES + 5];
        let shown = shown("text/plain", &body);
        assert_eq!(shown.text.map(|text| text.len()), Some(MAX_TAP_BODY_BYTES));
        assert_eq!((shown.bytes, shown.cut), (body.len() as u64, true));
        let room = Arc::new(Room::default());
        assert!(room.take().is_none());
        room.want();
        let kept: Vec<_> = std::iter::from_fn(|| room.take()).collect();
        assert_eq!(kept.len(), MAX_TAP_BODIES);
        drop(kept);
        assert!(room.take().is_some());
        room.unwant();
        assert!(room.take().is_none());
    }
}
