//! Endpoints that Kubernetes' objects tell: `EndpointSlice`s of services without a selector, `Pod`s with an address, and
//! services that are another's name (`ExternalName`).

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use reeve_core::{InstanceName, ServiceName};

use super::{hosts::Services, values::Notes};
use crate::{
    Code, Entry, EntryAddress, EntryEndpoint, EntryLocation, EntryResolution, Fault, Service,
    TargetPort,
    kinds::{EndpointSliceSpec, Object, PodSpec, ServiceSpec},
    mesh::is_subset,
    source::path::Path,
};

/// Endpoints of one `EndpointSlice` (Kubernetes' bound).
const MAX_SLICE_ENDPOINTS: usize = 1000;
/// Which service a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Adds what they say to `services`.
pub(super) fn resolve(
    named: &[Object<ServiceSpec>],
    slices: &[Object<EndpointSliceSpec>],
    pods: &[Object<PodSpec>],
    services: &mut Services,
    faults: &mut Vec<Fault>,
) {
    for object in named.iter().filter(|o| o.spec.r#type == "ExternalName") {
        let mut notes = Notes { object, faults };
        external_name(&mut notes, services);
    }
    for object in slices {
        let mut notes = Notes { object, faults };
        slice(&mut notes, services);
    }
    for object in pods {
        let mut notes = Notes { object, faults };
        pod(&mut notes, services);
    }
}

fn external_name(notes: &mut Notes<'_, ServiceSpec>, services: &mut Services) {
    let object = notes.object;
    let path = Path::of(&["spec", "externalName"]);
    let target = match ServiceName::parse(&object.spec.external_name.to_ascii_lowercase()) {
        Ok(target) => target,
        Err(error) => return notes.error(&path, Code::Invalid, error.to_string()),
    };
    if services.contains_key(&target) {
        let text = "an ExternalName for a service of the mesh is not supported in this version";
        let hint = "route to it by a VirtualService";
        return notes.hint(&path, Code::Unsupported, text, hint);
    }
    let Ok(name) = InstanceName::parse(&format!("{}-0", object.name)) else {
        return;
    };
    let endpoint = EntryEndpoint {
        name,
        address: EntryAddress::Host(target),
        ports: BTreeMap::new(),
        labels: BTreeMap::new(),
        service_account: None,
        weight: 1,
    };
    add(services, EntryResolution::Dns, [endpoint], |s| {
        s.name == object.name && s.namespace == object.namespace
    });
}

fn slice(notes: &mut Notes<'_, EndpointSliceSpec>, services: &mut Services) {
    let object = notes.object;
    let Some(service) = object.labels.get(SERVICE_NAME) else {
        let text = format!("the slice has no label {SERVICE_NAME}: it belongs to no service");
        let path = Path::of(&["metadata", "labels"]);
        return notes.warn(&path, Code::Missing, text, "name its Service there");
    };
    let is_its = |s: &Service| s.name == *service && s.namespace == object.namespace;
    let Some(known) = services.values().find(|s| is_its(s)) else {
        let text = format!("there is no Service {}/{service}", object.namespace);
        let path = Path::of(&["metadata", "labels"]);
        return notes.warn(&path, Code::UnknownReference, text, "add it");
    };
    if !known.selector.is_empty() {
        let text = format!("Service {service} has a selector, which says where it runs");
        let path = Path::of(&["endpoints"]);
        return notes.warn(&path, Code::Conflict, text, "the slice has no effect");
    }
    if object.spec.endpoints.len() > MAX_SLICE_ENDPOINTS {
        let text = format!("at most {MAX_SLICE_ENDPOINTS} endpoints in a slice");
        return notes.error(&Path::of(&["endpoints"]), Code::TooLarge, text);
    }
    let port = |p: &crate::kinds::SlicePortSpec| Some((p.name.clone(), p.port?));
    let ports: BTreeMap<_, _> = object.spec.ports.iter().filter_map(port).collect();
    let mut found = Vec::new();
    for (n, spec) in object.spec.endpoints.iter().enumerate() {
        if spec.conditions.ready == Some(false) {
            continue;
        }
        // Addresses of one endpoint are interchangeable; the first is used (the API's own words).
        let Some(text) = spec.addresses.first() else {
            continue;
        };
        let address = match (text.parse::<IpAddr>(), ServiceName::parse(text)) {
            (Ok(ip), _) => EntryAddress::Ip(ip),
            (Err(_), Ok(host)) if object.spec.address_type == "FQDN" => EntryAddress::Host(host),
            (Err(_), _) => {
                let path = Path::of(&["endpoints"]).index(n).key("addresses").index(0);
                notes.error(&path, Code::Invalid, format!("{text:?} is no address"));
                continue;
            }
        };
        if let Ok(name) = InstanceName::parse(&format!("{}-{n}", object.name)) {
            found.push(EntryEndpoint {
                name,
                address,
                ports: ports.clone(),
                labels: BTreeMap::new(),
                service_account: None,
                weight: 1,
            });
        }
    }
    add(services, EntryResolution::Static, found, is_its);
}

