//! From the mesh and what runs to the one configuration that each proxy needs.

mod authorities;
pub(crate) mod doors;
mod entries;
mod external;
mod headless;
mod kept;
mod naming;
mod paths;
mod places;
mod secrets;
mod tables;
#[cfg(test)]
mod tests;
mod tokens;

pub(crate) use doors::{mtls_mode, taken_in};
#[cfg(test)]
pub(crate) use entries::identities;
pub(crate) use kept::{Kept, keep_own};
pub use places::{Place, Places};
pub(crate) use secrets::OWN;
pub(crate) use tokens::DomainKeys;
pub use tokens::{FetchedKeys, TokenKeys};

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use reeve_authz::AskedOf;
use reeve_core::{
    InstanceName, Namespace, ServiceName,
    model::{
        AppMetrics, AuditReplica, Endpoint, EndpointSet, EntityRecord, Generation, GlobalRateLimit,
        PathNormalization, PolicySlice, ProxyConfig, ProxyRole, RateLimit, ServiceConfig,
        ServicePort, TelemetryConfig, TrafficPolicy, WorkloadConfig,
    },
};

use kept::Shared;
use naming::Naming;
use tables::{CallerClass, Callers};
use tokens::jwt_rules;

use crate::{
    LocalWorkload, Mesh, Service, WorkloadRole,
    instances::{Instance, Instances},
    mesh::{HttpRoute, NO_PORT, RouteTo, To, ViewKey},
};

/// What is shared by every proxy of one generation.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    mesh: &'a Mesh,
    /// All of it, whoever sees what.
    whole: &'a Mesh,
    instances: &'a Instances,
    services: BTreeMap<ServiceName, Arc<ServiceConfig>>,
    endpoints: BTreeMap<ServiceName, Arc<EndpointSet>>,
    /// Namespaces with endpoints outside the mesh: whoever calls those decides by their policies.
    plain_namespaces: BTreeSet<Namespace>,
    naming: Naming<'a>,
    /// How paths are normalised behind ports of services, as far as rules say it.
    paths: paths::OfServices,
    /// What several proxies have in common, made when the first asks.
    shared: RefCell<Shared>,
    /// The same as it was derived last.
    before: Option<&'a Shared>,
}

impl Mesh {
    /// The configuration of `instance`'s proxy, with generation 0; `None` if there is no such instance or it has no
    /// proxy.
    pub fn proxy_config(
        &self,
        instances: &Instances,
        keys: &TokenKeys,
        instance: &InstanceName,
    ) -> Option<ProxyConfig> {
        let workload = self.workload_of(instance)?;
        match self.view_key(workload) {
            None => Index::new(self, instances, None).proxy(instance, keys),
            Some(key) => {
                let view = self.view(&key);
                Index::new(&view, instances, None)
                    .within(self)
                    .proxy(instance, keys)
            }
        }
    }

    /// The configurations of all proxies, with generation 0. What came out as it was `kept` the last time is the same
    /// object, so that comparing and sending cost what has changed.
    pub(crate) fn proxy_configs(
        &self,
        instances: &Instances,
        keys: &TokenKeys,
        kept: &mut Kept,
    ) -> BTreeMap<InstanceName, ProxyConfig> {
        let before = std::mem::take(kept);
        let running = instances.instances.iter().filter(|i| i.exit_code.is_none());
        let mut by_view: BTreeMap<Option<ViewKey>, Vec<&InstanceName>> = BTreeMap::new();
        for instance in running {
            let workload = self.workload_of(&instance.instance);
            let key = workload.and_then(|workload| self.view_key(workload));
            by_view.entry(key).or_default().push(&instance.instance);
        }
        let mut configs = BTreeMap::new();
        for (key, names) in by_view {
            let view = key.as_ref().map(|key| self.view(key));
            let view = view.as_ref().unwrap_or(self);
            let index = Index::new(view, instances, before.of(&key)).within(self);
            let some = names.into_iter();
            configs.extend(some.filter_map(|name| Some((name.clone(), index.proxy(name, keys)?))));
            kept.keep(key, index);
        }
        configs
    }
}

impl<'a> Index<'a> {
    pub(crate) fn new(
        mesh: &'a Mesh,
        instances: &'a Instances,
        before: Option<&'a Shared>,
    ) -> Self {
        let placed: Vec<_> = instances
            .instances
            .iter()
            .filter_map(|i| Some((i, mesh.workload_of(&i.instance)?)))
            .collect();
        let services = mesh.services.values();
        let plain = mesh.workloads.iter().filter(|w| w.identity.is_none());
        let outside = services.clone().filter(|s| s.entry.is_some());
        let mut index = Self {
            services: services
                .clone()
                .map(|s| (s.host.clone(), Arc::new(service_config(mesh, s))))
                .collect(),
            endpoints: services
                .map(|s| (s.host.clone(), Arc::new(endpoints(mesh, s, &placed))))
                .collect(),
            plain_namespaces: plain
                .map(|w| &w.namespace)
                .chain(outside.map(|s| &s.namespace))
                .cloned()
                .collect(),
            naming: Naming::new(&mesh.virtual_services),
            paths: paths::of_services(mesh),
            shared: RefCell::default(),
            before,
            mesh,
            whole: mesh,
            instances,
        };
        index.add_unknown_hosts();
        if let Some(before) = before {
            before.keep(&mut index.services, &mut index.endpoints);
        }
        index
    }

