//! What would speak plaintext where only mTLS is taken.

use std::collections::BTreeSet;

use reeve_core::model::MtlsMode;

use super::{Findings, Level, Message};
use crate::{
    Code, WorkloadRole,
    index::{mtls_mode, taken_in},
    source::path::Path,
};

/// Reeve's own: Istio does not see callers.
const PLAINTEXT: Message = ("RVE0002", "PlaintextToStrictPort", Level::Warning);
/// Ports that are named; more are counted.
const MAX_TOLD_PORTS: usize = 5;

impl Findings<'_> {
    /// Workloads without sidecars, where ports of their namespace are STRICT.
    pub(super) fn outsiders(&mut self) {
        let mut found = Vec::new();
        for object in &self.objects.local_meshes {
            for (n, spec) in object.spec.workloads.iter().enumerate() {
                let named = |w: &&crate::LocalWorkload| w.name.as_str() == spec.name;
                let mut all = self.mesh.workloads.iter().filter(named);
                let own = all.find(|w| w.role == WorkloadRole::None);
                let strict = own.map(|own| self.strict_ports(own.namespace.as_str()));
                let Some(strict) = strict.filter(|strict| !strict.is_empty()) else {
                    continue;
                };
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
                found.push((object, n, text));
            }
        }
        for (object, n, text) in found {
            let path = Path::of(&["spec", "workloads"]).index(n).key("role");
            let hint = "give it a sidecar, unless it calls none of them; `reeve mtls status` shows who calls whom";
            self.say(object, PLAINTEXT, (&path, Code::Insecure), text, hint);
        }
    }

    fn strict_ports(&self, namespace: &str) -> BTreeSet<String> {
        let workloads = self.mesh.workloads.iter();
        let here = workloads.filter(|w| w.namespace.as_str() == namespace);
        here.flat_map(|w| {
            let ports = taken_in(self.mesh, w).into_keys();
            let strict = ports.filter(|port| mtls_mode(self.mesh, w, *port) == MtlsMode::Strict);
            strict
                .map(|port| format!("{}:{port}", w.name))
                .collect::<Vec<_>>()
        })
        .collect()
    }
}
