//! Objects to one valid [`Mesh`], or every fault there is.

mod access_log;
mod discovery;
mod entities;
mod entries;
mod exempt;
pub(crate) mod external;
mod federation;
mod gateway_api;
mod groups;
pub(crate) mod hosts;
mod local;
mod outsiders;
mod paths;
mod policies;
mod rate_limits;
mod registrations;
mod roles;
mod routes;
mod rules;
mod secrets;
mod security;
mod services;
mod settings;
mod sidecars;
mod targets;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;
mod traffic;
mod transformations;
mod values;

pub(crate) use entries::ENTRY_SUFFIX;
pub(crate) use exempt::exemption;
pub(crate) use targets::{Targeting, scopes};
pub(crate) use values::Notes;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use reeve_core::{ServiceName, model::FederatedDomain};

use crate::{
    Code, Fault, Mesh, MeshSettings,
    authorization::World,
    kinds::{Object, Objects},
    mesh::{Gateway, RequestAuthentication, Service, VirtualService},
    source::{Source, path::Path},
};

/// What came of resolving: every finding, and the mesh if none of them is an error.
pub(crate) struct Resolved {
    pub(crate) mesh: Option<Mesh>,
    pub(crate) findings: Vec<Fault>,
}

/// What came of it, faults or not; the mesh is of use only to who looks for more of them.
pub(crate) struct Built {
    pub(crate) objects: Objects,
    pub(crate) mesh: Mesh,
    pub(crate) findings: Vec<Fault>,
}

/// Reads and checks everything that `source` holds.
pub(crate) fn built(source: &Source) -> Built {
    let mut findings = source.faults.clone();
    let (mut objects, faults) = Objects::read(&source.documents);
    findings.extend(faults);
    federation::read_files(&mut objects, &mut findings);
    duplicates(&objects, &mut findings);
    let mut mesh = build(&objects, &mut findings);
    outsiders::check(&objects, &mesh, &mut findings);
    findings.sort_by(|a, b| {
        (&a.file, a.line, &a.path, a.code).cmp(&(&b.file, b.line, &b.path, b.code))
    });
    findings.dedup();
    drop_consequences(&mut findings);
    let warnings = findings.iter().filter(|f| !f.is_error());
    mesh.warnings = warnings.cloned().collect();
    Built {
        objects,
        mesh,
        findings,
    }
}

/// Resolves everything that `source` holds.
pub(crate) fn resolve(source: &Source) -> Resolved {
    let Built { mesh, findings, .. } = built(source);
    let refused = findings.iter().any(Fault::is_error);
    Resolved {
        mesh: (!refused).then_some(mesh),
        findings,
    }
}

impl Built {
    /// What was read, or is to be, beside the source: a change of these is one of the configuration.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        federation::files(&self.objects)
    }
}

/// Where a value has the wrong type, its stand-in is judged too: that says nothing to anybody.
fn drop_consequences(findings: &mut Vec<Fault>) {
    let place = |f: &Fault| (f.file.clone(), f.line, f.path.clone());
    let wrong = findings.iter().filter(|f| f.code == Code::WrongType);
    let wrong: BTreeSet<_> = wrong.map(place).collect();
    findings.retain(|f| f.code == Code::WrongType || !wrong.contains(&place(f)));
}

