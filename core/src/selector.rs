//! Selectors: what is known of a workload, in SPIRE's words (`unix:uid:1000`).

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

/// Longest selector, in bytes; a path of 1,024 fits.
pub const MAX_SELECTOR_BYTES: usize = 1_100;

/// Every kind of selector, and what its value is.
const KINDS: &[(&str, Value)] = &[
    ("unix:uid", Value::Number),
    ("unix:user", Value::Word),
    ("unix:gid", Value::Number),
    ("unix:group", Value::Word),
    ("unix:supplementary_gid", Value::Number),
    ("unix:supplementary_group", Value::Word),
    ("unix:path", Value::Path),
    ("unix:sha256", Value::Sha256),
    ("unix:cgroup", Value::Path),
    ("systemd:id", Value::Word),
    ("k8s:ns", Value::Word),
    ("k8s:sa", Value::Word),
    ("k8s:pod-name", Value::Word),
    ("k8s:pod-uid", Value::Word),
    ("k8s:node-name", Value::Word),
];

#[derive(Clone, Copy, Debug)]
enum Value {
    Number,
    Word,
    Path,
    Sha256,
}

/// One fact about a workload: `<kind>:<value>`. Equal facts are equal texts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Selector(Arc<str>);

/// What is known of one workload, or asked of it: a set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selectors(BTreeSet<Selector>);

/// Why a text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Longer than [`MAX_SELECTOR_BYTES`].
    #[error("a selector is at most {MAX_SELECTOR_BYTES} bytes long")]
    TooLong,
    /// Of a kind that no attestor here knows.
    #[error("no attestor knows the selector {found:?}; there are {kinds}", found = .0, kinds = kinds())]
    UnknownKind(String),
    /// The value is not one of its kind.
    #[error("{kind} takes {wanted}, not {found:?}")]
    Value {
        /// The selector's kind.
        kind: &'static str,
        /// What its value is.
        wanted: &'static str,
        /// What was found.
        found: String,
    },
}

fn kinds() -> String {
    let names: Vec<_> = KINDS.iter().map(|(kind, _)| *kind).collect();
    names.join(", ")
}

impl Value {
    fn wanted(self) -> &'static str {
        match self {
            Self::Number => "a number in decimal digits",
            Self::Word => "a name without spaces",
            Self::Path => "a path that begins with /",
            Self::Sha256 => "64 hexadecimal digits in lower case",
        }
    }

    fn admits(self, text: &str) -> bool {
        let visible = !text.is_empty() && !text.chars().any(char::is_control);
        match self {
            // As it is printed, so that equal facts are equal texts.
            Self::Number => text.parse::<u32>().is_ok_and(|n| n.to_string() == text),
            Self::Word => visible && !text.contains(char::is_whitespace),
            Self::Path => visible && text.starts_with('/'),
            Self::Sha256 => {
                let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                text.len() == 64 && text.bytes().all(lower_hex)
            }
        }
    }
}

impl Selector {
    /// Parses a whole selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_SELECTOR_BYTES {
            return Err(SelectorError::TooLong);
        }
        let of_kind = |(kind, value): &(&'static str, Value)| {
            let said = text.strip_prefix(kind)?.strip_prefix(':')?;
            Some((*kind, *value, said))
        };
        let found = KINDS.iter().find_map(of_kind);
        let (kind, value, said) =
            found.ok_or_else(|| SelectorError::UnknownKind(text.to_owned()))?;
        match value.admits(said) {
            true => Ok(Self(text.into())),
            false => Err(SelectorError::Value {
                kind,
                wanted: value.wanted(),
                found: said.to_owned(),
            }),
        }
    }

    /// The selector as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its kind, such as `unix:uid`.
    pub fn kind(&self) -> &'static str {
        let kinds = KINDS.iter().map(|(kind, _)| *kind);
        let is = |kind: &&str| {
            let rest = self.0.strip_prefix(kind);
            rest.is_some_and(|rest| rest.starts_with(':'))
        };
        kinds.into_iter().find(is).unwrap_or_default()
    }
}

impl Selectors {
    /// Whether all of `asked` is known here.
    pub fn have_all_of(&self, asked: &Self) -> bool {
        asked.0.is_subset(&self.0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Selector> {
        self.0.iter()
    }

    /// Adds the fact `<kind>:<value>`, unless it is none: then whoever asks for it does not find it.
    pub fn learn(&mut self, kind: &str, value: impl fmt::Display) {
        if let Ok(selector) = Selector::parse(&format!("{kind}:{value}")) {
            self.0.insert(selector);
        }
    }

    /// Adds everything of `other`.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

impl FromIterator<Selector> for Selectors {
    fn from_iter<I: IntoIterator<Item = Selector>>(selectors: I) -> Self {
        Self(selectors.into_iter().collect())
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_takes_its_values_and_no_others() {
        let hash = "a".repeat(64);
        let (hash, upper) = (format!("unix:sha256:{hash}"), "A".repeat(64));
        let upper = format!("unix:sha256:{upper}");
        for (good, bad) in [
            ("unix:uid:0", "unix:uid:00"),
            ("unix:gid:4294967295", "unix:gid:4294967296"),
            ("unix:supplementary_gid:7", "unix:supplementary_gid:-7"),
            ("unix:user:www-data", "unix:user:"),
            ("unix:path:/usr/bin/a b:c", "unix:path:bin/a"),
            ("unix:cgroup:/system.slice/a.service", "unix:cgroup:a"),
            (hash.as_str(), upper.as_str()),
            ("systemd:id:nginx.service", "systemd:id:a b"),
            ("k8s:ns:default", "k8s:ns:a\nb"),
        ] {
            let selector = Selector::parse(good).unwrap();
            assert_eq!(selector.as_str(), good);
            assert!(good.starts_with(selector.kind()));
            let refused = Selector::parse(bad);
            assert!(matches!(refused, Err(SelectorError::Value { .. })), "{bad}");
        }
    }

    #[test]
    fn unknown_kinds_are_refused_by_name() {
        for text in ["", "unix", "unix:uid", "docker:label:a:b", "UNIX:uid:1"] {
            let refused = Selector::parse(text);
            assert_eq!(refused, Err(SelectorError::UnknownKind(text.to_owned())));
        }
        let long = format!("unix:path:/{}", "a".repeat(MAX_SELECTOR_BYTES));
        assert_eq!(Selector::parse(&long), Err(SelectorError::TooLong));
    }

    #[test]
    fn all_that_is_asked_must_be_known() {
        let set = |texts: &[&str]| -> Selectors {
            texts.iter().map(|t| Selector::parse(t).unwrap()).collect()
        };
        let known = set(&["unix:uid:1", "unix:gid:1"]);
        assert!(known.have_all_of(&set(&["unix:gid:1"])));
        assert!(known.have_all_of(&set(&[])));
        assert!(!known.have_all_of(&set(&["unix:uid:1", "unix:gid:2"])));
        let mut learnt = set(&["unix:uid:1"]);
        learnt.learn("unix:user", "no body");
        assert_eq!(learnt.len(), 1, "what is no fact is not known");
    }
}
