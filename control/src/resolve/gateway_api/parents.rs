//! What a route is attached to: listeners of a `Gateway`, or a `Service` for its callers in the mesh.

use reeve_core::Namespace;

use super::{
    GROUP, Kind, Known, Listener, RouteSpec, Rules, host_of, namespace_of, virtual_service,
};
use crate::{
    Code,
    kinds::ParentRefSpec,
    mesh::{At, VirtualService},
    resolve::{
        gateway_api::gateways,
        hosts::{advice, falls_under},
        values::Notes,
    },
    source::path::Path,
};

pub(super) fn attach<S: RouteSpec>(
    notes: &mut Notes<'_, S>,
    rules: Rules,
    known: &Known<'_>,
) -> Vec<VirtualService> {
    let spec = &notes.object.spec;
    let path = Path::of(&["spec", "parentRefs"]);
    if spec.parents().is_empty() {
        notes.error(&path, Code::Missing, "the route has no parents");
    }
    check_hosts(notes, spec.hostnames());
    let hosts = every_or(spec.hostnames());
    let mut listeners = Vec::new();
    let mut all = Vec::new();
    for (n, parent) in spec.parents().iter().enumerate() {
        let path = path.index(n);
        let Some(namespace) = namespace_of(notes, &path, parent.namespace.as_deref()) else {
            continue;
        };
        let group = parent.group.as_deref().unwrap_or(GROUP);
        match (group, parent.kind.as_deref().unwrap_or("Gateway")) {
            (GROUP, "Gateway") => {
                let found = listeners_of(notes, &path, parent, &namespace, known);
                let taking = taking(notes, &path, &found, &hosts, S::KIND);
                let key = |l: &&Listener| (l.gateway.namespace.clone(), l.gateway.name.clone());
                listeners.extend(taking.iter().map(key));
            }
            ("", "Service") => {
                if !spec.hostnames().is_empty() && !S::KIND.is_stream() {
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

/// No hostname = every one.
pub(super) fn every_or(hostnames: &[String]) -> Vec<String> {
    match hostnames {
        [] => vec!["*".to_owned()],
        names => names.iter().map(|n| n.to_ascii_lowercase()).collect(),
    }
}

fn check_hosts<S>(notes: &mut Notes<'_, S>, hostnames: &[String]) {
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
}

/// The listeners that the reference names.
fn listeners_of<'k, S: RouteSpec>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    parent: &ParentRefSpec,
    namespace: &Namespace,
    known: &Known<'k>,
) -> Vec<&'k Listener> {
    let of_gateway = |name: &str| gateways::listener(name, &parent.name).map(str::to_owned);
    let all = known.listeners.iter();
    let all = all.filter(|l| l.gateway.namespace == *namespace);
    let all: Vec<_> = all
        .filter_map(|l| Some((l, of_gateway(&l.gateway.name)?)))
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
    let port = |l: &Listener| l.gateway.servers.first().map(|s| s.port);
    let found: Vec<_> = all
        .iter()
        .filter(|(l, name)| wanted(name, port(l)))
        .map(|(l, _)| *l)
        .collect();
    if found.is_empty() {
        let names: Vec<_> = all.iter().map(|(_, name)| name.as_str()).collect();
        let text = format!(
            "no listener of {} is what this {} asks for",
            parent.name,
            S::KIND.name()
        );
        let hint = format!("its listeners: {}", names.join(", "));
        notes.warn(path, Code::UnknownReference, text, &hint);
    }
    found
}

/// Those of them that take the route: by its kind, its namespace and its hostnames.
fn taking<'k, S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    found: &[&'k Listener],
    hosts: &[String],
    kind: Kind,
) -> Vec<&'k Listener> {
    if found.is_empty() {
        return Vec::new();
    }
    let own = notes.object.namespace.clone();
    let of_kind = found.iter().filter(|l| l.kinds.contains(&kind));
    let of_kind: Vec<_> = of_kind.copied().collect();
    let admits = |l: &&&Listener| {
        let mut hosts = l.gateway.servers.iter().flat_map(|s| &s.hosts);
        hosts.any(|(namespace, _)| namespace.as_deref().is_none_or(|n| n == own.as_str()))
    };
    let admitting: Vec<_> = of_kind.iter().filter(admits).copied().collect();
    let meets = |l: &&&Listener| {
        let mut taken = l.gateway.servers.iter().flat_map(|s| &s.hosts);
        taken.any(|(_, one)| hosts.iter().any(|other| overlap(one, other)))
    };
    let taking: Vec<_> = admitting.iter().filter(meets).copied().collect();
    let why = if of_kind.is_empty() {
        format!("no listener there takes a {}", kind.name())
    } else if admitting.is_empty() {
        format!("no listener there takes routes of namespace {own}")
    } else {
        "no listener there has a hostname of this route".to_owned()
    };
    if taking.is_empty() {
        let hint = "see the listener's protocol, hostname and allowedRoutes";
        notes.warn(path, Code::Conflict, why, hint);
    }
    taking
}

/// Whether one of two hosts or patterns falls under the other.
fn overlap(one: &str, other: &str) -> bool {
    one == other || falls_under(one, other) || falls_under(other, one)
}

/// For the service's callers in the mesh (GAMMA, <https://gateway-api.sigs.k8s.io/mesh/>).
fn of_service<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    parent: &ParentRefSpec,
    namespace: &Namespace,
    rules: &Rules,
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
    let alike = |v: &VirtualService| {
        !(v.http.is_empty() || rules.http.is_empty())
            || !(v.tls.is_empty() || rules.tls.is_empty())
            || !(v.tcp.is_empty() || rules.tcp.is_empty())
    };
    let mut routing = known.taken.iter().filter(|v| v.in_mesh && alike(v));
    if let Some(other) = routing.find(|v| v.hosts.iter().any(|h| h == host.as_str())) {
        let text = format!(
            "{host} is routed by VirtualService {}/{} already",
            other.namespace, other.name
        );
        notes.hint(path, Code::Conflict, text, "route a service by one kind");
    }
    Some(VirtualService {
        in_mesh: true,
        ..virtual_service(notes, vec![host.to_string()], at_port(rules, parent.port))
    })
}

/// The rules, for one port of the service if the reference names one.
fn at_port(rules: &Rules, port: Option<u16>) -> Rules {
    let mut rules = rules.clone();
    for one in rules.http.iter_mut().flat_map(|rule| &mut rule.matches) {
        one.at.port = port;
    }
    for one in rules.tls.iter_mut().flat_map(|rule| &mut rule.matches) {
        one.at.port = port;
    }
    for rule in &mut rules.tcp {
        rule.matches = vec![At {
            port,
            ..At::default()
        }];
    }
    rules
}
