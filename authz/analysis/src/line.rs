//! A record's line, read only as far as a replay has to.

use std::{borrow::Cow, fmt};

use reeve_audit::{Direction, LookedFor, Redacted, ScanError};
use reeve_authz::Sight;
use reeve_core::{
    UnixTime,
    decision::{AccessRequest, Decision},
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Outcomes, half of a trail, begin so: in canonical JSON members stand in order.
const OUTCOME: &[u8] = b"{\"bytes_in\":";

/// The parts of a decision's line, as they stand there.
#[derive(Debug, Deserialize)]
pub(crate) struct Line<'a> {
    kind: &'a str,
    /// The record's id.
    pub(crate) id: &'a str,
    /// When it was written.
    pub(crate) time: UnixTime,
    #[serde(borrow)]
    request: Option<Request<'a>>,
    #[serde(borrow)]
    decision: Option<&'a RawValue>,
    #[serde(borrow)]
    direction: Option<&'a RawValue>,
    #[serde(borrow)]
    looked_for: Option<&'a RawValue>,
    #[serde(borrow)]
    redacted: Option<&'a RawValue>,
    #[serde(borrow)]
    transformations: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    action: &'a RawValue,
    #[serde(borrow)]
    context: Context<'a>,
    #[serde(borrow)]
    principal: &'a RawValue,
    #[serde(borrow)]
    resource: &'a RawValue,
    #[serde(borrow)]
    user: Option<User<'a>>,
}

#[derive(Debug, Deserialize)]
struct Context<'a> {
    #[serde(borrow)]
    destination_ip: Option<&'a RawValue>,
    #[serde(borrow)]
    http: Option<Http<'a>>,
    mtls: bool,
    port: u16,
    #[serde(borrow)]
    remote_ip: Option<&'a RawValue>,
    #[serde(borrow)]
    sni: Option<&'a RawValue>,
    #[serde(borrow)]
    source_ip: &'a RawValue,
}

#[derive(Debug, Deserialize)]
struct Http<'a> {
    #[serde(borrow)]
    grpc: Option<&'a RawValue>,
    #[serde(borrow, default)]
    headers: Tags<'a>,
    #[serde(borrow)]
    host: &'a RawValue,
    #[serde(borrow)]
    method: &'a RawValue,
    #[serde(borrow)]
    path: &'a RawValue,
    #[serde(borrow, default)]
    query: Tags<'a>,
}

#[derive(Debug, Deserialize)]
struct User<'a> {
    #[serde(borrow)]
    claims: Tags<'a>,
    #[serde(borrow)]
    issuer: &'a RawValue,
    #[serde(borrow)]
    subject: &'a RawValue,
}

/// Named values, in their order.
#[derive(Debug, Default)]
struct Tags<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// What a judgement depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Interest<'s> {
    /// What policies look at, and the path as it stands in a report.
    Policies(&'s Sight),
    /// What suggestions are made of: everything but headers, query and claims.
    Shape,
}

/// A decision, as far as a replay looks at it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Recorded {
    pub(crate) request: AccessRequest,
    pub(crate) decision: Decision,
    pub(crate) direction: Direction,
    #[serde(default)]
    pub(crate) looked_for: LookedFor,
    #[serde(default)]
    pub(crate) redacted: Redacted,
    #[serde(default)]
    pub(crate) transformations: Vec<String>,
}

impl Recorded {
    /// All of a decision's line.
    pub(crate) fn of(raw: &[u8]) -> Result<Self, ScanError> {
        serde_json::from_slice(raw).map_err(|e| ScanError::record(raw, e))
    }
}

impl<'a> Line<'a> {
    /// The line's parts, if it is a decision's.
    pub(crate) fn of(raw: &'a [u8]) -> Result<Option<Self>, ScanError> {
        if raw.starts_with(OUTCOME) {
            return Ok(None);
        }
        let line: Self = serde_json::from_slice(raw).map_err(|e| ScanError::record(raw, e))?;
        Ok((line.kind == "decision").then_some(line))
    }

    /// Everything that is of interest but the time, to `key`.
    pub(crate) fn key(&self, interest: Interest<'_>, key: &mut Vec<u8>) {
        key.clear();
        let mut add = |part: &[u8]| {
            key.extend_from_slice(part);
            // No JSON text contains it.
            key.push(0);
        };
        for part in [
            self.decision,
            self.direction,
            self.looked_for,
            self.redacted,
            self.transformations,
        ] {
            add(bytes(part));
        }
        if let Some(request) = &self.request {
            request.key(interest, &mut add);
        }
    }
}

