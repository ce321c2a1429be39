//! `tls` routes of `VirtualService`s, and `TLSRoute`s, as one listener has them: TLS that nobody on the way ends, by its server name.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use reeve_core::model::{Destination, SniRoute};

use super::{
    Index,
    gateway::{admits, narrower},
    routes::{Place, destinations},
    specific,
};
use crate::{
    LocalWorkload, Service,
    mesh::{Gateway, GatewayServer, VirtualService},
    resolve::hosts::falls_under,
};

/// The routes at the address that stands for `service`; none means that its address alone says where to.
pub(super) fn of_service(
    index: &Index<'_>,
    service: &Service,
    place: &Place<'_>,
    address: IpAddr,
) -> Vec<SniRoute> {
    let some = |v: &VirtualService| !v.tls.is_empty();
    let attached = specific::attached(index, service, place, some).into_iter();
    let all = attached.chain(super::best_for(index, service, some));
    let mut taken = BTreeSet::new();
    let itself = |host: &str| vec![host.to_owned()];
    let mut found: Vec<SniRoute> = all
        .flat_map(|v| routes(index, v, (place, address), &mut taken, itself))
        .collect();
    // What is looked up by the name that is called goes there by nothing else.
    let looked_up = service.looked_up().iter();
    let rest: Vec<_> = looked_up
        .filter(|p| taken.insert((*p).clone()))
        .cloned()
        .collect();
    if !rest.is_empty() {
        found.push(SniRoute {
            name: service.host.to_string(),
            hosts: rest,
            destinations: vec![Destination::new(service.host.clone(), place.port())],
            to_mesh: false,
        });
    }
    found
}

/// The routes of a gateway's port, within what its servers take.
pub(super) fn of_gateway(
    index: &Index<'_>,
    workload: &LocalWorkload,
    bind: SocketAddr,
    servers: &[(&Gateway, &GatewayServer)],
) -> Vec<SniRoute> {
    let mut all = Vec::new();
    let mut taken = BTreeSet::new();
    for (gateway, server) in servers {
        let key = (gateway.namespace.clone(), gateway.name.clone());
        let place = Place::Gateway {
            gateway: &key,
            workload,
            port: bind.port(),
        };
        let services = index.mesh.virtual_services.iter();
        for virtual_service in services.filter(|v| v.gateways.contains(&key)) {
            let admitted = |host: &str| {
                let patterns = server.hosts.iter().filter(|h| admits(h, virtual_service));
                let narrowed = patterns.filter_map(|(_, pattern)| narrower(host, pattern));
                narrowed.map(str::to_owned).collect()
            };
            all.extend(routes(
                index,
                virtual_service,
                (&place, bind.ip()),
                &mut taken,
                admitted,
            ));
        }
    }
    all
}

/// A route for each port of each service of the mesh, and of each of its subsets, under the names that Istio's clients
/// ask for in another network: `outbound_.PORT_.SUBSET_.HOST`
/// (<https://istio.io/latest/docs/reference/config/networking/gateway/#ServerTLSSettings-TLSmode>, `AUTO_PASSTHROUGH`).
pub(super) fn told_by_name(
    index: &Index<'_>,
    gateway: &Gateway,
    server: &GatewayServer,
) -> Vec<SniRoute> {
    let mut all = Vec::new();
    let ours = index.mesh.services.values().filter(|s| s.entry.is_none());
    for service in ours {
        let rule = index.mesh.rules.get(&service.host);
        let named = rule.map(|rule| rule.subsets.as_slice());
        let named = named.unwrap_or_default().iter();
        let subsets: Vec<_> = named.map(|s| Some(s.name.clone())).chain([None]).collect();
        for (port, subset) in service
            .ports
            .iter()
            .flat_map(|p| subsets.iter().map(move |s| (p.port, s)))
        {
            let shown = subset.as_deref().unwrap_or_default();
            let name = format!("outbound_.{port}_.{shown}_.{}", service.host);
            let taken = server.hosts.iter().any(|(namespace, pattern)| {
                let here = namespace
                    .as_ref()
                    .is_none_or(|n| n == service.namespace.as_str());
                here && (name == *pattern || falls_under(&name, pattern))
            });
            if taken {
                all.push(SniRoute {
                    name: format!("{}/{}", gateway.namespace, gateway.name),
                    hosts: vec![name.to_ascii_lowercase()],
                    destinations: vec![Destination {
                        subset: subset.clone(),
                        ..Destination::new(service.host.clone(), port)
                    }],
                    to_mesh: true,
                });
            }
        }
    }
    all
}

/// The rules that hold at `place`. Of two for one server name the first keeps it.
fn routes(
    index: &Index<'_>,
    virtual_service: &VirtualService,
    (place, address): (&Place<'_>, IpAddr),
    taken: &mut BTreeSet<String>,
    admitted: impl Fn(&str) -> Vec<String>,
) -> Vec<SniRoute> {
    let mut routes = Vec::new();
    for rule in &virtual_service.tls {
        let holding = rule
            .matches
            .iter()
            .filter(|m| place.holds(&m.at) && m.at.reaches(address));
        let named = holding.flat_map(|m| &m.sni_hosts);
        let hosts = named.flat_map(|host| admitted(host));
        let hosts: Vec<_> = hosts.filter(|host| taken.insert(host.clone())).collect();
        if !hosts.is_empty() {
            routes.push(SniRoute {
                name: format!("{}/{}", virtual_service.namespace, virtual_service.name),
                hosts,
                destinations: destinations(index, &rule.to, place.port()),
                to_mesh: false,
            });
        }
    }
    routes
}