    /// What is seen is a part of `whole`, by which a workload's own services are told.
    fn within(self, whole: &'a Mesh) -> Self {
        Self { whole, ..self }
    }

    /// Routes may name services that are not there (yet): they have no endpoints, and requests for them get 503.
    fn add_unknown_hosts(&mut self) {
        for virtual_service in &self.mesh.virtual_services {
            let forwards = virtual_service.http.iter().flat_map(destinations);
            let tls = virtual_service.tls.iter().flat_map(|t| &t.to);
            let tcp = virtual_service.tcp.iter().flat_map(|t| &t.to);
            for to in forwards.chain(tls).chain(tcp) {
                let service = &to.service;
                self.endpoints.entry(service.clone()).or_insert_with(|| {
                    Arc::new(EndpointSet {
                        service: service.clone(),
                        endpoints: Vec::new(),
                        names: Vec::new(),
                    })
                });
                self.services.entry(service.clone()).or_insert_with(|| {
                    Arc::new(ServiceConfig {
                        name: service.clone(),
                        namespace: virtual_service.namespace.clone(),
                        ports: Vec::new(),
                        patterns: Vec::new(),
                        identities: Vec::new(),
                        traffic: TrafficPolicy::default(),
                        port_traffic: BTreeMap::new(),
                        subsets: Vec::new(),
                    })
                });
            }
        }
    }

    pub(crate) fn proxy(&self, name: &InstanceName, keys: &TokenKeys) -> Option<ProxyConfig> {
        let instance = self.instances.get(name)?;
        let workload = self.mesh.workload_of(name)?;
        let (role, outbound, routes) = match workload.role {
            WorkloadRole::Sidecar => {
                let (listeners, tables) = tables::sidecar(self, instance, workload);
                (ProxyRole::Sidecar, listeners, tables)
            }
            WorkloadRole::Gateway => {
                let (listeners, tables) = tables::gateway(self, instance, workload);
                (ProxyRole::Gateway, listeners, tables)
            }
            WorkloadRole::None => return None,
        };
        let selecting: Vec<_> = self.selecting(workload).collect();
        let config = WorkloadConfig {
            instance: name.clone(),
            workload: workload.name.clone(),
            namespace: workload.namespace.clone(),
            service_account: workload.service_account.clone(),
            identity: workload.identity.clone()?,
            labels: canonical_labels(workload),
            role,
            address: IpAddr::V4(instance.address),
            inbound: doors::inbound(self.mesh, instance, workload, &selecting),
            outbound,
            services: selecting.iter().map(|s| s.host.clone()).collect(),
            ecdh_curves: self.mesh.settings.ecdh_curves.clone(),
            name_servers: self.mesh.settings.name_servers.clone(),
            topology: self.mesh.settings.topology.clone(),
            gateways: self.whole.gateways(),
            caller_shares: self.mesh.settings.caller_shares,
            rate_limits: self.rate_limits(&selecting),
            // Of the whole mesh: a service that the workload cannot see may be its own.
            transformations: self.whole.transformations_of(workload),
            global_rate_limits: self.global_rate_limits(&selecting),
            path_normalization: paths::mode(self.mesh, workload, NO_PORT),
            external_authorizations: external::of(self.mesh, workload, &selecting),
            jwt_rules: jwt_rules(self.mesh, keys, |r| r.covers(workload)),
            tracing: self.mesh.settings.tracing.clone(),
            telemetry: TelemetryConfig {
                access_log: self.mesh.settings.access_log.clone(),
                app_metrics: workload.metrics.as_ref().map(|page| AppMetrics {
                    address: (instance.app_address, page.port).into(),
                    path: page.path.clone(),
                }),
                tap: self.mesh.settings.tap.of(&workload.namespace),
            },
            break_glass: self.mesh.settings.break_glass.clone(),
            recorded_headers: self.mesh.settings.recorded_headers.clone(),
            danger_pass_unrecorded: self.mesh.settings.danger_pass_unrecorded,
            field_classes: self.mesh.settings.field_classes.clone(),
            audit_replicas: self.audit_replicas(),
            capture: doors::capture(self.mesh, self.instances, workload),
        };
        let services = secrets::own(role, &workload.namespace, &self.services);
        let secrets = secrets::of(self.mesh, role, &config.outbound, &services);
        Some(ProxyConfig {
            secrets,
            generation: Generation::default(),
            workload: Arc::new(config),
            services,
            endpoints: self.endpoints.clone(),
            routes: routes.into_iter().map(|t| (t.name.clone(), t)).collect(),
            policies: self.policies(&workload.namespace),
        })
    }

