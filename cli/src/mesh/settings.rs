//! The settings that the authority and the log rest on, kept so that a restart does not need a valid folder.

use std::{path::Path, time::Duration};

use anyhow::Context;
use reeve_control::{Mesh, MeshSettings, Witnesses};
use reeve_core::{Namespace, SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};

/// The file's name within the state directory.
const FILE_NAME: &str = "mesh-settings.json";

/// What outlives a bad edit of the folder, even across a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) trust_domain: TrustDomain,
    pub(super) root_namespace: Namespace,
    pub(super) certificate_ttl: Duration,
    pub(super) root_ttl: Duration,
    pub(super) intermediate_ttl: Duration,
    pub(super) rotation_wait: Duration,
    /// The log must not forget over a bad edit that it is watched.
    #[serde(default)]
    pub(super) witnesses: Witnesses,
}

impl Kept {
    /// From a valid folder.
    pub(super) fn of(mesh: &Mesh) -> Self {
        let MeshSettings {
            trust_domain,
            root_namespace,
            certificate_ttl,
            root_ttl,
            intermediate_ttl,
            rotation_wait,
            witnesses,
            ..
        } = &mesh.settings;
        Self {
            trust_domain: trust_domain.clone(),
            root_namespace: root_namespace.clone(),
            certificate_ttl: *certificate_ttl,
            root_ttl: *root_ttl,
            intermediate_ttl: *intermediate_ttl,
            rotation_wait: *rotation_wait,
            witnesses: witnesses.clone(),
        }
    }

    /// Those of the last run in this state directory.
    pub(super) fn read(state: &Path) -> anyhow::Result<Option<Self>> {
        let path = state.join(FILE_NAME);
        reeve_files::read_json(&path).with_context(|| {
            format!(
                "{} cannot be read; if it is damaged, it is written anew from a valid configuration once it is removed",
                path.display()
            )
        })
    }

    /// Keeps them; a reader sees the old file or the new one.
    pub(super) fn write(&self, state: &Path) -> anyhow::Result<()> {
        let path = state.join(FILE_NAME);
        reeve_files::replace_json(&path, self).with_context(|| path.display().to_string())
    }

    /// The mesh process's own identity.
    pub(super) fn mesh_identity(&self) -> SpiffeId {
        self.trust_domain.mesh_process(&self.root_namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Kept::read(folder.path()).unwrap(), None);
        let kept = Kept {
            trust_domain: "mesh.local".parse().unwrap(),
            root_namespace: "reeve-system".parse().unwrap(),
            certificate_ttl: Duration::from_secs(10),
            root_ttl: Duration::from_secs(30),
            intermediate_ttl: Duration::from_secs(20),
            rotation_wait: Duration::from_secs(1),
            witnesses: Witnesses {
                quorum: 2,
                ..Witnesses::default()
            },
        };
        kept.write(folder.path()).unwrap();
        assert_eq!(Kept::read(folder.path()).unwrap(), Some(kept.clone()));
        let id = kept.mesh_identity();
        assert_eq!(
            id.as_str(),
            "spiffe://mesh.local/ns/reeve-system/sa/control"
        );
        std::fs::write(folder.path().join(FILE_NAME), "{").unwrap();
        let error = Kept::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }
}
