//! Which servers a workload's proxy asks, and about what.

use std::sync::Arc;

use reeve_core::{
    ServiceName,
    model::{ExternalAuthorization, PolicySource},
};

use crate::{LocalWorkload, Mesh, Service};

/// In order of the providers' names. SECURITY: a provider is not asked about calls to itself, since that question would be
/// such a call again; the policies alone decide there.
pub(super) fn of(
    mesh: &Mesh,
    workload: &LocalWorkload,
    selecting: &[&Arc<Service>],
) -> Vec<ExternalAuthorization> {
    let own = |host: &ServiceName| selecting.iter().any(|service| service.host == *host);
    let providers = mesh.settings.extension_providers.iter();
    let asked = providers.filter(|provider| !own(&provider.service));
    let asked = asked.filter_map(|provider| {
        let custom = mesh.custom.iter();
        let custom = custom.filter(|c| c.provider == provider.name && c.covers(workload));
        let mut policies: Vec<PolicySource> = custom.flat_map(|c| c.policies.clone()).collect();
        policies.sort_by(|a, b| a.id.cmp(&b.id));
        (!policies.is_empty()).then(|| ExternalAuthorization {
            provider: provider.clone(),
            policies,
        })
    });
    asked.collect()
}
