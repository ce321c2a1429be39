//! `VirtualService` and `Gateway`.

mod credentials;
mod delegate;
mod http;
mod resilience;
mod servers;
mod tcp;
mod tls;

use std::collections::BTreeMap;

use reeve_core::{Namespace, ServiceName};

use super::{
    hosts::{Services, advice, full},
    values::Notes,
};
use crate::{
    Code, Fault,
    kinds::{DestinationSpec, Object, VirtualServiceSpec},
    mesh::{DestinationRule, Gateway, Precedence, To, VirtualService},
    source::path::Path,
};
pub(super) use resilience::millionths;
pub(super) use servers::{check_secrets, gateways};

/// What routes may refer to.
pub(super) struct Known<'a> {
    pub(super) services: &'a Services,
    pub(super) rules: &'a BTreeMap<ServiceName, DestinationRule>,
    pub(super) gateways: &'a [Gateway],
}

/// The reserved name of all sidecars.
pub(super) const MESH: &str = "mesh";

pub(super) fn resolve(
    objects: &[Object<VirtualServiceSpec>],
    known: &Known<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<VirtualService> {
    let mut resolved: Vec<VirtualService> = Vec::new();
    for object in objects {
        let mut notes = Notes { object, faults };
        let service = virtual_service(&mut notes, known);
        if service.in_mesh {
            for (n, host) in service.hosts.iter().enumerate() {
                let same =
                    |v: &&VirtualService| v.in_mesh && v.hosts.contains(host) && meets(v, &service);
                if let Some(other) = resolved.iter().find(same) {
                    let text = format!(
                        "{host} is routed by VirtualService {}/{} already",
                        other.namespace, other.name
                    );
                    let path = Path::of(&["spec", "hosts"]).index(n);
                    notes.hint(
                        &path,
                        Code::Conflict,
                        text,
                        "keep one VirtualService per host",
                    );
                }
            }
        }
        resolved.push(service);
    }
    delegate::merge(objects, &mut resolved, faults);
    resolved.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    resolved
}

/// Whether some proxies see both. Of two that are seen in the own namespace, that which stands there holds.
fn meets(one: &VirtualService, other: &VirtualService) -> bool {
    let all = |v: &VirtualService| v.export_to.is_empty() || v.export_to.iter().any(|n| n == "*");
    one.namespace == other.namespace || (all(one) && all(other))
}

fn virtual_service(notes: &mut Notes<'_, VirtualServiceSpec>, known: &Known<'_>) -> VirtualService {
    let object = notes.object;
    let spec = &object.spec;
    let hosts = hosts(notes);
    let export_to = super::exports(notes, &spec.export_to);
    let gateways_path = Path::of(&["spec", "gateways"]);
    let (in_mesh, gateways) = gateway_names(notes, &gateways_path, &spec.gateways, known);
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        notes.error(
            &Path::of(&["spec"]),
            Code::Missing,
            "there is no route: neither http nor tls nor tcp",
        );
    }
    let http = spec.http.iter().enumerate().map(|(n, route)| {
        let path = Path::of(&["spec", "http"]).index(n);
        http::route(notes, &path, route, known)
    });
    let http: Vec<_> = http.collect();
    http::check_reachable(notes);
    let tls = spec.tls.iter().enumerate().map(|(n, route)| {
        let path = Path::of(&["spec", "tls"]).index(n);
        tls::route(notes, &path, route, &hosts, known)
    });
    let tls = tls.collect();
    let tcp = spec.tcp.iter().enumerate().map(|(n, route)| {
        let path = Path::of(&["spec", "tcp"]).index(n);
        tcp::route(notes, &path, route, known)
    });
    VirtualService {
        export_to,
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        hosts,
        in_mesh: in_mesh || spec.gateways.is_empty(),
        gateways,
        tcp: tcp.collect(),
        tls,
        http,
        precedence: Precedence::Written,
    }
}

