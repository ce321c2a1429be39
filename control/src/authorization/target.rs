//! Where an `AuthorizationPolicy` holds: labels become the services and workloads that have them.
//!
//! A selector becomes the services that select nothing but what it picks, and for what is left the workloads by their
//! identity. Where they share that with others which are not picked, the selector becomes a service of its own, without
//! ports ([`selections`]): of several workloads of one identity, each proxy knows behind which services its own stands.

use std::{collections::BTreeSet, sync::Arc};

use reeve_core::{Namespace, ServiceName, SpiffeId};

use super::{
    World,
    cedar::{Expr, quoted},
};
use crate::{
    Code, LocalWorkload, Service,
    kinds::{AuthorizationPolicySpec, Object, PolicyTargetSpec},
    mesh::{Scope, is_subset},
    resolve::{ENTRY_SUFFIX, Notes, Targeting, scopes},
    source::path::Path,
};

/// The group of `ServiceEntry`.
const ENTRY_GROUP: &str = "networking.istio.io";
/// The end of the name of a service that stands for a policy's labels: `POLICY.NAMESPACE.selector`.
const SELECTION_SUFFIX: &str = "selector";

/// Where an object holds.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The namespace, if it is not the whole mesh.
    pub(super) scope: Option<Namespace>,
    /// The resource of a policy's head, and what else must hold of it; `None` if it holds for nothing.
    pub(super) resource: Option<(String, Expr)>,
    /// The workloads, by their labels.
    pub(super) picks: Vec<Scope>,
}

impl Target {
    /// What a resource must satisfy, as a condition alone.
    pub(super) fn told(&self) -> Option<(&Option<Namespace>, Expr)> {
        let (head, test) = self.resource.clone()?;
        let head = match head.as_str() {
            "resource" => Expr::ALWAYS,
            text => Expr::test(text),
        };
        Some((&self.scope, Expr::all([head, test])))
    }
}

/// The target of an object; `None` if there is a fault.
pub(super) fn of(
    notes: &mut Notes<'_, AuthorizationPolicySpec>,
    world: World<'_>,
) -> Option<Target> {
    let object = notes.object;
    let spec = &object.spec;
    let before = notes.faults.len();
    let (scopes, outside) = meant(notes, world);
    if notes.faults.len() > before {
        return None;
    }
    let scope = (object.namespace != *world.root).then(|| object.namespace.clone());
    if scopes.iter().any(|scope| scope.selector.is_empty()) {
        return Some(Target {
            scope,
            resource: Some(("resource".to_owned(), Expr::ALWAYS)),
            picks: scopes,
        });
    }
    let Picked {
        services,
        identities,
    } = Picked::by(&scopes, world);
    // Selections are there already, unless their names are taken.
    if let Some((id, other)) = shared(world, &scopes, &identities) {
        let text = format!(
            "the labels pick {id}, and {other}, which they do not pick, has that identity too"
        );
        let hint = "give the workloads service accounts of their own, or put a Service in front of those that are meant";
        notes.hint(&place(spec), Code::Unsupported, text, hint);
        return None;
    }
    let hosts = services.iter().map(|service| &service.host).chain(&outside);
    let mut tests: Vec<String> = hosts
        .map(|host| format!("resource in Service::{}", quoted(host.as_str())))
        .collect();
    let ids = identities.iter();
    tests.extend(ids.map(|id| format!("resource == Workload::{}", quoted(id.as_str()))));
    if let Some(host) = assumed(world, &scopes).filter(|_| tests.is_empty()) {
        let text = format!(
            "no workload that is known has these labels: they are taken for those of the service {host}"
        );
        let hint = "check it, or name the mesh's folder with -f";
        notes.warn(&place(spec), Code::UnknownReference, text, hint);
        tests.push(format!("resource in Service::{}", quoted(&host)));
    }
    if tests.is_empty() {
        let text = "the labels pick nothing: the policy has no effect";
        let hint = "see metadata.labels of the workloads, and spec.selector of the services";
        notes.warn(&place(spec), Code::UnknownReference, text, hint);
    }
    Some(Target {
        scope,
        resource: resource(&tests),
        picks: scopes,
    })
}