fn build(objects: &Objects, faults: &mut Vec<Fault>) -> Mesh {
    let mut services = services::resolve(&objects.services, faults);
    let (slices, pods) = (&objects.slices, &objects.pods);
    discovery::resolve(&objects.services, slices, pods, &mut services, faults);
    let workloads = groups::complete(&objects.workload_groups, &objects.workload_entries, faults);
    entries::resolve(&objects.service_entries, &workloads, &mut services, faults);
    let known = (&services, objects.secrets.as_slice());
    let settings = settings::resolve(&objects.mesh_configs, known, faults);
    let workloads = local::resolve(&objects.local_meshes, &settings, faults);
    services::check_targets(&objects.services, &services, &workloads, faults);
    let all_rules = rules::resolve(&objects.destination_rules, &services, faults);
    let rules = rules::unscoped(&all_rules, &services);
    let root = &settings.root_namespace;
    let sidecars = sidecars::resolve(&objects.sidecars, root, faults);
    let secrets = secrets::resolve(&objects.secrets, faults);
    let federated = federation::resolve(objects, &settings, &secrets, faults);
    let gateways = routes::gateways(&objects.gateways, faults);
    routes::check_secrets(&objects.gateways, &gateways, &secrets, &workloads, faults);
    let known = routes::Known {
        services: &services,
        rules: &rules,
        gateways: &gateways,
    };
    let mut virtual_services = routes::resolve(&objects.virtual_services, &known, faults);
    let mut gateways = gateways.clone();
    let taken = (virtual_services.as_slice(), &mut gateways);
    let attached = attached(objects, &services, taken, faults);
    virtual_services.extend(attached);
    let peers = security::peers(&objects.peer_authentications, root, &workloads, faults);
    let path_normalizations = paths::rules(&objects.path_normalizations, root, &workloads, faults);
    let requests = requests(objects, &settings, (&services, &federated), faults);
    services.extend(selections(objects, &settings, (&services, &workloads)));
    let (policies, all_entities, asked_of) =
        access(objects, &settings, (&services, &workloads), faults);
    let custom = custom(objects, &settings, (&services, &workloads), faults);
    let (rate_limits, global_rate_limits) =
        rate_limits::resolve(&objects.rate_limits, (&services, &workloads), faults);
    let entries = &objects.registration_entries;
    let registrations = registrations::resolve(entries, &settings, &workloads, faults);
    let (objects, known) = (&objects.transformations, (&services, workloads.as_slice()));
    let transformations = transformations::resolve(objects, root, known, faults);
    Mesh {
        settings,
        federated,
        rate_limits,
        global_rate_limits,
        transformations,
        workloads,
        policies: policies.policies,
        policy_schema: policies.schema,
        entities: policies.entities,
        policy_hash: policies.mesh_hash,
        all_entities,
        asked_of,
        warnings: Vec::new(),
        services,
        virtual_services,
        rules,
        all_rules,
        sidecars,
        gateways,
        secrets,
        peer_authentications: peers,
        path_normalizations,
        custom,
        request_authentications: requests,
        registrations: Arc::new(registrations),
    }
}

/// The routes of Gateway API's objects; their listeners are `gateways` beside the others.
fn attached(
    objects: &Objects,
    services: &hosts::Services,
    (taken, gateways): (&[VirtualService], &mut Vec<Gateway>),
    faults: &mut Vec<Fault>,
) -> Vec<VirtualService> {
    let listeners = gateway_api::listeners(objects, faults);
    gateways.extend(listeners.iter().map(|l| l.gateway.clone()));
    let known = gateway_api::Known {
        services,
        listeners: &listeners,
        grants: &objects.reference_grants,
        taken,
    };
    gateway_api::all_routes(objects, &known, faults)
}

/// Services for the labels of policies which no identities tell.
fn selections(
    objects: &Objects,
    settings: &MeshSettings,
    known: (&hosts::Services, &[crate::LocalWorkload]),
) -> Vec<(ServiceName, Arc<Service>)> {
    let policies = &objects.authorization_policies;
    crate::authorization::selections(policies, world(objects, settings, known))
}

/// Which requests providers are asked about.
fn custom(
    objects: &Objects,
    settings: &MeshSettings,
    known: (&hosts::Services, &[crate::LocalWorkload]),
    faults: &mut Vec<Fault>,
) -> Vec<external::CustomPolicy> {
    let policies = &objects.authorization_policies;
    external::resolve(policies, settings, world(objects, settings, known), faults)
}

fn world<'a>(
    objects: &'a Objects,
    settings: &'a MeshSettings,
    (services, workloads): (&'a hosts::Services, &'a [crate::LocalWorkload]),
) -> World<'a> {
    World {
        trust_domain: &settings.trust_domain,
        root: &settings.root_namespace,
        services,
        workloads,
        access: &objects.access_policies,
        bindings: &objects.access_role_bindings,
        entries: &objects.service_entries,
        gateways: &objects.kubernetes_gateways,
        assume: false,
    }
}

