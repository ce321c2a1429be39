//! `LocalMesh`.

use std::{path::PathBuf, time::Duration};

use reeve_core::{InstanceName, Namespace, ServiceAccount, WorkloadName, model::Protocol};

use super::values::{Notes, protocol};
use crate::{
    Code, DEFAULT_NAMESPACE, Fault, Health, LocalWorkload, MeshSettings, MetricsPage, Probe,
    RestartPolicy, WorkloadPort, WorkloadRole,
    instances::MAX_INSTANCES,
    kinds::{HealthSpec, LocalMeshSpec, LocalWorkloadSpec, MetricsSpec, Object},
    source::path::Path,
};

/// Ports of a sidecar's own.
pub(super) const MESH_PORTS: [u16; 4] = [15001, 15006, 15020, 15021];
/// Most copies of one workload.
const MAX_REPLICAS: u16 = 254;

pub(super) fn resolve(
    objects: &[Object<LocalMeshSpec>],
    settings: &MeshSettings,
    faults: &mut Vec<Fault>,
) -> Vec<LocalWorkload> {
    let mut workloads: Vec<LocalWorkload> = Vec::new();
    for object in objects {
        let mut notes = Notes { object, faults };
        for (n, spec) in object.spec.workloads.iter().enumerate() {
            let path = Path::of(&["spec", "workloads"]).index(n);
            let Some(workload) = workload(&mut notes, &path, spec, settings) else {
                continue;
            };
            let same =
                |w: &&LocalWorkload| w.name == workload.name && w.namespace == workload.namespace;
            if workloads.iter().find(same).is_some() {
                let text = format!(
                    "there are two workloads {} in namespace {}",
                    workload.name, workload.namespace
                );
                notes.hint(
                    &path.key("name"),
                    Code::Conflict,
                    text,
                    "give each a name of its own",
                );
                continue;
            }
            workloads.push(workload);
            let total: usize = workloads.iter().map(|w| w.instances.len()).sum();
            if total > MAX_INSTANCES {
                let text = format!(
                    "{total} instances up to here, but a local mesh has room for {MAX_INSTANCES}"
                );
                notes.error(&path.key("replicas"), Code::Exhausted, text);
                break;
            }
        }
    }
    workloads.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    workloads
}

fn workload(
    notes: &mut Notes<'_, LocalMeshSpec>,
    path: &Path,
    spec: &LocalWorkloadSpec,
    settings: &MeshSettings,
) -> Option<LocalWorkload> {
    let roles = [
        ("sidecar", WorkloadRole::Sidecar),
        ("gateway", WorkloadRole::Gateway),
        ("none", WorkloadRole::None),
    ];
    let role = match &spec.role {
        Some(text) => notes
            .word(&path.key("role"), text, &roles)
            .unwrap_or_default(),
        None => WorkloadRole::default(),
    };
    check_command(notes, path, spec, role);
    check_labels(notes, path, spec);
    let name = name(notes, path, spec);
    let namespace = spec.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let namespace = named(notes, &path.key("namespace"), Namespace::parse(namespace));
    let account = spec.service_account.as_deref().unwrap_or("default");
    let account = named(
        notes,
        &path.key("serviceAccount"),
        ServiceAccount::parse(account),
    );
    let policies = [
        ("Always", RestartPolicy::Always),
        ("OnFailure", RestartPolicy::OnFailure),
        ("Never", RestartPolicy::Never),
    ];
    let restart_policy = spec.restart_policy.as_ref().and_then(|text| {
        let path = path.key("restartPolicy");
        notes.word(&path, text, &policies)
    });
    let replicas = spec.replicas.unwrap_or(1);
    if replicas > MAX_REPLICAS {
        let text = format!("at most {MAX_REPLICAS} replicas, not {replicas}");
        notes.error(&path.key("replicas"), Code::Invalid, text);
    }
    let ports = ports(notes, path, spec, role);
    let health = spec
        .health
        .as_ref()
        .and_then(|h| health(notes, &path.key("health"), h));
    let metrics = metrics(notes, &path.key("metrics"), spec.metrics.as_ref());
    let (name, namespace, service_account) = (name?, namespace?, account?);
    let instances = instance_names(&name, &namespace, replicas.min(MAX_REPLICAS));
    let in_mesh = role != WorkloadRole::None;
    let id = || settings.trust_domain.workload(&namespace, &service_account);
    Some(LocalWorkload {
        identity: in_mesh.then(id),
        name,
        namespace,
        service_account,
        labels: spec.labels.clone(),
        role,
        instances,
        command: spec.command.clone(),
        env: spec.env.clone(),
        working_dir: spec.working_dir.as_ref().map(PathBuf::from),
        ports,
        health,
        restart_policy: restart_policy.unwrap_or_default(),
        hold_application: spec.hold_application_until_proxy_starts.unwrap_or(true),
        metrics,
    })
}

