//! `Sidecar`.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use reeve_core::{
    Namespace, ServiceName,
    model::{OutboundPolicy, Protocol, TrafficPolicy},
};

use super::{
    hosts::full,
    local::MESH_PORTS,
    traffic,
    values::{Notes, protocol},
};
use crate::{
    Code, Fault,
    kinds::{ConnectionPoolSpec, Object, SidecarIngressSpec, SidecarSpec},
    mesh::{EgressHost, IngressListener, SidecarScope},
    source::path::Path,
};

pub(super) fn resolve(
    objects: &[Object<SidecarSpec>],
    root: &Namespace,
    faults: &mut Vec<Fault>,
) -> Vec<SidecarScope> {
    let mut sidecars: Vec<SidecarScope> = Vec::new();
    let mut ordered: Vec<_> = objects.iter().collect();
    ordered.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    for object in ordered {
        let mut notes = Notes { object, faults };
        let sidecar = sidecar(&mut notes);
        if sidecar.selector.is_empty()
            && sidecars
                .iter()
                .any(|s| s.selector.is_empty() && s.namespace == sidecar.namespace)
        {
            let text = format!("namespace {} has a Sidecar already", sidecar.namespace);
            let hint = "keep one Sidecar without a workloadSelector in a namespace";
            notes.hint(&Path::of(&["spec"]), Code::Conflict, text, hint);
        }
        if !sidecar.selector.is_empty() && sidecar.namespace == *root {
            let path = Path::of(&["spec", "workloadSelector"]);
            let text = "in the root namespace a Sidecar selects no workloads";
            notes.error(&path, Code::Conflict, text);
        }
        sidecars.push(sidecar);
    }
    sidecars
}

fn sidecar(notes: &mut Notes<'_, SidecarSpec>) -> SidecarScope {
    let object = notes.object;
    let spec = &object.spec;
    let selector = spec.workload_selector.as_ref();
    let mut hosts = Vec::new();
    for (n, listener) in spec.egress.iter().enumerate() {
        let path = Path::of(&["spec", "egress"]).index(n).key("hosts");
        if listener.hosts.is_empty() {
            notes.error(&path, Code::Missing, "there are no hosts");
        }
        for (h, text) in listener.hosts.iter().enumerate() {
            hosts.extend(host(notes, &path.index(h), text));
        }
    }
    let words = [
        ("ALLOW_ANY", OutboundPolicy::AllowAny),
        ("REGISTRY_ONLY", OutboundPolicy::RegistryOnly),
    ];
    let policy = spec.outbound_traffic_policy.as_ref();
    let path = Path::of(&["spec", "outboundTrafficPolicy", "mode"]);
    let policy = policy.and_then(|p| p.mode.as_ref());
    SidecarScope {
        namespace: object.namespace.clone(),
        selector: selector.map(|s| s.labels.clone()).unwrap_or_default(),
        egress: (!spec.egress.is_empty()).then_some(hosts),
        outbound_policy: policy.and_then(|text| notes.word(&path, text, &words)),
        ingress: ingress(notes),
        pool: pool(
            notes,
            &Path::of(&["spec", "inboundConnectionPool"]),
            spec.inbound_connection_pool.as_ref(),
        ),
    }
}

/// The bounds that a pool says, with Istio's defaults.
fn pool(
    notes: &mut Notes<'_, SidecarSpec>,
    path: &Path,
    spec: Option<&ConnectionPoolSpec>,
) -> Option<Arc<TrafficPolicy>> {
    let mut policy = TrafficPolicy::default();
    traffic::connection_pool(notes, path, spec?, &mut policy);
    Some(Arc::new(policy))
}

fn ingress(notes: &mut Notes<'_, SidecarSpec>) -> Option<Vec<IngressListener>> {
    let specs = &notes.object.spec.ingress;
    let mut all: Vec<IngressListener> = Vec::new();
    for (n, spec) in specs.iter().enumerate() {
        let path = Path::of(&["spec", "ingress"]).index(n);
        let Some(listener) = listener(notes, &path, spec) else {
            continue;
        };
        if all
            .iter()
            .any(|l| (l.bind, l.port) == (listener.bind, listener.port))
        {
            let text = format!("the port {} stands here twice", listener.port);
            notes.error(&path.key("port"), Code::Conflict, text);
            continue;
        }
        all.push(listener);
    }
    (!specs.is_empty()).then_some(all)
}

