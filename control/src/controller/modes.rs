//! Which mTLS mode each port is in, and which ports changed theirs: kept over restarts, so that a change made while nobody
//! looked is told too.

use std::{collections::BTreeMap, io, path::Path};

use reeve_core::model::MtlsMode;
use reeve_files::{read_json, replace_json};

use super::state::State;
use crate::{Mesh, index::mtls_mode, mesh::WorkloadRole};

/// In the state folder: the modes that were last told.
const FILE: &str = "mtls-modes.json";

/// `namespace/workload:port` → its mode.
pub(super) type Modes = BTreeMap<String, MtlsMode>;

/// Ports that went from one mode to another, in one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeChange {
    /// What they were in.
    pub from: MtlsMode,
    /// What they are in.
    pub to: MtlsMode,
    /// Which, as `namespace/workload:port`, sorted.
    pub ports: Vec<String>,
}

/// The modes that were last told; nothing where there is no record of them.
pub(super) fn read(state: &Path) -> Modes {
    let path = state.join(FILE);
    let kept = read_json(&path).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "which mTLS modes were in force cannot be read; changes before now are not told");
        None
    });
    kept.unwrap_or_default()
}

fn write(state: &Path, modes: &Modes) -> io::Result<()> {
    replace_json(&state.join(FILE), modes)
}

/// Every port with a proxy before it.
fn modes(mesh: &Mesh) -> Modes {
    let proxied = mesh.workloads.iter();
    let proxied = proxied.filter(|workload| workload.role == WorkloadRole::Sidecar);
    let each = proxied.flat_map(|workload| {
        workload.ports.iter().map(move |port| {
            let name = format!("{}/{}:{}", workload.namespace, workload.name, port.port);
            (name, mtls_mode(mesh, workload, port.port))
        })
    });
    each.collect()
}

/// What changed; ports that are new or gone have not.
fn changes(before: &Modes, now: &Modes) -> Vec<ModeChange> {
    let mut changes: Vec<ModeChange> = Vec::new();
    for (port, to) in now {
        let Some(from) = before.get(port).filter(|from| *from != to) else {
            continue;
        };
        let same = |change: &&mut ModeChange| (change.from, change.to) == (*from, *to);
        match changes.iter_mut().find(same) {
            Some(change) => change.ports.push(port.clone()),
            None => changes.push(ModeChange {
                from: *from,
                to: *to,
                ports: vec![port.clone()],
            }),
        }
    }
    changes
}

impl State {
    /// Which ports changed their mode since this was last asked, by this process or the one before it.
    pub(super) fn mode_changes(&mut self, state: &Path) -> Vec<ModeChange> {
        let Some(mesh) = self.mesh.as_deref() else {
            return Vec::new();
        };
        let now = modes(mesh);
        if now == self.modes {
            return Vec::new();
        }
        if let Err(error) = write(state, &now) {
            tracing::warn!(%error, "which mTLS modes are in force could not be kept; after a restart the change is told again");
        }
        let before = std::mem::replace(&mut self.modes, now);
        changes(&before, &self.modes)
    }
}
