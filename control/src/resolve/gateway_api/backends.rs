//! Backends of routes: services, with weights.

use reeve_core::ServiceName;

use super::{
    Kind, Known, filters,
    grants::{self, is_granted},
    host_of, namespace_of,
};
use crate::{
    Code,
    kinds::BackendRefSpec,
    mesh::To,
    resolve::{hosts::advice, values::Notes},
    source::path::Path,
};

/// Stands for a backend that may not, or cannot, be asked: it has no endpoints, so its share is answered 503.
const NOBODY: &str = "backend.invalid";

pub(super) fn all<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    specs: &[BackendRefSpec],
    kind: Kind,
    known: &Known<'_>,
) -> Vec<To> {
    let each = specs.iter().enumerate();
    let mut backends: Vec<To> = each
        .filter_map(|(n, spec)| {
            let path = path.index(n);
            let to = one(notes, &path, spec, kind, known)?;
            let path = path.key("filters");
            if kind.is_stream() && !spec.filters.is_empty() {
                let text = format!("a backend of a {} has no filters", kind.name());
                notes.error(&path, Code::Invalid, text);
                return None;
            }
            let headers = filters::of_backend(notes, &path, &spec.filters);
            Some(To { headers, ..to })
        })
        .collect();
    // Nobody's share counts only where somebody has one.
    if backends.iter().all(|to| to.service.as_str() == NOBODY) {
        backends.clear();
    }
    backends
}

/// A service and its port; the one that stands for nobody if it may not be asked.
pub(super) fn one<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    spec: &BackendRefSpec,
    kind: Kind,
    known: &Known<'_>,
) -> Option<To> {
    let group = spec.group.as_deref().unwrap_or_default();
    let named = spec.kind.as_deref().unwrap_or("Service");
    if !(group.is_empty() && named == "Service") {
        let text = format!("a backend of kind {named} is not supported in this version");
        notes.hint(&path.key("kind"), Code::Unsupported, text, "use a Service");
        return None;
    }
    let own = notes.object.namespace.clone();
    let namespace = namespace_of(notes, path, spec.namespace.as_deref())?;
    let Some(host) = host_of(&spec.name, &namespace) else {
        let text = format!("{:?} is no name of a service", spec.name);
        notes.error(&path.key("name"), Code::Invalid, text);
        return None;
    };
    let Some(port) = spec.port else {
        notes.error(
            path,
            Code::Missing,
            "a backend that is a Service needs a port",
        );
        return None;
    };
    let weight = spec.weight.unwrap_or(1);
    let mut to = To {
        service: host.clone(),
        subset: None,
        port: Some(port),
        weight,
        headers: None,
    };
    let from = grants::From {
        kind: kind.name(),
        namespace: &own,
    };
    let referred = grants::To {
        kind: "Service",
        namespace: &namespace,
        name: &spec.name,
    };
    let granted = is_granted(known.grants, from, referred);
    if !granted {
        let text = format!(
            "no ReferenceGrant in {namespace} lets a {} of {own} refer to {}; its share is not served",
            kind.name(),
            spec.name
        );
        notes.warn(
            path,
            Code::UnknownReference,
            text,
            "add one in the service's namespace",
        );
        to.service = nobodys_host()?;
        return Some(to);
    }
    if !is_there(notes, path, &host, port, known) {
        to.service = nobodys_host()?;
    }
    Some(to)
}

/// Whether the service and its port are there.
fn is_there<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    host: &ServiceName,
    port: u16,
    known: &Known<'_>,
) -> bool {
    match known.services.get(host) {
        None => {
            let text = format!("there is no service {host}; its share is not served");
            let hint = advice(host.as_str(), known.services);
            notes.warn(&path.key("name"), Code::UnknownReference, text, &hint);
            false
        }
        Some(service) if service.port(port).is_none() => {
            let text = format!("{host} has no port {port}; its share is not served");
            let ports: Vec<_> = service.ports.iter().map(|p| p.port.to_string()).collect();
            let hint = format!("its ports: {}", ports.join(", "));
            notes.warn(&path.key("port"), Code::UnknownReference, text, &hint);
            false
        }
        Some(_) => true,
    }
}

/// A destination that nobody is.
pub(super) fn nobody() -> Option<To> {
    Some(To {
        service: nobodys_host()?,
        subset: None,
        port: Some(1),
        weight: 1,
        headers: None,
    })
}

fn nobodys_host() -> Option<ServiceName> {
    ServiceName::parse(NOBODY).ok()
}
