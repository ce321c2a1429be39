//! The mesh process's own records: what happened to configurations and identities.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use reeve_audit::{AuditLog, EventKind, EventRecord, Wal};
use reeve_ca::{
    AuthorityFault, IdentityEvents, IssuedIdentity, RefusedIdentity, RevocationEvent,
    RotationEvent, ToldRefusal,
};
use reeve_control::{
    AppliedConfig, ConfigEvents, Fault, FaultChanges, Mesh, ModeChange, instances::Instances,
    migration::Holder,
};
use reeve_core::{InstanceName, SpiffeId, model::Generation};
use reeve_sidecar::AgentEvents;
use tokio::sync::watch;

use super::migrations;

/// Faults beyond these are counted, not told.
const MAX_FAULTS: usize = 20;
/// Ports that one event names; more of them make more events.
const PORTS_PER_EVENT: usize = 30;
/// Configurations that may wait for the log to be opened.
const MAX_WAITING: usize = 64;

/// Upper bounds of the time that issuing takes, in seconds.
const ISSUE_SECONDS: [f64; 10] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0,
];

/// Writes events to the mesh process's write-ahead log.
#[derive(Debug)]
pub(crate) struct Recorder {
    own: AgentEvents,
    /// The policy set that was last recorded as in force.
    policies: Mutex<Option<String>>,
    applied: Mutex<Applied>,
    /// Who held which address when it was last recorded.
    holders: Mutex<BTreeMap<IpAddr, Holder>>,
    issued: prometheus::IntCounter,
    refused: prometheus::IntCounter,
    refusals: prometheus::IntCounterVec,
    took: prometheus::Histogram,
}

/// Configurations are recorded once their policy set is kept, for which the audit log must be open.
#[derive(Debug)]
enum Applied {
    Waiting(Vec<AppliedConfig>),
    Attached {
        log: Arc<AuditLog>,
        mesh: watch::Receiver<Option<Arc<Mesh>>>,
    },
}

impl Recorder {
    /// A recorder into `wal`, with its counters in `registry`.
    pub(crate) fn new(wal: Arc<Wal>, registry: &prometheus::Registry) -> anyhow::Result<Self> {
        let counter = |name: &str, help: &str| {
            let counter = prometheus::IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            anyhow::Ok(counter)
        };
        let about = prometheus::Opts::new(
            "reeve_ca_refusals_total",
            "Requests for identities refused, by reason; `drill` is an authority that is faulty on purpose, `overload` one that has no room.",
        );
        let refusals = prometheus::IntCounterVec::new(about, &["reason"])?;
        registry.register(Box::new(refusals.clone()))?;
        let about = prometheus::HistogramOpts::new(
            "reeve_ca_issue_seconds",
            "Time from a request for a certificate to the certificate.",
        );
        let took = prometheus::Histogram::with_opts(about.buckets(ISSUE_SECONDS.to_vec()))?;
        registry.register(Box::new(took.clone()))?;
        Ok(Self {
            own: AgentEvents::new(wal),
            policies: Mutex::new(None),
            applied: Mutex::new(Applied::Waiting(Vec::new())),
            holders: Mutex::default(),
            issued: counter("reeve_ca_issued_total", "Certificates issued.")?,
            refused: counter("reeve_ca_refused_total", "Requests for identities refused.")?,
            refusals,
            took,
        })
    }

    /// Certificates issued and requests refused since the start.
    pub(super) fn identities(&self) -> (u64, u64) {
        (self.issued.get(), self.refused.get())
    }

    /// Records an event.
    pub(crate) fn record(&self, event: EventRecord) {
        self.own.record(event);
    }

    /// Tells where policy sets are kept and come from; what waited for that is recorded now.
    pub(crate) fn attach(&self, log: Arc<AuditLog>, mesh: watch::Receiver<Option<Arc<Mesh>>>) {
        let attached = Applied::Attached { log, mesh };
        let before = {
            let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *applied, attached)
        };
        if let Applied::Waiting(waiting) = before {
            for applied in &waiting {
                ConfigEvents::applied(self, applied);
            }
        }
    }

    /// Records that other policies are in force than before; after a start, that these are.
    fn policies_applied(&self, config: &AppliedConfig) {
        let mut last = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() == Some(&config.policy_hash) {
            return;
        }
        let mut event = EventRecord::new(EventKind::PolicyApplied)
            .with("generation", config.generation.to_string())
            .with("policy_hash", &config.policy_hash);
        if let Some(before) = last.replace(config.policy_hash.clone()) {
            event = event.with("before", before);
        }
        self.record(event);
    }

    /// Keeps the policy set in force; its content hash.
    fn keep_policies(log: &AuditLog, mesh: &Mesh) -> Option<String> {
        let kept = reeve_audit::canonical::to_vec(&mesh.all_policies())
            .map_err(anyhow::Error::from)
            .and_then(|bytes| Ok(log.put_blob(&bytes)?));
        match kept {
            Ok(hash) => Some(hash),
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "a policy set could not be kept"
                );
                None
            }
        }
    }
}

