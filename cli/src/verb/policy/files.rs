//! The files in which policies stand.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::problem::Problem;

/// Deepest folder within a folder, as configuration is read.
const MAX_FOLDER_DEPTH: usize = 16;

/// Whether it is a file of YAML documents.
pub(super) fn is_yaml(file: &Path) -> bool {
    file.extension().is_some_and(|e| e == "yaml" || e == "yml")
}

fn is_policy_file(file: &Path) -> bool {
    is_yaml(file) || file.extension().is_some_and(|e| e == "cedar")
}

/// The named files, and those of the named folders: `.cedar`, `.yaml` and `.yml`, sorted; hidden ones are left out.
pub(super) fn policies(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Problem> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = found.len();
            list(path, 0, &mut found)?;
            if let Some(new) = found.get_mut(before..) {
                new.sort();
            }
        } else if is_policy_file(path) || !path.exists() {
            found.push(path.clone());
        } else {
            return Err(Problem::new("this is no file of policies")
                .at(path.display())
                .fix("name .cedar, .yaml or .yml files, or a folder of them"));
        }
    }
    Ok(found)
}

fn list(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), Problem> {
    let unreadable = |error: std::io::Error| {
        Problem::because("the folder cannot be read", &error).at(folder.display())
    };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // A link to a folder may lead round in circles; links to files are fine.
        let linked = entry.file_type().map_err(unreadable)?.is_symlink();
        if path.is_dir() {
            if depth < MAX_FOLDER_DEPTH && !linked {
                list(&path, depth + 1, found)?;
            }
        } else if is_policy_file(&path) {
            found.push(path);
        }
    }
    Ok(())
}