    /// Those that run beside the mesh process, and those elsewhere.
    fn audit_replicas(&self) -> Vec<AuditReplica> {
        let here = self.instances.mesh.replicas.iter();
        here.chain(&self.mesh.settings.audit_replicas_elsewhere)
            .cloned()
            .collect()
    }

    fn selecting(&self, workload: &LocalWorkload) -> impl Iterator<Item = &'a Arc<Service>> {
        self.whole
            .services
            .values()
            .filter(move |s| s.selects(workload))
    }

    /// Those of the services that the workload stands behind.
    fn rate_limits(&self, selecting: &[&Arc<Service>]) -> Vec<RateLimit> {
        let of_ours = |host: &ServiceName| selecting.iter().any(|service| service.host == *host);
        let limits = self.mesh.rate_limits.iter();
        let limits = limits.filter(|(host, _)| of_ours(host));
        limits.map(|(_, limit)| limit.clone()).collect()
    }

    /// The same for those of rate limit servers.
    fn global_rate_limits(&self, selecting: &[&Arc<Service>]) -> Vec<GlobalRateLimit> {
        let of_ours = |limit: &&GlobalRateLimit| selecting.iter().any(|s| s.host == limit.service);
        let limits = self.mesh.global_rate_limits.iter().filter(of_ours);
        limits.cloned().collect()
    }

    /// The route tables of the workload's class of callers.
    fn callers(&self, workload: &LocalWorkload) -> Arc<Callers> {
        let class = CallerClass::of(self, workload);
        if let Some(known) = self.shared.borrow().callers.get(&class) {
            return known.clone();
        }
        let before = self.before.and_then(|before| before.callers.get(&class));
        let made = Arc::new(Callers::new(self, workload, before.map(Arc::as_ref)));
        let mut shared = self.shared.borrow_mut();
        shared.callers.insert(class, made.clone());
        made
    }

    /// How the workloads behind a service's port read paths, if rules say so and they all do alike.
    fn path_normalization(&self, service: &Service, port: u16) -> Option<PathNormalization> {
        self.paths.get(&(service.host.clone(), port)).copied()
    }

    /// Whether `host` is a service's.
    fn is_service(&self, host: &str) -> bool {
        ServiceName::parse(host).is_ok_and(|name| self.mesh.services.contains_key(&name))
    }

    /// The policies for proxies of a namespace.
    fn policies(&self, namespace: &Namespace) -> Arc<PolicySlice> {
        if let Some(known) = self.shared.borrow().policies.get(namespace) {
            return known.clone();
        }
        let before = self
            .before
            .and_then(|before| before.policies.get(namespace));
        // The hash covers all that a part of the set is made of, but for whose endpoints are outside of the mesh.
        let same = self
            .before
            .is_some_and(|before| before.plain_namespaces == self.plain_namespaces);
        let kept = before.filter(|before| same && before.mesh_hash == self.mesh.policy_hash);
        let slice = match kept {
            Some(before) => Arc::clone(before),
            None => {
                let made = Arc::new(self.policy_slice(namespace));
                let slice = before.filter(|before| **before == made).cloned();
                slice.unwrap_or(made)
            }
        };
        let mut shared = self.shared.borrow_mut();
        shared.policies.insert(namespace.clone(), slice.clone());
        slice
    }

    /// The mesh's policies, the namespace's own, and those of endpoints outside the mesh that its workloads may call.
    fn policy_slice(&self, namespace: &Namespace) -> PolicySlice {
        let concerned = |n: &Namespace| n == namespace || self.plain_namespaces.contains(n);
        let concerns = |scope: &Option<Namespace>| scope.as_ref().is_none_or(concerned);
        PolicySlice {
            mesh_hash: self.mesh.policy_hash.clone(),
            policies: self
                .mesh
                .policies
                .iter()
                .filter(|p| concerns(&p.scope))
                .cloned()
                .collect(),
            schema: self.mesh.policy_schema.clone(),
            entities: self.entities(concerns),
        }
    }

    /// What the policies of these scopes can learn of entities.
    fn entities(&self, concerns: impl Fn(&Option<Namespace>) -> bool) -> Arc<Vec<EntityRecord>> {
        let mut asked = AskedOf::default();
        let scopes = self.mesh.asked_of.iter();
        let scopes = scopes.filter(|(scope, _)| concerns(scope));
        scopes.for_each(|(_, of_scope)| asked.merge(of_scope));
        let mut shared = self.shared.borrow_mut();
        if let Some((_, known)) = shared.entities.iter().find(|(known, _)| *known == asked) {
            return Arc::clone(known);
        }
        let narrowed = Arc::new(asked.narrowed(&self.mesh.entities));
        shared.entities.push((asked, Arc::clone(&narrowed)));
        narrowed
    }
}

