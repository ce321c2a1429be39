//! What a mesh's folder says there is, for policies that name it.

use reeve_authz::Known;
use reeve_control::Mesh;
use reeve_core::SpiffeId;

/// Every workload, service and namespace of `mesh`.
pub(super) fn known(mesh: &Mesh) -> Known {
    let home = &mesh.settings.trust_domain;
    let mut known = Known::new(home.clone());
    for workload in &mesh.workloads {
        known.add_namespace(&workload.namespace);
        if let Some(id) = &workload.identity {
            known.add_workload(id);
        }
    }
    for service in mesh.services.values() {
        known.add_service(&service.host, &service.namespace);
        let Some(entry) = &service.entry else {
            continue;
        };
        let accounts = entry.endpoints.iter().flat_map(|e| &e.service_account);
        for account in accounts {
            known.add_workload(&home.workload(&service.namespace, account));
        }
        let named = entry.subject_alt_names.iter();
        for id in named.filter_map(|name| SpiffeId::parse(name).ok()) {
            known.add_workload(&id);
        }
    }
    known.add_entities(&mesh.schema(), mesh.known_entities());
    known
}
