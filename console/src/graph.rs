//! `GET /api/graph`: who talks to whom.

use reeve_core::{Namespace, ServiceName, SpiffeId, WorkloadName};
use serde::{Deserialize, Serialize};

/// Nodes and edges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// Workloads and services.
    pub nodes: Vec<Node>,
    /// Traffic between them.
    pub edges: Vec<Edge>,
}

/// A workload or a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its name within the graph.
    pub id: String,
    /// Which it is.
    #[serde(flatten)]
    pub kind: NodeKind,
}

/// What a node stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NodeKind {
    /// A workload.
    Workload {
        /// Its name.
        workload: WorkloadName,
        /// Its namespace.
        namespace: Namespace,
        /// Its identity, if it is in the mesh.
        identity: Option<SpiffeId>,
        /// Its running copies.
        instances: usize,
        /// Those that take traffic.
        healthy: usize,
    },
    /// A service.
    Service {
        /// Its full host name.
        service: ServiceName,
    },
    /// Callers or destinations outside the mesh.
    Unknown,
}

/// Traffic from one workload to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// The caller's node.
    pub from: String,
    /// The called workload's node.
    pub to: String,
    /// The service it was called as.
    pub service: String,
    /// Requests since the proxies started.
    pub requests: u64,
    /// Of these, answered with 5xx.
    pub errors: u64,
    /// Of these, denied.
    pub denied: u64,
    /// TCP connections opened.
    #[serde(default)]
    pub connections: u64,
    /// Bytes of these from the caller.
    #[serde(default)]
    pub bytes_in: u64,
    /// Bytes of these to the caller.
    #[serde(default)]
    pub bytes_out: u64,
    /// Whether they came over mesh mTLS.
    pub mtls: bool,
}
