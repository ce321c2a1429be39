//! `PeerAuthentication`.

use std::collections::{BTreeMap, HashMap};

use reeve_core::Namespace;

use super::{exempt, values::Notes};
use crate::{
    Code, Fault, LocalWorkload,
    kinds::{Object, PeerAuthenticationSpec, SelectorSpec},
    mesh::{PeerAuthentication, Scope},
    source::path::Path,
};

pub(super) fn peers(
    objects: &[Object<PeerAuthenticationSpec>],
    root: &Namespace,
    workloads: &[LocalWorkload],
    faults: &mut Vec<Fault>,
) -> Vec<PeerAuthentication> {
    let mut claims = Claims::default();
    let mut resolved = Vec::new();
    for object in objects {
        let mut notes = Notes { object, faults };
        let scope = scope(&object.namespace, root, object.spec.selector.as_ref());
        let mode = object.spec.mtls.as_ref().and_then(|m| m.mode.as_deref());
        let mode = notes.mtls_mode(&Path::of(&["spec", "mtls", "mode"]), mode);
        let path = Path::of(&["spec", "portLevelMtls"]);
        let specs = (&path, &object.spec.port_level_mtls);
        let ports = by_port(&mut notes, specs, &scope, |notes, path, spec| {
            notes.mtls_mode(&path.key("mode"), spec.mode.as_deref())
        });
        claims.claim(&mut notes, &scope, workloads);
        exempt::check(&mut notes);
        resolved.push(PeerAuthentication { scope, mode, ports });
    }
    resolved
}

pub(super) fn scope(
    namespace: &Namespace,
    root: &Namespace,
    selector: Option<&SelectorSpec>,
) -> Scope {
    Scope {
        namespace: (namespace != root).then(|| namespace.clone()),
        selector: selector.map(|s| s.match_labels.clone()).unwrap_or_default(),
    }
}

/// What objects of one kind hold for, of which no two may hold for the same.
#[derive(Debug, Default)]
pub(super) struct Claims {
    whole: Vec<Scope>,
    /// By the workload's place among all.
    workloads: HashMap<usize, String>,
}

impl Claims {
    pub(super) fn claim<S>(
        &mut self,
        notes: &mut Notes<'_, S>,
        scope: &Scope,
        workloads: &[LocalWorkload],
    ) {
        let object = notes.object;
        if scope.rank() < 2 {
            if self.whole.contains(scope) {
                let text = "there are two of these without a selector in one namespace";
                let hint = "keep one; select workloads in the other";
                notes.hint(&Path::of(&["kind"]), Code::Conflict, text, hint);
            }
            self.whole.push(scope.clone());
            return;
        }
        let numbered = workloads.iter().enumerate();
        for (n, workload) in numbered.filter(|(_, w)| scope.covers(w)) {
            if let Some(other) = self.workloads.insert(n, object.name.clone()) {
                let text = format!("{other} selects the workload {} too", workload.name);
                notes.error(&Path::of(&["spec", "selector"]), Code::Conflict, text);
            }
        }
    }
}

/// Modes by port, as `specs` at `path` say them.
pub(super) fn by_port<S, P, M>(
    notes: &mut Notes<'_, S>,
    (path, specs): (&Path, &BTreeMap<String, P>),
    scope: &Scope,
    mode: impl Fn(&mut Notes<'_, S>, &Path, &P) -> Option<M>,
) -> BTreeMap<u16, Option<M>> {
    if !specs.is_empty() && scope.selector.is_empty() {
        let hint = "add spec.selector.matchLabels";
        notes.hint(path, Code::Invalid, "modes by port need a selector", hint);
    }
    let mut ports = BTreeMap::new();
    for (key, spec) in specs {
        let path = path.key(key);
        match key.parse() {
            Ok(0) | Err(_) => notes.error(&path, Code::Invalid, format!("{key:?} is not a port")),
            Ok(port) => {
                ports.insert(port, mode(notes, &path, spec));
            }
        }
    }
    ports
}
