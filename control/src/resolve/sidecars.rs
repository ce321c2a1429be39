//! `Sidecar`.

use reeve_core::{Namespace, ServiceName, model::OutboundPolicy};

use super::{hosts::full, values::Notes};
use crate::{
    Code, Fault,
    kinds::{Object, SidecarSpec},
    mesh::{EgressHost, SidecarScope},
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
    }
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
