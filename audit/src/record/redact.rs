//! What is left out of records: secret values, and sensitive ones, of which a keyed hash stands instead.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use aws_lc_rs::hmac;
use reeve_core::{
    decision::{AccessRequest, User},
    model::{FieldClass, FieldClasses},
};
use serde::{Deserialize, Serialize};

/// What the hash of a value begins with.
const CONTEXT: &[u8] = b"reeve.audit/v1 value\n";
/// Bytes of the hash that stand in a record.
const HASH_BYTES: usize = 16;

/// Stands for an address that is not kept.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Headers that carry credentials: secret, whatever the configuration says.
pub const CREDENTIAL_HEADERS: [&str; 5] = [
    "authorization",
    "cookie",
    "cookie2",
    "proxy-authorization",
    "set-cookie",
];

/// What was taken out of a request: by name, the hash of each value in order, or nothing where the value is secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Redacted {
    /// Claims of the end user; `sub` is the subject.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, BTreeSet<String>>,
    /// The path, and the client's addresses, by what policies call them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<String, BTreeSet<String>>,
    /// Header fields.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, BTreeSet<String>>,
    /// Query parameters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, BTreeSet<String>>,
}

impl Redacted {
    /// Nothing.
    pub const NONE: Self = Self {
        claims: BTreeMap::new(),
        context: BTreeMap::new(),
        headers: BTreeMap::new(),
        query: BTreeMap::new(),
    };

    /// Whether nothing was taken out.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
            && self.context.is_empty()
            && self.headers.is_empty()
            && self.query.is_empty()
    }
}

/// Takes out of requests what records must not keep.
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    headers: BTreeMap<String, FieldClass>,
    query: BTreeMap<String, FieldClass>,
    claims: BTreeMap<String, FieldClass>,
    context: BTreeMap<String, FieldClass>,
    key: Option<hmac::Key>,
}

/// Which of the four kinds of names; part of what is hashed, so that a claim is not joined with a header.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Claim,
    Context,
    Header,
    Query,
}

impl Redaction {
    /// By these classes. Header fields and query parameters that tokens are taken from are secret whatever they say, and so
    /// are [`CREDENTIAL_HEADERS`]; without a key, sensitive values are as good as secret.
    pub fn new<'a>(
        classes: &FieldClasses,
        token_headers: impl IntoIterator<Item = &'a str>,
        token_query: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let kept = |classes: &BTreeMap<String, FieldClass>| -> BTreeMap<_, _> {
            let named = classes.iter().map(|(name, class)| (name.clone(), *class));
            named
                .filter(|(_, class)| *class != FieldClass::Public)
                .collect()
        };
        let secret = |name: &str| (name.to_owned(), FieldClass::Secret);
        let mut headers = kept(&classes.headers);
        headers.extend(CREDENTIAL_HEADERS.map(secret));
        let lower = |name: &str| secret(&name.to_ascii_lowercase());
        headers.extend(token_headers.into_iter().map(lower));
        let mut query = kept(&classes.query);
        query.extend(token_query.into_iter().map(secret));
        let key = classes.join_key.expose();
        Self {
            headers,
            query,
            claims: kept(&classes.claims),
            context: kept(&classes.context),
            key: (!key.is_empty()).then(|| hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())),
        }
    }

    /// Takes out of `request` what a record must not keep of it, and says what that was.
    pub fn apply(&self, request: &mut AccessRequest) -> Redacted {
        let mut redacted = Redacted {
            context: self.context(request),
            ..Redacted::default()
        };
        if let Some(http) = &mut request.context.http {
            redacted.headers = self.values(Kind::Header, &mut http.headers);
            redacted.query = self.values(Kind::Query, &mut http.query);
        }
        let Some(user) = &mut request.user else {
            return redacted;
        };
        let named = |name: &String| self.claims.contains_key(name);
        let subject = self.claims.get("sub").filter(|_| !user.subject.is_empty());
        if subject.is_none() && !user.claims.keys().any(named) {
            return redacted;
        }
        let user = Arc::make_mut(user);
        redacted.claims = self.values(Kind::Claim, &mut user.claims);
        if let Some(class) = subject {
            let value = std::mem::take(&mut user.subject);
            let stands = self.of_one(Kind::Claim, "sub", *class, &value);
            let hashes = BTreeSet::from_iter(stands);
            redacted.claims.insert("sub".to_owned(), hashes);
        }
        redacted
    }

    /// Takes the path and the client's addresses out: an empty one, and `0.0.0.0`, stand for them.
    fn context(&self, request: &mut AccessRequest) -> BTreeMap<String, BTreeSet<String>> {
        let mut taken = BTreeMap::new();
        for (name, class) in &self.context {
            let context = &mut request.context;
            let value = match name.as_str() {
                "path" => context
                    .http
                    .as_mut()
                    .map(|http| std::mem::take(&mut http.path)),
                "remote_ip" => context.remote_ip.take().map(|ip| ip.to_string()),
                "source_ip" => {
                    Some(std::mem::replace(&mut context.source_ip, NO_ADDRESS).to_string())
                }
                _ => None,
            };
            if let Some(value) = value {
                let stands = self.of_one(Kind::Context, name, *class, &value);
                taken.insert(name.clone(), BTreeSet::from_iter(stands));
            }
        }
        taken
    }

    /// A client's address and port, as records may say them: all of it, the address's hash, or nothing.
    pub fn client(&self, address: SocketAddr) -> String {
        let Some(class) = self.context.get("source_ip") else {
            return address.to_string();
        };
        let value = address.ip().to_string();
        self.of_one(Kind::Context, "source_ip", *class, &value)
            .unwrap_or_default()
    }

    /// Whom a token is about, as records may say it: the subject, its hash, or nothing.
    pub fn subject(&self, user: &User) -> String {
        let Some(class) = self.claims.get("sub") else {
            return user.subject.clone();
        };
        self.of_one(Kind::Claim, "sub", *class, &user.subject)
            .unwrap_or_default()
    }

    fn values(
        &self,
        kind: Kind,
        values: &mut BTreeMap<String, BTreeSet<String>>,
    ) -> BTreeMap<String, BTreeSet<String>> {
        let classes = match kind {
            Kind::Claim => &self.claims,
            Kind::Context => &self.context,
            Kind::Header => &self.headers,
            Kind::Query => &self.query,
        };
        let mut taken = BTreeMap::new();
        if values.is_empty() {
            return taken;
        }
        for (name, class) in classes {
            if let Some(values) = values.remove(name) {
                let hashes = values.iter();
                let hashes = hashes.filter_map(|value| self.of_one(kind, name, *class, value));
                taken.insert(name.clone(), hashes.collect());
            }
        }
        taken
    }

    /// The hash that stands for a value; none for a secret one.
    fn of_one(&self, kind: Kind, name: &str, class: FieldClass, value: &str) -> Option<String> {
        let key = self.key.as_ref()?;
        (class == FieldClass::Sensitive).then(|| hash(key, kind, name, value))
    }

    /// What stands in records for a value of a header, to look for it.
    pub fn of_header(&self, name: &str, value: &str) -> Option<String> {
        self.key
            .as_ref()
            .map(|key| hash(key, Kind::Header, name, value))
    }

    /// The same for a claim.
    pub fn of_claim(&self, name: &str, value: &str) -> Option<String> {
        self.key
            .as_ref()
            .map(|key| hash(key, Kind::Claim, name, value))
    }
}

