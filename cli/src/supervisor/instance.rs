//! One instance: its application and its sidecar, their health, and their orderly end.

use std::{ffi::OsString, net::SocketAddr, sync::Arc, time::Duration};

use reeve_control::{
    AuditLevel, LocalWorkload, Mesh, Probe, WorkloadRole,
    instances::{Instance, Instances},
};
use reeve_core::InstanceName;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Context, environment,
    escaped::Marks,
    health::{self, Check},
    keep::keep,
    process::{Output, Spec},
    roster::Live,
    spread::spread,
    succession::{Seen, Sidecar},
};
use crate::verb::run::{DeathSignal, PrivilegeArgs};

/// The port on which a sidecar says whether it is ready (Istio's).
const READY_PORT: u16 = 15021;
/// How long a sidecar may drain.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);
/// How long an application may take to end after SIGTERM.
const APP_GRACE: Duration = Duration::from_secs(1);
/// A replaced instance has this long to get well before the next one is replaced.
const REPLACED: Duration = Duration::from_secs(10);

/// What an instance is to be; a change means that it is drained and started anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    workload: LocalWorkload,
    slot: u8,
    trust_domain: String,
    mesh_identity: Option<String>,
    audit_level: AuditLevel,
    wal_max_bytes: u64,
}

/// Everything needed to run an instance.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// What it is.
    pub(crate) shape: Shape,
    /// Its place.
    pub(crate) instance: Instance,
    app: Option<Spec>,
    app_check: Check,
    sidecar: Option<(Spec, Check)>,
}

impl Plan {
    /// What `instance` of `workload` needs.
    pub(crate) fn new(
        context: &Context,
        mesh: &Mesh,
        workload: &LocalWorkload,
        instance: &Instance,
        instances: &Instances,
    ) -> Self {
        let settings = &mesh.settings;
        let shape = Shape {
            // Labels and ports of the mesh's side reach the sidecar live.
            workload: LocalWorkload {
                labels: Default::default(),
                instances: Vec::new(),
                ..workload.clone()
            },
            slot: instance.slot,
            trust_domain: settings.trust_domain.to_string(),
            mesh_identity: mesh_identity(mesh),
            audit_level: settings.audit_level,
            wal_max_bytes: settings.wal_max_bytes,
        };
        Self {
            app: app_spec(context, mesh, workload, instance, instances),
            app_check: app_check(context, workload, instance),
            sidecar: sidecar_spec(context, &shape, workload, instance, instances),
            shape,
            instance: instance.clone(),
        }
    }

    fn live(&self) -> Live {
        let workload = &self.shape.workload;
        Live {
            workload: workload.name.clone(),
            namespace: workload.namespace.clone(),
            service_account: workload.service_account.clone(),
            app_pid: None,
            sidecar_pid: None,
            sidecars: Vec::new(),
            sidecar_uid: self
                .sidecar
                .as_ref()
                .and_then(|(spec, _)| spec.privilege.uid),
            app_ok: self.app.is_none(),
            sidecar_ok: self.sidecar.is_none(),
            leaving: false,
            exit_code: None,
        }
    }
}

fn mesh_identity(mesh: &Mesh) -> Option<String> {
    let account = "control".parse().ok()?;
    let id = mesh
        .settings
        .trust_domain
        .workload(&mesh.settings.root_namespace, &account);
    Some(id.to_string())
}

fn app_spec(
    context: &Context,
    mesh: &Mesh,
    workload: &LocalWorkload,
    instance: &Instance,
    instances: &Instances,
) -> Option<Spec> {
    let command = workload.command.as_ref()?;
    let name = &instance.instance;
    Some(Spec {
        title: format!("{name} (application)"),
        command: command
            .iter()
            .map(|word| context.programs.fill_in(word))
            .collect(),
        env: environment::of_application(
            mesh,
            workload,
            instance,
            instances,
            &context.state,
            &context.marker,
        ),
        dir: environment::working_dir(workload, &context.programs.folder),
        death: DeathSignal::Kill,
        output: Output::Lines(context.state.logs().join(format!("{name}.app.log"))),
        grace: APP_GRACE,
        netns: context.namespace(instance.slot),
        privilege: PrivilegeArgs {
            confined: context.network.is_some(),
            ..PrivilegeArgs::default()
        },
        open_files: context.open_files,
        marks: Some(Marks::of_instance(&context.marker, name.as_str())),
    })
}

fn app_check(context: &Context, workload: &LocalWorkload, instance: &Instance) -> Check {
    let first = workload.ports.first().map(|port| Probe::Tcp {
        port: port.app_port,
    });
    let health = workload.health.as_ref();
    Check {
        netns: context.namespace(instance.slot),
        address: instance.app_address.into(),
        probe: health.map(|h| h.probe.clone()).or(first),
        period: health.map_or(Duration::from_secs(1), |h| h.period),
        threshold: health.map_or(3, |h| h.failure_threshold),
    }
}

