//! Route tables that callers have in common: sidecars of one namespace differ in no more than the addresses that stand for
//! services beside them, unless a rule asks for its callers' labels.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use reeve_core::{
    Namespace,
    model::{Route, RouteTable, RouteTableName},
};

use super::{
    ANY_AUTHORITY_PORT, Hosts, best_for,
    routes::{Place, routes},
    specific,
};
use crate::{
    LocalWorkload, Service,
    index::{Index, authorities, headless, kept::keep_tables},
    instances::Instance,
    mesh::VirtualService,
};

/// Callers of one class have the same routes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::index) struct CallerClass {
    namespace: Namespace,
    /// What rules may ask for; `None` = none does.
    labels: Option<BTreeMap<String, String>>,
}

impl CallerClass {
    pub(in crate::index) fn of(index: &Index<'_>, workload: &LocalWorkload) -> Self {
        Self {
            namespace: workload.namespace.clone(),
            labels: index
                .naming
                .asks_for_labels()
                .then(|| workload.labels.clone()),
        }
    }
}

/// The tables of a class of callers.
#[derive(Debug)]
pub(in crate::index) struct Callers {
    tables: BTreeMap<RouteTableName, Arc<RouteTable>>,
    /// Domains that are addresses.
    literal: BTreeSet<String>,
}

impl Callers {
    /// The tables of `workload`'s class. What is as it was in `before` is kept.
    pub(in crate::index) fn new(
        index: &Index<'_>,
        workload: &LocalWorkload,
        before: Option<&Self>,
    ) -> Self {
        let listened = |s: &&Arc<Service>| index.instances.services.contains_key(&s.host);
        let services = index.mesh.services.values().filter(listened);
        let ports: BTreeSet<_> = services.flat_map(|s| http_ports(s)).collect();
        let by_port = ports
            .into_iter()
            .map(|port| port_table(index, workload, port));
        let all = by_port.chain([any_authority(index, workload)]);
        let all = all.filter(|table| !table.virtual_hosts.is_empty());
        let mut tables: BTreeMap<_, _> = all
            .map(|table| (table.name.clone(), Arc::new(table)))
            .collect();
        let hosts = tables.values().flat_map(|t| t.virtual_hosts.values());
        let domains = hosts.flat_map(|host| &host.domains);
        let literal = domains.filter(|domain| is_literal(domain));
        let literal = literal.cloned().collect();
        if let Some(before) = before {
            keep_tables(&mut tables, &before.tables);
        }
        Self { tables, literal }
    }

    /// The tables beside `instance`: services are called by their addresses there, too.
    pub(in crate::index) fn tables(
        &self,
        index: &Index<'_>,
        instance: &Instance,
    ) -> Vec<Arc<RouteTable>> {
        let mut tables = self.tables.clone();
        for name in index.instances.services.keys() {
            let service = index.mesh.services.get(name);
            let address = index.instances.outbound_address(instance.slot, name);
            let (Some(service), Some(address)) = (service, address) else {
                continue;
            };
            let address = address.to_string();
            for port in http_ports(service) {
                let with_port = format!("{address}:{port}");
                let both = [address.clone(), with_port.clone()];
                self.call(&mut tables, &port.to_string(), (name.as_str(), port), &both);
                let default = default_port(service) == Some(port);
                let domains = if default { &both[..] } else { &[with_port] };
                let any = ANY_AUTHORITY_PORT.to_string();
                self.call(&mut tables, &any, (name.as_str(), port), domains);
            }
        }
        tables.into_values().collect()
    }

    /// Adds domains to a service's virtual host, but for what is somebody's already.
    fn call(
        &self,
        tables: &mut BTreeMap<RouteTableName, Arc<RouteTable>>,
        table: &str,
        (service, port): (&str, u16),
        domains: &[String],
    ) {
        let Some(table) = tables.get_mut(&RouteTableName(table.to_owned())) else {
            return;
        };
        let hosts = &mut Arc::make_mut(table).virtual_hosts;
        if let Some(host) = hosts.get_mut(&host_name(service, port)) {
            let free = domains.iter().filter(|d| !self.literal.contains(*d));
            Arc::make_mut(host).domains.extend(free.cloned());
        }
    }
}