impl Request<'_> {
    fn key(&self, interest: Interest<'_>, add: &mut impl FnMut(&[u8])) {
        let Context {
            destination_ip,
            http,
            mtls,
            port,
            remote_ip,
            sni,
            source_ip,
        } = &self.context;
        for part in [self.action, self.principal, self.resource] {
            add(bytes(Some(part)));
        }
        add(&port.to_le_bytes());
        add(&[u8::from(*mtls)]);
        if let Interest::Policies(sight) = interest {
            for (looked_at, part) in [
                (sight.attribute("source_ip"), Some(*source_ip)),
                (sight.attribute("remote_ip"), Some(*source_ip)),
                (sight.attribute("remote_ip"), *remote_ip),
                (sight.attribute("destination_ip"), *destination_ip),
                (sight.attribute("sni"), *sni),
            ] {
                if looked_at {
                    add(bytes(part));
                }
            }
        }
        if let Some(http) = http {
            for part in [
                Some(http.host),
                Some(http.method),
                Some(http.path),
                http.grpc,
            ] {
                add(bytes(part));
            }
            if let Interest::Policies(sight) = interest {
                http.headers.key(|name| sight.header(name), add);
                http.query.key(|name| sight.query(name), add);
            }
        }
        match (&self.user, interest) {
            (None, _) => add(b"-"),
            (Some(user), Interest::Shape) => add(bytes(Some(user.issuer))),
            (Some(user), Interest::Policies(sight)) => {
                add(b"+");
                if sight.user {
                    add(bytes(Some(user.issuer)));
                    add(bytes(Some(user.subject)));
                    user.claims.key(|name| sight.claim(name), add);
                }
            }
        }
    }
}

impl Tags<'_> {
    fn key(&self, wanted: impl Fn(&str) -> bool, add: &mut impl FnMut(&[u8])) {
        for (name, values) in self.0.iter().filter(|(name, _)| wanted(name)) {
            add(name.as_bytes());
            add(bytes(Some(values)));
        }
        // Where the names end.
        add(b"");
    }
}

fn bytes(part: Option<&RawValue>) -> &[u8] {
    part.map_or(b"", |part| part.get().as_bytes())
}

impl<'de: 'a, 'a> Deserialize<'de> for Tags<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Tags<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("values by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = Vec::new();
                while let Some((Name(name), values)) = map.next_entry()? {
                    found.push((name, values));
                }
                Ok(Tags(found))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

/// A text that borrows from the line where it can.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{ENFORCED, asked, candidate, record};

    /// The key of a record of `request`, for policies with this condition.
    fn key(request: AccessRequest, condition: &str) -> Vec<u8> {
        let record = reeve_audit::Record {
            schema: reeve_audit::record::RECORD_SCHEMA.to_owned(),
            id: "a/1/0/1".parse().unwrap(),
            time: request.context.time,
            entry: record(request, reeve_core::decision::Reason::Permitted).into(),
        };
        let raw = record.to_canonical().unwrap();
        let line = Line::of(&raw).unwrap().unwrap();
        assert_eq!(line.id, "a/1/0/1");
        let policy = format!(
            "permit (principal, action in Action::\"http\", resource) when {{ {condition} }};"
        );
        let candidate = candidate(&policy, ENFORCED);
        let mut key = Vec::new();
        line.key(Interest::Policies(candidate.sight()), &mut key);
        assert_eq!(
            Recorded::of(&raw).unwrap().request,
            record.entry.as_decision().unwrap().request
        );
        key
    }

    #[test]
    fn only_what_policies_see_tells_questions_apart() {
        let with = |name: &str| {
            let mut request = asked("GET", "/x");
            let http = request.context.http.as_mut().unwrap();
            let value = "a \"quoted\" \u{e9}".to_owned();
            http.headers.insert(name.to_owned(), [value].into());
            request
        };
        let later = |seconds| {
            let mut request = asked("GET", "/x");
            request.context.time = UnixTime::from_secs(seconds);
            request.context.source_ip = [10, 0, 0, seconds.to_le_bytes()[0]].into();
            request
        };
        let has = |name: &str| format!("context.headers.hasTag(\"{name}\")");
        assert_eq!(key(with("a"), &has("b")), key(with("c"), &has("b")));
        assert_ne!(key(with("a"), &has("a")), key(with("c"), &has("a")));
        assert_eq!(key(later(1), &has("b")), key(later(2), &has("b")));
        let near = "context.source_ip.isInRange(ip(\"10.0.0.0/31\"))";
        assert_ne!(key(later(1), near), key(later(2), near));
        assert_ne!(
            key(asked("GET", "/x"), &has("b")),
            key(asked("GET", "/y"), &has("b"))
        );
        assert_ne!(
            key(asked("GET", "/x"), &has("b")),
            key(asked("PUT", "/x"), &has("b"))
        );
    }

    #[test]
    fn users_count_as_far_as_policies_look_at_them() {
        let with = |subject: &str, group: &str, id: &str| {
            let mut request = asked("GET", "/x");
            let claim = |name: &str, value: &str| (name.to_owned(), [value.to_owned()].into());
            request.user = Some(std::sync::Arc::new(reeve_core::decision::User {
                claims: [claim("groups", group), claim("jti", id)].into(),
                expires_at: None,
                issuer: "https://i".into(),
                subject: subject.into(),
            }));
            request
        };
        let nobody = "context.port == 1";
        assert_eq!(
            key(with("a", "x", "1"), nobody),
            key(with("b", "y", "2"), nobody)
        );
        assert_ne!(
            key(with("a", "x", "1"), nobody),
            key(asked("GET", "/x"), nobody)
        );
        let groups = "context has user && context.user.hasTag(\"groups\")";
        assert_eq!(
            key(with("a", "x", "1"), groups),
            key(with("a", "x", "2"), groups)
        );
        assert_ne!(
            key(with("a", "x", "1"), groups),
            key(with("a", "y", "1"), groups)
        );
    }
}
