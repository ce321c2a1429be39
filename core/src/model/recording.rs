//! What audit records keep of values that a policy, or the configuration, names.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What of a request's context can have a class: the path as it was judged, and the client's addresses.
pub const CONTEXT_FIELDS: [&str; 3] = ["path", "remote_ip", "source_ip"];

/// What a record keeps of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldClass {
    /// All of it.
    #[default]
    Public,
    /// A keyed hash, by which equal values can be joined.
    Sensitive,
    /// That it was there.
    Secret,
}

/// The classes of named values; what is not named is public.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FieldClasses {
    /// Of header fields, by name in lower case.
    pub headers: BTreeMap<String, FieldClass>,
    /// Of query parameters.
    pub query: BTreeMap<String, FieldClass>,
    /// Of the end user's claims; `sub` is the subject.
    pub claims: BTreeMap<String, FieldClass>,
    /// Of what policies know as `context.<name>`; those of [`CONTEXT_FIELDS`].
    pub context: BTreeMap<String, FieldClass>,
    /// The key of the hash.
    pub join_key: JoinKey,
}

impl FieldClasses {
    /// Whether everything is public.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether any value is hashed.
    pub fn need_key(&self) -> bool {
        let all = [&self.headers, &self.query, &self.claims, &self.context];
        let mut classes = all.into_iter().flat_map(BTreeMap::values);
        classes.any(|class| *class == FieldClass::Sensitive)
    }
}

/// The key that sensitive values are hashed with, one for the mesh: zeroed when dropped, never shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct JoinKey(Zeroizing<String>);

impl JoinKey {
    /// Takes the key's text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for the hash and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for JoinKey {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<JoinKey> for String {
    fn from(key: JoinKey) -> Self {
        key.expose().to_owned()
    }
}

impl fmt::Debug for JoinKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinKey(..)")
    }
}
