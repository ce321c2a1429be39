//! What runs, as the supervisor knows it: the source of `instances.json` and of who-is answers.

use std::{collections::BTreeMap, path::PathBuf, sync::Mutex, time::Duration};

use reeve_control::instances::Instances;
use reeve_core::{InstanceName, Namespace, ServiceAccount, WorkloadName};
use tokio::sync::watch;

use crate::supervisor::Notices;

/// Changes that come within this time are written together.
const GATHER: Duration = Duration::from_millis(20);

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Roster {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    plan: Instances,
    live: BTreeMap<InstanceName, Live>,
    mesh_pid: Option<u32>,
}

/// One instance as it runs, also while it is on its way out and no longer planned.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    /// Its workload.
    pub(crate) workload: WorkloadName,
    /// Its namespace.
    pub(crate) namespace: Namespace,
    /// Its service account.
    pub(crate) service_account: ServiceAccount,
    /// The application's process.
    pub(crate) app_pid: Option<u32>,
    /// The sidecar's process that serves.
    pub(crate) sidecar_pid: Option<u32>,
    /// All processes of the sidecar: while one takes over from another, both.
    pub(crate) sidecars: Vec<u32>,
    /// The sidecar's user, if not ours.
    pub(crate) sidecar_uid: Option<u32>,
    /// Whether the application answers its health check, or there is none to ask.
    pub(crate) app_ok: bool,
    /// Whether the sidecar is ready, or there is none.
    pub(crate) sidecar_ok: bool,
    /// Whether it is on its way out.
    pub(crate) leaving: bool,
    /// How its application ended, for good.
    pub(crate) exit_code: Option<i32>,
}

impl Live {
    /// Whether it takes traffic.
    pub(crate) fn healthy(&self) -> bool {
        self.app_ok && self.sidecar_ok && !self.leaving
    }
}

impl Roster {
    /// A mesh in which nothing runs yet.
    pub(crate) fn new(plan: Instances) -> Self {
        Self {
            inner: Mutex::new(Inner {
                plan,
                live: BTreeMap::new(),
                mesh_pid: None,
            }),
            changed: watch::Sender::new(0),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        act(&mut inner)
    }

    fn alter<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        let done = self.with(act);
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
        done
    }

    /// What is planned, with the processes and health of the moment.
    pub(crate) fn instances(&self) -> Instances {
        self.with(|inner| {
            let mut instances = inner.plan.clone();
            for instance in &mut instances.instances {
                let live = inner.live.get(&instance.instance);
                instance.healthy = live.is_some_and(Live::healthy);
                instance.app_pid = live.and_then(|l| l.app_pid);
                instance.sidecar_pid = live.and_then(|l| l.sidecar_pid);
                instance.exit_code = live.and_then(|l| l.exit_code);
            }
            instances
        })
    }

    /// Replaces the plan.
    pub(crate) fn replan(&self, plan: Instances) {
        self.alter(|inner| inner.plan = plan);
    }

    /// An instance is about to run.
    pub(crate) fn enter(&self, instance: InstanceName, live: Live) {
        self.alter(|inner| inner.live.insert(instance, live));
    }

    /// Something about an instance changed.
    pub(crate) fn update(&self, instance: &InstanceName, change: impl FnOnce(&mut Live)) {
        self.alter(|inner| inner.live.get_mut(instance).map(change));
    }

    /// An instance is gone.
    pub(crate) fn leave(&self, instance: &InstanceName) {
        self.alter(|inner| inner.live.remove(instance));
    }

    /// Everything that runs.
    pub(crate) fn live(&self) -> BTreeMap<InstanceName, Live> {
        self.with(|inner| inner.live.clone())
    }

    /// The mesh process.
    pub(crate) fn mesh_pid(&self) -> Option<u32> {
        self.with(|inner| inner.mesh_pid)
    }

    /// The mesh process was started or ended.
    pub(crate) fn set_mesh_pid(&self, pid: Option<u32>) {
        self.alter(|inner| inner.mesh_pid = pid);
    }

    /// Told at each change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Keeps the file in step, for as long as it is polled.
    pub(crate) async fn keep_file(&self, file: PathBuf, notices: Notices) {
        let mut changed = self.subscribe();
        let mut written = None;
        loop {
            let instances = self.instances();
            if written.as_ref() != Some(&instances) {
                if let Err(error) = instances.write(&file) {
                    notices.tell(format!("what runs could not be written: {error}"));
                }
                written = Some(instances);
            }
            if changed.changed().await.is_err() {
                return;
            }
            tokio::time::sleep(GATHER).await;
        }
    }
}
