//! What a route is attached to: listeners of a `Gateway`, or a `Service` for its callers in the mesh.

use reeve_core::Namespace;

use super::{GROUP, Kind, Known, host_of, virtual_service};
use crate::{
    Code,
    kinds::ParentRefSpec,
    mesh::{HttpRoute, VirtualService},
    resolve::{gateway_api::gateways, hosts::advice, values::Notes},
    source::path::Path,
};

pub(super) fn attach<S>(
    notes: &mut Notes<'_, S>,
    parents: &[ParentRefSpec],
    hostnames: &[String],
    rules: Vec<HttpRoute>,
    kind: Kind,
    known: &Known<'_>,
) -> Vec<VirtualService> {
    let path = Path::of(&["spec", "parentRefs"]);
    if parents.is_empty() {
        notes.error(&path, Code::Missing, "the route has no parents");
    }
    let hosts = hosts(notes, hostnames);
    let mut listeners = Vec::new();
    let mut all = Vec::new();
    for (n, parent) in parents.iter().enumerate() {
        let path = path.index(n);
        let Some(namespace) = namespace_of(notes, &path, parent) else {
            continue;
        };
        let group = parent.group.as_deref().unwrap_or(GROUP);
        match (group, parent.kind.as_deref().unwrap_or("Gateway")) {
            (GROUP, "Gateway") => {
                listeners.extend(listeners_of(notes, &path, parent, &namespace, kind, known));
            }
            ("", "Service") => {
                if !hostnames.is_empty() {
                    let path = Path::of(&["spec", "hostnames"]);
                    let text = "a route for a Service takes every name of it; hostnames have no effect there";
                    notes.warn(&path, Code::Conflict, text, "remove them");
                }
                all.extend(of_service(notes, &path, parent, &namespace, &rules, known));
            }
            (group, kind) => {
                let text = format!(
                    "a parent of kind {kind} of group {group:?} is not supported in this version"
                );
                notes.hint(
                    &path.key("kind"),
                    Code::Unsupported,
                    text,
                    "use Gateway, or Service with the group \"\"",
                );
            }
        }
    }
    if !listeners.is_empty() {
        all.push(VirtualService {
            gateways: listeners,
            ..virtual_service(notes, hosts, rules)
        });
    }
    all
}

fn namespace_of<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    parent: &ParentRefSpec,
) -> Option<Namespace> {
    match parent.namespace.as_deref().map(Namespace::parse) {
        None => Some(notes.object.namespace.clone()),
        Some(Ok(namespace)) => Some(namespace),
        Some(Err(error)) => {
            notes.error(&path.key("namespace"), Code::Invalid, error.to_string());
            None
        }
    }
}

/// No hostname = every one.
fn hosts<S>(notes: &mut Notes<'_, S>, hostnames: &[String]) -> Vec<String> {
    let path = Path::of(&["spec", "hostnames"]);
    for (n, host) in hostnames.iter().enumerate() {
        let rest = host.strip_prefix("*.").unwrap_or(host);
        let numeric = rest.parse::<std::net::IpAddr>().is_ok();
        if numeric || reeve_core::ServiceName::parse(rest).is_err() {
            let text = format!("{host:?} is no hostname");
            notes.hint(
                &path.index(n),
                Code::Invalid,
                text,
                "a name, or *.suffix; no address and no port",
            );
        }
    }
    match hostnames {
        [] => vec!["*".to_owned()],
        names => names.iter().map(|n| n.to_ascii_lowercase()).collect(),
    }
}

fn listeners_of<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    parent: &ParentRefSpec,
    namespace: &Namespace,
    kind: Kind,
    known: &Known<'_>,
) -> Vec<(Namespace, String)> {
    let of_gateway = |name: &str| gateways::listener(name, &parent.name).map(str::to_owned);
    let all = known.gateways.iter().filter(|g| g.namespace == *namespace);
    let all: Vec<_> = all
        .filter_map(|g| Some((g, of_gateway(&g.name)?)))
        .collect();
    if all.is_empty() {
        let text = format!(
            "there is no Gateway {namespace}/{} of Gateway API",
            parent.name
        );
        notes.warn(
            &path.key("name"),
            Code::UnknownReference,
            text,
            "nothing is routed there until it is added",
        );
        return Vec::new();
    }
    let wanted = |name: &str, port: Option<u16>| {
        parent
            .section_name
            .as_deref()
            .is_none_or(|wanted| wanted == name)
            && parent.port.is_none_or(|wanted| port == Some(wanted))
    };
    let port = |g: &crate::mesh::Gateway| g.servers.first().map(|s| s.port);
    let found: Vec<_> = all
        .iter()
        .filter(|(g, name)| wanted(name, port(g)))
        .map(|(g, _)| (g.namespace.clone(), g.name.clone()))
        .collect();
    if found.is_empty() {
        let names: Vec<_> = all.iter().map(|(_, name)| name.as_str()).collect();
        let text = format!(
            "no listener of {} is what this {} asks for",
            parent.name,
            kind.name()
        );
        let hint = format!("its listeners: {}", names.join(", "));
        notes.warn(path, Code::UnknownReference, text, &hint);
    }
    found
}

/// For the service's callers in the mesh (GAMMA, <https://gateway-api.sigs.k8s.io/mesh/>).
fn of_service<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    parent: &ParentRefSpec,
    namespace: &Namespace,
    rules: &[HttpRoute],
    known: &Known<'_>,
) -> Option<VirtualService> {
    let Some(host) = host_of(&parent.name, namespace) else {
        let text = format!("{:?} is no name of a service", parent.name);
        notes.error(&path.key("name"), Code::Invalid, text);
        return None;
    };
    if !known.services.contains_key(&host) {
        let hint = advice(host.as_str(), known.services);
        let text = format!("there is no service {host}");
        notes.warn(&path.key("name"), Code::UnknownReference, text, &hint);
        return None;
    }
    let same = |v: &&VirtualService| v.in_mesh && v.hosts.iter().any(|h| h == host.as_str());
    if let Some(other) = known.taken.iter().find(same) {
        let text = format!(
            "{host} is routed by VirtualService {}/{} already",
            other.namespace, other.name
        );
        notes.hint(path, Code::Conflict, text, "route a service by one kind");
    }
    let mut rules = rules.to_vec();
    for one in rules.iter_mut().flat_map(|rule| &mut rule.matches) {
        one.at.port = parent.port;
    }
    Some(VirtualService {
        in_mesh: true,
        ..virtual_service(notes, vec![host.to_string()], rules)
    })
}
