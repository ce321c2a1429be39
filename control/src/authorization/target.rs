//! Where an `AuthorizationPolicy` holds: labels become the services and workloads that have them.
//!
//! Policies know no labels. A selector becomes the services that select nothing but what it picks, and for what is left
//! the workloads by their identity, unless they share that with others.

use std::collections::BTreeSet;

use reeve_core::{Namespace, SpiffeId};

use super::{
    World,
    cedar::{Expr, quoted},
};
use crate::{
    Code, LocalWorkload, Service, WorkloadRole,
    kinds::AuthorizationPolicySpec,
    mesh::{Scope, is_subset},
    resolve::{Notes, Targeting, scopes},
    source::path::Path,
};

/// Where an object holds.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The namespace, if it is not the whole mesh.
    pub(super) scope: Option<Namespace>,
    /// The resource of a policy's head, and what else must hold of it; `None` if it holds for nothing.
    pub(super) resource: Option<(String, Expr)>,
    /// Whether it holds for gateways alone.
    pub(super) gateways: bool,
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
    let targeting = Targeting {
        selector: spec.selector.as_ref(),
        target_ref: spec.target_ref.as_ref(),
        target_refs: &spec.target_refs,
    };
    let before = notes.faults.len();
    let scopes = scopes(notes, world.root, world.services, targeting);
    if notes.faults.len() > before {
        return None;
    }
    let scope = (object.namespace != *world.root).then(|| object.namespace.clone());
    if scopes.iter().any(|scope| scope.selector.is_empty()) {
        return Some(Target {
            scope,
            resource: Some(("resource".to_owned(), Expr::ALWAYS)),
            gateways: false,
            picks: scopes,
        });
    }
    let picked: Vec<&LocalWorkload> = world
        .workloads
        .iter()
        .filter(|w| w.identity.is_some() && scopes.iter().any(|scope| scope.covers(w)))
        .collect();
    let gateways = !picked.is_empty() && picked.iter().all(|w| w.role == WorkloadRole::Gateway);
    let services = services(world, &scopes, &picked);
    let left = picked
        .iter()
        .filter(|w| !services.iter().any(|service| service.selects(w)));
    let identities: BTreeSet<&SpiffeId> = left.filter_map(|w| w.identity.as_ref()).collect();
    if let Some((id, other)) = shared(world, &scopes, &identities) {
        let text = format!(
            "the labels pick {id}, and {other}, which they do not pick, has that identity too"
        );
        let hint = "give the workloads service accounts of their own, or put a Service in front of those that are meant";
        notes.hint(&place(spec), Code::Unsupported, text, hint);
        return None;
    }
    let mut tests: Vec<String> = services
        .iter()
        .map(|s| format!("resource in Service::{}", quoted(s.host.as_str())))
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
        gateways,
        picks: scopes,
    })
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
