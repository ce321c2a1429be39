//! `ServiceEntry` and `WorkloadEntry`: services that are no Kubernetes `Service`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use reeve_core::{InstanceName, ServiceAccount, ServiceName};

use super::{
    hosts::{Services, full},
    local::MESH_PORTS,
    values::{Notes, protocol},
};
use crate::{
    Code, Entry, EntryAddress, EntryEndpoint, EntryLocation, EntryResolution, Fault, Service,
    TargetPort, TargetedPort,
    kinds::{Object, ServiceEntrySpec, WorkloadEntrySpec},
    mesh::is_subset,
    source::path::Path,
};

/// Endpoints of one `ServiceEntry`.
const MAX_ENDPOINTS: usize = 1024;

/// Ends the host of what an entry's wildcard hosts are together: `NAME.NAMESPACE.entry`.
pub(crate) const ENTRY_SUFFIX: &str = "entry";
/// The label by which a locality is told.
const LOCALITY: &str = "istio-locality";

type SeNotes<'a> = Notes<'a, ServiceEntrySpec>;

/// Adds what the entries say to `services`. A host of the mesh beats a foreign one.
pub(super) fn resolve(
    entries: &[Object<ServiceEntrySpec>],
    workloads: &[Object<WorkloadEntrySpec>],
    services: &mut Services,
    faults: &mut Vec<Fault>,
) {
    for object in workloads {
        let mut notes = Notes { object, faults };
        let path = Path::of(&["spec"]);
        address(&mut notes, &path, &object.spec.address);
    }
    let mut ordered: Vec<_> = entries.iter().collect();
    ordered.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    for object in ordered {
        let mut notes = Notes { object, faults };
        let entry = entry(&mut notes, workloads);
        let ports = ports(&mut notes);
        let mut wanted: Vec<(usize, ServiceName, Entry)> = Vec::new();
        let mut patterns = Vec::new();
        for (n, host) in object.spec.hosts.iter().enumerate() {
            let path = Path::of(&["spec", "hosts"]).index(n);
            if host.contains('*') {
                patterns.extend(pattern(&mut notes, &path, host));
            } else if let Some(host) = host_name(&mut notes, &path, host) {
                let own = entry.for_host(&host);
                wanted.push((n, host, own));
            }
        }
        if !patterns.is_empty() {
            check_patterns(&mut notes, &entry, &ports);
            let host = format!("{}.{}.{ENTRY_SUFFIX}", object.name, object.namespace);
            let own = Entry {
                patterns,
                ..entry.clone()
            };
            wanted.extend(ServiceName::parse(&host).ok().map(|host| (0, host, own)));
        }
        for (n, host, entry) in wanted {
            let path = Path::of(&["spec", "hosts"]).index(n);
            if services.contains_key(&host) {
                let text = format!("there is a service {host} already, which wins");
                notes.warn(&path, Code::Conflict, text, "keep one of them");
                continue;
            }
            let selector = object.spec.workload_selector.as_ref();
            let service = Service {
                namespace: object.namespace.clone(),
                name: host.to_string(),
                selector: selector.map(|s| s.labels.clone()).unwrap_or_default(),
                ports: ports.clone(),
                export_to: object.spec.export_to.clone(),
                headless: false,
                entry: Some(entry),
                host: host.clone(),
            };
            services.insert(host, Arc::new(service));
        }
    }
}

/// `*.suffix`; a lone `*` is what `outboundTrafficPolicy` is for.
fn pattern(notes: &mut SeNotes<'_>, path: &Path, host: &str) -> Option<String> {
    let lower = host.to_ascii_lowercase();
    let suffix = lower.strip_prefix("*.");
    if suffix.is_none_or(|suffix| ServiceName::parse(suffix).is_err()) {
        let text = format!("{host:?} is no host and no *.suffix");
        let hint = "for every host, set outboundTrafficPolicy";
        notes.hint(path, Code::Invalid, text, hint);
        return None;
    }
    Some(lower)
}

/// What a name that is only known when it is called cannot have.
fn check_patterns(notes: &mut SeNotes<'_>, entry: &Entry, ports: &[TargetedPort]) {
    let by_dns = matches!(
        entry.resolution,
        EntryResolution::Dns | EntryResolution::DnsRoundRobin
    );
    if by_dns && entry.endpoints.is_empty() {
        let path = Path::of(&["spec", "resolution"]);
        let text = "a wildcard host cannot be looked up";
        let hint =
            "use NONE or DYNAMIC_DNS, which look up the host that is called, or name endpoints";
        notes.hint(&path, Code::Conflict, text, hint);
    }
    if entry.resolution != EntryResolution::None {
        return;
    }
    if entry.location == EntryLocation::Internal {
        let path = Path::of(&["spec", "location"]);
        let text = "who is found by a wildcard host is not in the mesh: nobody vouches for it";
        notes.error(&path, Code::Unsupported, text);
    }
    for (n, port) in ports.iter().enumerate() {
        let path = Path::of(&["spec", "ports"]).index(n);
        if port.target != TargetPort::Number(port.port) {
            let text = "with a wildcard host a port leads to itself";
            notes.error(&path.key("targetPort"), Code::Unsupported, text);
        }
        if port.protocol == reeve_core::model::Protocol::Tcp {
            let text = "a port of TCP names no host, and a wildcard needs one";
            notes.hint(
                &path.key("protocol"),
                Code::Unsupported,
                text,
                "use HTTP or TLS",
            );
        }
    }
}

