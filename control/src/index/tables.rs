//! Outbound listeners and the route tables behind them.

mod gateway;
mod routes;
mod sni;
mod specific;
mod tcp;

pub(super) use gateway::gateway;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use reeve_core::{
    ServiceName,
    model::{
        OutboundListener, Protocol, Route, RouteMatch, RouteTable, RouteTableName, VirtualHost,
    },
};

use super::{Index, authorities, headless};
use crate::{
    LocalWorkload, Service,
    instances::Instance,
    mesh::{Precedence, VirtualService},
    resolve::hosts::falls_under,
};
use routes::{Place, routes};

/// The listener that takes HTTP for any authority.
const ANY_AUTHORITY_PORT: u16 = 15001;

/// The listeners beside a workload: one address per service, and one for every authority.
pub(super) fn sidecar(
    index: &Index<'_>,
    instance: &Instance,
    workload: &LocalWorkload,
) -> (Vec<OutboundListener>, Vec<RouteTable>) {
    let mut listeners = Vec::new();
    let mut ports = BTreeSet::new();
    for service in index.mesh.services.values() {
        let Some(address) = index
            .instances
            .outbound_address(instance.slot, &service.host)
        else {
            continue;
        };
        let v6 = index.instances.outbound_address_v6(&service.host);
        let captured = index.instances.mesh.capture.and(service.entry.as_ref());
        let said = captured.iter().flat_map(|entry| &entry.addresses).copied();
        let addresses = [Some(IpAddr::V4(address)), v6.map(IpAddr::V6)];
        let addresses: Vec<_> = addresses.into_iter().flatten().chain(said).collect();
        for port in &service.ports {
            if port.protocol.is_http() {
                ports.insert(port.port);
            }
            let place = Place::Mesh {
                workload,
                port: port.port,
            };
            for address in addresses.iter().copied() {
                let (sni, tcp) = match port.protocol {
                    Protocol::Http | Protocol::Http2 | Protocol::Grpc => (Vec::new(), Vec::new()),
                    Protocol::Tcp => (Vec::new(), tcp::of_service(index, service, &place, address)),
                    Protocol::Tls => (
                        sni::of_service(index, service, &place, address),
                        tcp::of_service(index, service, &place, address),
                    ),
                };
                listeners.push(OutboundListener {
                    bind: SocketAddr::from((address, port.port)),
                    protocol: port.protocol,
                    routes: RouteTableName(port.port.to_string()),
                    service: Some((service.host.clone(), port.port)),
                    tcp,
                    sni,
                    tls: Vec::new(),
                    unknown: None,
                    https_redirect: Vec::new(),
                });
            }
        }
    }
    // Captured connections come to this port, each for an address of its own.
    if index.instances.mesh.capture.is_none() {
        listeners.push(OutboundListener {
            bind: SocketAddr::from((instance.address, ANY_AUTHORITY_PORT)),
            protocol: Protocol::Http,
            routes: RouteTableName(ANY_AUTHORITY_PORT.to_string()),
            service: None,
            tcp: Vec::new(),
            sni: Vec::new(),
            tls: Vec::new(),
            unknown: Some(index.mesh.settings.outbound_policy),
            https_redirect: Vec::new(),
        });
    }
    let by_port = ports
        .into_iter()
        .map(|port| port_table(index, instance, workload, port));
    let any = any_authority(index, instance, workload);
    let tables = by_port.chain([any]).collect();
    (listeners, tables)
}

/// The service's only port, else the listener's.
fn only_port(index: &Index<'_>, service: &ServiceName, listener: u16) -> u16 {
    let ports = index.mesh.services.get(service).map(|s| s.ports.as_slice());
    match ports {
        Some([only]) => only.port,
        _ => listener,
    }
}

/// The table of one HTTP port: every service that has it, and hosts of `VirtualService`s that are no service.
fn port_table(
    index: &Index<'_>,
    instance: &Instance,
    workload: &LocalWorkload,
    port: u16,
) -> RouteTable {
    let place = Place::Mesh { workload, port };
    let mut hosts = Hosts::default();
    for service in index.mesh.services.values() {
        if !service.port(port).is_some_and(|p| p.protocol.is_http()) {
            continue;
        }
        let mut names = authorities::names(service, &workload.namespace);
        let address = index
            .instances
            .outbound_address(instance.slot, &service.host);
        names.extend(address.map(|a| a.to_string()));
        let domains = authorities::with_port(names, port);
        hosts.add(
            format!("{}:{port}", service.host),
            domains,
            service_routes(index, service, port, &place),
        );
        for (name, own, routes) in headless::hosts(index.mesh, service, &workload.namespace, port) {
            hosts.add(name, authorities::with_port(own, port), routes);
        }
    }
    foreign_hosts(index, &place, port, &mut hosts);
    hosts.table(RouteTableName(port.to_string()))
}

/// The table of the listener for every authority: `host:port` as it says, `host` alone the service's port 80 or
/// first HTTP port.
fn any_authority(index: &Index<'_>, instance: &Instance, workload: &LocalWorkload) -> RouteTable {
    let mut hosts = Hosts::default();
    for service in index.mesh.services.values() {
        let http: Vec<_> = service
            .ports
            .iter()
            .filter(|p| p.protocol.is_http())
            .collect();
        let default = http
            .iter()
            .find(|p| p.port == 80)
            .or(http.first())
            .map(|p| p.port);
        let mut names = authorities::names(service, &workload.namespace);
        let address = index
            .instances
            .outbound_address(instance.slot, &service.host);
        names.extend(address.map(|a| a.to_string()));
        for port in http.iter().map(|p| p.port) {
            let mut domains: Vec<_> = names.iter().map(|n| format!("{n}:{port}")).collect();
            if default == Some(port) {
                domains.extend(names.iter().cloned());
            }
            let place = Place::Mesh { workload, port };
            hosts.add(
                format!("{}:{port}", service.host),
                domains,
                service_routes(index, service, port, &place),
            );
            for (name, own, routes) in
                headless::hosts(index.mesh, service, &workload.namespace, port)
            {
                let mut domains: Vec<_> = own.iter().map(|n| format!("{n}:{port}")).collect();
                if default == Some(port) {
                    domains.extend(own);
                }
                hosts.add(name, domains, routes);
            }
        }
    }
    let place = Place::Mesh { workload, port: 80 };
    foreign_hosts(index, &place, 80, &mut hosts);
    hosts.table(RouteTableName(ANY_AUTHORITY_PORT.to_string()))
}

