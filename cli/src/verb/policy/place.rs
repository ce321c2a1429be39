//! Which folder is meant.

use std::path::{Path, PathBuf};

use reeve_control::Mesh;

use crate::{
    output,
    problem::Problem,
    state::StateArgs,
    supervisor::load,
    verb::{block_on, mesh_api::MeshApi},
};

/// The folder that is named, or that of the running mesh.
pub(super) fn folder(named: Option<&Path>, state: &StateArgs) -> Result<PathBuf, Problem> {
    match named {
        Some(folder) => Ok(folder.to_owned()),
        None => Ok(state.existing()?.supervisor()?.folder),
    }
}

/// The mesh that the folder describes. Of a running one, it is told if its sidecars are bound by other policies: those of
/// a folder that is refused are not in force.
pub(super) fn mesh(named: Option<&Path>, state: &StateArgs) -> Result<(Mesh, PathBuf), Problem> {
    let folder = folder(named, state)?;
    let mesh = load(&folder)?;
    if named.is_none() {
        let api = MeshApi::of(&state.existing()?)?;
        let status = block_on(api.status())?;
        if status.policy_hash != mesh.policy_hash {
            output::note(&format!(
                "note: the policies of {} are not in force yet; `reeve status` says why",
                folder.display()
            ));
        }
    }
    Ok((mesh, folder))
}