/// The workloads that an object's selector and targets mean, and the services outside the mesh.
fn meant(
    notes: &mut Notes<'_, AuthorizationPolicySpec>,
    world: World<'_>,
) -> (Vec<Scope>, Vec<ServiceName>) {
    let spec = &notes.object.spec;
    let is_entry = |target: &PolicyTargetSpec| {
        (target.group.as_str(), target.kind.as_str()) == (ENTRY_GROUP, "ServiceEntry")
    };
    let mut outside = Vec::new();
    let refs = Path::of(&["spec", "targetRefs"]);
    let one = spec.target_ref.iter();
    let one = one.map(|target| (Path::of(&["spec", "targetRef"]), target));
    let many = spec.target_refs.iter().enumerate();
    let all: Vec<_> = one.chain(many.map(|(n, t)| (refs.index(n), t))).collect();
    let entries = all.iter().filter(|(_, target)| is_entry(target));
    for (path, target) in entries {
        outside.extend(entry(notes, path, target, world));
    }
    let (only_entries, named) = (all.iter().all(|(_, t)| is_entry(t)), !all.is_empty());
    if named && only_entries && spec.selector.is_none() {
        return (Vec::new(), outside);
    }
    let others = spec.target_refs.iter().filter(|t| !is_entry(t));
    let others: Vec<_> = others.cloned().collect();
    let targeting = Targeting {
        selector: spec.selector.as_ref(),
        target_ref: spec.target_ref.as_ref().filter(|t| !is_entry(t)),
        target_refs: &others,
        gateways: world.gateways,
    };
    let scopes = scopes(notes, world.root, world.services, targeting);
    (scopes, outside)
}

/// What policies call the hosts of a `ServiceEntry` of the object's namespace.
fn entry(
    notes: &mut Notes<'_, AuthorizationPolicySpec>,
    path: &Path,
    target: &PolicyTargetSpec,
    world: World<'_>,
) -> Vec<ServiceName> {
    let namespace = &notes.object.namespace;
    if notes.object.spec.action.as_deref() == Some("CUSTOM") {
        let text = "nobody is asked about calls that leave the mesh: the caller's proxy decides by its policies alone";
        let hint = "select the callers' gateway, or use ALLOW or DENY";
        notes.hint(&path.key("kind"), Code::Unsupported, text, hint);
        return Vec::new();
    }
    let elsewhere = target.namespace.as_deref().unwrap_or_default();
    if !elsewhere.is_empty() && elsewhere != namespace.as_str() {
        let text = "a target is of the object's own namespace";
        notes.error(&path.key("namespace"), Code::Invalid, text);
        return Vec::new();
    }
    let mut entries = world.entries.iter();
    let found = entries.find(|e| e.name == target.name && e.namespace == *namespace);
    let Some(found) = found else {
        let text = format!("there is no ServiceEntry {namespace}/{}", target.name);
        let hint = "see metadata.name of the ServiceEntries of the namespace";
        notes.hint(&path.key("name"), Code::UnknownReference, text, hint);
        return Vec::new();
    };
    let wildcards = format!("{}.{namespace}.{ENTRY_SUFFIX}", found.name);
    let is_of = |service: &&Arc<Service>| {
        let named = found.spec.hosts.iter();
        let mut named = named.map(|host| host.to_ascii_lowercase());
        let own = service.entry.is_some() && service.namespace == *namespace;
        own && (service.host.as_str() == wildcards
            || named.any(|host| host.trim_end_matches('.') == service.host.as_str()))
    };
    let services = world.services.values().filter(is_of);
    services.map(|service| service.host.clone()).collect()
}

/// The services for selectors which no identities tell: each stands before what an object picks by labels, and has no ports.
pub(crate) fn selections(
    objects: &[Object<AuthorizationPolicySpec>],
    world: World<'_>,
) -> Vec<(ServiceName, Arc<Service>)> {
    let mut found = Vec::new();
    for object in objects {
        // What is wrong is told when the object is translated.
        let mut faults = Vec::new();
        let mut notes = Notes {
            object,
            faults: &mut faults,
        };
        let (scopes, _) = meant(&mut notes, world);
        if scopes.iter().any(|scope| scope.selector.is_empty()) {
            continue;
        }
        let picked = Picked::by(&scopes, world);
        if shared(world, &scopes, &picked.identities).is_none() {
            continue;
        }
        for scope in &scopes {
            let namespaces: BTreeSet<&Namespace> = world
                .workloads
                .iter()
                .filter(|w| scope.covers(w))
                .map(|w| &w.namespace)
                .collect();
            for namespace in namespaces {
                found.extend(selection(object, namespace, scope, world));
            }
        }
    }
    found
}

fn selection(
    object: &Object<AuthorizationPolicySpec>,
    namespace: &Namespace,
    scope: &Scope,
    world: World<'_>,
) -> Option<(ServiceName, Arc<Service>)> {
    let mut name = object.name.clone();
    if object.namespace != *namespace {
        name = format!("{name}.{}", object.namespace);
    }
    let host = format!("{name}.{namespace}.{SELECTION_SUFFIX}");
    let host = ServiceName::parse(&host).ok()?;
    if world.services.contains_key(&host) {
        return None;
    }
    let service = Service {
        host: host.clone(),
        namespace: namespace.clone(),
        name: host.to_string(),
        selector: scope.selector.clone(),
        ports: Vec::new(),
        headless: false,
        export_to: Vec::new(),
        entry: None,
    };
    Some((host, Arc::new(service)))
}