fn listener(
    notes: &mut Notes<'_, SidecarSpec>,
    path: &Path,
    spec: &SidecarIngressSpec,
) -> Option<IngressListener> {
    let Some(port) = &spec.port else {
        notes.error(&path.key("port"), Code::Missing, "the listener has no port");
        return None;
    };
    let number = path.key("port").key("number");
    if port.number == 0 {
        notes.error(&number, Code::Invalid, "a port is 1 to 65535");
    }
    if MESH_PORTS.contains(&port.number) {
        let text = format!("port {} is the sidecar's own", port.number);
        notes.error(&number, Code::Conflict, text);
    }
    let told = protocol(&port.name, Some(&port.protocol));
    if told.is_none() {
        let text = format!("{:?} is not a protocol", port.protocol);
        let hint = "use HTTP, HTTP2, GRPC, HTTPS, TLS or TCP";
        notes.hint(&path.key("port").key("protocol"), Code::Invalid, text, hint);
    }
    if spec
        .capture_mode
        .as_deref()
        .is_some_and(|mode| mode != "DEFAULT")
    {
        let text = "how traffic is captured is said for the mesh as a whole";
        notes.hint(
            &path.key("captureMode"),
            Code::Unsupported,
            text,
            "use DEFAULT",
        );
    }
    Some(IngressListener {
        port: port.number,
        protocol: told.unwrap_or(Protocol::Tcp),
        bind: bind(notes, &path.key("bind"), &spec.bind),
        app_port: default_endpoint(notes, &path.key("defaultEndpoint"), &spec.default_endpoint),
        pool: pool(
            notes,
            &path.key("connectionPool"),
            spec.connection_pool.as_ref(),
        ),
    })
}

/// An address of the workload's machine; all of them are the workload's own.
fn bind(notes: &mut Notes<'_, SidecarSpec>, path: &Path, text: &str) -> Option<IpAddr> {
    if text.is_empty() {
        return None;
    }
    match text.parse::<IpAddr>() {
        Ok(address) => Some(address).filter(|address| !address.is_unspecified()),
        Err(_) => {
            let said = format!("{text:?} is no IP address");
            notes.error(path, Code::Invalid, said);
            None
        }
    }
}

/// `127.0.0.1:PORT`, `0.0.0.0:PORT` and the same of IPv6: where the application listens.
fn default_endpoint(notes: &mut Notes<'_, SidecarSpec>, path: &Path, text: &str) -> Option<u16> {
    if text.is_empty() {
        return None;
    }
    if text.starts_with("unix://") {
        let said = "a Unix socket is not supported in this version";
        notes.hint(path, Code::Unsupported, said, "such as 127.0.0.1:8080");
        return None;
    }
    let found = text
        .parse::<SocketAddr>()
        .ok()
        .filter(|to| (to.ip().is_loopback() || to.ip().is_unspecified()) && to.port() != 0);
    if found.is_none() {
        let said = format!("{text:?} is no port of the workload's own");
        notes.hint(
            path,
            Code::Invalid,
            said,
            "such as 127.0.0.1:8080 or 0.0.0.0:8080",
        );
    }
    found.map(|to| to.port())
}

/// `NAMESPACE/HOST`; `~/*` names nothing.
fn host(notes: &mut Notes<'_, SidecarSpec>, path: &Path, text: &str) -> Option<EgressHost> {
    let own = &notes.object.namespace;
    let Some((namespace, host)) = text.split_once('/') else {
        let said = format!("{text:?} is not NAMESPACE/HOST");
        notes.hint(path, Code::Invalid, said, "such as ./* or istio-system/*");
        return None;
    };
    let namespace = match namespace {
        "~" => return None,
        "*" => None,
        "." => Some(own.clone()),
        named => match Namespace::parse(named) {
            Ok(namespace) => Some(namespace),
            Err(error) => {
                notes.error(path, Code::Invalid, error.to_string());
                return None;
            }
        },
    };
    let host = full(host, namespace.as_ref().unwrap_or(own));
    let rest = host.strip_prefix("*.").unwrap_or(&host);
    if host != "*" && ServiceName::parse(rest).is_err() {
        let said = format!("{host:?} is not a host, *.suffix or *");
        notes.error(path, Code::Invalid, said);
    }
    Some(EgressHost { namespace, host })
}