fn sidecar_spec(
    context: &Context,
    shape: &Shape,
    workload: &LocalWorkload,
    instance: &Instance,
    instances: &Instances,
) -> Option<(Spec, Check)> {
    if workload.role == WorkloadRole::None {
        return None;
    }
    let identity = workload.identity.as_ref()?;
    let (state, name) = (&context.state, &instance.instance);
    let level = match shape.audit_level {
        AuditLevel::Buffered => "buffered",
        AuditLevel::Os => "os",
        AuditLevel::Disk => "disk",
    };
    let mut command: Vec<OsString> =
        vec![context.reeve.clone().into(), "proxy".into(), "run".into()];
    let mut flag = |name: &str, value: OsString| command.extend([name.into(), value]);
    flag("--instance", name.as_str().into());
    flag("--identity", identity.as_str().into());
    flag("--trust-domain", shape.trust_domain.clone().into());
    flag("--mesh-socket", state.mesh_socket().into());
    let mesh_address = match &context.network {
        None => instances.mesh.grpc.to_string(),
        Some(_) => format!("unix:{}", state.control_socket().display()),
    };
    flag("--mesh-address", mesh_address.into());
    if let Some(id) = &shape.mesh_identity {
        flag("--mesh-identity", id.into());
    }
    flag("--wal-dir", state.wal(name).into());
    flag("--wal-max-bytes", shape.wal_max_bytes.to_string().into());
    flag("--audit-level", level.into());
    flag("--agent-socket", state.agent_socket(name).into());
    flag("--admin-socket", state.admin_socket(name).into());
    flag("--supervisor-socket", state.supervisor_socket().into());
    flag("--handover-socket", state.handover_socket(name).into());
    flag("--address", instance.address.to_string().into());
    flag("--drain-deadline", (DRAIN.as_secs() - 1).to_string().into());
    let spec = Spec {
        title: format!("{name} (sidecar)"),
        command,
        env: context.own_environment(),
        dir: context.state.path().to_owned(),
        death: DeathSignal::Term,
        output: Output::File(state.logs().join(format!("{name}.sidecar.log"))),
        grace: DRAIN,
        netns: context.namespace(instance.slot),
        privilege: context
            .network
            .map(|network| network.of_sidecar(instance.slot))
            .unwrap_or_default(),
        open_files: context.open_files,
        marks: None,
    };
    let ready = SocketAddr::new(instance.address.into(), READY_PORT);
    let check = Check {
        netns: None,
        address: ready.ip(),
        probe: Some(Probe::Http {
            path: "/healthz/ready".to_owned(),
            port: ready.port(),
        }),
        period: Duration::from_secs(1),
        threshold: 3,
    };
    Some((spec, check))
}

/// Runs an instance for as long as `wanted` holds a plan; a changed shape replaces it.
pub(crate) async fn run(
    context: Arc<Context>,
    name: InstanceName,
    mut wanted: watch::Receiver<Option<Plan>>,
) {
    let mut turn = None;
    loop {
        let Some(plan) = wanted.borrow_and_update().clone() else {
            break;
        };
        let place = context.place(plan.instance.slot).await;
        let ended = Box::pin(run_shape(&context, &name, &plan, &mut wanted, turn.take())).await;
        drop(place);
        if ended == Ended::Done {
            until_unwanted(&plan.shape, &mut wanted).await;
        }
        if wanted.borrow().is_some() {
            // One replacement at a time, so that a workload's other replicas go on serving.
            turn = Some(context.replacing.clone().lock_owned().await);
        }
    }
    context.roster.leave(&name);
}

