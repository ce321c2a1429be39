//! The mesh as one workload's proxy sees it: what `exportTo` and `Sidecar` let through
//! (<https://istio.io/latest/docs/reference/config/networking/sidecar/>).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use reeve_core::{
    Namespace, ServiceName,
    model::{OutboundPolicy, Protocol, TrafficPolicy},
};

use super::{
    DestinationRule, LocalWorkload, Mesh, Service, VirtualService, WorkloadRole, is_subset,
};
use crate::resolve::hosts::falls_under;

/// A `Sidecar`: what the proxies of some workloads may see.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SidecarScope {
    pub(crate) namespace: Namespace,
    /// Labels a workload must have; empty = all of the namespace (of the root namespace: of the mesh).
    pub(crate) selector: BTreeMap<String, String>,
    /// Which hosts; `None` = all that are exported to the namespace.
    pub(crate) egress: Option<Vec<EgressHost>>,
    pub(crate) outbound_policy: Option<OutboundPolicy>,
    /// The ports that are open; `None` = those that the workload and its services have.
    pub(crate) ingress: Option<Vec<IngressListener>>,
    /// Bounds on what goes to the application.
    pub(crate) pool: Option<Arc<TrafficPolicy>>,
}

/// One `ingress` entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IngressListener {
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    /// Where it listens, if not at the workload's own address.
    pub(crate) bind: Option<IpAddr>,
    /// The application's port, if it is another.
    pub(crate) app_port: Option<u16>,
    /// Bounds of its own.
    pub(crate) pool: Option<Arc<TrafficPolicy>>,
}

/// One `NAMESPACE/HOST`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EgressHost {
    /// `None` = any namespace.
    pub(crate) namespace: Option<Namespace>,
    /// `*`, `*.suffix` or a host.
    pub(crate) host: String,
}

/// Proxies with equal keys see the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ViewKey {
    namespace: Namespace,
    sidecar: Option<usize>,
}

impl Mesh {
    /// By what the view of `workload` is told apart; `None` = it sees everything as it stands here.
    pub(crate) fn view_key(&self, workload: &LocalWorkload) -> Option<ViewKey> {
        self.is_scoped().then(|| ViewKey {
            namespace: workload.namespace.clone(),
            sidecar: self.sidecar_of(workload),
        })
    }

    /// The mesh as proxies with `key` see it.
    pub(crate) fn view(&self, key: &ViewKey) -> Self {
        let own = &key.namespace;
        let scope = key.sidecar.and_then(|n| self.sidecars.get(n));
        let mut view = self.clone();
        view.virtual_services
            .retain(|v| is_exported(&v.export_to, &v.namespace, own));
        if let Some(hosts) = scope.and_then(|scope| scope.egress.as_ref()) {
            view.virtual_services
                .retain(|v| v.hosts.iter().any(|h| imports(hosts, &v.namespace, h)));
        }
        // What stands in the own namespace wins.
        view.virtual_services.sort_by_key(|v| v.namespace != *own);
        let in_mesh = view.virtual_services.iter().filter(|v| v.in_mesh);
        let sent_to: BTreeSet<_> = in_mesh.flat_map(destinations).collect();
        let hosts = scope.and_then(|scope| scope.egress.as_ref());
        view.services.retain(|host, service| {
            let exported = is_exported(&service.export_to, &service.namespace, own);
            let named = |hosts: &[EgressHost]| match service.patterns() {
                [] => imports(hosts, &service.namespace, host.as_str()),
                patterns => patterns
                    .iter()
                    .any(|p| imports(hosts, &service.namespace, p)),
            };
            let imported = hosts.is_none_or(|hosts| named(hosts) || sent_to.contains(host));
            exported && imported
        });
        view.rules = self.rules_for(own, &view.services);
        if let Some(policy) = scope.and_then(|scope| scope.outbound_policy) {
            view.settings.outbound_policy = policy;
        }
        view
    }

