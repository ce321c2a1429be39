//! The audit replicas beside the mesh process: kept running like it, and known as what they are to the mesh's authority.

use std::{
    collections::BTreeMap, ffi::OsString, fs, os::unix::fs::DirBuilderExt, sync::Arc,
    time::Duration,
};

use reeve_control::{Mesh, RestartPolicy};
use reeve_core::{AUDIT_ACCOUNT, InstanceName, Namespace, WorkloadName, model::AuditReplica};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    keep::keep,
    mesh_process::bucket_credentials,
    network,
    process::{Output, Spec},
    roster::Live,
};
use crate::{
    mesh::process_name,
    problem::Problem,
    verb::run::{DeathSignal, PrivilegeArgs},
};

/// How long one may take to write down what it holds.
const GRACE: Duration = Duration::from_secs(5);

/// The replicas that run.
#[derive(Debug)]
pub(super) struct Replicas {
    context: Arc<Context>,
    running: BTreeMap<InstanceName, (CancellationToken, JoinHandle<()>)>,
    /// Those that were told to end; one that is wanted again waits until its folder is free.
    ending: BTreeMap<InstanceName, JoinHandle<()>>,
}

impl Replicas {
    /// None runs yet.
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            running: BTreeMap::new(),
            ending: BTreeMap::new(),
        }
    }

    /// Starts those that are new, and stops those that are gone: their logs stay.
    pub(super) fn apply(&mut self, mesh: &Mesh, wanted: &[AuditReplica]) {
        let gone = |name: &InstanceName| !wanted.iter().any(|replica| replica.name == *name);
        for (name, (stop, running)) in self.running.extract_if(.., |name, _| gone(name)) {
            stop.cancel();
            self.ending.insert(name, running);
        }
        for replica in wanted {
            if self.running.contains_key(&replica.name) {
                continue;
            }
            let stop = CancellationToken::new();
            let plan = match Plan::new(&self.context, mesh, replica) {
                Ok(plan) => plan,
                Err(problem) => {
                    self.context
                        .notices
                        .tell(format!("{}: {problem}", replica.name));
                    continue;
                }
            };
            let before = self.ending.remove(&replica.name);
            let (context, token) = (self.context.clone(), stop.clone());
            let running = tokio::spawn(async move {
                if let Some(before) = before {
                    drop(before.await);
                }
                run(context, plan, token).await;
            });
            self.running.insert(replica.name.clone(), (stop, running));
        }
    }

    /// Stops all of them.
    pub(super) async fn stop(self) {
        for (stop, _) in self.running.values() {
            stop.cancel();
        }
        let running = self.running.into_values().map(|(_, running)| running);
        for running in running.chain(self.ending.into_values()) {
            drop(running.await);
        }
    }
}

/// What one is started as.
struct Plan {
    /// What the supervisor says to who asks for its process.
    name: InstanceName,
    live: Live,
    spec: Spec,
}

impl Plan {
    fn new(context: &Context, mesh: &Mesh, replica: &AuditReplica) -> Result<Self, Problem> {
        let unusable =
            |error: &dyn std::error::Error| Problem::because("it cannot be started", error);
        let folder = context.state.replica(&replica.name);
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(&folder).map_err(|e| unusable(&e))?;
        let settings = &mesh.settings;
        Ok(Self {
            name: process_name(&replica.name).map_err(|e| unusable(&e))?,
            live: live(&settings.root_namespace).map_err(|e| unusable(&e))?,
            spec: spec(context, mesh, replica),
        })
    }
}

fn live(root: &Namespace) -> Result<Live, reeve_core::NameError> {
    Ok(Live {
        workload: WorkloadName::parse(AUDIT_ACCOUNT)?,
        namespace: root.clone(),
        service_account: reeve_core::ServiceAccount::parse(AUDIT_ACCOUNT)?,
        app_pid: None,
        sidecar_pid: None,
        sidecars: Vec::new(),
        sidecar_uid: None,
        app_ok: true,
        sidecar_ok: true,
        leaving: false,
        exit_code: None,
    })
}

fn spec(context: &Context, mesh: &Mesh, replica: &AuditReplica) -> Spec {
    let (state, name) = (&context.state, &replica.name);
    let addresses = context.roster.instances().mesh;
    let mut command: Vec<OsString> = vec![
        context.reeve.clone().into(),
        "audit".into(),
        "serve".into(),
        "--supervised".into(),
    ];
    let mut flag = |name: &str, value: OsString| command.extend([name.into(), value]);
    flag("--name", name.as_str().into());
    flag("--state", state.replica(name).into());
    flag("--listen", replica.address.clone().into());
    flag("--mesh-address", addresses.grpc.to_string().into());
    flag("--mesh-socket", state.mesh_socket().into());
    flag("--trust-domain", mesh.settings.trust_domain.as_str().into());
    flag(
        "--root-namespace",
        mesh.settings.root_namespace.as_str().into(),
    );
    if context.network.is_some() {
        flag("--socket-group", network::GROUP.to_string().into());
    }
    let mut env = context.own_environment();
    env.extend(context.custody.seal.environment());
    if let Some(store) = &context.audit_store {
        // Beside the mesh log's, under a prefix of its own.
        flag(
            "--audit-store",
            store.beside(name.as_str()).to_string().into(),
        );
        env.extend(bucket_credentials());
    }
    command.extend(context.custody.seal.flags());
    Spec {
        title: format!("{name} (audit replica)"),
        command,
        env,
        dir: state.path().to_owned(),
        death: DeathSignal::Term,
        output: Output::File(state.logs().join(format!("{name}.log"))),
        grace: GRACE,
        netns: None,
        privilege: PrivilegeArgs::default(),
        open_files: context.open_files,
        marks: None,
    }
}

/// Keeps one running until it is told to stop.
async fn run(context: Arc<Context>, plan: Plan, stop: CancellationToken) {
    let Plan { name, live, spec } = plan;
    let pid = watch::Sender::new(None);
    let mut seen = pid.subscribe();
    let roster = context.roster.clone();
    roster.enter(name.clone(), live);
    let report = async {
        while seen.changed().await.is_ok() {
            let pid = *seen.borrow_and_update();
            roster.update(&name, |live| {
                live.sidecar_pid = pid;
                live.sidecars = pid.into_iter().collect();
            });
        }
    };
    // Cancel-safe: `report` only reports.
    tokio::select! {
        _ = keep(&context, &spec, RestartPolicy::Always, &pid, &stop) => {}
        () = report => {}
    }
    roster.leave(&name);
}
