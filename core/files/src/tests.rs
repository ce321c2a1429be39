//! Replacing and reading kept files.

use std::{fs, io::ErrorKind, os::unix::fs::PermissionsExt, path::Path};

use super::*;

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_kept_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kept.json");
    assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), None);
    replace_json(&path, &[1, 2]).unwrap();
    replace_json(&path, &[3]).unwrap();
    assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), Some(vec![3]));
    assert_eq!(names(folder.path()), ["kept.json"]);
}

#[test]
fn permissions_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kept");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    replace(&path, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn a_failure_leaves_what_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taken");
    // A folder that is not empty cannot be replaced by a file.
    fs::create_dir_all(path.join("inside")).unwrap();
    replace(&path, b"new").unwrap_err();
    assert_eq!(names(folder.path()), ["taken"]);
}

#[test]
fn what_is_damaged_or_too_large_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kept.json");
    fs::write(&path, "[1,").unwrap();
    read_json::<Vec<u32>>(&path).unwrap_err();
    // A file with a hole takes no space.
    let file = File::create(&path).unwrap();
    file.set_len(MAX_KEPT_BYTES + 1).unwrap();
    let error = read_json::<Vec<u32>>(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FileTooLarge);
}
