//! Names of things in the mesh. Kubernetes' rules (RFC 1123) hold for those that Kubernetes has too.
//!
//! Names are shared, not copied: requests carry many of them.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

/// Why a text is not a legal name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty or longer than `max` bytes.
    #[error("{kind} is 1 to {max} bytes long, not {len}")]
    Length {
        /// What was being named.
        kind: &'static str,
        /// The limit in bytes.
        max: usize,
        /// The length found.
        len: usize,
    },
    /// A character that the kind does not allow.
    #[error("{kind} cannot contain {found:?}; {allowed}")]
    Char {
        /// What was being named.
        kind: &'static str,
        /// The character found.
        found: char,
        /// What is allowed, in words.
        allowed: &'static str,
    },
    /// Starts or ends with something other than a letter or digit.
    #[error("{kind} starts and ends with a letter or digit")]
    Edge {
        /// What was being named.
        kind: &'static str,
    },
}

/// What a kind of name allows.
struct Rule {
    kind: &'static str,
    max: usize,
    allowed: &'static str,
    legal: fn(char) -> bool,
}

impl Rule {
    fn check(&self, text: &str) -> Result<(), NameError> {
        if text.is_empty() || text.len() > self.max {
            return Err(NameError::Length {
                kind: self.kind,
                max: self.max,
                len: text.len(),
            });
        }
        if let Some(found) = text.chars().find(|c| !(self.legal)(*c)) {
            return Err(NameError::Char {
                kind: self.kind,
                found,
                allowed: self.allowed,
            });
        }
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        if !edge(text.chars().next()) || !edge(text.chars().next_back()) {
            return Err(NameError::Edge { kind: self.kind });
        }
        Ok(())
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $rule:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses the name.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                $rule.check(text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                $rule.check(&text)?;
                Ok(Self(text.into()))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    )*};
}

fn dns_label(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '-')
}

fn dns_name(c: char) -> bool {
    dns_label(c) || c == '.'
}

fn policy_id(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '#')
}

fn label_value(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

const LABEL: &str = "use lower-case letters, digits and dashes";
const DNS: &str = "use lower-case letters, digits, dashes and dots";

names! {
    /// A namespace: an RFC 1123 label.
    Namespace = Rule { kind: "a namespace", max: 63, allowed: LABEL, legal: dns_label };
    /// A service account: an RFC 1123 DNS name.
    ServiceAccount = Rule { kind: "a service account", max: 253, allowed: DNS, legal: dns_name };
    /// A workload (the Deployment's name in Kubernetes), shared by its replicas.
    WorkloadName = Rule { kind: "a workload", max: 253, allowed: DNS, legal: dns_name };
    /// One running copy of a workload (the pod's name in Kubernetes): what a proxy stands beside.
    InstanceName = Rule { kind: "an instance", max: 253, allowed: DNS, legal: dns_name };
    /// The full host name of a service, such as `reviews.default.svc.cluster.local`.
    ServiceName = Rule { kind: "a service host", max: 253, allowed: DNS, legal: dns_name };
    /// The id of one Cedar policy: `<namespace>/<AccessPolicy>` and, if the object holds several, `#<n>` or its `@id`.
    PolicyId = Rule {
        kind: "a policy id", max: 512,
        allowed: "use letters, digits and - _ . / #", legal: policy_id
    };
    /// The value of a Kubernetes label that routing or subsets read (not empty).
    Label = Rule {
        kind: "a label value", max: 63,
        allowed: "use letters, digits and - _ .", legal: label_value
    };
}

impl From<&Namespace> for PolicyId {
    /// Every namespace is a legal policy id: it names what no single policy can be blamed for.
    fn from(namespace: &Namespace) -> Self {
        Self(namespace.0.clone())
    }
}

/// Identifies one audit record: which proxy, which run of it (epoch), which worker, and the worker's gapless count.
///
/// Its text form is `proxy/epoch/worker/sequence`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct RecordId {
    /// The proxy that decided.
    pub proxy: InstanceName,
    /// The run of that proxy, counted from 1 by its write-ahead log.
    pub epoch: u64,
    /// The worker within the proxy.
    pub worker: u16,
    /// The worker's count of records in this epoch, from 1, without gaps.
    pub sequence: u64,
}

/// Why a text is not a record id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record id looks like reviews-v1-0/1/0/42 (proxy/epoch/worker/sequence), not {0:?}")]
pub struct RecordIdError(pub String);

impl FromStr for RecordId {
    type Err = RecordIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.split('/');
            let id = Self {
                proxy: InstanceName::parse(parts.next()?).ok()?,
                epoch: parts.next()?.parse().ok()?,
                worker: parts.next()?.parse().ok()?,
                sequence: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(id)
        };
        parse().ok_or_else(|| RecordIdError(text.to_owned()))
    }
}

impl TryFrom<String> for RecordId {
    type Error = RecordIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RecordId> for String {
    fn from(id: RecordId) -> Self {
        id.to_string()
    }
}

impl Serialize for RecordId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            proxy,
            epoch,
            worker,
            sequence,
        } = self;
        write!(f, "{proxy}/{epoch}/{worker}/{sequence}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rules() {
        assert!(Namespace::parse("pay-2").is_ok());
        assert!(Namespace::parse(&"a".repeat(63)).is_ok());
        assert!(matches!(
            Namespace::parse(&"a".repeat(64)),
            Err(NameError::Length { .. })
        ));
        assert!(matches!(
            Namespace::parse(""),
            Err(NameError::Length { .. })
        ));
        assert!(matches!(
            Namespace::parse("pay.x"),
            Err(NameError::Char { found: '.', .. })
        ));
        assert!(matches!(
            Namespace::parse("Pay"),
            Err(NameError::Char { found: 'P', .. })
        ));
        assert!(matches!(
            Namespace::parse("-pay"),
            Err(NameError::Edge { .. })
        ));
        assert!(ServiceName::parse("reviews.default.svc.cluster.local").is_ok());
        assert!(ServiceName::parse("reviews.").is_err());
        assert!(PolicyId::parse("default/allow#2").is_ok());
        assert!(PolicyId::parse("default/allow\n").is_err());
    }

    #[test]
    fn deserialising_a_name_validates_it() {
        assert!(serde_json::from_str::<Namespace>("\"pay\"").is_ok());
        assert!(serde_json::from_str::<Namespace>("\"PAY\"").is_err());
    }

    #[test]
    fn record_ids_round_trip() {
        let text = "reviews-v1-0/3/0/42";
        let id: RecordId = text.parse().unwrap();
        assert_eq!((id.epoch, id.worker, id.sequence), (3, 0, 42));
        assert_eq!(id.to_string(), text);
        for bad in [
            "",
            "a/1/0",
            "a/1/0/2/3",
            "a/x/0/1",
            "A/1/0/1",
            "a/1/70000/1",
            "a/1/0/-1",
        ] {
            assert!(bad.parse::<RecordId>().is_err(), "{bad}");
        }
    }
}
