//! `GET /status`.

use reeve_core::{
    InstanceName, Namespace, TrustDomain, UnixTime, WorkloadName,
    model::{Generation, OpenCircuit},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which configuration and policy set is in force on which proxy, and how the mesh process stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The newest generation; 0 until the first.
    pub generation: Generation,
    /// The hash of its policy set.
    pub policy_hash: String,
    /// The mesh.
    pub mesh: MeshFacts,
    /// Each instance that has a proxy: instance, workload, identity, generation, policy_hash, acked_at, nack, connected.
    pub proxies: Vec<Value>,
    /// Circuits that proxies hold open: endpoints that they ejected, breakers that tripped.
    #[serde(default)]
    pub circuits: Vec<OpenCircuit>,
    /// How the keys of token issuers stand that are fetched: uri, issuers, fetched_at, keys, failures, error, usable_until.
    #[serde(default)]
    pub token_keys: Vec<Value>,
    /// Jobs that are done.
    #[serde(default)]
    pub jobs: Vec<JobDone>,
    /// The folder of configuration.
    pub config: ConfigFacts,
    /// The certificate authority.
    pub ca: CaFacts,
    /// The audit log.
    pub audit: AuditFacts,
}

/// An instance whose application ended for good, and its proxy with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobDone {
    /// Which.
    pub instance: InstanceName,
    /// Its workload.
    pub workload: WorkloadName,
    /// 0 = completed, anything else = failed; 128 and the signal's number if a signal ended it.
    pub exit_code: i32,
}

/// The mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshFacts {
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its root namespace.
    pub root_namespace: Namespace,
    /// When the mesh process started.
    pub started_at: UnixTime,
    /// Its version.
    pub version: String,
    /// Whether each instance has a network namespace of its own; a local mesh without `--intercept` has none.
    pub isolates_processes: bool,
    /// What goes around the sidecars, in words.
    #[serde(default)]
    pub unprotected: Vec<String>,
}

/// The folder of configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigFacts {
    /// When the generation in force was published.
    pub applied_at: Option<UnixTime>,
    /// Why the folder as it stands now is refused; empty if it is in force.
    pub faults: Vec<Value>,
    /// Since when.
    pub refused_since: Option<UnixTime>,
    /// Warnings of the generation in force.
    pub warnings: Vec<Value>,
}

/// The certificate authority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaFacts {
    /// Authorities that members of the mesh trust.
    pub authorities: usize,
    /// The bundle's sequence number.
    pub bundle_sequence: u64,
    /// Counts the times that everybody was told to renew.
    #[serde(default)]
    pub renewal: u64,
    /// The rotation of the root under way: `cause`, `step`, since when, and `waiting` for whom and until when.
    #[serde(default)]
    pub rotation: Option<Value>,
    /// Life of a workload's certificate.
    #[serde(default)]
    pub certificate_ttl_ms: u64,
    /// How long a rotation waits for those who cannot acknowledge.
    #[serde(default)]
    pub rotation_wait_ms: u64,
    /// When the root in use ends.
    pub root_not_after: UnixTime,
    /// When the intermediate in use ends.
    pub intermediate_not_after: UnixTime,
    /// Where the authority's keys are, and why they cannot be used if they cannot; the operator's authority, if there is
    /// one.
    #[serde(default)]
    pub custody: Value,
    /// Certificates issued since the mesh process started.
    pub issued: u64,
    /// Requests refused since then.
    pub refused: u64,
    /// Where our bundle is served to other trust domains, and how that endpoint is known.
    #[serde(default)]
    pub bundle_endpoint: Option<Value>,
    /// The trust domains that are federated, and how old their bundles are.
    #[serde(default)]
    pub federation: Vec<Value>,
}

/// The audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditFacts {
    /// Records under the checkpoint.
    pub records: u64,
    /// Batches under the checkpoint: leaves of the tree.
    pub tree_size: u64,
    /// The last signed checkpoint.
    pub checkpoint: String,
    /// The key to verify it with.
    pub verifier_key: String,
    /// Proxies that have shipped records.
    pub proxies: u64,
    /// Who cosigns the log, in words.
    #[serde(default)]
    pub witnesses: String,
    /// The logs of audit replicas.
    #[serde(default)]
    pub replicas: Vec<ReplicaFacts>,
}

/// The log of an audit replica, as far as the mesh log has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFacts {
    /// Its name.
    pub replica: InstanceName,
    /// The name of its log; empty while nothing was heard of it.
    pub log: String,
    /// Records under its last checkpoint, as it says.
    pub records: u64,
    /// Batches under it.
    pub tree_size: u64,
    /// That checkpoint, which is on record in the mesh log.
    pub checkpoint: String,
    /// The key to verify it with.
    pub verifier_key: String,
    /// How long ago that was, in milliseconds; `None` while nothing was heard of it since the mesh process started.
    pub noted_ms_ago: Option<u64>,
}

impl ReplicaFacts {
    /// A replica that nothing was heard of.
    pub fn unheard(replica: InstanceName) -> Self {
        Self {
            replica,
            log: String::new(),
            records: 0,
            tree_size: 0,
            checkpoint: String::new(),
            verifier_key: String::new(),
            noted_ms_ago: None,
        }
    }
}