fn pod(notes: &mut Notes<'_, PodSpec>, services: &mut Services) {
    let object = notes.object;
    let status = &object.spec.status;
    let ready = status.conditions.iter().find(|c| c.r#type == "Ready");
    let path = Path::of(&["status", "podIP"]);
    let Some(text) = status.pod_ip.as_ref() else {
        let text = "the pod has no address: nothing is sent to it";
        return notes.warn(
            &path,
            Code::Missing,
            text,
            "workloads that are to be started stand in a LocalMesh",
        );
    };
    let Ok(address) = text.parse::<IpAddr>() else {
        let said = format!("{text:?} is not an IP address");
        return notes.error(&path, Code::Invalid, said);
    };
    if ready.is_some_and(|c| c.status == "False") {
        return;
    }
    let Ok(name) = InstanceName::parse(&object.name) else {
        return;
    };
    let selects = |s: &Service| {
        !s.selector.is_empty()
            && s.namespace == object.namespace
            && is_subset(&s.selector, &object.labels)
    };
    let selecting = services.values().filter(|s| selects(s));
    let hosts: Vec<_> = selecting.map(|s| s.host.clone()).collect();
    for host in hosts {
        let Some(service) = services.get(&host) else {
            continue;
        };
        let number = |target: &TargetPort| match target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => {
                let containers = object.spec.spec.containers.iter();
                let mut ports = containers.flat_map(|c| &c.ports);
                ports.find(|p| p.name == *name).map(|p| p.container_port)
            }
        };
        let port = |p: &crate::TargetedPort| Some((p.name.clone(), number(&p.target)?));
        let endpoint = EntryEndpoint {
            name: name.clone(),
            address: EntryAddress::Ip(address),
            ports: service.ports.iter().filter_map(port).collect(),
            labels: object.labels.clone(),
            service_account: None,
            weight: 1,
        };
        add(services, EntryResolution::Static, [endpoint], |s| {
            s.host == host
        });
    }
}

/// More endpoints for the service that is meant. None of them is in the mesh: nobody vouches for them.
fn add(
    services: &mut Services,
    resolution: EntryResolution,
    endpoints: impl IntoIterator<Item = EntryEndpoint>,
    meant: impl Fn(&Service) -> bool,
) {
    let Some(service) = services.values_mut().find(|s| meant(s)) else {
        return;
    };
    let entry = Arc::make_mut(service).entry.get_or_insert_with(|| Entry {
        location: EntryLocation::External,
        resolution,
        endpoints: Vec::new(),
        addresses: Vec::new(),
        subject_alt_names: Vec::new(),
        patterns: Vec::new(),
    });
    entry.endpoints.extend(endpoints);
}