fn host_name(notes: &mut SeNotes<'_>, path: &Path, host: &str) -> Option<ServiceName> {
    let host = full(host, &notes.object.namespace);
    let parsed = ServiceName::parse(&host);
    parsed
        .map_err(|e| notes.error(path, Code::Invalid, e.to_string()))
        .ok()
}

fn entry(notes: &mut SeNotes<'_>, workloads: &[Object<WorkloadEntrySpec>]) -> Entry {
    let spec = &notes.object.spec;
    let at = |key: &str| Path::of(&["spec", key]);
    if spec.hosts.is_empty() {
        notes.error(&at("hosts"), Code::Missing, "there are no hosts");
    }
    let locations = [
        ("MESH_EXTERNAL", EntryLocation::External),
        ("MESH_INTERNAL", EntryLocation::Internal),
    ];
    let location = spec.location.as_ref();
    let location = location.and_then(|text| notes.word(&at("location"), text, &locations));
    let resolutions = [
        ("NONE", EntryResolution::None),
        ("STATIC", EntryResolution::Static),
        ("DNS", EntryResolution::Dns),
        ("DNS_ROUND_ROBIN", EntryResolution::DnsRoundRobin),
        // For wildcard hosts: the name that is called is looked up, as it is here with NONE.
        ("DYNAMIC_DNS", EntryResolution::None),
    ];
    let resolution = spec.resolution.as_ref();
    let resolution = resolution.and_then(|text| notes.word(&at("resolution"), text, &resolutions));
    let resolution = resolution.unwrap_or(EntryResolution::None);
    let endpoints = endpoints(notes, workloads);
    check(notes, resolution, &endpoints);
    let mut addresses = Vec::new();
    for (n, text) in spec.addresses.iter().enumerate() {
        match text.parse::<IpAddr>() {
            Ok(address) => addresses.push(address),
            Err(_) => {
                let said = format!("{text:?} is not an IP address; ranges are not supported");
                notes.error(&at("addresses").index(n), Code::Unsupported, said);
            }
        }
    }
    Entry {
        location: location.unwrap_or(EntryLocation::External),
        resolution,
        endpoints,
        addresses,
        subject_alt_names: spec.subject_alt_names.clone(),
        patterns: Vec::new(),
    }
}

/// What Istio's validation demands of endpoints.
fn check(notes: &mut SeNotes<'_>, resolution: EntryResolution, endpoints: &[EntryEndpoint]) {
    let path = Path::of(&["spec", "endpoints"]);
    let spec = &notes.object.spec;
    let selected = spec.workload_selector.is_some();
    if selected && !spec.endpoints.is_empty() {
        let text = "endpoints and workloadSelector exclude each other";
        notes.error(&path, Code::Conflict, text);
    }
    let by_name = |e: &EntryEndpoint| matches!(e.address, EntryAddress::Host(_));
    match resolution {
        EntryResolution::None if !spec.endpoints.is_empty() => {
            notes.error(&path, Code::Conflict, "resolution NONE has no endpoints");
        }
        EntryResolution::Static if spec.endpoints.is_empty() && !selected => {
            notes.error(&path, Code::Missing, "resolution STATIC needs endpoints");
        }
        EntryResolution::Static if endpoints.iter().any(by_name) => {
            let text = "resolution STATIC needs IP addresses";
            notes.hint(&path, Code::Invalid, text, "use resolution DNS for names");
        }
        EntryResolution::DnsRoundRobin if spec.endpoints.len() > 1 => {
            let text = "resolution DNS_ROUND_ROBIN has at most one endpoint";
            notes.error(&path, Code::Conflict, text);
        }
        EntryResolution::None
        | EntryResolution::Static
        | EntryResolution::Dns
        | EntryResolution::DnsRoundRobin => {}
    }
}

fn endpoints(
    notes: &mut SeNotes<'_>,
    workloads: &[Object<WorkloadEntrySpec>],
) -> Vec<EntryEndpoint> {
    let object = notes.object;
    let path = Path::of(&["spec", "endpoints"]);
    if object.spec.endpoints.len() > MAX_ENDPOINTS {
        let text = format!("at most {MAX_ENDPOINTS} endpoints");
        notes.error(&path, Code::TooLarge, text);
        return Vec::new();
    }
    let mut found = Vec::new();
    for (n, spec) in object.spec.endpoints.iter().enumerate() {
        let path = path.index(n);
        let name = format!("{}-{n}", object.name);
        found.extend(endpoint(notes, &path, &name, spec));
    }
    let selector = object.spec.workload_selector.as_ref();
    let picked = workloads.iter().filter(|w| {
        let wanted = selector
            .map(|s| &s.labels)
            .filter(|labels| !labels.is_empty());
        w.namespace == object.namespace
            && wanted.is_some_and(|labels| is_subset(labels, &w.spec.labels))
    });
    for workload in picked {
        // Its faults were told with itself.
        let mut unheard = Vec::new();
        let mut notes = Notes {
            object: workload,
            faults: &mut unheard,
        };
        let name = format!("{}-0", workload.name);
        found.extend(endpoint(
            &mut notes,
            &Path::default(),
            &name,
            &workload.spec,
        ));
    }
    found
}

