//! `Gateway`.

use reeve_core::model::Protocol;

use crate::{
    Code, Fault,
    kinds::{GatewaySpec, Object, ServerSpec, ServerTlsSpec},
    mesh::{Gateway, GatewayServer},
    resolve::{local::MESH_PORTS, values::Notes},
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
    let protocol = protocol(notes, path, &port.protocol, spec.tls.as_ref())?;
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
        port: port.number,
        protocol,
        hosts,
    })
}

/// What a server speaks. TLS is passed through, by `tls.mode: PASSTHROUGH`; no other mode is supported.
fn protocol(
    notes: &mut Notes<'_, GatewaySpec>,
    path: &Path,
    name: &str,
    tls: Option<&ServerTlsSpec>,
) -> Option<Protocol> {
    let port_path = path.key("port").key("protocol");
    const HINT: &str = "use HTTP, HTTP2, GRPC, or TLS with tls.mode PASSTHROUGH";
    let upper = name.to_ascii_uppercase();
    let protocol = match upper.as_str() {
        "HTTP" => Protocol::Http,
        "HTTP2" => Protocol::Http2,
        "GRPC" => Protocol::Grpc,
        "HTTPS" | "TLS" => Protocol::Tls,
        "TCP" | "MONGO" | "GRPC-WEB" => {
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
    let mode = tls.map(|tls| tls.mode.as_deref().unwrap_or_default());
    let mode_path = path.key("tls").key("mode");
    match (protocol, mode) {
        // Where nothing is said, the enumeration's first value holds, which is PASSTHROUGH.
        (Protocol::Tls, Some("" | "PASSTHROUGH")) => {}
        (Protocol::Tls, None) => {
            let text = format!("a server that speaks {upper} needs tls");
            notes.hint(&path.key("tls"), Code::Missing, text, HINT);
        }
        (_, None) => {}
        (Protocol::Tls, Some(other)) => {
            let known = [
                "SIMPLE",
                "MUTUAL",
                "OPTIONAL_MUTUAL",
                "AUTO_PASSTHROUGH",
                "ISTIO_MUTUAL",
            ];
            let (code, text) = match known.contains(&other) {
                true => (Code::Unsupported, "is not supported in this version"),
                false => (Code::Invalid, "is no mode"),
            };
            notes.hint(
                &mode_path,
                code,
                format!("{other} {text}"),
                "use PASSTHROUGH",
            );
        }
        (_, Some(_)) => {
            let text = format!("a server that speaks {upper} has no tls");
            notes.hint(
                &path.key("tls"),
                Code::Conflict,
                text,
                "use the protocol TLS",
            );
        }
    }
    Some(protocol)
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
        let clashes = |s: &GatewayServer| {
            s.port == server.port && s.protocol.is_http() != server.protocol.is_http()
        };
        if all.any(clashes) {
            let path = Path::of(&["spec", "servers"]).index(*n).key("port");
            let text = format!(
                "port {} speaks HTTP for one server and TLS for another",
                server.port
            );
            notes.error(&path, Code::Conflict, text);
        }
    }
}
