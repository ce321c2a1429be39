//! Outbound listeners and the route tables behind them.

mod callers;
mod gateway;
mod routes;
mod sni;
mod specific;
mod tcp;

pub(super) use callers::{CallerClass, Callers};
pub(super) use gateway::gateway;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use reeve_core::{
    ServiceName,
    model::{
        OutboundListener, PathNormalization, Protocol, Route, RouteMatch, RouteTable,
        RouteTableName, VirtualHost,
    },
};

use super::{Index, authorities};
use crate::{
    LocalWorkload, Service,
    instances::Instance,
    mesh::{Precedence, VirtualService},
};
use routes::Place;

/// The listener that takes HTTP for any authority.
const ANY_AUTHORITY_PORT: u16 = 15001;

/// The listeners beside a workload: one address per service, and one for every authority.
pub(super) fn sidecar(
    index: &Index<'_>,
    instance: &Instance,
    workload: &LocalWorkload,
) -> (Vec<OutboundListener>, Vec<Arc<RouteTable>>) {
    let mut listeners = Vec::new();
    for host in index.instances.services.keys() {
        let address = index.instances.outbound_address(instance.slot, host);
        let (Some(address), Some(service)) = (address, index.mesh.services.get(host)) else {
            continue;
        };
        let v6 = index.instances.outbound_address_v6(&service.host);
        let captured = index.instances.mesh.capture.and(service.entry.as_ref());
        let said = captured.iter().flat_map(|entry| &entry.addresses).copied();
        let addresses = [Some(IpAddr::V4(address)), v6.map(IpAddr::V6)];
        let addresses: Vec<_> = addresses.into_iter().flatten().chain(said).collect();
        for port in &service.ports {
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
                    path_normalization: None,
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
            path_normalization: None,
        });
    }
    let tables = index.callers(workload).tables(index, instance);
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

/// The `VirtualService` for sidecars that names `service` most exactly, of those that are `wanted`.
fn best_for<'i>(
    index: &Index<'i>,
    service: &Service,
    wanted: impl Fn(&VirtualService) -> bool,
) -> Option<&'i VirtualService> {
    let written = |v: &VirtualService| v.precedence == Precedence::Written && wanted(v);
    let host = service.host.as_str();
    if let Some(found) = index.naming.exactly(host).find(|v| written(v)) {
        return Some(found);
    }
    let mut best: Option<(usize, &VirtualService)> = None;
    let names = match service.patterns() {
        [] => vec![host],
        patterns => patterns.iter().map(String::as_str).collect(),
    };
    let patterns = names
        .into_iter()
        .flat_map(|name| index.naming.by_pattern(name));
    for (length, candidate) in patterns.filter(|(_, v)| written(v)) {
        if best.is_none_or(|(found, _)| length > found) {
            best = Some((length, candidate));
        }
    }
    best.map(|(_, virtual_service)| virtual_service)
}

/// Virtual hosts with domains that are unique: who comes first keeps a domain.
#[derive(Default)]
struct Hosts {
    taken: BTreeMap<String, usize>,
    names: Names,
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
            name: self.names.unique(name),
            domains,
            routes,
            path_normalization: None,
        });
    }

    /// The same for a port of a service, where paths are read as its workloads read them.
    fn add_of(
        &mut self,
        mode: Option<PathNormalization>,
        name: String,
        domains: Vec<String>,
        routes: Vec<Route>,
    ) {
        let known = self.hosts.len();
        self.add(name, domains, routes);
        if let Some(added) = self.hosts.get_mut(known) {
            added.path_normalization = mode;
        }
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
        RouteTable::new(name, self.hosts)
    }
}

/// Names of virtual hosts, told apart.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    /// The name, with a number if another has it already.
    fn unique(&mut self, name: String) -> String {
        let numbered = (2..).map(|number| format!("{name}#{number}"));
        let free = |candidate: &String| !self.0.contains(candidate);
        let found = std::iter::once(name.clone()).chain(numbered).find(free);
        let found = found.unwrap_or(name);
        self.0.insert(found.clone());
        found
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