async fn run_shape(
    context: &Arc<Context>,
    name: &InstanceName,
    plan: &Plan,
    wanted: &mut watch::Receiver<Option<Plan>>,
    turn: Option<OwnedMutexGuard<()>>,
) -> Ended {
    if let Some(network) = &context.network {
        let privilege = plan.sidecar.as_ref().map(|(spec, _)| &spec.privilege);
        let uid = privilege.and_then(|privilege| privilege.uid);
        let captured = plan.shape.workload.role == WorkloadRole::Sidecar;
        let made = network.add(plan.instance.slot, uid.filter(|_| captured));
        let ready = made.and_then(|()| network.hand_over(&context.state, name, uid));
        if let Err(problem) = ready {
            context.notices.tell(format!("{name}: {problem}"));
        }
    }
    context.roster.enter(name.clone(), plan.live());
    let (stop_sidecar, stop_app) = (CancellationToken::new(), CancellationToken::new());
    let done = CancellationToken::new();
    let (seen, app_pid) = (Seen::default(), watch::Sender::new(None));
    let roster = &context.roster;

    let sidecar = run_sidecar(context, name, plan, &seen, &stop_sidecar);
    let app = run_app(context, name, plan, &app_pid, &stop_app, &done);
    let pids = async {
        let (mut sidecar, mut app) = (seen.pid.subscribe(), app_pid.subscribe());
        loop {
            let (s, a) = (*sidecar.borrow_and_update(), *app.borrow_and_update());
            roster.update(name, |live| (live.sidecar_pid, live.app_pid) = (s, a));
            // Cancel-safe: `changed` loses no change.
            let more =
                tokio::select! { more = sidecar.changed() => more, more = app.changed() => more };
            if more.is_err() {
                return;
            }
        }
    };
    let ending = async {
        until_well(context, name, turn).await;
        // Cancel-safe: flags and a watch.
        tokio::select! {
            () = until_unwanted(&plan.shape, wanted) => {}
            () = done.cancelled() => {}
        }
        context.leave_softly(name).await;
        stop_sidecar.cancel();
    };
    let sidecar_then_app = async {
        sidecar.await;
        if plan.sidecar.is_none() {
            stop_sidecar.cancelled().await;
        }
        stop_app.cancel();
    };
    let work = async { tokio::join!(sidecar_then_app, app, ending) };
    // Cancel-safe: `pids` only reports.
    tokio::select! {
        _ = work => {}
        () = pids => {}
    }
    if let Some(network) = &context.network {
        network.remove(plan.instance.slot);
    }
    roster.update(name, |live| (live.sidecar_pid, live.app_pid) = (None, None));
    if done.is_cancelled() {
        Ended::Done
    } else {
        Ended::Unwanted
    }
}

async fn run_sidecar(
    context: &Context,
    name: &InstanceName,
    plan: &Plan,
    seen: &Seen,
    stop: &CancellationToken,
) {
    let Some((spec, check)) = &plan.sidecar else {
        return;
    };
    let ready = |ok| context.roster.update(name, |live| live.sidecar_ok = ok);
    let sidecar = Sidecar {
        context,
        instance: name,
        spec,
        admin: context.state.admin_socket(name),
        seen,
    };
    // Cancel-safe: the health check ends with the process it watches.
    tokio::select! {
        () = sidecar.keep(stop) => {}
        () = health::watch(check, seen.line.subscribe(), ready) => {}
    }
}

/// Runs the application; cancels `done` when it has ended for good.
async fn run_app(
    context: &Context,
    name: &InstanceName,
    plan: &Plan,
    pid: &watch::Sender<Option<u32>>,
    stop: &CancellationToken,
    done: &CancellationToken,
) {
    let Some(spec) = &plan.app else {
        return;
    };
    let workload = &plan.shape.workload;
    if workload.hold_application {
        // Cancel-safe: a watch and a flag.
        tokio::select! {
            () = until_proxied(context, name) => {}
            () = stop.cancelled() => return,
        }
    }
    let well = |ok| context.roster.update(name, |live| live.app_ok = ok);
    // Cancel-safe: the health check ends with the process it watches.
    tokio::select! {
        code = keep(context, spec, workload.restart_policy, pid, stop) => {
            if code.is_some() {
                let ended = |live: &mut Live| (live.exit_code, live.app_ok) = (code, false);
                context.roster.update(name, ended);
                done.cancel();
            }
        }
        () = health::watch(&plan.app_check, pid.subscribe(), well) => {}
    }
}

/// Why an instance does not run any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It is to be something else, or nothing.
    Unwanted,
    /// Its application ended for good.
    Done,
}

/// Waits until the sidecar is ready, or there is none.
async fn until_proxied(context: &Context, name: &InstanceName) {
    let mut changed = context.roster.subscribe();
    let proxied = |live: &Live| live.sidecar_ok;
    while !context.roster.live().get(name).is_some_and(proxied) {
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Holds a replacement's turn until it is healthy, or long enough.
async fn until_well(context: &Context, name: &InstanceName, turn: Option<OwnedMutexGuard<()>>) {
    if turn.is_none() {
        return;
    }
    let mut changed = context.roster.subscribe();
    let well = async {
        while !context.roster.live().get(name).is_some_and(Live::healthy) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    };
    drop(tokio::time::timeout(REPLACED, well).await);
    drop(turn);
}

async fn until_unwanted(shape: &Shape, wanted: &mut watch::Receiver<Option<Plan>>) {
    while wanted
        .borrow_and_update()
        .as_ref()
        .is_some_and(|plan| plan.shape == *shape)
    {
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

impl Context {
    /// Takes an instance out of the endpoints, and lets that spread before anything is stopped.
    async fn leave_softly(&self, name: &InstanceName) {
        let leave = || self.roster.update(name, |live| live.leaving = true);
        if self.stop.is_cancelled() {
            leave();
        } else {
            spread(self, leave).await;
        }
    }
}
