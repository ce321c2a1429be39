//! Inbound listeners: which ports of a workload are reached how.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use reeve_core::{
    Namespace,
    model::{Capture, InboundListener, MtlsMode, Protocol, ServiceState},
};

use super::{app_port, paths};
use crate::{
    AuthorizationSettings, LocalWorkload, Mesh, Service, WorkloadRole,
    instances::{INBOUND_CAPTURE_PORT, Instance, Instances, OUTBOUND_CAPTURE_PORT},
    mesh::{ModeRule, NO_PORT},
};

/// A listener for each port that the workload declares or that a service sends to.
pub(super) fn inbound(
    mesh: &Mesh,
    instance: &Instance,
    workload: &LocalWorkload,
    selecting: &[&Arc<Service>],
) -> Vec<InboundListener> {
    if workload.role == WorkloadRole::Gateway {
        return Vec::new(); // Its ports are outside traffic's.
    }
    let (ports, behind) = ports(workload, selecting);
    let sidecar = mesh.sidecar(workload);
    let pool = sidecar.and_then(|sidecar| sidecar.pool.clone());
    let listener = |(port, protocol): (u16, Protocol)| {
        let services = behind.get(&port).map(Vec::as_slice).unwrap_or_default();
        InboundListener {
            bind: SocketAddr::from((instance.address, port)),
            app: SocketAddr::from((instance.app_address, app_port(workload, port))),
            protocol,
            mtls: mtls_mode(mesh, workload, port),
            state: state(&mesh.settings.authorization, &workload.namespace, services),
            services: services.iter().map(|s| s.host.clone()).collect(),
            path_normalization: paths::mode(mesh, workload, port),
            pool: pool.clone(),
        }
    };
    let Some(said) = sidecar.and_then(|sidecar| sidecar.ingress.as_ref()) else {
        return ports.into_iter().map(listener).collect();
    };
    // What a `Sidecar` says is open, and nothing else.
    let said = said.iter().map(|ingress| {
        let own = listener((ingress.port, ingress.protocol));
        let app_port = ingress.app_port.unwrap_or_else(|| own.app.port());
        let address = ingress.bind.unwrap_or(instance.address.into());
        InboundListener {
            bind: SocketAddr::new(address, ingress.port),
            app: SocketAddr::from((instance.app_address, app_port)),
            pool: ingress.pool.clone().or_else(|| own.pool.clone()),
            ..own
        }
    });
    said.collect()
}

/// Ports of a workload, with what is spoken there.
pub(crate) type Ports = BTreeMap<u16, Protocol>;

/// The ports that the workload declares or that a service sends to, and the services behind each.
fn ports<'a>(
    workload: &LocalWorkload,
    selecting: &[&'a Arc<Service>],
) -> (Ports, BTreeMap<u16, Vec<&'a Service>>) {
    let declared = workload.ports.iter().map(|p| (p.port, p.protocol));
    let mut ports: Ports = declared.collect();
    let mut behind: BTreeMap<u16, Vec<&Service>> = BTreeMap::new();
    for service in selecting {
        for port in &service.ports {
            let Some(target) = port.on(workload) else {
                continue;
            };
            let services = behind.entry(target).or_default();
            if services.is_empty() {
                // What the first service says of its port beats the workload's own word for it.
                ports.insert(target, port.protocol);
            }
            if !services.iter().any(|s| s.host == service.host) {
                services.push(service);
            }
        }
    }
    (ports, behind)
}

/// The ports at which a workload's sidecar takes others' traffic.
pub(crate) fn taken_in(mesh: &Mesh, workload: &LocalWorkload) -> Ports {
    if workload.role != WorkloadRole::Sidecar {
        return Ports::new();
    }
    let services = mesh.services.values();
    let selecting: Vec<_> = services.filter(|s| s.selects(workload)).collect();
    let (ports, _) = ports(workload, &selecting);
    let sidecar = mesh.sidecar(workload);
    match sidecar.and_then(|sidecar| sidecar.ingress.as_ref()) {
        None => ports,
        Some(said) => said.iter().map(|i| (i.port, i.protocol)).collect(),
    }
}

/// How the workload's traffic is captured. A gateway's is not: the outside comes to it by its address.
pub(super) fn capture(
    mesh: &Mesh,
    instances: &Instances,
    workload: &LocalWorkload,
) -> Option<Capture> {
    let mode = instances.mesh.capture?;
    (workload.role == WorkloadRole::Sidecar).then(|| Capture {
        inbound: INBOUND_CAPTURE_PORT,
        outbound: OUTBOUND_CAPTURE_PORT,
        mode,
        outbound_policy: mesh.settings.outbound_policy,
        mtls: mtls_mode(mesh, workload, NO_PORT),
        state: state(&mesh.settings.authorization, &workload.namespace, &[]),
    })
}

/// `PeerAuthentication` for one port, else the `MeshConfig`'s.
pub(crate) fn mtls_mode(mesh: &Mesh, workload: &LocalWorkload, port: u16) -> MtlsMode {
    let said = ModeRule::mode_at(&mesh.peer_authentications, workload, port);
    said.unwrap_or(mesh.settings.mtls)
}

/// The state of a port: that of its services (the strictest of several), else its namespace's, else the mesh's.
pub(crate) fn state(
    settings: &AuthorizationSettings,
    namespace: &Namespace,
    services: &[&Service],
) -> ServiceState {
    let own = settings.namespaces.get(namespace).copied();
    let fallback = own.unwrap_or(settings.state);
    let of = |s: &&Service| settings.services.get(&s.host).copied().unwrap_or(fallback);
    services
        .iter()
        .map(of)
        .reduce(strictest)
        .unwrap_or(fallback)
}

/// The one of two states in which more is refused.
pub(crate) fn strictest(a: ServiceState, b: ServiceState) -> ServiceState {
    let strictness = |s: ServiceState| match s {
        ServiceState::Open => 0,
        ServiceState::Shadow => 1,
        ServiceState::Enforced => 2,
    };
    if strictness(a) < strictness(b) { b } else { a }
}
