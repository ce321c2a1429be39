//! Workloads that would speak plaintext where only mTLS is taken.

use std::collections::BTreeSet;

use reeve_core::model::MtlsMode;

use super::Notes;
use crate::{
    Code, Fault, Mesh, WorkloadRole,
    index::{mtls_mode, taken_in},
    kinds::Objects,
    source::path::Path,
};

/// Ports that are named; more are counted.
const MAX_TOLD_PORTS: usize = 5;

/// Warns of workloads without sidecars, where ports of their namespace are STRICT.
pub(super) fn check(objects: &Objects, mesh: &Mesh, faults: &mut Vec<Fault>) {
    for object in &objects.local_meshes {
        let mut notes = Notes { object, faults };
        for (n, spec) in object.spec.workloads.iter().enumerate() {
            let named = |w: &&crate::LocalWorkload| w.name.as_str() == spec.name;
            let mut own = mesh.workloads.iter().filter(named);
            let Some(own) = own.find(|w| w.role == WorkloadRole::None) else {
                continue;
            };
            let strict = strict_ports(mesh, own.namespace.as_str());
            if strict.is_empty() {
                continue;
            }
            let told: Vec<_> = strict.iter().take(MAX_TOLD_PORTS).cloned().collect();
            let more = match strict.len().saturating_sub(MAX_TOLD_PORTS) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let text = format!(
                "{} has no sidecar and speaks plaintext, which is refused at {}{more}",
                spec.name,
                told.join(", ")
            );
            let path = Path::of(&["spec", "workloads"]).index(n).key("role");
            let hint = "give it a sidecar, unless it calls none of them; `reeve mtls status` shows who calls whom";
            notes.warn(&path, Code::Insecure, text, hint);
        }
    }
}

fn strict_ports(mesh: &Mesh, namespace: &str) -> BTreeSet<String> {
    let workloads = mesh.workloads.iter();
    let here = workloads.filter(|w| w.namespace.as_str() == namespace);
    here.flat_map(|w| {
        let ports = taken_in(mesh, w).into_keys();
        let strict = ports.filter(|port| mtls_mode(mesh, w, *port) == MtlsMode::Strict);
        strict
            .map(|port| format!("{}:{port}", w.name))
            .collect::<Vec<_>>()
    })
    .collect()
}
