//! From plans to running instances: starts what is new, replaces what changed, retires what is gone.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use reeve_control::Mesh;
use reeve_core::InstanceName;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Context, addresses,
    instance::{self, Plan},
    load,
    replica::Replicas,
};
use crate::problem::Problem;

/// Holds the instances' tasks.
#[derive(Debug)]
pub(crate) struct Reconciler {
    context: Arc<Context>,
    running: BTreeMap<InstanceName, Task>,
    replicas: Replicas,
    /// Retired, perhaps still draining.
    leaving: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Task {
    wanted: watch::Sender<Option<Plan>>,
    done: JoinHandle<()>,
}

impl Reconciler {
    /// Nothing runs yet.
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            replicas: Replicas::new(context.clone()),
            context,
            running: BTreeMap::new(),
            leaving: Vec::new(),
        }
    }

    /// Makes what runs follow the roster's plan.
    pub(crate) fn apply(&mut self, mesh: &Mesh) {
        let instances = self.context.roster.instances();
        self.replicas.apply(mesh, &instances.mesh.replicas);
        self.leaving.retain(|task| !task.is_finished());
        let gone: Vec<_> = self
            .running
            .keys()
            .filter(|name| instances.get(name).is_none())
            .cloned()
            .collect();
        for name in gone {
            self.retire(&name);
        }
        for instance in &instances.instances {
            let Some(workload) = mesh.workload_of(&instance.instance) else {
                continue;
            };
            let plan = Plan::new(&self.context, mesh, workload, instance, &instances);
            self.want(instance.instance.clone(), plan);
        }
    }

    fn want(&mut self, name: InstanceName, plan: Plan) {
        if let Some(task) = self.running.get(&name) {
            task.wanted.send_if_modified(|current| {
                let differs = current.as_ref().is_none_or(|c| c.shape != plan.shape);
                *current = Some(plan);
                differs
            });
            return;
        }
        let (wanted, seen) = watch::channel(Some(plan));
        let done = tokio::spawn(instance::run(self.context.clone(), name.clone(), seen));
        self.running.insert(name, Task { wanted, done });
    }

    fn retire(&mut self, name: &InstanceName) {
        if let Some(task) = self.running.remove(name) {
            task.wanted.send_replace(None);
            self.leaving.push(task.done);
        }
    }

    /// Reads the folder again: follows it, or tells what is wrong and changes nothing.
    pub(crate) fn reload(&mut self, folder: &Path) {
        let notices = self.context.notices.clone();
        match self.plan_anew(folder) {
            Ok(mesh) => {
                notices.tell("the configuration changed and is valid");
                self.apply(&mesh);
            }
            Err(problem) => notices.tell(format!(
                "the edit is refused, and the last good configuration stays\n{problem}"
            )),
        }
    }

    fn plan_anew(&self, folder: &Path) -> Result<Mesh, Problem> {
        let mesh = load(folder)?;
        let mut plan = self.context.roster.instances();
        plan.plan(&mesh.workloads, mesh.services.keys())
            .map_err(Problem::new)?;
        let socket = |name: &InstanceName| {
            let captured = self.context.network.is_some();
            captured.then(|| self.context.state.replica_socket(name))
        };
        plan.plan_replicas(mesh.settings.audit_replicas, socket);
        addresses::check(&self.context.state, &plan)?;
        self.context.roster.replan(plan);
        for warning in &mesh.warnings {
            self.context.notices.tell(warning.to_string());
        }
        Ok(mesh)
    }

    /// Retires everything and waits for its end.
    pub(crate) async fn retire_all(mut self) {
        let names: Vec<_> = self.running.keys().cloned().collect();
        for name in names {
            self.retire(&name);
        }
        for task in self.leaving {
            drop(task.await);
        }
        // After the sidecars: they take their last records.
        self.replicas.stop().await;
    }
}