fn endpoint<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    name: &str,
    spec: &WorkloadEntrySpec,
) -> Option<EntryEndpoint> {
    let mut labels = spec.labels.clone();
    if !spec.locality.is_empty() {
        locality(notes, &path.key("locality"), &spec.locality);
        labels.insert(LOCALITY.to_owned(), spec.locality.clone());
    }
    let account = match spec.service_account.as_str() {
        "" => None,
        text => match ServiceAccount::parse(text) {
            Ok(account) => Some(account),
            Err(error) => {
                notes.error(
                    &path.key("serviceAccount"),
                    Code::Invalid,
                    error.to_string(),
                );
                None
            }
        },
    };
    Some(EntryEndpoint {
        name: InstanceName::parse(name).ok()?,
        address: address(notes, path, &spec.address)?,
        ports: spec.ports.clone(),
        labels,
        service_account: account,
        // As in Istio, nothing and 0 are 1.
        weight: spec.weight.unwrap_or(1).max(1),
    })
}

/// `region/zone/subzone`, from the left as much as is known.
fn locality<S>(notes: &mut Notes<'_, S>, path: &Path, text: &str) {
    let parts: Vec<_> = text.split('/').collect();
    let legal = parts.len() <= 3 && parts.iter().all(|p| !p.is_empty() && !p.contains('*'));
    if !legal {
        let said = format!("{text:?} is no locality");
        notes.hint(path, Code::Invalid, said, "such as region/zone/subzone");
    }
}

fn address<S>(notes: &mut Notes<'_, S>, path: &Path, text: &str) -> Option<EntryAddress> {
    let path = path.key("address");
    if text.is_empty() {
        notes.error(&path, Code::Missing, "the endpoint has no address");
        return None;
    }
    if let Ok(address) = text.parse() {
        return Some(EntryAddress::Ip(address));
    }
    if text.starts_with("unix://") {
        let said = "a Unix socket as an endpoint is not supported in this version";
        notes.error(&path, Code::Unsupported, said);
        return None;
    }
    match ServiceName::parse(text) {
        Ok(host) => Some(EntryAddress::Host(host)),
        Err(error) => {
            notes.error(&path, Code::Invalid, error.to_string());
            None
        }
    }
}

fn ports(notes: &mut SeNotes<'_>) -> Vec<TargetedPort> {
    let path = Path::of(&["spec", "ports"]);
    let object = notes.object;
    if object.spec.ports.is_empty() {
        notes.error(&path, Code::Missing, "there are no ports");
    }
    let mut seen = BTreeSet::new();
    let mut ports = Vec::new();
    for (n, spec) in object.spec.ports.iter().enumerate() {
        let path = path.index(n);
        if spec.number == 0 {
            notes.error(&path.key("number"), Code::Invalid, "a port is 1 to 65535");
        }
        if !seen.insert(spec.number) {
            let text = format!("the port {} stands here twice", spec.number);
            notes.error(&path.key("number"), Code::Conflict, text);
            continue;
        }
        if MESH_PORTS.contains(&spec.number) {
            let text = format!("port {} is the sidecar's own", spec.number);
            notes.error(&path.key("number"), Code::Conflict, text);
        }
        let told = protocol("", Some(&spec.protocol));
        if told.is_none() {
            let text = format!("{:?} is not a protocol", spec.protocol);
            let hint = "use HTTP, HTTP2, GRPC, HTTPS, TLS or TCP";
            notes.hint(&path.key("protocol"), Code::Invalid, text, hint);
        }
        ports.push(TargetedPort {
            port: spec.number,
            name: spec.name.clone(),
            protocol: told.unwrap_or(reeve_core::model::Protocol::Tcp),
            target: TargetPort::Number(spec.target_port.unwrap_or(spec.number)),
        });
    }
    ports
}

impl Entry {
    /// The entry as one of its hosts has it: without endpoints, the host itself is looked up.
    fn for_host(&self, host: &ServiceName) -> Self {
        let mut entry = self.clone();
        let by_name = match self.resolution {
            EntryResolution::Static => false,
            EntryResolution::None | EntryResolution::Dns | EntryResolution::DnsRoundRobin => true,
        };
        let name =
            InstanceName::parse(&format!("{host}-0")).or_else(|_| InstanceName::parse("outside-0"));
        if by_name
            && entry.endpoints.is_empty()
            && let Ok(name) = name
        {
            entry.endpoints.push(EntryEndpoint {
                name,
                address: EntryAddress::Host(host.clone()),
                ports: BTreeMap::new(),
                labels: BTreeMap::new(),
                service_account: None,
                weight: 1,
            });
        }
        entry
    }
}
