//! `Gateway`.

use reeve_core::model::Protocol;

use crate::{
    Code, Fault,
    kinds::{GatewaySpec, Object, ServerSpec},
    mesh::{Gateway, GatewayServer},
    resolve::{local::MESH_PORTS, values::Notes},
    source::path::Path,
};

pub(in crate::resolve) fn gateways(
    objects: &[Object<GatewaySpec>],
    faults: &mut Vec<Fault>,
) -> Vec<Gateway> {
    let mut gateways = Vec::new();
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
        let servers = servers
            .filter_map(|(n, s)| server(&mut notes, &path.index(n), s))
            .collect();
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
    let protocol = match port.protocol.to_ascii_uppercase().as_str() {
        "HTTP" => Protocol::Http,
        "HTTP2" => Protocol::Http2,
        "GRPC" => Protocol::Grpc,
        "HTTPS" | "TLS" | "TCP" | "MONGO" | "GRPC-WEB" => {
            let text = format!(
                "{} is known, but not supported in this version",
                port.protocol
            );
            notes.hint(
                &port_path.key("protocol"),
                Code::Unsupported,
                text,
                "use HTTP, HTTP2 or GRPC",
            );
            return None;
        }
        _ => {
            let text = format!("{:?} is not a protocol", port.protocol);
            notes.hint(
                &port_path.key("protocol"),
                Code::Invalid,
                text,
                "use HTTP, HTTP2 or GRPC",
            );
            return None;
        }
    };
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