/// What scopes come to.
#[derive(Debug)]
struct Picked<'a> {
    /// The services that select nothing else.
    services: Vec<&'a Service>,
    /// The workloads for which none of these stands.
    identities: BTreeSet<&'a SpiffeId>,
}

impl<'a> Picked<'a> {
    fn by(scopes: &[Scope], world: World<'a>) -> Self {
        let picked: Vec<&LocalWorkload> = world
            .workloads
            .iter()
            .filter(|w| w.identity.is_some() && scopes.iter().any(|scope| scope.covers(w)))
            .collect();
        let services = services(world, scopes, &picked);
        let left = picked
            .iter()
            .filter(|w| !services.iter().any(|service| service.selects(w)));
        let identities = left.filter_map(|w| w.identity.as_ref()).collect();
        Self {
            services,
            identities,
        }
    }
}

/// A policy's resource that satisfies one of `tests`.
pub(super) fn resource(tests: &[String]) -> Option<(String, Expr)> {
    match tests {
        [] => None,
        [only] => Some((only.clone(), Expr::ALWAYS)),
        many => {
            let any = Expr::any(many.iter().map(|test| Expr::test(test.as_str())));
            Some(("resource".to_owned(), any))
        }
    }
}

/// The service that has the name of an application's label, where that is all there is to go by.
fn assumed(world: World<'_>, scopes: &[Scope]) -> Option<String> {
    let [
        Scope {
            namespace: Some(namespace),
            selector,
        },
    ] = scopes
    else {
        return None;
    };
    let names = ["app", "app.kubernetes.io/name", "k8s-app"];
    let only = selector.iter().next().filter(|_| selector.len() == 1);
    let (key, value) = only.filter(|_| world.assume)?;
    names
        .contains(&key.as_str())
        .then(|| format!("{value}.{namespace}.svc.cluster.local"))
}

fn place(spec: &AuthorizationPolicySpec) -> Path {
    match (&spec.selector, &spec.target_ref) {
        (Some(_), _) => Path::of(&["spec", "selector"]),
        (None, Some(_)) => Path::of(&["spec", "targetRef"]),
        (None, None) => Path::of(&["spec", "targetRefs"]),
    }
}

/// The services all of whose workloads the labels pick; one that says just the labels makes others needless.
fn services<'a>(world: World<'a>, scopes: &[Scope], picked: &[&LocalWorkload]) -> Vec<&'a Service> {
    let within = |service: &Service, scope: &Scope| {
        let own = scope.namespace.as_ref();
        own.is_none_or(|namespace| *namespace == service.namespace)
            && !service.selector.is_empty()
            && is_subset(&scope.selector, &service.selector)
            && (!is_selection(service) || service.selector == scope.selector)
    };
    let all = world.services.values().map(AsRef::as_ref);
    let mut found: Vec<&Service> = all
        .filter(|service| scopes.iter().any(|scope| within(service, scope)))
        .collect();
    // Those that pick the most come first; of those, the ones that say just the labels.
    found.sort_by_key(|service| (service.selector.len(), service.host.clone()));
    let mut kept: Vec<&Service> = Vec::new();
    for service in found {
        let wider = |k: &&Service| {
            k.namespace == service.namespace && is_subset(&k.selector, &service.selector)
        };
        if !kept.iter().any(wider) {
            kept.push(service);
        }
    }
    // A service of no workload that is known stands for those that will come.
    kept.retain(|service| {
        let exact = scopes
            .iter()
            .any(|scope| scope.selector == service.selector);
        exact || picked.iter().any(|w| service.selects(w))
    });
    kept
}

/// Whether a service stands for the labels of a policy alone.
fn is_selection(service: &Service) -> bool {
    let host = service.host.as_str();
    service.entry.is_none() && host.rsplit('.').next() == Some(SELECTION_SUFFIX)
}

/// An identity that a workload has too which is not picked.
fn shared<'a>(
    world: World<'a>,
    scopes: &[Scope],
    identities: &BTreeSet<&'a SpiffeId>,
) -> Option<(&'a SpiffeId, String)> {
    let others = world.workloads.iter();
    let others = others.filter(|w| !scopes.iter().any(|scope| scope.covers(w)));
    others
        .filter_map(|w| {
            let id = w.identity.as_ref()?;
            identities
                .contains(id)
                .then(|| (id, format!("workload {}", w.name)))
        })
        .next()
}
