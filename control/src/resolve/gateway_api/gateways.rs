//! `Gateway` of Gateway API. Each listener becomes a `Gateway` of one server, for the workloads that bear the label
//! `gateway.networking.k8s.io/gateway-name` with the gateway's name, in its namespace.

use std::collections::BTreeMap;

use reeve_core::model::{Protocol, TlsVersion};

use super::{
    GROUP, Kind, Listener, classes,
    grants::{self, is_granted},
    namespace_of,
};
use crate::{
    Code, Fault,
    kinds::{
        CertificateRefSpec, KubernetesGatewaySpec, ListenerSpec, Object, Objects,
        ReferenceGrantSpec,
    },
    mesh::{Credential, Gateway, GatewayCertificates, GatewayServer, GatewayTls},
    resolve::{local::MESH_PORTS, values::Notes},
    source::path::Path,
};

/// The label by which a gateway's workloads are told.
pub(crate) const LABEL: &str = "gateway.networking.k8s.io/gateway-name";

type Grants<'a> = &'a [Object<ReferenceGrantSpec>];

/// The listener's name, if `name` is that of a listener of `gateway`.
pub(super) fn listener<'n>(name: &'n str, gateway: &str) -> Option<&'n str> {
    name.strip_prefix(gateway)?.strip_prefix('~')
}

/// The listeners of every `Gateway` that is served here.
pub(in crate::resolve) fn listeners(objects: &Objects, faults: &mut Vec<Fault>) -> Vec<Listener> {
    for object in &objects.gateway_classes {
        classes::check(&mut Notes { object, faults });
    }
    let mut all = Vec::new();
    for object in &objects.kubernetes_gateways {
        let mut notes = Notes { object, faults };
        if classes::is_served(&mut notes, &objects.gateway_classes) {
            all.extend(of_gateway(&mut notes, &objects.reference_grants));
        }
    }
    all
}

fn of_gateway(notes: &mut Notes<'_, KubernetesGatewaySpec>, grants: Grants<'_>) -> Vec<Listener> {
    let object = notes.object;
    let path = Path::of(&["spec", "listeners"]);
    if object.spec.listeners.is_empty() {
        notes.error(&path, Code::Missing, "the gateway has no listeners");
    }
    let mut all: Vec<Listener> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for (n, spec) in object.spec.listeners.iter().enumerate() {
        let path = path.index(n);
        if spec.name.is_empty() {
            notes.error(&path.key("name"), Code::Missing, "the listener has no name");
        } else if names.contains(&spec.name.as_str()) {
            let text = format!("there are two listeners {:?}", spec.name);
            notes.error(&path.key("name"), Code::Conflict, text);
        }
        names.push(&spec.name);
        let Some((server, kinds)) = server(notes, &path, spec, grants) else {
            continue;
        };
        let before = all.iter().flat_map(|l| &l.gateway.servers);
        if let Some(why) = before.filter_map(|other| clash(other, &server)).next() {
            notes.error(&path.key("port"), Code::Conflict, why);
        }
        all.push(Listener {
            gateway: Gateway {
                namespace: object.namespace.clone(),
                name: format!("{}~{}", object.name, spec.name),
                selector: BTreeMap::from([(LABEL.to_owned(), object.name.clone())]),
                servers: vec![server],
            },
            kinds,
        });
    }
    all
}

/// Why two listeners of a gateway cannot be told apart.
fn clash(one: &GatewayServer, other: &GatewayServer) -> Option<String> {
    let port = other.port;
    let host = |s: &GatewayServer| s.hosts.first().map(|(_, host)| host.clone());
    if one.port != port {
        None
    } else if one.sort() != other.sort() {
        let (one, other) = (one.sort(), other.sort());
        Some(format!(
            "port {port} speaks {one} for one listener and {other} for another"
        ))
    } else {
        (host(one) == host(other))
            .then(|| format!("another listener has port {port} and this hostname"))
    }
}