    fn is_scoped(&self) -> bool {
        let services = self.services.values().any(|s| !s.export_to.is_empty());
        let routes = self
            .virtual_services
            .iter()
            .any(|v| !v.export_to.is_empty());
        let foreign = |rule: &(ServiceName, DestinationRule)| {
            let (host, rule) = rule;
            let service = self.services.get(host);
            !rule.export_to.is_empty() || service.is_some_and(|s| s.namespace != rule.namespace)
        };
        services || routes || !self.sidecars.is_empty() || self.all_rules.iter().any(foreign)
    }

    /// The rule of each host: the client's namespace is asked first, then the service's, then the root namespace.
    fn rules_for(
        &self,
        own: &Namespace,
        services: &BTreeMap<ServiceName, Arc<Service>>,
    ) -> BTreeMap<ServiceName, DestinationRule> {
        let mut chosen: BTreeMap<ServiceName, (u8, DestinationRule)> = BTreeMap::new();
        for (host, rule) in &self.all_rules {
            let home = services.get(host).map(|s| &s.namespace);
            let rank = if rule.namespace == *own {
                0
            } else if !is_exported(&rule.export_to, &rule.namespace, own) {
                continue;
            } else if home == Some(&rule.namespace) {
                1
            } else if rule.namespace == self.settings.root_namespace {
                2
            } else {
                continue;
            };
            if chosen.get(host).is_none_or(|(best, _)| rank < *best) {
                chosen.insert(host.clone(), (rank, rule.clone()));
            }
        }
        let rules = chosen.into_iter();
        rules.map(|(host, (_, rule))| (host, rule)).collect()
    }

    /// The `Sidecar` that holds for a workload.
    pub(crate) fn sidecar(&self, workload: &LocalWorkload) -> Option<&SidecarScope> {
        self.sidecars.get(self.sidecar_of(workload)?)
    }

    /// The `Sidecar` of a workload: one that selects it, its namespace's, the root namespace's. Gateways have none.
    fn sidecar_of(&self, workload: &LocalWorkload) -> Option<usize> {
        if workload.role != WorkloadRole::Sidecar {
            return None;
        }
        let root = &self.settings.root_namespace;
        let here = |s: &SidecarScope| s.namespace == workload.namespace;
        let selects = |s: &SidecarScope| {
            here(s) && !s.selector.is_empty() && is_subset(&s.selector, &workload.labels)
        };
        let whole = |s: &SidecarScope| here(s) && s.selector.is_empty();
        let mesh_wide = |s: &SidecarScope| s.namespace == *root && s.selector.is_empty();
        let all = &self.sidecars;
        let found = all.iter().position(selects);
        let found = found.or_else(|| all.iter().position(whole));
        found.or_else(|| all.iter().position(mesh_wide))
    }
}

/// `exportTo`: `*`, `.` (the own namespace), `~` (nobody) or namespaces; none = everybody.
pub(crate) fn is_exported(to: &[String], home: &Namespace, viewer: &Namespace) -> bool {
    to.is_empty()
        || to.iter().any(|namespace| match namespace.as_str() {
            "*" => true,
            "." => home == viewer,
            "~" => false,
            named => named == viewer.as_str(),
        })
}

/// Whether `hosts` name something of this namespace and host (or pattern).
fn imports(hosts: &[EgressHost], namespace: &Namespace, host: &str) -> bool {
    hosts.iter().any(|wanted| {
        let here = wanted.namespace.as_ref().is_none_or(|n| n == namespace);
        here && (wanted.host == "*"
            || falls_under(host, &wanted.host)
            || falls_under(&wanted.host, host))
    })
}

/// The services that requests are sent to: they are seen where the rule is.
fn destinations(virtual_service: &VirtualService) -> Vec<ServiceName> {
    let http = virtual_service
        .http
        .iter()
        .flat_map(crate::index::destinations);
    let tls = virtual_service.tls.iter().flat_map(|t| &t.to);
    let tcp = virtual_service.tcp.iter().flat_map(|t| &t.to);
    let all = http.chain(tls).chain(tcp);
    all.map(|to| to.service.clone()).collect()
}
