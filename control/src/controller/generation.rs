//! The number of the last generation, kept over restarts.

use std::{io, path::Path};

use reeve_core::model::Generation;
use reeve_files::{read_json, replace_json};

use super::StartError;

const FILE_NAME: &str = "generation.json";

/// The last generation; 0 if there was none.
pub(super) fn read(state: &Path) -> Result<Generation, StartError> {
    let path = state.join(FILE_NAME);
    let kept = read_json(&path).map_err(|error| StartError::Generation {
        path: path.display().to_string(),
        reason: error.to_string(),
    });
    Ok(kept?.unwrap_or_default())
}

/// Keeps `generation`.
pub(super) fn write(state: &Path, generation: Generation) -> io::Result<()> {
    replace_json(&state.join(FILE_NAME), &generation)
}