fn server(
    notes: &mut Notes<'_, KubernetesGatewaySpec>,
    path: &Path,
    spec: &ListenerSpec,
    grants: Grants<'_>,
) -> Option<(GatewayServer, Vec<Kind>)> {
    if spec.port == 0 {
        notes.error(&path.key("port"), Code::Invalid, "a port is 1 to 65535");
    }
    if MESH_PORTS.contains(&spec.port) {
        let text = format!("port {} is the proxy's own", spec.port);
        notes.error(&path.key("port"), Code::Conflict, text);
    }
    let (protocol, tls, kinds) = spoken(notes, path, spec, grants)?;
    let path = path.key("allowedRoutes");
    let namespace = allowed(notes, &path, spec);
    let kinds = allowed_kinds(notes, &path, spec, kinds);
    let host = spec.hostname.as_deref().filter(|host| !host.is_empty());
    let server = GatewayServer {
        bind: None,
        port: spec.port,
        protocol,
        tls,
        https_redirect: false,
        hosts: vec![(namespace, host.unwrap_or("*").to_ascii_lowercase())],
    };
    Some((server, kinds))
}

/// What a listener speaks, how its TLS is ended, and which routes it can take.
fn spoken(
    notes: &mut Notes<'_, KubernetesGatewaySpec>,
    path: &Path,
    spec: &ListenerSpec,
    grants: Grants<'_>,
) -> Option<(Protocol, GatewayTls, &'static [Kind])> {
    const REQUESTS: &[Kind] = &[Kind::Http, Kind::Grpc];
    let tls_path = path.key("tls");
    let mode = spec.tls.as_ref().and_then(|t| t.mode.as_deref());
    let mode = mode.unwrap_or("Terminate");
    if matches!(spec.protocol.as_str(), "HTTP" | "TCP") && spec.tls.is_some() {
        let text = format!("a listener of {} has no tls", spec.protocol);
        notes.hint(&tls_path, Code::Conflict, text, "use HTTPS or TLS");
    }
    if spec.protocol == "TCP" && spec.hostname.is_some() {
        let text = "a listener of TCP has no hostname: nobody names one";
        notes.hint(&path.key("hostname"), Code::Conflict, text, "use TLS");
    }
    match (spec.protocol.as_str(), mode) {
        ("HTTP", _) => Some((Protocol::Http, GatewayTls::None, REQUESTS)),
        ("TCP", _) => Some((Protocol::Tcp, GatewayTls::None, &[Kind::Tcp])),
        ("TLS", "Passthrough") => Some((Protocol::Tls, GatewayTls::Passthrough, &[Kind::Tls])),
        ("HTTPS" | "TLS", mode) => {
            if mode != "Terminate" {
                let text = format!("{mode} is not what a listener of {} does", spec.protocol);
                notes.hint(&tls_path.key("mode"), Code::Invalid, text, "use Terminate");
            }
            let ended = GatewayTls::Public(certificates(notes, &tls_path, spec, grants));
            Some(match spec.protocol.as_str() {
                "HTTPS" => (Protocol::Http, ended, REQUESTS),
                _ => (Protocol::Tcp, ended, &[Kind::Tcp]),
            })
        }
        (other, _) => {
            let (code, text) = match other == "UDP" {
                true => (Code::Unsupported, "is not supported in this version"),
                false => (Code::Invalid, "is no protocol"),
            };
            let text = format!("{other} {text}");
            let hint = "use HTTP, HTTPS, TLS or TCP";
            notes.hint(&path.key("protocol"), code, text, hint);
            None
        }
    }
}

/// TLS is ended by Secrets of the gateway's own namespace, and of others that grant it.
fn certificates(
    notes: &mut Notes<'_, KubernetesGatewaySpec>,
    path: &Path,
    spec: &ListenerSpec,
    grants: Grants<'_>,
) -> GatewayCertificates {
    let tls = spec.tls.as_ref();
    let path = path.key("certificateRefs");
    let references = tls
        .map(|t| t.certificate_refs.as_slice())
        .unwrap_or_default();
    if references.is_empty() {
        let text = "a listener that ends TLS needs a certificate";
        notes.hint(
            &path,
            Code::Missing,
            text,
            "name a Secret of type kubernetes.io/tls",
        );
    }
    let each = references.iter().enumerate();
    let all = each.filter_map(|(n, spec)| certificate(notes, &path.index(n), spec, grants));
    let all = all.collect();
    GatewayCertificates {
        certificates: all,
        client: None,
        min_version: TlsVersion::V1_2,
        max_version: TlsVersion::V1_3,
        cipher_suites: Vec::new(),
    }
}

