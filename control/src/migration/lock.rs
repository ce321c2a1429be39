//! A namespace that was strict for long enough can be locked: nothing lets plaintext in there again before somebody else has
//! approved it.
//!
//! INVARIANTS: locks are kept in the mesh's state and not in the configuration, so that no change of that takes one away; a
//! lock goes only with an [`Approval`] of just this lock, signed by one of its approvers; while it stands, a configuration
//! that opens anything in its namespace that was not open when it was locked is refused as a whole.

mod approval;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use reeve_core::{
    Namespace, UnixTime,
    model::{MtlsMode, SignerKey},
};
use reeve_files::{read_json, replace_json};
use serde::{Deserialize, Serialize};

pub use approval::{Approval, ApprovalRefused, MAX_APPROVAL_VALIDITY, SignedApproval};

use super::landscape::{Landscape, Origin, key};
use crate::{Code, Fault, Severity, mesh::WorkloadRole};

/// In the state folder.
const FILE: &str = "mtls-locks.json";
/// Most namespaces that are locked.
const MAX_LOCKS: usize = 4096;
/// Most approvers of a lock.
const MAX_APPROVERS: usize = 16;

/// A namespace that stays strict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Names it; no two locks have the same.
    pub id: String,
    /// The namespace.
    pub namespace: Namespace,
    /// Since when.
    pub locked_at: UnixTime,
    /// Who locked it, as the system knows them.
    pub by: String,
    /// Whose approval opens it.
    pub approvers: Vec<SignerKey>,
    /// What was open when it was locked, and may stay so: exempt ports, and workloads without a sidecar.
    pub open: BTreeSet<String>,
}

