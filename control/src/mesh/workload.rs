//! Workloads of a local mesh, from `LocalMesh`: what the supervisor starts.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf, time::Duration};

use reeve_core::{
    InstanceName, Namespace, ServiceAccount, SpiffeId, WorkloadName, model::Protocol,
};

/// A workload that the supervisor runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalWorkload {
    /// Its name: a DNS label, unique in its namespace.
    pub name: WorkloadName,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its service account.
    pub service_account: ServiceAccount,
    /// Its SPIFFE ID; `None` for role `none`, which is not in the mesh.
    pub identity: Option<SpiffeId>,
    /// Labels that services and subsets select by.
    pub labels: BTreeMap<String, String>,
    /// How it takes part.
    pub role: WorkloadRole,
    /// The copies that run, by name: `reviews-v1-0`, or `reviews-v1-0.staging` outside namespace `default`.
    pub instances: Vec<InstanceName>,
    /// Program and arguments, `${…}` not yet replaced; `None` = nothing to start but the proxy.
    pub command: Option<Vec<String>>,
    /// Added to the environment.
    pub env: BTreeMap<String, String>,
    /// Where it runs; relative paths start at the configuration folder.
    pub working_dir: Option<PathBuf>,
    /// Ports, in the order given.
    pub ports: Vec<WorkloadPort>,
    /// How its health is told; `None` = a first port that accepts connections, or running at all.
    pub health: Option<Health>,
    /// Where the application serves its own metrics (`prometheus.io/port` and `prometheus.io/path`).
    pub metrics: Option<MetricsPage>,
    /// What happens when its application ends.
    pub restart_policy: RestartPolicy,
    /// Whether the application is started only when its proxy is ready.
    pub hold_application: bool,
}

/// What happens when an application ends, in Kubernetes' words. A workload whose application has ended for good is a
/// job that is done: its proxy ends with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// It is started again.
    #[default]
    Always,
    /// It is started again unless it ended with exit code 0.
    OnFailure,
    /// It is not started again.
    Never,
}

impl RestartPolicy {
    /// Whether an application that ended with this code is started again.
    pub fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// Where an application serves metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsPage {
    /// The application's port.
    pub port: u16,
    /// `/metrics` unless said otherwise.
    pub path: String,
}

/// How a workload takes part in the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadRole {
    /// With a proxy beside it.
    #[default]
    Sidecar,
    /// A proxy that takes traffic from outside.
    Gateway,
    /// Without a proxy: plaintext, no identity.
    None,
}

/// A port of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPort {
    /// The port that others use.
    pub port: u16,
    /// Its name, such as `http`; empty if it has none.
    pub name: String,
    /// What is spoken, told from the name.
    pub protocol: Protocol,
    /// The port that the application listens on; the same unless said otherwise.
    pub app_port: u16,
}

/// A health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub probe: Probe,
    /// How often.
    pub period: Duration,
    /// How many failures in a row make it unhealthy.
    pub failure_threshold: u32,
}

/// What a health check asks, always at the application's own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A `GET` that answers 200 to 399.
    Http {
        /// The path.
        path: String,
        /// The application's port.
        port: u16,
    },
    /// A connection that is accepted.
    Tcp {
        /// The application's port.
        port: u16,
    },
}

impl LocalWorkload {
    /// The application's address in `slot` of a mesh at `127.<base>`.
    pub fn app_address(&self, base: u8, slot: u8) -> Ipv4Addr {
        let last = match self.role {
            WorkloadRole::Sidecar | WorkloadRole::Gateway => 2,
            WorkloadRole::None => 1,
        };
        Ipv4Addr::new(127, base, slot, last)
    }
}