fn certificate(
    notes: &mut Notes<'_, KubernetesGatewaySpec>,
    path: &Path,
    spec: &CertificateRefSpec,
    grants: Grants<'_>,
) -> Option<Credential> {
    let kind = spec.kind.as_deref().unwrap_or("Secret");
    if kind != "Secret" || !spec.group.as_deref().unwrap_or_default().is_empty() {
        let text = format!("a certificate of kind {kind} is not supported in this version");
        notes.hint(&path.key("kind"), Code::Unsupported, text, "use a Secret");
    }
    let own = notes.object.namespace.clone();
    let namespace = namespace_of(notes, path, spec.namespace.as_deref())?;
    let from = grants::From {
        kind: "Gateway",
        namespace: &own,
    };
    let to = grants::To {
        kind: "Secret",
        namespace: &namespace,
        name: &spec.name,
    };
    // SECURITY: a key is the gateway's only if its own namespace says so.
    if !is_granted(grants, from, to) {
        let text = format!(
            "no ReferenceGrant in {namespace} lets a Gateway of {own} use the Secret {}",
            spec.name
        );
        let hint = "add one in the Secret's namespace";
        notes.hint(&path.key("namespace"), Code::UnknownReference, text, hint);
        return None;
    }
    Some(Credential::Secret {
        namespace: Some(namespace),
        name: spec.name.clone(),
    })
}

/// The namespace whose routes may be attached, if it is one alone.
fn allowed(
    notes: &mut Notes<'_, KubernetesGatewaySpec>,
    path: &Path,
    spec: &ListenerSpec,
) -> Option<String> {
    let routes = spec.allowed_routes.as_ref();
    let from = routes.and_then(|a| a.namespaces.as_ref()?.from.as_deref());
    let own = notes.object.namespace.as_str().to_owned();
    match from.unwrap_or("Same") {
        "All" => None,
        "Same" => Some(own),
        // No namespace has this name.
        "None" => Some(String::new()),
        "Selector" => {
            let text = "Selector is known, but not supported in this version";
            notes.hint(
                &path.key("namespaces").key("from"),
                Code::Unsupported,
                text,
                "use Same or All",
            );
            None
        }
        other => {
            let text = format!("{other:?} is not allowed here");
            notes.hint(
                &path.key("namespaces").key("from"),
                Code::Invalid,
                text,
                "use Same, All or None",
            );
            None
        }
    }
}

/// The kinds of routes that a listener takes: what it says, of those that it `can`.
fn allowed_kinds(
    notes: &mut Notes<'_, KubernetesGatewaySpec>,
    path: &Path,
    spec: &ListenerSpec,
    can: &[Kind],
) -> Vec<Kind> {
    let said = spec.allowed_routes.iter().flat_map(|a| &a.kinds);
    let mut kinds = Vec::new();
    for (n, spec_of_kind) in said.enumerate() {
        let group = spec_of_kind.group.as_deref().unwrap_or(GROUP);
        let named = |kind: &&Kind| kind.name() == spec_of_kind.kind && group == GROUP;
        let known = Kind::ALL.iter().find(named).filter(|k| can.contains(k));
        if known.is_none() {
            let text = format!(
                "such a listener of {} takes no {}",
                spec.protocol, spec_of_kind.kind
            );
            notes.error(&path.key("kinds").index(n), Code::Invalid, text);
        }
        kinds.extend(known);
    }
    let all = spec
        .allowed_routes
        .as_ref()
        .is_none_or(|a| a.kinds.is_empty());
    match all {
        true => can.to_vec(),
        false => kinds,
    }
}
