//! The resolved mesh: typed, complete and checked against itself. Made by [`crate::load`] from a folder.

mod settings;
mod workload;

use std::{collections::BTreeMap, sync::Arc};

use reeve_core::{InstanceName, Namespace, ServiceName, model::PolicySource};

pub use settings::{AuditLevel, AuthorizationSettings, MeshSettings};
pub use workload::{Health, LocalWorkload, Probe, WorkloadPort, WorkloadRole};

use crate::Fault;

/// Everything that a folder of configuration says, valid as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    /// Mesh-wide settings.
    pub settings: MeshSettings,
    /// What runs, in order of namespace and name.
    pub workloads: Vec<LocalWorkload>,
    /// Every policy, ordered by id.
    pub policies: Vec<PolicySource>,
    /// Hash of `policies`.
    pub policy_hash: String,
    /// Warnings; they do not keep the mesh from being applied.
    pub warnings: Vec<Fault>,
    /// Services.
    pub services: BTreeMap<ServiceName, Arc<Service>>,
}

/// A service (Kubernetes `Service`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its full host name.
    pub host: ServiceName,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its short name.
    pub name: String,
}

impl Mesh {
    /// The workload that `instance` is a copy of.
    pub fn workload_of(&self, instance: &InstanceName) -> Option<&LocalWorkload> {
        self.workloads
            .iter()
            .find(|w| w.instances.contains(instance))
    }
}