fn metrics(
    notes: &mut Notes<'_, LocalMeshSpec>,
    path: &Path,
    spec: Option<&MetricsSpec>,
) -> Option<MetricsPage> {
    let spec = spec?;
    if spec.port == 0 {
        notes.error(
            &path.key("port"),
            Code::Missing,
            "metrics need the application's port, from 1 to 65535",
        );
    }
    let page = spec.path.as_deref().unwrap_or("/metrics");
    let legal = page.starts_with('/') && page.parse::<http::uri::PathAndQuery>().is_ok();
    if !legal {
        let text = "a path begins with / and holds what a URL's path may";
        notes.error(&path.key("path"), Code::Invalid, text);
    }
    Some(MetricsPage {
        port: spec.port,
        path: page.to_owned(),
    })
}

fn named<T>(
    notes: &mut Notes<'_, LocalMeshSpec>,
    path: &Path,
    parsed: Result<T, reeve_core::NameError>,
) -> Option<T> {
    parsed
        .map_err(|e| notes.error(path, Code::Invalid, e.to_string()))
        .ok()
}

/// A DNS label, so that instance names (`<name>-<n>[.<namespace>]`) are unique.
fn name(
    notes: &mut Notes<'_, LocalMeshSpec>,
    path: &Path,
    spec: &LocalWorkloadSpec,
) -> Option<WorkloadName> {
    let path = path.key("name");
    if spec.name.is_empty() {
        notes.error(&path, Code::Missing, "the workload has no name");
        return None;
    }
    if let Err(error) = Namespace::parse(&spec.name) {
        let text = error.to_string().replace("a namespace", "a workload");
        notes.error(&path, Code::Invalid, text);
        return None;
    }
    named(notes, &path, WorkloadName::parse(&spec.name))
}

fn instance_names(name: &WorkloadName, namespace: &Namespace, replicas: u16) -> Vec<InstanceName> {
    let suffix = match namespace.as_str() {
        DEFAULT_NAMESPACE => String::new(),
        namespace => format!(".{namespace}"),
    };
    let text = |n| InstanceName::parse(&format!("{name}-{n}{suffix}")).ok();
    (0..replicas).filter_map(text).collect()
}

fn check_command(
    notes: &mut Notes<'_, LocalMeshSpec>,
    path: &Path,
    spec: &LocalWorkloadSpec,
    role: WorkloadRole,
) {
    let path = path.key("command");
    match (&spec.command, role) {
        (Some(command), _) if command.iter().any(|part| part.contains('\0')) => {
            notes.error(&path, Code::Invalid, "a command has no NUL bytes");
        }
        (Some(command), _) if command.first().is_none_or(String::is_empty) => {
            notes.hint(
                &path,
                Code::Invalid,
                "the command is empty",
                "name a program: [\"prog\", \"arg\"]",
            );
        }
        (Some(_), _) | (None, WorkloadRole::Gateway) => {}
        (None, WorkloadRole::None) => {
            notes.error(
                &path,
                Code::Missing,
                "a workload of role none needs a command",
            );
        }
        (None, WorkloadRole::Sidecar) => {
            let hint = "start the application yourself at its address, or give a command";
            notes.warn(
                &path,
                Code::Missing,
                "only the sidecar will be started: there is no command",
                hint,
            );
        }
    }
    for (key, value) in &spec.env {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            let path = path_of_env(&path, key);
            notes.error(
                &path,
                Code::Invalid,
                "not the name or value of an environment variable",
            );
        }
    }
}