fn is_literal(domain: &str) -> bool {
    domain.parse::<IpAddr>().is_ok() || domain.parse::<SocketAddr>().is_ok()
}

fn host_name(service: &str, port: u16) -> String {
    format!("{service}:{port}")
}

fn http_ports(service: &Service) -> impl Iterator<Item = u16> {
    let http = service.ports.iter().filter(|p| p.protocol.is_http());
    http.map(|p| p.port)
}

/// The port that is meant where none is said: 80, else the first for HTTP.
fn default_port(service: &Service) -> Option<u16> {
    let mut http = http_ports(service);
    let first = http.next()?;
    Some(if first == 80 || http.any(|port| port == 80) {
        80
    } else {
        first
    })
}

/// The table of one HTTP port: every service that has it, and hosts of `VirtualService`s that are no service.
fn port_table(index: &Index<'_>, workload: &LocalWorkload, port: u16) -> RouteTable {
    let place = Place::Mesh { workload, port };
    let mut hosts = Hosts::default();
    for service in index.mesh.services.values() {
        if !service.port(port).is_some_and(|p| p.protocol.is_http()) {
            continue;
        }
        let mode = index.path_normalization(service, port);
        let names = authorities::names(service, &workload.namespace);
        hosts.add_of(
            mode,
            host_name(service.host.as_str(), port),
            authorities::with_port(names, port),
            service_routes(index, service, port, &place),
        );
        for (name, own, routes) in headless::hosts(index.mesh, service, &workload.namespace, port) {
            hosts.add_of(mode, name, authorities::with_port(own, port), routes);
        }
    }
    foreign_hosts(index, &place, port, &mut hosts);
    hosts.table(RouteTableName(port.to_string()))
}

/// The table of the listener for every authority: `host:port` as it says, `host` alone the service's port 80 or
/// first HTTP port.
fn any_authority(index: &Index<'_>, workload: &LocalWorkload) -> RouteTable {
    let mut hosts = Hosts::default();
    for service in index.mesh.services.values() {
        let names = authorities::names(service, &workload.namespace);
        for port in http_ports(service) {
            let is_default = default_port(service) == Some(port);
            let called = |names: &[String]| {
                let with_port = names.iter().map(|n| format!("{n}:{port}"));
                let alone = names.iter().filter(|_| is_default).cloned();
                with_port.chain(alone).collect()
            };
            let place = Place::Mesh { workload, port };
            let mode = index.path_normalization(service, port);
            hosts.add_of(
                mode,
                host_name(service.host.as_str(), port),
                called(&names),
                service_routes(index, service, port, &place),
            );
            let each = headless::hosts(index.mesh, service, &workload.namespace, port);
            for (name, own, routes) in each {
                hosts.add_of(mode, name, called(&own), routes);
            }
        }
    }
    let place = Place::Mesh { workload, port: 80 };
    foreign_hosts(index, &place, 80, &mut hosts);
    hosts.table(RouteTableName(ANY_AUTHORITY_PORT.to_string()))
}

/// The routes of a service's port: what is attached to it, its `VirtualService`'s (exact host first, then the longest
/// pattern), or straight to it.
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

/// Hosts of mesh-wide `VirtualService`s that no service has.
fn foreign_hosts(index: &Index<'_>, place: &Place<'_>, port: u16, hosts: &mut Hosts) {
    let http = |v: &&VirtualService| v.in_mesh && !v.http.is_empty();
    for virtual_service in index.mesh.virtual_services.iter().filter(http) {
        for host in &virtual_service.hosts {
            if index.is_service(host) {
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
