//! Which workloads an object of `security.istio.io` holds for: `selector`, `targetRef`, `targetRefs`.

use std::{collections::BTreeMap, sync::Arc};

use reeve_core::{Namespace, ServiceName};

use super::{
    gateway_api,
    hosts::{advice, full},
    values::Notes,
};
use crate::{
    Code,
    kinds::{KubernetesGatewaySpec, Object, PolicyTargetSpec, SelectorSpec},
    mesh::{Scope, Service},
    source::path::Path,
};

type Services = BTreeMap<ServiceName, Arc<Service>>;

/// What says which workloads are meant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Targeting<'a> {
    pub(crate) selector: Option<&'a SelectorSpec>,
    pub(crate) target_ref: Option<&'a PolicyTargetSpec>,
    pub(crate) target_refs: &'a [PolicyTargetSpec],
    /// The mesh's `Gateway`s of the Gateway API.
    pub(crate) gateways: &'a [Object<KubernetesGatewaySpec>],
}

/// The scopes of an object; it holds for a workload that one of them covers.
pub(crate) fn scopes<S>(
    notes: &mut Notes<'_, S>,
    root: &Namespace,
    services: &Services,
    targeting: Targeting<'_>,
) -> Vec<Scope> {
    let Targeting {
        selector,
        target_ref,
        target_refs,
        gateways,
    } = targeting;
    let refs = Path::of(&["spec", "targetRefs"]);
    let one = target_ref.map(|target| (Path::of(&["spec", "targetRef"]), target));
    let many = target_refs.iter().enumerate();
    let all: Vec<_> = one
        .into_iter()
        .chain(many.map(|(n, target)| (refs.index(n), target)))
        .collect();
    let ways = [
        selector.is_some(),
        target_ref.is_some(),
        !target_refs.is_empty(),
    ];
    if ways.into_iter().filter(|given| *given).count() > 1 {
        notes.error(
            &refs,
            Code::Conflict,
            "give one of selector, targetRef and targetRefs",
        );
    }
    if all.is_empty() {
        let namespace = &notes.object.namespace;
        return vec![Scope {
            namespace: (namespace != root).then(|| namespace.clone()),
            selector: selector.map(|s| s.match_labels.clone()).unwrap_or_default(),
        }];
    }
    let mut found = Vec::new();
    for (path, target) in &all {
        match (target.group.as_str(), target.kind.as_str()) {
            (gateway_api::GROUP, "GatewayClass") => {
                found.extend(of_class(notes, path, target, (root, gateways)));
            }
            _ => found.extend(scope(notes, path, target, services)),
        }
    }
    found
}

/// The gateways of a class, wherever they are. SECURITY: who may say something of all of them speaks for the whole mesh.
fn of_class<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    target: &PolicyTargetSpec,
    (root, gateways): (&Namespace, &[Object<KubernetesGatewaySpec>]),
) -> Vec<Scope> {
    if notes.object.namespace != *root {
        let text = format!("a class of gateways is a target in the root namespace ({root}) alone");
        let hint = "move the object there, or name the Gateway";
        notes.hint(&path.key("kind"), Code::Invalid, text, hint);
        return Vec::new();
    }
    let is_of = |g: &&Object<KubernetesGatewaySpec>| {
        g.spec.gateway_class_name.as_deref() == Some(target.name.as_str())
    };
    let found: Vec<Scope> = gateways
        .iter()
        .filter(is_of)
        .map(|gateway| Scope {
            namespace: Some(gateway.namespace.clone()),
            selector: [(gateway_api::LABEL.to_owned(), gateway.name.clone())].into(),
        })
        .collect();
    if found.is_empty() {
        let text = format!("no Gateway is of class {:?}", target.name);
        let hint = "see spec.gatewayClassName of the Gateways";
        notes.hint(&path.key("name"), Code::UnknownReference, text, hint);
    }
    found
}

/// SECURITY: a target is of the object's own namespace; a target that is not there is a fault, and never means all.
fn scope<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    target: &PolicyTargetSpec,
    services: &Services,
) -> Option<Scope> {
    let namespace = notes.object.namespace.clone();
    let elsewhere = target.namespace.as_deref();
    if elsewhere.is_some_and(|other| !other.is_empty() && other != namespace.as_str()) {
        let text = "a target is of the object's own namespace";
        notes.error(&path.key("namespace"), Code::Invalid, text);
        return None;
    }
    if target.name.is_empty() {
        notes.error(&path.key("name"), Code::Missing, "the target has no name");
        return None;
    }
    let selector = match (target.group.as_str(), target.kind.as_str()) {
        ("" | "core", "Service") => {
            let host = full(&target.name, &namespace);
            let found = services.values().find(|s| s.host.as_str() == host);
            let own = found.filter(|s| s.namespace == namespace && !s.selector.is_empty());
            if own.is_none() {
                let text =
                    format!("there is no service {host} with a selector in namespace {namespace}");
                let hint = advice(&host, services);
                notes.hint(&path.key("name"), Code::UnknownReference, text, &hint);
            }
            own?.selector.clone()
        }
        ("gateway.networking.k8s.io", "Gateway") => {
            [(gateway_api::LABEL.to_owned(), target.name.clone())].into()
        }
        (group, kind) => {
            let text = format!("{kind:?} of group {group:?} is no target");
            let hint = "use kind: Service, or group: gateway.networking.k8s.io with kind: Gateway or GatewayClass";
            notes.hint(&path.key("kind"), Code::Unsupported, text, hint);
            return None;
        }
    };
    Some(Scope {
        namespace: Some(namespace),
        selector,
    })
}
