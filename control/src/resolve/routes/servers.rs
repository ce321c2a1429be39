//! `Gateway`.

use std::net::IpAddr;

use reeve_core::model::Protocol;

use super::credentials;
use crate::{
    Code, Fault, LocalWorkload, WorkloadRole,
    kinds::{GatewaySpec, Object, ServerSpec, ServerTlsSpec},
    mesh::{Gateway, GatewayServer, GatewayTls, is_subset},
    resolve::{local::MESH_PORTS, secrets::Secrets, values::Notes},
    source::path::Path,
};

pub(in crate::resolve) fn gateways(
    objects: &[Object<GatewaySpec>],
    faults: &mut Vec<Fault>,
) -> Vec<Gateway> {
    let mut gateways: Vec<Gateway> = Vec::new();
    for object in objects {
        let mut notes = Notes { object, faults };
        let spec = &object.spec;
        if spec.selector.is_empty() {
            let text = "the gateway selects no workload";
            notes.hint(
                &Path::of(&["spec", "selector"]),
                Code::Missing,
                text,
                "such as {istio: ingressgateway}",
            );
        }
        let path = Path::of(&["spec", "servers"]);
        if spec.servers.is_empty() {
            notes.error(&path, Code::Missing, "the gateway has no servers");
        }
        let servers = spec.servers.iter().enumerate();
        let servers: Vec<_> = servers
            .filter_map(|(n, s)| Some((n, server(&mut notes, &path.index(n), s)?)))
            .collect();
        check_ports(&mut notes, &servers, &gateways);
        let servers = servers.into_iter().map(|(_, s)| s).collect();
        gateways.push(Gateway {
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            selector: spec.selector.clone(),
            servers,
        });
    }
    gateways.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    gateways
}

fn server(
    notes: &mut Notes<'_, GatewaySpec>,
    path: &Path,
    spec: &ServerSpec,
) -> Option<GatewayServer> {
    let Some(port) = &spec.port else {
        notes.error(&path.key("port"), Code::Missing, "the server has no port");
        return None;
    };
    let port_path = path.key("port");
    if port.number == 0 {
        notes.error(
            &port_path.key("number"),
            Code::Invalid,
            "a port is 1 to 65535",
        );
    }
    if MESH_PORTS.contains(&port.number) {
        let text = format!("port {} is the proxy's own", port.number);
        notes.error(&port_path.key("number"), Code::Conflict, text);
    }
    let (protocol, tls) = protocol(notes, path, &port.protocol, spec.tls.as_ref())?;
    if spec.hosts.is_empty() {
        notes.hint(
            &path.key("hosts"),
            Code::Missing,
            "the server has no hosts",
            "use [\"*\"] for all",
        );
    }
    let own = notes.object.namespace.as_str();
    let split = |host: &String| {
        let (namespace, host) = match host.split_once('/') {
            Some((".", host)) => (Some(own.to_owned()), host),
            Some(("*", host)) => (None, host),
            Some((namespace, host)) => (Some(namespace.to_owned()), host),
            None => (None, host.as_str()),
        };
        (namespace, host.to_ascii_lowercase())
    };
    let hosts = spec.hosts.iter().map(split).collect();
    Some(GatewayServer {
        bind: bind(notes, &path.key("bind"), &spec.bind),
        port: port.number,
        https_redirect: !is_tls(&tls) && spec.tls.as_ref().is_some_and(|t| t.https_redirect),
        protocol,
        tls,
        hosts,
    })
}

/// An address of the gateway's machine.
fn bind(notes: &mut Notes<'_, GatewaySpec>, path: &Path, text: &str) -> Option<IpAddr> {
    if text.is_empty() {
        return None;
    }
    let socket = text.starts_with("unix://") || text.starts_with('@');
    match text.parse() {
        Ok(address) => return Some(address),
        Err(_) if socket => {
            let said = "a Unix socket is not supported in this version";
            notes.hint(path, Code::Unsupported, said, "use an IP address");
        }
        Err(_) => {
            let said = format!("{text:?} is no IP address");
            notes.error(path, Code::Invalid, said);
        }
    }
    None
}

fn is_tls(tls: &GatewayTls) -> bool {
    *tls != GatewayTls::None
}

