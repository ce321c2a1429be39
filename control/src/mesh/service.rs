//! Services, from Kubernetes' `Service`.

use std::collections::BTreeMap;

use reeve_core::{Namespace, ServiceName, model::Protocol};

use super::LocalWorkload;

/// A service: ports in front of the workloads that its selector picks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its full host name.
    pub host: ServiceName,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its short name.
    pub name: String,
    /// Labels a workload of its namespace must have; empty = it selects nothing.
    pub selector: BTreeMap<String, String>,
    /// Its ports.
    pub ports: Vec<TargetedPort>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetedPort {
    /// The port clients use.
    pub port: u16,
    /// Its name, empty if it has none.
    pub name: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// The workload's port behind it.
    pub target: TargetPort,
}

/// A workload's port by number or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

impl Service {
    /// Whether `workload` stands behind this service.
    pub fn selects(&self, workload: &LocalWorkload) -> bool {
        !self.selector.is_empty()
            && self.namespace == workload.namespace
            && is_subset(&self.selector, &workload.labels)
    }

    /// The port of that number.
    pub fn port(&self, number: u16) -> Option<&TargetedPort> {
        self.ports.iter().find(|p| p.port == number)
    }
}

impl TargetedPort {
    /// The workload's port behind this one.
    pub fn on(&self, workload: &LocalWorkload) -> Option<u16> {
        match &self.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => {
                let found = workload.ports.iter().find(|p| p.name == *name);
                found.map(|p| p.port)
            }
        }
    }
}

/// Whether `labels` has everything that `wanted` asks for.
pub(crate) fn is_subset(
    wanted: &BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
