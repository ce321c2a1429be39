//! `Gateway` of Gateway API. Each listener becomes a `Gateway` of one server, for the workloads that bear the label
//! `gateway.networking.k8s.io/gateway-name` with the gateway's name, in its namespace.

use std::collections::BTreeMap;

use reeve_core::model::{Protocol, TlsVersion};

use crate::{
    Code, Fault,
    kinds::{KubernetesGatewaySpec, ListenerSpec, Object},
    mesh::{Credential, Gateway, GatewayCertificates, GatewayServer, GatewayTls},
    resolve::{local::MESH_PORTS, values::Notes},
    source::path::Path,
};

/// The label by which a gateway's workloads are told.
const LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// The listener's name, if `name` is that of a listener of `gateway`.
pub(super) fn listener<'n>(name: &'n str, gateway: &str) -> Option<&'n str> {
    name.strip_prefix(gateway)?.strip_prefix('~')
}

pub(in crate::resolve) fn gateways(
    objects: &[Object<KubernetesGatewaySpec>],
    faults: &mut Vec<Fault>,
) -> Vec<Gateway> {
    let mut all = Vec::new();
    for object in objects {
        let mut notes = Notes { object, faults };
        let path = Path::of(&["spec", "listeners"]);
        if object.spec.listeners.is_empty() {
            notes.error(&path, Code::Missing, "the gateway has no listeners");
        }
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
            let Some(server) = server(&mut notes, &path, spec) else {
                continue;
            };
            all.push(Gateway {
                namespace: object.namespace.clone(),
                name: format!("{}~{}", object.name, spec.name),
                selector: BTreeMap::from([(LABEL.to_owned(), object.name.clone())]),
                servers: vec![server],
            });
        }
    }
    all
}

fn server(
    notes: &mut Notes<'_, KubernetesGatewaySpec>,
    path: &Path,
    spec: &ListenerSpec,
) -> Option<GatewayServer> {
    if spec.port == 0 {
        notes.error(&path.key("port"), Code::Invalid, "a port is 1 to 65535");
    }
    if MESH_PORTS.contains(&spec.port) {
        let text = format!("port {} is the proxy's own", spec.port);
        notes.error(&path.key("port"), Code::Conflict, text);
    }
    let tls = match spec.protocol.as_str() {
        "HTTP" => {
            if spec.tls.is_some() {
                let text = "a listener of HTTP has no tls";
                notes.hint(&path.key("tls"), Code::Conflict, text, "use HTTPS");
            }
            GatewayTls::None
        }
        "HTTPS" => GatewayTls::Public(certificates(notes, &path.key("tls"), spec)),
        other => {
            let known = ["TLS", "TCP", "UDP"].contains(&other);
            let (code, text) = match known {
                true => (Code::Unsupported, "is not supported in this version"),
                false => (Code::Invalid, "is no protocol"),
            };
            let text = format!("{other} {text}");
            let hint = "use HTTP or HTTPS, or networking.istio.io's Gateway";
            notes.hint(&path.key("protocol"), code, text, hint);
            return None;
        }
    };
    let namespace = allowed(notes, &path.key("allowedRoutes"), spec);
    let host = spec.hostname.as_deref().filter(|host| !host.is_empty());
    Some(GatewayServer {
        port: spec.port,
        protocol: Protocol::Http,
        tls,
        https_redirect: false,
        hosts: vec![(namespace, host.unwrap_or("*").to_ascii_lowercase())],
    })
}

/// TLS is ended by Secrets of the gateway's own namespace.
fn certificates(
    notes: &mut Notes<'_, KubernetesGatewaySpec>,
    path: &Path,
    spec: &ListenerSpec,
) -> GatewayCertificates {
    let tls = spec.tls.as_ref();
    let mode = tls.and_then(|t| t.mode.as_deref()).unwrap_or("Terminate");
    if mode != "Terminate" {
        let text = format!("{mode} is not what a listener of HTTPS does");
        notes.hint(&path.key("mode"), Code::Invalid, text, "use Terminate");
    }
    let path = path.key("certificateRefs");
    let references = tls
        .map(|t| t.certificate_refs.as_slice())
        .unwrap_or_default();
    if references.is_empty() {
        let text = "a listener of HTTPS needs a certificate";
        notes.hint(
            &path,
            Code::Missing,
            text,
            "name a Secret of type kubernetes.io/tls",
        );
    }
    let own = notes.object.namespace.clone();
    let mut all = Vec::new();
    for (n, reference) in references.iter().enumerate() {
        let path = path.index(n);
        let kind = reference.kind.as_deref().unwrap_or("Secret");
        if kind != "Secret" || !reference.group.as_deref().unwrap_or_default().is_empty() {
            let text = format!("a certificate of kind {kind} is not supported in this version");
            notes.hint(&path.key("kind"), Code::Unsupported, text, "use a Secret");
        }
        if reference
            .namespace
            .as_deref()
            .is_some_and(|n| n != own.as_str())
        {
            let text = "a Secret of another namespace is not supported in this version";
            notes.error(&path.key("namespace"), Code::Unsupported, text);
        }
        all.push(Credential::Secret {
            namespace: Some(own.clone()),
            name: reference.name.clone(),
        });
    }
    GatewayCertificates {
        certificates: all,
        client: None,
        min_version: TlsVersion::V1_2,
        max_version: TlsVersion::V1_3,
        cipher_suites: Vec::new(),
    }
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
    let namespace = match from.unwrap_or("Same") {
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
    };
    for (n, kind) in routes.iter().flat_map(|a| &a.kinds).enumerate() {
        if !["HTTPRoute", "GRPCRoute"].contains(&kind.kind.as_str()) {
            let text = format!("a listener of HTTP takes no {}", kind.kind);
            notes.error(&path.key("kinds").index(n), Code::Invalid, text);
        }
    }
    namespace
}