/// The routes of a service's port: its `VirtualService`'s (exact host first, then the longest pattern), or straight
/// to it.
fn service_routes(
    index: &Index<'_>,
    service: &Service,
    port: u16,
    place: &Place<'_>,
) -> Vec<Route> {
    let attached = specific::of_service(index, service, place);
    if !attached.is_empty() {
        return attached;
    }
    match best_for(index, service, |v| !v.http.is_empty()) {
        Some(virtual_service) => routes(index, virtual_service, place),
        None => vec![Route::to(service.host.clone(), port)],
    }
}

/// The `VirtualService` for sidecars that names `service` most exactly, of those that are `wanted`.
fn best_for<'i>(
    index: &Index<'i>,
    service: &Service,
    wanted: impl Fn(&VirtualService) -> bool,
) -> Option<&'i VirtualService> {
    let mut best: Option<(usize, &VirtualService)> = None;
    let candidates = index.mesh.virtual_services.iter();
    let written = |v: &&VirtualService| v.precedence == Precedence::Written;
    for candidate in candidates
        .filter(|v| v.in_mesh && wanted(v))
        .filter(written)
    {
        let hosts = candidate.hosts.iter();
        for host in hosts.filter(|h| falls_under(service.host.as_str(), h)) {
            let rank = match host.starts_with('*') {
                true => host.len(),
                false => usize::MAX,
            };
            if best.is_none_or(|(found, _)| rank > found) {
                best = Some((rank, candidate));
            }
        }
    }
    best.map(|(_, virtual_service)| virtual_service)
}

/// Hosts of mesh-wide `VirtualService`s that no service has.
fn foreign_hosts(index: &Index<'_>, place: &Place<'_>, port: u16, hosts: &mut Hosts) {
    for virtual_service in index
        .mesh
        .virtual_services
        .iter()
        .filter(|v| v.in_mesh && !v.http.is_empty())
    {
        for host in &virtual_service.hosts {
            if index.mesh.services.keys().any(|s| s.as_str() == host) {
                continue;
            }
            let domains = match host.starts_with('*') {
                true => vec![host.clone()],
                false => authorities::with_port(vec![host.clone()], port),
            };
            let name = format!(
                "{}/{}:{host}",
                virtual_service.namespace, virtual_service.name
            );
            hosts.add(name, domains, routes(index, virtual_service, place));
        }
    }
}

/// Virtual hosts with domains that are unique: who comes first keeps a domain.
#[derive(Default)]
struct Hosts {
    taken: BTreeMap<String, usize>,
    hosts: Vec<VirtualHost>,
    /// Those whose rules stand by how specific they are.
    specific: BTreeSet<usize>,
}

impl Hosts {
    fn add(&mut self, name: String, domains: Vec<String>, routes: Vec<Route>) {
        let position = self.hosts.len();
        let free = |d: &String| !self.taken.contains_key(d);
        let domains: Vec<_> = domains.into_iter().filter(free).collect();
        if domains.is_empty() {
            return;
        }
        self.taken
            .extend(domains.iter().map(|d| (d.clone(), position)));
        self.hosts.push(VirtualHost {
            name,
            domains,
            routes,
        });
    }

    /// At a gateway, several `VirtualService`s of one host are tried one after the other, in order of name.
    fn merge(
        &mut self,
        name: String,
        domains: Vec<String>,
        routes: Vec<Route>,
        precedence: Precedence,
    ) {
        let known = domains.first().and_then(|d| self.taken.get(d).copied());
        match known.and_then(|position| self.hosts.get_mut(position)) {
            Some(host) => host.routes.extend(routes),
            None => self.add(name, domains.clone(), routes),
        }
        let at = domains.first().and_then(|d| self.taken.get(d).copied());
        if let (Some(at), Precedence::MostSpecific) = (at, precedence) {
            self.specific.insert(at);
        }
    }

    fn table(mut self, name: RouteTableName) -> RouteTable {
        for (at, host) in self.hosts.iter_mut().enumerate() {
            match self.specific.contains(&at) {
                true => specific::sort(&mut host.routes),
                false => catch_all_last(&mut host.routes),
            }
        }
        RouteTable {
            name,
            virtual_hosts: self.hosts,
        }
    }
}

/// A match that takes everything stands behind all others of its host, whichever `VirtualService` it is from, as in
/// Istio.
fn catch_all_last(routes: &mut Vec<Route>) {
    let mut last = Vec::new();
    for mut route in std::mem::take(routes) {
        let at = match route.matches.as_slice() {
            [] => Some(0),
            matches => matches.iter().position(RouteMatch::is_catch_all),
        };
        let Some(at) = at else {
            routes.push(route);
            continue;
        };
        let narrower: Vec<_> = route.matches.drain(..at).collect();
        if !narrower.is_empty() {
            routes.push(Route {
                matches: narrower,
                ..route.clone()
            });
        }
        route.matches.truncate(1);
        last.push(route);
    }
    routes.extend(last);
}
