//! How paths are normalised: at a workload's ports, and where the requests to a service go.

use std::collections::BTreeMap;

use reeve_core::{ServiceName, model::PathNormalization};

use crate::{
    LocalWorkload, Mesh, Service,
    mesh::{ModeRule, NO_PORT, TargetedPort},
};

/// `PathNormalization` for one port, else the `MeshConfig`'s.
pub(super) fn mode(mesh: &Mesh, workload: &LocalWorkload, port: u16) -> PathNormalization {
    let said = ModeRule::mode_at(&mesh.path_normalizations, workload, port);
    said.unwrap_or(mesh.settings.path_normalization)
}

/// The ports that rules name.
pub(super) fn by_port(mesh: &Mesh, workload: &LocalWorkload) -> BTreeMap<u16, PathNormalization> {
    let rules = mesh.path_normalizations.iter();
    let covering = rules.filter(|rule| rule.scope.covers(workload));
    let ports = covering.flat_map(|rule| rule.ports.keys());
    ports
        .map(|port| (*port, mode(mesh, workload, *port)))
        .collect()
}

/// By service and port.
pub(super) type OfServices = BTreeMap<(ServiceName, u16), PathNormalization>;

/// Every port of every service that rules say something of.
pub(super) fn of_services(mesh: &Mesh) -> OfServices {
    if mesh.path_normalizations.is_empty() {
        return OfServices::new();
    }
    let all = mesh.services.values();
    let ports = all.flat_map(|s| s.ports.iter().map(move |port| (s, port)));
    let said = ports.filter_map(|(service, port)| {
        let mode = of_service(mesh, service, port)?;
        Some(((service.host.clone(), port.port), mode))
    });
    said.collect()
}

/// What a service's workloads have in common behind a port. None: they differ, or nothing that is known is behind it.
pub(super) fn of_service(
    mesh: &Mesh,
    service: &Service,
    port: &TargetedPort,
) -> Option<PathNormalization> {
    let behind = mesh.workloads.iter().filter(|w| service.selects(w));
    let mut modes = behind.map(|w| mode(mesh, w, port.on(w).unwrap_or(NO_PORT)));
    let first = modes.next()?;
    modes.all(|mode| mode == first).then_some(first)
}
