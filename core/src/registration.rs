//! Registration entries: which workloads an agent may give which identity.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Namespace, Selectors, ServiceName, SpiffeId, WorkloadName};

/// Longest hint, in bytes.
pub const MAX_HINT_BYTES: usize = 256;

/// The name of a registration entry: that of the object that says it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryName {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name there.
    pub name: WorkloadName,
}

/// Who gets an identity, and on which terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationEntry {
    /// Its name.
    pub name: EntryName,
    /// The identity.
    pub id: SpiffeId,
    /// The agent that may ask for it.
    pub parent: SpiffeId,
    /// What must be known of a workload, all of it; never empty.
    pub selectors: Selectors,
    /// Life of its certificates, if shorter than the mesh's.
    pub x509_ttl: Option<Duration>,
    /// Life of its tokens, if shorter than five minutes.
    pub jwt_ttl: Option<Duration>,
    /// DNS names in its certificates, beside the identity.
    pub dns_names: Vec<ServiceName>,
    /// For whom its tokens may be; empty: for anybody.
    pub jwt_audiences: Vec<String>,
    /// Tells a workload with several identities what this one is for.
    pub hint: String,
}

impl RegistrationEntry {
    /// The order in which a workload gets its identities: what asks most of it first, then by name. The first is its
    /// default.
    pub fn rank(&self) -> impl Ord + '_ {
        (std::cmp::Reverse(self.selectors.len()), &self.name)
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl EntryName {
    /// Parses `namespace/name`.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        Some(Self {
            namespace: Namespace::parse(namespace).ok()?,
            name: WorkloadName::parse(name).ok()?,
        })
    }
}