/// Where requests and their copies go.
pub(crate) fn destinations(route: &HttpRoute) -> impl Iterator<Item = &To> {
    let to = match &route.to {
        RouteTo::Forward(to) => to.as_slice(),
        RouteTo::Redirect { .. } | RouteTo::Respond { .. } | RouteTo::Delegate(..) => &[],
    };
    let mirrors = route.mirrors.iter().flatten();
    to.iter().chain(mirrors.map(|mirror| &mirror.to))
}

fn service_config(mesh: &Mesh, service: &Service) -> ServiceConfig {
    let selected = mesh.workloads.iter().filter(|w| service.selects(w));
    let mut identities: BTreeSet<_> = selected.filter_map(|w| w.identity.clone()).collect();
    for (entry, endpoint) in service
        .entry
        .iter()
        .flat_map(|e| e.endpoints.iter().map(move |p| (e, p)))
    {
        identities.extend(entries::identities(mesh, service, entry, endpoint));
    }
    let rule = mesh.rules.get(&service.host);
    let mut config = ServiceConfig {
        name: service.host.clone(),
        namespace: service.namespace.clone(),
        ports: service
            .ports
            .iter()
            .map(|p| ServicePort {
                port: p.port,
                name: p.name.clone(),
                protocol: p.protocol,
            })
            .collect(),
        patterns: service.looked_up().to_vec(),
        identities: identities.into_iter().collect(),
        traffic: rule.map(|r| r.traffic.clone()).unwrap_or_default(),
        port_traffic: rule.map(|r| r.port_traffic.clone()).unwrap_or_default(),
        subsets: rule.map(|r| r.subsets.clone()).unwrap_or_default(),
    };
    if let Some(entry) = &service.entry {
        config
            .policies_mut()
            .for_each(|policy| entries::name_servers(entry, policy));
    }
    if service.headless {
        let each = headless::subsets(mesh, service, &config.traffic, &config.port_traffic);
        config.subsets.extend(each);
    }
    config
}

fn endpoints(
    mesh: &Mesh,
    service: &Service,
    placed: &[(&Instance, &LocalWorkload)],
) -> EndpointSet {
    let healthy = placed
        .iter()
        .filter(|(i, w)| i.healthy && service.selects(w));
    let endpoint = |(instance, workload): &(&Instance, &LocalWorkload)| {
        let at = |port: u16| match workload.role {
            WorkloadRole::Sidecar | WorkloadRole::Gateway => port,
            // Without a proxy in front, the application's own port is asked.
            WorkloadRole::None => app_port(workload, port),
        };
        let ports = service.ports.iter();
        Endpoint {
            instance: instance.instance.clone(),
            address: IpAddr::V4(instance.address),
            ports: ports
                .filter_map(|p| Some((p.port, at(p.on(workload)?))))
                .collect(),
            labels: workload.labels.clone(),
            identity: workload.identity.clone(),
            weight: 1,
        }
    };
    let mut set = EndpointSet {
        service: service.host.clone(),
        endpoints: healthy.map(endpoint).collect(),
        names: Vec::new(),
    };
    if let Some(entry) = &service.entry {
        entries::add(mesh, service, entry, &mut set);
    }
    if service.headless {
        headless::label(&mut set);
    }
    set
}

/// Where the application listens for what comes to the workload's `port`.
fn app_port(workload: &LocalWorkload, port: u16) -> u16 {
    let declared = workload.ports.iter().find(|p| p.port == port);
    declared.map_or(port, |p| p.app_port)
}

/// The workload's labels with Istio's canonical service and revision filled in
/// (<https://istio.io/latest/docs/concepts/observability/>, "canonical service").
fn canonical_labels(workload: &LocalWorkload) -> BTreeMap<String, String> {
    let mut labels = workload.labels.clone();
    let first = |keys: [&str; 3]| keys.iter().find_map(|k| workload.labels.get(*k)).cloned();
    let name = [
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ];
    let revision = [
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ];
    let service = first(name).unwrap_or_else(|| workload.name.to_string());
    labels.insert("service.istio.io/canonical-name".to_owned(), service);
    let revision = first(revision).unwrap_or_else(|| "latest".to_owned());
    labels.insert("service.istio.io/canonical-revision".to_owned(), revision);
    labels
}
