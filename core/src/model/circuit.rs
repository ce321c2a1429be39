//! Circuits that a proxy holds open: an endpoint that it ejected, a breaker that tripped.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{InstanceName, ServiceName};

/// One open circuit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCircuit {
    /// The service.
    pub service: ServiceName,
    /// One of its subsets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// The service's port.
    pub port: u16,
    /// The endpoint that is out; `None` = a breaker tripped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// What opened it: Envoy's word for ejections (`consecutive_5xx`), the limit's name for breakers.
    pub cause: String,
    /// How long it stays open, if nothing changes.
    pub left_ms: u64,
    /// Who holds it open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_by: Vec<InstanceName>,
}

impl OpenCircuit {
    /// Whether `other` is about the same endpoint or breaker.
    pub fn is_about_the_same(&self, other: &Self) -> bool {
        (&self.service, &self.subset, self.port, self.endpoint)
            == (&other.service, &other.subset, other.port, other.endpoint)
    }
}