fn hash(key: &hmac::Key, kind: Kind, name: &str, value: &str) -> String {
    let kind: &[u8] = match kind {
        Kind::Claim => b"claim\n",
        Kind::Context => b"context\n",
        Kind::Header => b"header\n",
        Kind::Query => b"query\n",
    };
    let mut context = hmac::Context::with_key(key);
    // A name holds no line end: no header's or parameter's as configured does, and a claim's with one differs in this.
    let length = u64::try_from(name.len()).unwrap_or(u64::MAX).to_be_bytes();
    for part in [CONTEXT, kind, &length, name.as_bytes(), value.as_bytes()] {
        context.update(part);
    }
    let tag = context.sign();
    let bytes = tag.as_ref().get(..HASH_BYTES).unwrap_or_default();
    format!("hmac:{}", hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use reeve_core::{decision::Effect, model::JoinKey};

    use super::*;
    use crate::fixture::decision;

    fn texts(values: &[&str]) -> BTreeSet<String> {
        values.iter().map(|v| (*v).to_owned()).collect()
    }

    fn classes(key: &str) -> FieldClasses {
        let of = |named: &[(&str, FieldClass)]| {
            named
                .iter()
                .map(|(name, class)| ((*name).to_owned(), *class))
                .collect()
        };
        FieldClasses {
            headers: of(&[
                ("end-user", FieldClass::Sensitive),
                ("x-open", FieldClass::Public),
            ]),
            query: of(&[("card", FieldClass::Secret)]),
            claims: of(&[
                ("email", FieldClass::Sensitive),
                ("sub", FieldClass::Sensitive),
            ]),
            context: BTreeMap::new(),
            join_key: JoinKey::new(key.to_owned()),
        }
    }

    fn request(end_user: &str) -> AccessRequest {
        let mut request = decision("/", Effect::Allow).request;
        let http = request.context.http.as_mut().unwrap();
        http.headers.insert("end-user".into(), texts(&[end_user]));
        http.headers.insert("x-open".into(), texts(&["open"]));
        http.headers
            .insert("authorization".into(), texts(&["Bearer a.b.c"]));
        http.headers.insert("x-token".into(), texts(&["d.e.f"]));
        http.query.insert("card".into(), texts(&["4111"]));
        http.query.insert("access_token".into(), texts(&["g.h.i"]));
        request.user = Some(Arc::new(User {
            claims: [
                ("email".to_owned(), texts(&["a@b.example"])),
                ("groups".to_owned(), texts(&["staff"])),
            ]
            .into(),
            expires_at: None,
            issuer: "https://i".into(),
            subject: "jason".into(),
        }));
        request
    }

    fn redact(classes: &FieldClasses, request: &mut AccessRequest) -> Redacted {
        Redaction::new(classes, ["X-Token"], ["access_token"]).apply(request)
    }

    #[test]
    fn secret_values_are_gone_and_sensitive_ones_can_be_joined() {
        let mut one = request("jason");
        let first = redact(&classes("a key"), &mut one);
        let text = serde_json::to_string(&(&one, &first)).unwrap();
        for value in ["jason", "a.b.c", "d.e.f", "g.h.i", "4111", "a@b.example"] {
            assert!(!text.contains(value), "{value} in {text}");
        }
        assert!(text.contains("open") && text.contains("staff"), "{text}");
        let names: Vec<_> = first.headers.keys().map(String::as_str).collect();
        assert_eq!(names, ["authorization", "end-user", "x-token"]);
        assert_eq!(first.query["card"], texts(&[]), "a secret has no hash");
        assert_eq!(first.claims["sub"].len(), 1);
        let whole = request("jason").user.unwrap();
        let redaction = Redaction::new(&classes("a key"), [], []);
        assert!(first.claims["sub"].contains(&redaction.subject(&whole)));
        let open = Redaction::default();
        assert_eq!(open.subject(&whole), "jason");

        let again = redact(&classes("a key"), &mut request("jason"));
        assert_eq!(again, first, "equal values, equal hashes");
        let other = redact(&classes("a key"), &mut request("kate"));
        assert_ne!(other.headers["end-user"], first.headers["end-user"]);
        let elsewhere = redact(&classes("another key"), &mut request("jason"));
        assert_ne!(elsewhere.headers["end-user"], first.headers["end-user"]);
        assert_ne!(
            first.headers["end-user"], first.claims["sub"],
            "not joined across kinds"
        );
        let found = Redaction::new(&classes("a key"), [], []).of_header("end-user", "jason");
        assert!(first.headers["end-user"].contains(&found.unwrap()));
    }

    #[test]
    fn paths_and_clients_addresses_have_classes_too() {
        let mut classes = classes("a key");
        classes.context = [
            ("path".to_owned(), FieldClass::Sensitive),
            ("remote_ip".to_owned(), FieldClass::Secret),
            ("source_ip".to_owned(), FieldClass::Sensitive),
        ]
        .into();
        let mut asked = request("jason");
        asked.context.http.as_mut().unwrap().path = "/people/jason".into();
        asked.context.source_ip = [203, 0, 113, 7].into();
        asked.context.remote_ip = Some([198, 51, 100, 9].into());
        let mut record = asked.clone();
        let redacted = redact(&classes, &mut record);
        let text = serde_json::to_string(&(&record, &redacted)).unwrap();
        for value in ["people", "203.0.113.7", "198.51.100.9"] {
            assert!(!text.contains(value), "{value} in {text}");
        }
        assert_eq!(redacted.context["remote_ip"], texts(&[]));
        assert_eq!(redact(&classes, &mut asked.clone()), redacted, "joinable");
        let redaction = Redaction::new(&classes, [], []);
        let client = redaction.client(([203, 0, 113, 7], 4711).into());
        assert!(redacted.context["source_ip"].contains(&client));
        // Of a connection there is no path, and none is said to have been taken out.
        asked.context.http = None;
        let redacted = redact(&classes, &mut asked);
        assert!(!redacted.context.contains_key("path"));
        let open = Redaction::default();
        assert_eq!(open.client(([203, 0, 113, 7], 1).into()), "203.0.113.7:1");
    }

    #[test]
    fn without_a_key_sensitive_is_secret_and_without_classes_only_credentials_are() {
        let redacted = redact(&classes(""), &mut request("jason"));
        assert!(redacted.headers["end-user"].is_empty() && redacted.claims["sub"].is_empty());
        let mut open = FieldClasses::default();
        open.headers
            .insert("authorization".into(), FieldClass::Public);
        let mut asked = request("jason");
        let redacted = redact(&open, &mut asked);
        let names: Vec<_> = redacted
            .headers
            .keys()
            .chain(redacted.query.keys())
            .collect();
        assert_eq!(names, ["authorization", "x-token", "access_token"]);
        assert_eq!(asked.user.unwrap().subject, "jason");
        let mut plain = decision("/", Effect::Allow).request;
        let before = plain.clone();
        assert!(Redaction::new(&open, [], []).apply(&mut plain).is_empty());
        assert_eq!(plain, before);
    }
}
