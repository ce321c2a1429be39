//! Endpoints of services that are no Kubernetes `Service`.

use std::{collections::BTreeMap, sync::Arc};

use reeve_core::{
    SpiffeId,
    model::{
        ClientTls, DnsTake, Endpoint, EndpointSet, NamedEndpoint, OriginateTls, TrafficPolicy,
    },
};

use crate::{
    Entry, EntryAddress, EntryEndpoint, EntryLocation, EntryResolution, Mesh, Service, TargetPort,
};

/// Adds what `entry` says to the endpoints of its service.
pub(super) fn add(mesh: &Mesh, service: &Service, entry: &Entry, set: &mut EndpointSet) {
    for endpoint in &entry.endpoints {
        let ports = ports(service, endpoint);
        let labels = endpoint.labels.clone();
        match &endpoint.address {
            EntryAddress::Ip(address) => set.endpoints.push(Endpoint {
                instance: endpoint.name.clone(),
                address: *address,
                ports,
                labels,
                identity: identities(mesh, service, entry, endpoint)
                    .into_iter()
                    .next(),
                weight: endpoint.weight,
            }),
            EntryAddress::Host(host) => set.names.push(NamedEndpoint {
                instance: endpoint.name.clone(),
                host: host.clone(),
                ports,
                labels,
                weight: endpoint.weight,
                take: match entry.resolution {
                    EntryResolution::DnsRoundRobin => DnsTake::First,
                    EntryResolution::None | EntryResolution::Static | EntryResolution::Dns => {
                        DnsTake::All
                    }
                },
            }),
        }
    }
}

/// The entry's names of its servers hold where the rule has none.
pub(super) fn name_servers(entry: &Entry, policy: &mut TrafficPolicy) {
    if let ClientTls::Originate(tls) = &mut policy.tls
        && tls.subject_alt_names.is_empty()
        && !entry.subject_alt_names.is_empty()
    {
        let mut named = OriginateTls::clone(tls);
        named.subject_alt_names.clone_from(&entry.subject_alt_names);
        *tls = Arc::new(named);
    }
}

/// By which identities an endpoint within the mesh, or within a federated one, may be known; one outside has none. SPIFFE
/// IDs among the entry's `subjectAltNames` win over the endpoint's account, as in Istio.
pub(crate) fn identities(
    mesh: &Mesh,
    service: &Service,
    entry: &Entry,
    endpoint: &EntryEndpoint,
) -> Vec<SpiffeId> {
    if entry.location == EntryLocation::External {
        return Vec::new();
    }
    let named = entry.subject_alt_names.iter();
    let named: Vec<_> = named
        .filter_map(|name| SpiffeId::parse(name).ok())
        .collect();
    if !named.is_empty() {
        return named;
    }
    let account = endpoint.service_account.iter();
    let own = |account| {
        mesh.settings
            .trust_domain
            .workload(&service.namespace, account)
    };
    account.map(own).collect()
}

/// The endpoint's own port of that name, else the port's target.
fn ports(service: &Service, endpoint: &EntryEndpoint) -> BTreeMap<u16, u16> {
    let port = |p: &crate::TargetedPort| {
        let target = match p.target {
            TargetPort::Number(number) => number,
            TargetPort::Name(_) => p.port,
        };
        (
            p.port,
            endpoint.ports.get(&p.name).copied().unwrap_or(target),
        )
    };
    service.ports.iter().map(port).collect()
}
