//! The files in which policies and their cases stand.

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

fn is_case_file(file: &Path) -> bool {
    is_yaml(file) || file.extension().is_some_and(|e| e == "json")
}

/// The named files, and those of the named folders: `.cedar`, `.yaml` and `.yml`, sorted; hidden ones are left out.
pub(super) fn policies(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Problem> {
    let fix = "name .cedar, .yaml or .yml files, or a folder of them";
    listed(paths, is_policy_file, ("this is no file of policies", fix))
}

/// The same for files of cases: `.yaml`, `.yml` and `.json`.
pub(super) fn cases(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Problem> {
    let fix = "name .yaml, .yml or .json files, or a folder of them";
    listed(paths, is_case_file, ("this is no file of cases", fix))
}

fn listed(
    paths: &[PathBuf],
    wanted: fn(&Path) -> bool,
    (what, fix): (&str, &str),
) -> Result<Vec<PathBuf>, Problem> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = found.len();
            list(path, 0, wanted, &mut found)?;
            if let Some(new) = found.get_mut(before..) {
                new.sort();
            }
        } else if wanted(path) || !path.exists() {
            found.push(path.clone());
        } else {
            return Err(Problem::new(what).at(path.display()).fix(fix));
        }
    }
    Ok(found)
}

fn list(
    folder: &Path,
    depth: usize,
    wanted: fn(&Path) -> bool,
    found: &mut Vec<PathBuf>,
) -> Result<(), Problem> {
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
                list(&path, depth + 1, wanted, found)?;
            }
        } else if wanted(&path) {
            found.push(path);
        }
    }
    Ok(())
}
