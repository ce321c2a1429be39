//! The authorities by which a service is called.

use reeve_core::Namespace;

use crate::Service;

/// The names of `service` as seen from `namespace`, in Istio's order: the full host and its shortenings.
pub(super) fn names(service: &Service, namespace: &Namespace) -> Vec<String> {
    let Service {
        name,
        namespace: own,
        ..
    } = service;
    // A foreign host has no shortenings.
    if let Some(entry) = service.entry.as_ref().filter(|_| service.is_foreign()) {
        let addresses = entry.addresses.iter().map(ToString::to_string);
        let own = match service.patterns() {
            [] => vec![service.host.to_string()],
            patterns => patterns.to_vec(),
        };
        return own.into_iter().chain(addresses).collect();
    }
    let mut names = vec![
        service.host.to_string(),
        format!("{name}.{own}.svc"),
        format!("{name}.{own}"),
    ];
    if own == namespace {
        names.push(name.clone());
    }
    names
}

/// Each host with and without `port`.
pub(super) fn with_port(hosts: Vec<String>, port: u16) -> Vec<String> {
    hosts
        .into_iter()
        .flat_map(|h| [h.clone(), format!("{h}:{port}")])
        .collect()
}
