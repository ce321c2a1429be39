//! Services, from Kubernetes' `Service`.

use std::{collections::BTreeMap, net::IpAddr};

use reeve_core::{InstanceName, Namespace, ServiceAccount, ServiceName, model::Protocol};

use super::LocalWorkload;
use crate::resolve::hosts::falls_under;

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
    /// Whether each of its instances has a host of its own (`clusterIP: None`).
    pub headless: bool,
    /// Namespaces that see it (Istio's `exportTo`); none = all.
    pub export_to: Vec<String>,
    /// Where it runs, if that is said rather than selected.
    pub entry: Option<Entry>,
}

/// Where a service runs that is no Kubernetes `Service` (`ServiceEntry`), or that is another's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whether it is part of the mesh.
    pub location: EntryLocation,
    /// How its endpoints are found.
    pub resolution: EntryResolution,
    /// Its endpoints.
    pub endpoints: Vec<EntryEndpoint>,
    /// Addresses that stand for it where traffic is captured.
    pub addresses: Vec<IpAddr>,
    /// Names that its servers' certificates may have.
    pub subject_alt_names: Vec<String>,
    /// `*.suffix` or `*`: the names that it is called by, if it has no one host.
    pub patterns: Vec<String>,
}

/// Whether a service is part of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryLocation {
    /// It is not: mTLS is not spoken to it.
    External,
    /// It is.
    Internal,
}

/// How endpoints are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryResolution {
    /// As the caller found them; here, by looking up the host.
    None,
    /// They are named.
    Static,
    /// By DNS: every address is one.
    Dns,
    /// By DNS: the first address is the one.
    DnsRoundRobin,
}

/// One endpoint of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryEndpoint {
    /// What it is called.
    pub name: InstanceName,
    /// Where it is.
    pub address: EntryAddress,
    /// Port name → port, where it differs.
    pub ports: BTreeMap<String, u16>,
    /// Labels that subsets select by.
    pub labels: BTreeMap<String, String>,
    /// The account it runs as, if it is part of the mesh.
    pub service_account: Option<ServiceAccount>,
    /// Its share, relative to the other endpoints'.
    pub weight: u32,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryAddress {
    /// There.
    Ip(IpAddr),
    /// Where DNS says.
    Host(ServiceName),
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

    /// The patterns that it is called by, if it has no one host.
    pub fn patterns(&self) -> &[String] {
        let entry = self.entry.as_ref();
        entry.map(|e| e.patterns.as_slice()).unwrap_or_default()
    }

    /// The patterns whose names are looked up as they are called.
    pub fn looked_up(&self) -> &[String] {
        match self.entry.as_ref().map(|e| e.resolution) {
            Some(EntryResolution::None) => self.patterns(),
            Some(
                EntryResolution::Static | EntryResolution::Dns | EntryResolution::DnsRoundRobin,
            )
            | None => &[],
        }
    }

    /// Whether `host` (or pattern) covers it.
    pub(crate) fn falls_under(&self, host: &str) -> bool {
        match self.patterns() {
            [] => falls_under(self.host.as_str(), host),
            patterns => patterns
                .iter()
                .any(|own| own == host || falls_under(own, host)),
        }
    }

    /// Whether it is no Kubernetes `Service`: its host is its name.
    pub fn is_foreign(&self) -> bool {
        self.name == self.host.as_str()
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
