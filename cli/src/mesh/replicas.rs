//! Audit replicas as the mesh process sees them: what they may take, and the checkpoints of their logs, which go on record
//! in the mesh log.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use reeve_audit::{
    Keeping,
    replica::{Noted, Overseer},
};
use reeve_console::ReplicaFacts;
use reeve_core::{
    InstanceName, NameError, Namespace, SpiffeId, TrustDomain, UnixTime, model::AuditReplica,
};

use super::view::View;

/// What a replica's own records are under, like a proxy's; no instance has such a name.
pub(crate) fn process_name(replica: &InstanceName) -> Result<InstanceName, NameError> {
    InstanceName::parse(&format!("reeve.{replica}"))
}

/// How far each replica has come, as this process was told since it started.
#[derive(Debug, Default)]
pub(super) struct Replicas(Mutex<BTreeMap<InstanceName, (Noted, UnixTime)>>);

impl Replicas {
    /// The replicas that there are to be, and those that there are.
    pub(super) fn facts(&self, now: UnixTime, expected: &[AuditReplica]) -> Vec<ReplicaFacts> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unheard = |replica: &&AuditReplica| !noted.contains_key(&replica.name);
        let mut facts: Vec<_> = (expected.iter().filter(unheard))
            .map(|replica| ReplicaFacts::unheard(replica.name.clone()))
            .collect();
        facts.extend(noted.values().map(|(noted, at)| ReplicaFacts {
            replica: noted.replica.clone(),
            log: noted.log.clone(),
            records: noted.records,
            tree_size: noted.tree_size,
            checkpoint: noted.checkpoint.clone(),
            verifier_key: noted.verifier_key.clone(),
            noted_ms_ago: Some(u64::try_from(now.since(*at).as_millis()).unwrap_or(u64::MAX)),
        }));
        facts.sort_by(|a, b| a.replica.cmp(&b.replica));
        facts
    }

    /// Takes in what is told; whether there is something new in it, and whether the log shrank.
    fn take(&self, noted: &Noted, now: UnixTime) -> (bool, bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.insert(noted.replica.clone(), (noted.clone(), now));
        let new = before.as_ref().is_none_or(|(before, _)| before != noted);
        let shrank = before.is_some_and(|(before, _)| before.tree_size > noted.tree_size);
        (new, shrank)
    }
}

type Ships = Arc<dyn Fn(&SpiffeId, &InstanceName) -> bool + Send + Sync>;

/// What replicas ask and tell.
pub(super) struct Overseen {
    view: Arc<View>,
    identity: SpiffeId,
    may_ship: Ships,
}

impl Overseen {
    pub(super) fn new(
        view: &Arc<View>,
        (domain, root): (TrustDomain, Namespace),
        may_ship: Ships,
    ) -> Self {
        Self {
            view: Arc::clone(view),
            identity: domain.audit_replica(&root),
            may_ship,
        }
    }
}

impl fmt::Debug for Overseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overseen").finish_non_exhaustive()
    }
}

impl Overseer for Overseen {
    /// SECURITY: a name that the configuration does not have is nobody's, so that no log appears that nobody asked for.
    fn is_replica(&self, id: &SpiffeId, replica: &InstanceName) -> bool {
        let expected = self.view.expected_replicas();
        self.is_some_replica(id) && expected.iter().any(|one| one.name == *replica)
    }

    fn is_some_replica(&self, id: &SpiffeId) -> bool {
        self.identity == *id
    }

    fn may_ship(&self, id: &SpiffeId, proxy: &InstanceName) -> bool {
        (self.may_ship)(id, proxy)
    }

    fn mesh_log(&self) -> String {
        self.view.log.origin().to_owned()
    }

    fn note(&self, noted: Noted) -> Result<Keeping, String> {
        let (new, shrank) = self.view.replicas.take(&noted, self.view.clock.now());
        if shrank {
            tracing::error!(replica = %noted.replica, size = noted.tree_size, "the log of an audit replica is shorter than it was");
        }
        if new {
            self.view.events.record(noted.event());
        }
        let mesh = self.view.controller.mesh().borrow().clone();
        let mesh = mesh.ok_or("there is no configuration yet")?;
        Ok(Keeping {
            columns_after: mesh.settings.columns_after,
            retention: mesh.settings.retention,
        })
    }
}
