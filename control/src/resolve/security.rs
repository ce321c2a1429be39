//! `PeerAuthentication`.

use std::collections::{BTreeMap, HashMap};

use reeve_core::Namespace;

use super::values::Notes;
use crate::{
    Code, Fault, LocalWorkload,
    kinds::{Object, PeerAuthenticationSpec, SelectorSpec},
    mesh::{PeerAuthentication, Scope},
    source::path::Path,
};

fn scope(namespace: &Namespace, root: &Namespace, selector: Option<&SelectorSpec>) -> Scope {
    Scope {
        namespace: (namespace != root).then(|| namespace.clone()),
        selector: selector.map(|s| s.match_labels.clone()).unwrap_or_default(),
    }
}

pub(super) fn peers(
    objects: &[Object<PeerAuthenticationSpec>],
    root: &Namespace,
    workloads: &[LocalWorkload],
    faults: &mut Vec<Fault>,
) -> Vec<PeerAuthentication> {
    let mut resolved: Vec<PeerAuthentication> = Vec::new();
    let mut claimed: HashMap<(usize, Option<&Namespace>), &str> = HashMap::new();
    for object in objects {
        let spec = &object.spec;
        let mut notes = Notes { object, faults };
        let scope = scope(&object.namespace, root, spec.selector.as_ref());
        let mode = spec.mtls.as_ref().and_then(|m| m.mode.as_deref());
        let mode = notes.mtls_mode(&Path::of(&["spec", "mtls", "mode"]), mode);
        let ports = ports(&mut notes, &scope);
        if scope.rank() < 2 {
            if resolved.iter().any(|p| p.scope == scope) {
                let text = "there are two of these without a selector in one namespace";
                notes.hint(
                    &Path::of(&["kind"]),
                    Code::Conflict,
                    text,
                    "keep one; select workloads in the other",
                );
            }
        } else {
            for (n, workload) in workloads
                .iter()
                .enumerate()
                .filter(|(_, w)| scope.covers(w))
            {
                if let Some(other) = claimed.insert((n, None), &object.name) {
                    let text = format!("{other} selects the workload {} too", workload.name);
                    notes.error(&Path::of(&["spec", "selector"]), Code::Conflict, text);
                }
            }
        }
        resolved.push(PeerAuthentication { scope, mode, ports });
    }
    resolved
}

fn ports(
    notes: &mut Notes<'_, PeerAuthenticationSpec>,
    scope: &Scope,
) -> BTreeMap<u16, Option<reeve_core::model::MtlsMode>> {
    let path = Path::of(&["spec", "portLevelMtls"]);
    let specs = &notes.object.spec.port_level_mtls;
    if !specs.is_empty() && scope.selector.is_empty() {
        notes.hint(
            &path,
            Code::Invalid,
            "modes by port need a selector",
            "add spec.selector.matchLabels",
        );
    }
    let mut ports = BTreeMap::new();
    for (key, spec) in specs {
        let path = path.key(key);
        match key.parse() {
            Ok(0) | Err(_) => notes.error(&path, Code::Invalid, format!("{key:?} is not a port")),
            Ok(port) => {
                let mode = notes.mtls_mode(&path.key("mode"), spec.mode.as_deref());
                ports.insert(port, mode);
            }
        }
    }
    ports
}
