//! Transformations: changes to requests and responses on the wire, each with an owner and an end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{HeaderOps, RouteMatch};
use crate::UnixTime;

/// One transformation, made by the proxy of the workload that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transformation {
    /// `namespace/name`.
    pub name: String,
    /// Who answers for it.
    pub owner: String,
    /// From then on it does nothing.
    pub expires: UnixTime,
    /// The requests that it concerns, as they were received: alternatives, one of which must hold; none means "all".
    pub when: Vec<RouteMatch>,
    /// What happens to the request, before it is judged as it will be sent.
    #[serde(default)]
    pub request: RequestChanges,
    /// What happens to the application's response.
    #[serde(default)]
    pub response: ResponseChanges,
}

impl Transformation {
    /// Whether it does nothing any more at `now`.
    pub fn is_over(&self, now: UnixTime) -> bool {
        self.expires <= now
    }

    /// What it does, in words.
    pub fn describe(&self) -> Vec<String> {
        let mut words = describe_headers("request", &self.request.headers);
        let query = &self.request.query;
        words.extend(query.set.keys().map(|n| format!("request query {n} set")));
        words.extend(query.add.keys().map(|n| format!("request query {n} added")));
        words.extend(
            query
                .remove
                .iter()
                .map(|n| format!("request query {n} removed")),
        );
        words.extend(
            self.request
                .body
                .iter()
                .map(|b| format!("request {}", b.describe())),
        );
        words.extend(self.response.status.map(|s| format!("response status {s}")));
        words.extend(describe_headers("response", &self.response.headers));
        words.extend(
            self.response
                .body
                .iter()
                .map(|b| format!("response {}", b.describe())),
        );
        words
    }
}

fn describe_headers(whose: &str, ops: &HeaderOps) -> Vec<String> {
    let mut words = ops.describe();
    for word in &mut words {
        *word = format!("{whose} header {word}");
    }
    words
}

impl HeaderOps {
    /// What they do, in words: `x-a removed`, `x-b set to 1`, `x-c added: 2`.
    pub fn describe(&self) -> Vec<String> {
        let removed = self.remove.iter().map(|name| format!("{name} removed"));
        let set = self
            .set
            .iter()
            .map(|(name, value)| format!("{name} set to {value}"));
        let added = self
            .add
            .iter()
            .map(|(name, value)| format!("{name} added: {value}"));
        removed.chain(set).chain(added).collect()
    }
}

/// Changes to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestChanges {
    /// To its headers.
    pub headers: HeaderOps,
    /// To its query parameters.
    pub query: QueryOps,
    /// To its body.
    pub body: Option<BodyChanges>,
}

/// Changes to a response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResponseChanges {
    /// The application's statuses that it concerns; none means "all".
    pub when_status: Vec<u16>,
    /// The status instead.
    pub status: Option<u16>,
    /// To its headers.
    pub headers: HeaderOps,
    /// To its body.
    pub body: Option<BodyChanges>,
}

impl ResponseChanges {
    /// Whether it does nothing.
    pub fn is_empty(&self) -> bool {
        self.status.is_none() && self.headers == HeaderOps::default() && self.body.is_none()
    }
}

impl RequestChanges {
    /// Whether it does nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Changes to query parameters, by their decoded names: remove, then set, then add.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueryOps {
    /// Takes the place of every value of that name.
    pub set: BTreeMap<String, String>,
    /// One value more.
    pub add: BTreeMap<String, String>,
    /// Removes every value.
    pub remove: Vec<String>,
}

/// Changes to a body, which is held as a whole for that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyChanges {
    /// In which way.
    pub how: BodyChange,
    /// Media types that are meant: `type/subtype` or `type/*`, in lower case; none means those that are text (for a JSON
    /// Patch: JSON). A body that says no type is meant.
    #[serde(default)]
    pub content_types: Vec<String>,
    /// What becomes of a body that is meant and cannot be changed.
    #[serde(default)]
    pub otherwise: Otherwise,
}

impl BodyChanges {
    /// In words.
    pub fn describe(&self) -> String {
        match &self.how {
            BodyChange::Replace(all) => format!("body: {} replacements", all.len()),
            BodyChange::JsonPatch(text) => {
                let patch: Vec<serde_json::Value> = serde_json::from_str(text).unwrap_or_default();
                format!("body: JSON Patch of {} operations", patch.len())
            }
        }
    }
}

/// How a body is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyChange {
    /// Each of these, one after the other, wherever it is found.
    Replace(Vec<Replacement>),
    /// RFC 6902, as JSON text.
    JsonPatch(String),
}

/// What stands in the place of what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// What is looked for.
    pub find: Find,
    /// What stands in its place; behind an expression, `\1` to `\9` are its groups.
    pub with: String,
}

/// What is looked for in a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Find {
    /// This text.
    Text(String),
    /// What this RE2 expression matches.
    Regex(String),
}

/// What becomes of a body that cannot be changed: too long, compressed, not JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Otherwise {
    /// The request is refused, or the response withheld.
    #[default]
    Refuse,
    /// It passes as it is.
    Pass,
}

/// Headers that no transformation may touch: what frames or routes a message, belongs to one hop, proves who asks, or is
/// the mesh's own to say.
const UNTOUCHABLE: [&str; 29] = [
    "authorization",
    "baggage",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "expect",
    "forwarded",
    "grpc-timeout",
    "host",
    "keep-alive",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "sec-websocket-accept",
    "sec-websocket-key",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

/// Whether no transformation may touch the header `name`, underscores read as dashes.
pub fn is_untouchable(name: &str) -> bool {
    let read = name.to_ascii_lowercase().replace('_', "-");
    read.starts_with(':')
        || read.starts_with("x-reeve-")
        || read.starts_with("x-b3-")
        || UNTOUCHABLE.contains(&read.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_frames_routes_or_proves_is_untouchable_however_it_is_spelt() {
        for name in [
            "Host",
            ":authority",
            "authorization",
            "Content_Length",
            "x_forwarded_client_cert",
            "X-Reeve-Peer",
            "tracestate",
            "transfer-encoding",
            "x-b3-traceid",
        ] {
            assert!(is_untouchable(name), "{name}");
        }
        for name in [
            "x-api",
            "accept",
            "cookie",
            "content-type",
            "x-b",
            "cache-control",
        ] {
            assert!(!is_untouchable(name), "{name}");
        }
        assert!(UNTOUCHABLE.is_sorted());
    }

    #[test]
    fn it_ends_at_its_end() {
        let ends = Transformation {
            name: "a/b".to_owned(),
            owner: "o".to_owned(),
            expires: UnixTime::from_secs(10),
            when: vec![],
            request: RequestChanges::default(),
            response: ResponseChanges::default(),
        };
        assert!(!ends.is_over(UnixTime::from_millis(9_999)));
        assert!(ends.is_over(UnixTime::from_secs(10)));
    }
}
