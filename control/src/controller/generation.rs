//! The number of the last generation, kept over restarts.

use std::{fs, io, path::Path};

use reeve_core::model::Generation;

use super::StartError;

const FILE_NAME: &str = "generation.json";

/// The last generation; 0 if there was none.
pub(super) fn read(state: &Path) -> Result<Generation, StartError> {
    let path = state.join(FILE_NAME);
    let failed = |reason: String| StartError::Generation {
        path: path.display().to_string(),
        reason,
    };
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|e| failed(e.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Generation::default()),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Keeps `generation`.
pub(super) fn write(state: &Path, generation: Generation) -> io::Result<()> {
    keep(&state.join(FILE_NAME), generation.to_string().as_bytes())
}

/// Keeps a JSON file of the state folder, wholly or not at all.
pub(super) fn keep(path: &Path, json: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("json.new");
    fs::write(&temporary, json)?;
    fs::rename(&temporary, path)
}