/// What a server speaks, and how its TLS is ended.
fn protocol(
    notes: &mut Notes<'_, GatewaySpec>,
    path: &Path,
    name: &str,
    tls: Option<&ServerTlsSpec>,
) -> Option<(Protocol, GatewayTls)> {
    let port_path = path.key("port").key("protocol");
    const HINT: &str = "use HTTP, HTTP2, GRPC, HTTPS, TLS or TCP";
    let upper = name.to_ascii_uppercase();
    let plain = |protocol| (protocol, false);
    let (protocol, needs_tls) = match upper.as_str() {
        "HTTP" => plain(Protocol::Http),
        "HTTP2" => plain(Protocol::Http2),
        "GRPC" => plain(Protocol::Grpc),
        "TCP" => plain(Protocol::Tcp),
        "HTTPS" => (Protocol::Http, true),
        "TLS" => (Protocol::Tcp, true),
        "MONGO" | "GRPC-WEB" => {
            let text = format!("{name} is known, but not supported in this version");
            notes.hint(&port_path, Code::Unsupported, text, HINT);
            return None;
        }
        _ => {
            let text = format!("{name:?} is not a protocol");
            notes.hint(&port_path, Code::Invalid, text, HINT);
            return None;
        }
    };
    let tls_path = path.key("tls");
    match (needs_tls, tls) {
        (true, None) => {
            let text = format!("a server that speaks {upper} needs tls");
            notes.hint(
                &tls_path,
                Code::Missing,
                text,
                "such as {mode: PASSTHROUGH}",
            );
            None
        }
        (true, Some(spec)) => Some(match credentials::tls(notes, &tls_path, spec) {
            passed @ (GatewayTls::Passthrough | GatewayTls::AutoPassthrough) => {
                (Protocol::Tls, passed)
            }
            ended @ (GatewayTls::None | GatewayTls::Mesh | GatewayTls::Public(_)) => {
                (protocol, ended)
            }
        }),
        // Only a redirect to https may be said of plaintext.
        (false, Some(spec)) if spec.mode.is_some() => {
            let text = format!("a server that speaks {upper} has no tls");
            notes.hint(
                &tls_path,
                Code::Conflict,
                text,
                "use the protocol HTTPS or TLS",
            );
            None
        }
        (false, _) => Some((protocol, GatewayTls::None)),
    }
}

/// Two servers of one port, for the same workloads, cannot speak HTTP and TLS.
fn check_ports(
    notes: &mut Notes<'_, GatewaySpec>,
    servers: &[(usize, GatewayServer)],
    others: &[Gateway],
) {
    let known = others
        .iter()
        .filter(|g| g.selector == notes.object.spec.selector);
    let known: Vec<&GatewayServer> = known.flat_map(|g| &g.servers).collect();
    for (at, (n, server)) in servers.iter().enumerate() {
        let before = servers.iter().take(at).map(|(_, s)| s);
        let mut all = before.chain(known.iter().copied());
        let clashes = |s: &&GatewayServer| {
            (s.bind, s.port) == (server.bind, server.port) && s.sort() != server.sort()
        };
        if let Some(other) = all.find(clashes) {
            let path = Path::of(&["spec", "servers"]).index(*n).key("port");
            let text = format!(
                "port {} speaks {} for one server and {} for another",
                server.port,
                other.sort(),
                server.sort()
            );
            notes.error(&path, Code::Conflict, text);
        }
    }
}

/// Warns of certificates that no `Secret` holds where the gateways run: nobody is let in there.
pub(in crate::resolve) fn check_secrets(
    objects: &[Object<GatewaySpec>],
    gateways: &[Gateway],
    secrets: &Secrets,
    workloads: &[LocalWorkload],
    faults: &mut Vec<Fault>,
) {
    for object in objects {
        let of = |g: &&Gateway| g.name == object.name && g.namespace == object.namespace;
        let Some(gateway) = gateways.iter().find(of) else {
            continue;
        };
        let selected = workloads
            .iter()
            .filter(|w| w.role == WorkloadRole::Gateway && is_subset(&gateway.selector, &w.labels));
        for workload in selected {
            for server in &gateway.servers {
                let GatewayTls::Public(public) = &server.tls else {
                    continue;
                };
                for source in &public.certificates {
                    let Some(name) = source.secret_of(&workload.namespace) else {
                        continue;
                    };
                    if !secrets.contains_key(&name) {
                        let path = Path::of(&["spec", "servers"]);
                        let text = format!(
                            "there is no Secret {name}; TLS on port {} is refused",
                            server.port
                        );
                        let fault = object.warning(&path, Code::UnknownReference, text);
                        faults.push(fault.with_hint("add a Secret with tls.crt and tls.key"));
                    }
                }
            }
        }
    }
}
