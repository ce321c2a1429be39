//! How far a grant reaches: one namespace, or all of the mesh.

use std::{fmt, str::FromStr, time::Duration};

use reeve_core::{
    NameError, Namespace,
    model::{BreakGlass, SignerKey},
};
use serde::{Deserialize, Serialize};

use super::{MAX_GRANT_TIME, MAX_MESH_GRANT_TIME};

/// What every namespace is called; none can have this name.
const EVERY: &str = "*";

/// The namespaces that a grant opens; as text, a name or `*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Extent {
    /// This one.
    Namespace(Namespace),
    /// Every one.
    Mesh,
}

impl Extent {
    /// The only namespace, if there is one.
    pub fn namespace(&self) -> Option<&Namespace> {
        match self {
            Self::Namespace(namespace) => Some(namespace),
            Self::Mesh => None,
        }
    }

    /// Whether it reaches every namespace.
    pub fn is_mesh(&self) -> bool {
        *self == Self::Mesh
    }

    /// Whether it reaches that namespace.
    pub fn has(&self, namespace: &Namespace) -> bool {
        self.namespace().is_none_or(|only| only == namespace)
    }

    /// SECURITY: who may open one namespace may not open another tenant's by writing a star.
    pub fn may_be_signed_by(&self, key: &SignerKey, trust: &BreakGlass) -> bool {
        match self {
            Self::Namespace(_) => trust.knows(key),
            Self::Mesh => trust.mesh_signers.contains(key),
        }
    }

    /// The longest time that a grant of it may be in force at once.
    pub(super) fn longest(&self) -> Duration {
        match self {
            Self::Namespace(_) => MAX_GRANT_TIME,
            Self::Mesh => MAX_MESH_GRANT_TIME,
        }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.namespace().map_or(EVERY, Namespace::as_str))
    }
}

impl FromStr for Extent {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text {
            EVERY => Ok(Self::Mesh),
            name => Namespace::parse(name).map(Self::Namespace),
        }
    }
}

impl TryFrom<String> for Extent {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Extent> for String {
    fn from(extent: Extent) -> Self {
        extent.to_string()
    }
}
