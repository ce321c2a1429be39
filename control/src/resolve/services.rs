//! Kubernetes' `Service`.

use std::sync::Arc;

use reeve_core::{ServiceName, model::Protocol};

use super::{
    hosts::{CLUSTER_SUFFIX, Services},
    local::MESH_PORTS,
    values::{Notes, protocol},
};
use crate::{
    Code, Fault, LocalWorkload, Service, TargetPort, TargetedPort,
    kinds::{Object, ServiceSpec},
    source::path::Path,
};

pub(super) fn resolve(objects: &[Object<ServiceSpec>], faults: &mut Vec<Fault>) -> Services {
    let mut services = Services::new();
    for object in objects {
        let host = format!("{}.{}.{CLUSTER_SUFFIX}", object.name, object.namespace);
        let mut notes = Notes { object, faults };
        let Ok(host) = ServiceName::parse(&host) else {
            continue; // Its name is faulty, which has been said.
        };
        let ports = ports(&mut notes);
        let service = Service {
            host: host.clone(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            selector: object.spec.selector.clone(),
            ports,
            export_to: exports(object),
            headless: object.spec.cluster_ip.as_deref() == Some("None"),
            entry: None,
        };
        services.insert(host, Arc::new(service));
    }
    services
}

/// Istio's annotation says of a `Service` what `exportTo` says of other kinds.
fn exports(object: &Object<ServiceSpec>) -> Vec<String> {
    let said = object.annotations.get("networking.istio.io/exportTo");
    let names = said.map(|text| text.split(',').map(|name| name.trim().to_owned()));
    names
        .into_iter()
        .flatten()
        .filter(|name| !name.is_empty())
        .collect()
}

fn ports(notes: &mut Notes<'_, ServiceSpec>) -> Vec<TargetedPort> {
    let path = Path::of(&["spec", "ports"]);
    let specs = &notes.object.spec.ports;
    if specs.is_empty() && notes.object.spec.r#type != "ExternalName" {
        notes.error(&path, Code::Missing, "a service has at least one port");
    }
    let mut ports: Vec<TargetedPort> = Vec::new();
    for (n, spec) in specs.iter().enumerate() {
        let path = path.index(n);
        if spec.port == 0 {
            notes.error(&path.key("port"), Code::Invalid, "a port is 1 to 65535");
        }
        if ports.iter().any(|p| p.port == spec.port) {
            let text = format!("the port {} stands here twice", spec.port);
            notes.error(&path.key("port"), Code::Conflict, text);
            continue;
        }
        if spec.protocol.as_deref().is_some_and(|p| p != "TCP") {
            notes.error(
                &path.key("protocol"),
                Code::Unsupported,
                "only TCP is supported",
            );
        }
        let target = match &spec.target_port {
            None => TargetPort::Number(spec.port),
            Some(target) => match target.0.parse() {
                Ok(number) => TargetPort::Number(number),
                Err(_) => TargetPort::Name(target.0.clone()),
            },
        };
        let told = protocol(&spec.name, spec.app_protocol.as_deref());
        if told.is_none() && !spec.name.is_empty() {
            let text = format!(
                "the name {:?} tells no protocol; the port is opaque TCP",
                spec.name
            );
            notes.warn(
                &path.key("name"),
                Code::Invalid,
                text,
                "name it http, http2, grpc, tcp or tls, with a suffix such as http-web if need be",
            );
        }
        ports.push(TargetedPort {
            port: spec.port,
            name: spec.name.clone(),
            protocol: told.unwrap_or(Protocol::Tcp),
            target,
        });
    }
    ports
}

/// Faults of target ports: a name that no workload behind the service has, a number that the sidecar takes itself.
pub(super) fn check_targets(
    objects: &[Object<ServiceSpec>],
    services: &Services,
    workloads: &[LocalWorkload],
    faults: &mut Vec<Fault>,
) {
    for object in objects {
        let of = |s: &&Arc<Service>| s.name == object.name && s.namespace == object.namespace;
        let Some(service) = services.values().find(of) else {
            continue;
        };
        for (n, port) in service.ports.iter().enumerate() {
            if let TargetPort::Number(target) = port.target
                && MESH_PORTS.contains(&target)
            {
                let path = Path::of(&["spec", "ports"]).index(n);
                let text = format!("port {target} is the sidecar's own");
                faults.push(object.error(&path, Code::Conflict, text));
            }
            let mut behind = workloads.iter().filter(|w| service.selects(w));
            if let Some(workload) = behind.find(|w| port.on(w).is_none()) {
                let path = Path::of(&["spec", "ports"]).index(n).key("targetPort");
                let text = format!("workload {} has no port of that name", workload.name);
                faults.push(object.warning(&path, Code::UnknownReference, text));
            }
        }
    }
}