fn path_of_env(command: &Path, key: &str) -> Path {
    command.parent().key("env").key(key)
}

fn check_labels(notes: &mut Notes<'_, LocalMeshSpec>, path: &Path, spec: &LocalWorkloadSpec) {
    for (key, value) in &spec.labels {
        if !value.is_empty()
            && let Err(error) = reeve_core::Label::parse(value)
        {
            notes.error(
                &path.key("labels").key(key),
                Code::Invalid,
                error.to_string(),
            );
        }
    }
}

fn ports(
    notes: &mut Notes<'_, LocalMeshSpec>,
    path: &Path,
    spec: &LocalWorkloadSpec,
    role: WorkloadRole,
) -> Vec<WorkloadPort> {
    let mut ports: Vec<WorkloadPort> = Vec::new();
    for (n, port) in spec.ports.iter().enumerate() {
        let path = path.key("ports").index(n);
        let app_port = port.app_port.unwrap_or(port.port);
        if port.port == 0 || app_port == 0 {
            notes.error(&path.key("port"), Code::Invalid, "a port is 1 to 65535");
        }
        if role != WorkloadRole::None && MESH_PORTS.contains(&port.port) {
            let text = format!("port {} is the sidecar's own", port.port);
            notes.error(&path.key("port"), Code::Conflict, text);
        }
        if ports.iter().any(|p| p.port == port.port) {
            let text = format!("the port {} stands here twice", port.port);
            notes.error(&path.key("port"), Code::Conflict, text);
        }
        if !port.name.is_empty() && ports.iter().any(|p| p.name == port.name) {
            let text = format!("there are two ports of the name {:?}", port.name);
            notes.error(&path.key("name"), Code::Conflict, text);
        }
        ports.push(WorkloadPort {
            port: port.port,
            name: port.name.clone(),
            protocol: protocol(&port.name, None).unwrap_or(Protocol::Tcp),
            app_port,
        });
    }
    ports
}

fn health(notes: &mut Notes<'_, LocalMeshSpec>, path: &Path, spec: &HealthSpec) -> Option<Health> {
    let probe = match (&spec.http_get, &spec.tcp) {
        (Some(get), None) => {
            if !get.path.starts_with('/') {
                notes.error(
                    &path.key("httpGet").key("path"),
                    Code::Invalid,
                    "a path begins with /",
                );
            }
            Probe::Http {
                path: get.path.clone(),
                port: get.port,
            }
        }
        (None, Some(tcp)) => Probe::Tcp { port: tcp.port },
        _ => {
            notes.hint(
                path,
                Code::Invalid,
                "a health check has exactly one form",
                "use one of httpGet, tcp",
            );
            return None;
        }
    };
    let (Probe::Http { port, .. } | Probe::Tcp { port }) = probe;
    if port == 0 {
        notes.error(
            path,
            Code::Invalid,
            "a health check needs a port from 1 to 65535",
        );
    }
    for (key, value) in [
        ("periodSeconds", spec.period_seconds),
        ("failureThreshold", spec.failure_threshold),
    ] {
        if value == Some(0) {
            notes.error(&path.key(key), Code::Invalid, "at least 1");
        }
    }
    Some(Health {
        probe,
        period: Duration::from_secs(spec.period_seconds.unwrap_or(1).into()),
        failure_threshold: spec.failure_threshold.unwrap_or(3),
    })
}