/// Which tokens workloads take.
fn requests(
    objects: &Objects,
    settings: &MeshSettings,
    (services, federated): (&BTreeMap<ServiceName, Arc<Service>>, &[FederatedDomain]),
    faults: &mut Vec<Fault>,
) -> Vec<RequestAuthentication> {
    let others = federated.iter().map(|domain| &domain.trust_domain);
    let domains: Vec<_> = others.chain([&settings.trust_domain]).collect();
    let known = tokens::Known {
        root: &settings.root_namespace,
        services,
        gateways: &objects.kubernetes_gateways,
        domains: &domains,
    };
    tokens::resolve(&objects.request_authentications, known, faults)
}

/// Every policy and what they rest on, with the hash of it.
fn access(
    objects: &Objects,
    settings: &MeshSettings,
    (services, workloads): (&hosts::Services, &[crate::LocalWorkload]),
    faults: &mut Vec<Fault>,
) -> policies::Resolved {
    let root = &settings.root_namespace;
    let schema = entities::schema(&objects.access_schemas, root, faults);
    let stated = entities::stated(&objects.access_entities, root, faults);
    let labelled = entities::Labelled {
        objects,
        services,
        workloads,
        home: &settings.trust_domain,
    };
    let Some(schema) = schema else {
        // Against another schema than the one meant, every policy would seem to be wrong.
        return Default::default();
    };
    let world = world(objects, settings, (services, workloads));
    let others = policies::Others {
        authorization: &objects.authorization_policies,
        roles: &objects.access_roles,
        entities: &stated,
        labelled: &labelled,
    };
    policies::resolve(&schema, others, world, faults)
}

/// Two objects of one kind, namespace and name.
fn duplicates(objects: &Objects, faults: &mut Vec<Fault>) {
    twice(&objects.services, faults);
    twice(&objects.service_accounts, faults);
    twice(&objects.virtual_services, faults);
    twice(&objects.destination_rules, faults);
    twice(&objects.gateways, faults);
    twice(&objects.kubernetes_gateways, faults);
    twice(&objects.http_routes, faults);
    twice(&objects.grpc_routes, faults);
    twice(&objects.tls_routes, faults);
    twice(&objects.tcp_routes, faults);
    twice(&objects.gateway_classes, faults);
    twice(&objects.secrets, faults);
    twice(&objects.service_entries, faults);
    twice(&objects.sidecars, faults);
    twice(&objects.slices, faults);
    twice(&objects.pods, faults);
    twice(&objects.workload_entries, faults);
    twice(&objects.workload_groups, faults);
    twice(&objects.peer_authentications, faults);
    twice(&objects.path_normalizations, faults);
    twice(&objects.request_authentications, faults);
    twice(&objects.authorization_policies, faults);
    twice(&objects.access_policies, faults);
    twice(&objects.access_roles, faults);
    twice(&objects.access_role_bindings, faults);
    twice(&objects.access_schemas, faults);
    twice(&objects.access_entities, faults);
    twice(&objects.namespaces, faults);
    twice(&objects.registration_entries, faults);
    twice(&objects.rate_limits, faults);
    twice(&objects.transformations, faults);
    twice(&objects.federated, faults);
    twice(&objects.local_meshes, faults);
}

fn twice<S>(objects: &[Object<S>], faults: &mut Vec<Fault>) {
    let mut seen = BTreeMap::new();
    for object in objects {
        let key = (&object.namespace, &object.name);
        if let Some(first) = seen.insert(key, object) {
            let place = format!("{}:{}", first.document.file, first.document.root.line);
            let text = format!("this object stands here twice, first in {place}");
            let path = Path::of(&["metadata", "name"]);
            faults.push(object.error(&path, Code::DuplicateObject, text));
        }
    }
}

/// `exportTo` of an object: `.`, `*`, `~` or namespaces.
fn exports<S>(notes: &mut Notes<'_, S>, said: &[String]) -> Vec<String> {
    for (n, namespace) in said.iter().enumerate() {
        let legal = matches!(namespace.as_str(), "." | "*" | "~")
            || reeve_core::Namespace::parse(namespace).is_ok();
        if !legal {
            let text = format!("{namespace:?} is not a namespace, . or *");
            let path = Path::of(&["spec", "exportTo"]).index(n);
            notes.error(&path, Code::Invalid, text);
        }
    }
    said.to_vec()
}