fn hosts(notes: &mut Notes<'_, VirtualServiceSpec>) -> Vec<String> {
    let path = Path::of(&["spec", "hosts"]);
    let object = notes.object;
    let delegates = object.spec.http.iter().any(|r| r.delegate.is_some());
    let may_be_delegate = object.spec.gateways.is_empty()
        && !delegates
        && object.spec.tls.is_empty()
        && object.spec.tcp.is_empty();
    if object.spec.hosts.is_empty() && !may_be_delegate {
        notes.error(&path, Code::Missing, "there are no hosts");
    }
    let mut hosts: Vec<String> = Vec::new();
    for (n, host) in object.spec.hosts.iter().enumerate() {
        let path = path.index(n);
        let host = full(host, &object.namespace);
        let rest = host.strip_prefix("*.").unwrap_or(&host);
        let legal = host == "*"
            || rest.parse::<std::net::IpAddr>().is_ok()
            || ServiceName::parse(rest).is_ok();
        if !legal {
            let text = format!("{host:?} is not a host, *.suffix or *");
            notes.error(&path, Code::Invalid, text);
        } else if hosts.contains(&host) {
            notes.error(&path, Code::Conflict, format!("{host} stands here twice"));
        }
        hosts.push(host);
    }
    hosts
}

/// Whether `mesh` is among them, and the gateways.
fn gateway_names(
    notes: &mut Notes<'_, VirtualServiceSpec>,
    path: &Path,
    names: &[String],
    known: &Known<'_>,
) -> (bool, Vec<(Namespace, String)>) {
    let own = &notes.object.namespace;
    let mut gateways = Vec::new();
    for (n, name) in names.iter().enumerate().filter(|(_, name)| *name != MESH) {
        let path = path.index(n);
        let (namespace, short) = match name.split_once('/') {
            Some((".", short)) => (Ok(own.clone()), short),
            Some((namespace, short)) => (Namespace::parse(namespace), short),
            None => (Ok(own.clone()), name.as_str()),
        };
        let Ok(namespace) = namespace else {
            notes.error(
                &path,
                Code::Invalid,
                format!("{name:?} is not NAME or NAMESPACE/NAME"),
            );
            continue;
        };
        let same = |g: &&Gateway| g.namespace == namespace && g.name == short;
        if known.gateways.iter().find(same).is_none() {
            let text = format!("there is no Gateway {namespace}/{short}");
            notes.warn(
                &path,
                Code::UnknownReference,
                text,
                "nothing is routed there until it is added",
            );
        }
        gateways.push((namespace, short.to_owned()));
    }
    (names.iter().any(|n| n == MESH), gateways)
}

/// Where a destination goes. An unknown host or subset is a warning, as in Istio: its requests are answered 503.
fn destination(
    notes: &mut Notes<'_, VirtualServiceSpec>,
    path: &Path,
    spec: &DestinationSpec,
    weight: u32,
    known: &Known<'_>,
) -> Option<To> {
    let host_path = path.key("host");
    if spec.host.is_empty() {
        notes.error(&host_path, Code::Missing, "the destination has no host");
        return None;
    }
    let host = match ServiceName::parse(&full(&spec.host, &notes.object.namespace)) {
        Ok(host) => host,
        Err(error) => {
            notes.error(&host_path, Code::Invalid, error.to_string());
            return None;
        }
    };
    let port = spec.port.as_ref().map(|p| p.number);
    if port == Some(0) {
        notes.error(
            &path.key("port").key("number"),
            Code::Invalid,
            "a port is 1 to 65535",
        );
    }
    match known.services.get(&host) {
        None => {
            let text = format!("there is no service {host}; requests for it get 503");
            notes.warn(
                &host_path,
                Code::UnknownReference,
                text,
                &advice(host.as_str(), known.services),
            );
        }
        Some(service) => {
            if let Some(port) = port.filter(|p| service.port(*p).is_none()) {
                let ports: Vec<_> = service.ports.iter().map(|p| p.port.to_string()).collect();
                let text = format!("{host} has no port {port}; requests for it get 503");
                let hint = format!("its ports: {}", ports.join(", "));
                notes.warn(
                    &path.key("port").key("number"),
                    Code::UnknownReference,
                    text,
                    &hint,
                );
            }
        }
    }
    if let Some(subset) = &spec.subset {
        let rule = known.rules.get(&host);
        if !rule.is_some_and(|r| r.subsets.iter().any(|s| s.name == *subset)) {
            let text = format!("{host} has no subset {subset:?}; requests for it get 503");
            notes.warn(
                &path.key("subset"),
                Code::UnknownReference,
                text,
                "add it to a DestinationRule of that host",
            );
        }
    }
    Some(To {
        service: host,
        subset: spec.subset.clone(),
        port,
        weight,
        headers: None,
    })
}