impl ConfigEvents for Recorder {
    fn applied(&self, config: &AppliedConfig) {
        let mut event = EventRecord::new(EventKind::ConfigApplied)
            .with("generation", config.generation.to_string())
            .with("policy_hash", &config.policy_hash)
            .with("proxies", config.proxies.to_string());
        {
            let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *applied {
                Applied::Waiting(waiting) => {
                    if waiting.len() < MAX_WAITING {
                        waiting.push(config.clone());
                    }
                    return;
                }
                Applied::Attached { log, mesh } => {
                    let mesh = mesh.borrow().clone();
                    let mesh = mesh.filter(|mesh| mesh.policy_hash == config.policy_hash);
                    if let Some(hash) = mesh.and_then(|mesh| Self::keep_policies(log, &mesh)) {
                        event = event.with("policy_set", hash);
                    }
                }
            }
        }
        self.policies_applied(config);
        tracing::info!(generation = %config.generation, policy_hash = config.policy_hash, "a configuration is in force");
        self.record(event);
    }

    fn refused(&self, faults: &[Fault]) {
        let shown: Vec<String> = faults
            .iter()
            .take(MAX_FAULTS)
            .map(ToString::to_string)
            .collect();
        tracing::warn!(count = faults.len(), faults = ?shown, "the configuration folder is refused");
        let event = EventRecord::new(EventKind::ConfigRefused)
            .with("faults", faults.len().to_string())
            .with("text", shown.join("\n"));
        self.record(event);
    }

    fn faults_changed(&self, changes: &FaultChanges) {
        let began = changes.began.iter().map(|f| (EventKind::FaultBegan, f));
        let ended = changes.ended.iter().map(|f| (EventKind::FaultEnded, f));
        for (kind, fault) in began.chain(ended).take(MAX_FAULTS) {
            let mut event = EventRecord::new(kind)
                .with("origin", &fault.origin)
                .with("fault", &fault.what);
            if let Some(until) = fault.until {
                event = event.with("until_ms", until.as_millis().to_string());
            }
            self.record(event);
        }
    }

    fn modes_changed(&self, generation: Generation, changes: &[ModeChange]) {
        for ModeChange { from, to, ports } in changes {
            tracing::info!(%generation, ?from, ?to, ports = ports.len(), "mTLS modes changed");
            for ports in ports.chunks(PORTS_PER_EVENT) {
                let event = EventRecord::new(EventKind::MtlsModeChanged)
                    .with("generation", generation.to_string())
                    .with("from", from.as_str())
                    .with("to", to.as_str())
                    .with("ports", ports.join(" "));
                self.record(event);
            }
        }
    }

    fn placed(&self, instances: &Instances, mesh: &Mesh) {
        let now = migrations::holders(instances, mesh);
        let mut last = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        for event in migrations::moves(&last, &now) {
            self.record(event);
        }
        *last = now;
    }

    fn nacked(&self, instance: &InstanceName, generation: Generation, error: &str) {
        tracing::warn!(%instance, %generation, error, "a proxy refused a configuration");
        let event = EventRecord::new(EventKind::ConfigRefused)
            .with("proxy", instance.as_str())
            .with("generation", generation.to_string())
            .with("text", error);
        self.record(event);
    }
}

impl IdentityEvents for Recorder {
    fn rotated(&self, event: &RotationEvent) {
        tracing::info!(?event, "rotation");
        self.own.rotated(event);
    }

    fn revoked(&self, event: &RevocationEvent) {
        tracing::warn!(?event, "revocation");
        self.own.revoked(event);
    }

    fn overloaded(&self) {
        self.refusals.with_label_values(&["overload"]).inc();
    }

    fn unavailable(&self, _fault: AuthorityFault) {
        self.refusals.with_label_values(&["drill"]).inc();
    }

    fn issued(&self, event: IssuedIdentity) {
        self.issued.inc();
        self.took.observe(event.took.as_secs_f64());
        self.own.issued(event);
    }

    fn refused_elsewhere(&self, agent: &SpiffeId, refusal: &ToldRefusal) {
        tracing::warn!(%agent, ?refusal, "identity refused");
        self.own.refused_elsewhere(agent, refusal);
    }

    fn refused(&self, event: RefusedIdentity) {
        self.refused.inc();
        let reason = event.reason.as_str();
        self.refusals.with_label_values(&[reason]).inc();
        self.own.refused(event);
    }
}