/// Why a namespace is not locked.
#[derive(Debug, thiserror::Error)]
pub enum LockRefused {
    /// It is.
    #[error("namespace {0} is locked already")]
    Already(Namespace),
    /// It is not strict.
    #[error("namespace {namespace} is not strict: {why}")]
    NotStrict {
        /// Which.
        namespace: Namespace,
        /// What is open.
        why: String,
    },
    /// There is nothing to lock.
    #[error("no workload of the configuration is in namespace {0}")]
    Empty(Namespace),
    /// The configuration as it stands is not in force.
    #[error("the configuration as it stands is not in force; `reeve status` says why")]
    NotInForce,
    /// It has no approver, or too many.
    #[error("a lock has 1 to {MAX_APPROVERS} approvers")]
    Approvers,
    /// There are too many.
    #[error("at most {MAX_LOCKS} namespaces are locked")]
    TooMany,
    /// It cannot be kept.
    #[error("the lock cannot be kept: {0}")]
    Unkept(#[from] io::Error),
}

/// Why a lock stays.
#[derive(Debug, thiserror::Error)]
pub enum UnlockRefused {
    /// There is none.
    #[error("namespace {0} is not locked")]
    NotLocked(Namespace),
    /// The approval does not do.
    #[error(transparent)]
    Approval(#[from] ApprovalRefused),
    /// That it is gone cannot be kept.
    #[error("it cannot be kept that the lock is gone: {0}")]
    Unkept(#[from] io::Error),
}

/// Every lock, by namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locks(BTreeMap<Namespace, Lock>);

impl Locks {
    /// Those of a state folder; none where none was ever made. The error is what makes the file unreadable: whoever cannot
    /// read it does not know what must stay shut.
    pub fn read(state: &Path) -> io::Result<Self> {
        let locks: Vec<Lock> = read_json(&state.join(FILE))?.unwrap_or_default();
        let locks = locks.into_iter().map(|lock| (lock.namespace.clone(), lock));
        Ok(Self(locks.collect()))
    }

    /// Each.
    pub fn iter(&self) -> impl Iterator<Item = &Lock> {
        self.0.values()
    }

    /// That of a namespace.
    pub fn get(&self, namespace: &Namespace) -> Option<&Lock> {
        self.0.get(namespace)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With one more.
    pub(crate) fn with(&self, lock: Lock) -> Result<Self, LockRefused> {
        if self.0.contains_key(&lock.namespace) {
            return Err(LockRefused::Already(lock.namespace));
        }
        if lock.approvers.is_empty() || lock.approvers.len() > MAX_APPROVERS {
            return Err(LockRefused::Approvers);
        }
        if self.0.len() >= MAX_LOCKS {
            return Err(LockRefused::TooMany);
        }
        let mut more = self.clone();
        more.0.insert(lock.namespace.clone(), lock);
        Ok(more)
    }

    /// Without that of a namespace.
    pub(crate) fn without(&self, namespace: &Namespace) -> Self {
        let mut fewer = self.clone();
        fewer.0.remove(namespace);
        fewer
    }

    /// Keeps them in a state folder.
    pub(crate) fn write(&self, state: &Path) -> io::Result<()> {
        replace_json(&state.join(FILE), &self.iter().collect::<Vec<_>>())
    }

    /// A configuration that no lock is against; the error says why it is refused.
    pub(crate) fn pass(&self, landscape: Landscape) -> Result<Landscape, Vec<Fault>> {
        let breaches = self.iter().flat_map(|lock| lock.breaches(&landscape));
        let breaches: Vec<_> = breaches.collect();
        if breaches.is_empty() {
            return Ok(landscape);
        }
        Err(breaches)
    }
}

impl Lock {
    /// Locks `namespace` as it is in `landscape`: strict but for exemptions and workloads without a sidecar.
    pub(crate) fn of(
        namespace: &Namespace,
        landscape: &Landscape,
        (by, approvers): (String, Vec<SignerKey>),
        now: UnixTime,
    ) -> Result<Self, LockRefused> {
        let mut workloads = landscape.mesh.workloads.iter();
        if !workloads.any(|workload| workload.namespace == *namespace) {
            return Err(LockRefused::Empty(namespace.clone()));
        }
        let open = open(namespace, landscape);
        if let Some(gap) = open.values().find(|gap| !gap.on_purpose) {
            return Err(LockRefused::NotStrict {
                namespace: namespace.clone(),
                why: format!("{} ({})", gap.what, gap.origin),
            });
        }
        Ok(Self {
            id: format!("{namespace}-{}", now.as_millis()),
            namespace: namespace.clone(),
            locked_at: now,
            by,
            approvers,
            open: open.into_keys().collect(),
        })
    }

    /// What `landscape` opens that must stay shut.
    fn breaches(&self, landscape: &Landscape) -> Vec<Fault> {
        let open = open(&self.namespace, landscape).into_iter();
        let new = open.filter(|(name, _)| !self.open.contains(name));
        new.map(|(_, gap)| self.fault(gap)).collect()
    }

    fn fault(&self, gap: Gap) -> Fault {
        let (file, line) = gap.origin.file_and_line();
        Fault {
            severity: Severity::Error,
            code: Code::Locked,
            file,
            line,
            kind: None,
            namespace: Some(self.namespace.to_string()),
            name: None,
            path: String::new(),
            text: format!(
                "{}, and the namespace is locked (lock {}, by {})",
                gap.what, self.id, self.by
            ),
            hint: Some(format!(
                "let an approver sign `reeve mtls approve {} --lock {}`, then `reeve mtls unlock` with it",
                self.namespace, self.id
            )),
        }
    }
}

/// Something in a namespace that lets plaintext in.
struct Gap {
    what: String,
    origin: Origin,
    /// Exempt, or outside the mesh.
    on_purpose: bool,
}

/// Everything in `namespace` that lets plaintext in, by name.
fn open(namespace: &Namespace, landscape: &Landscape) -> BTreeMap<String, Gap> {
    let mut found = BTreeMap::new();
    let ports = landscape.ports().into_iter();
    let own = ports.filter(|port| port.workload.namespace == *namespace);
    for port in own.filter(|port| port.mode != MtlsMode::Strict) {
        let name = format!("{}:{}", port.workload, port.port);
        let gap = Gap {
            what: format!("plaintext is let in at {name}"),
            origin: port.origin,
            on_purpose: port.exemption.is_some(),
        };
        found.insert(name, gap);
    }
    let workloads = landscape.mesh.workloads.iter();
    let own = workloads.filter(|workload| workload.namespace == *namespace);
    for workload in own.filter(|w| w.role == WorkloadRole::None) {
        let name = key(workload).to_string();
        let gap = Gap {
            what: format!("workload {name} has no sidecar"),
            origin: Origin::default(),
            on_purpose: true,
        };
        found.insert(name, gap);
    }
    if landscape.mode_of_new(namespace) != MtlsMode::Strict {
        let gap = Gap {
            what: format!("workloads to come in {namespace} would let plaintext in"),
            origin: Origin::default(),
            on_purpose: false,
        };
        found.insert(namespace.to_string(), gap);
    }
    found
}

#[cfg(test)]
mod tests;
