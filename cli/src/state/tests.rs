use std::os::unix::fs::PermissionsExt;

use super::*;

fn fresh() -> (tempfile::TempDir, StateDir) {
    let folder = tempfile::tempdir().unwrap();
    let dir = StateDir::new(folder.path().join("a/state"));
    (folder, dir)
}

#[test]
fn a_claimed_directory_is_private_and_taken() {
    let (_folder, dir) = fresh();
    let claimed = dir.clone().claim().unwrap();
    let mode = fs::metadata(dir.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let problem = dir.clone().claim().unwrap_err().to_string();
    assert!(problem.contains("in use by another mesh"), "{problem}");
    drop(claimed);
    assert!(dir.claim().is_ok(), "free again once its owner is gone");
}

#[test]
fn a_directory_that_others_can_reach_is_refused() {
    let (_folder, dir) = fresh();
    drop(dir.clone().claim().unwrap());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
    let problem = dir.clone().claim().unwrap_err().to_string();
    assert!(problem.contains("mode 750"), "{problem}");
    assert!(problem.contains("chmod 700"), "{problem}");
}

#[test]
fn a_planted_link_is_refused() {
    let (folder, dir) = fresh();
    fs::create_dir_all(dir.path().parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(folder.path(), dir.path()).unwrap();
    assert!(
        dir.claim()
            .unwrap_err()
            .to_string()
            .contains("something else")
    );
}

#[test]
fn socket_paths_end_at_107_bytes() {
    let path = |length: usize| PathBuf::from(format!("/{}", "s".repeat(length - 1)));
    assert!(check_socket_path(&path(107)).is_ok());
    let problem = check_socket_path(&path(108)).unwrap_err().to_string();
    assert!(problem.contains("has 108"), "{problem}");
}

#[test]
fn a_relative_directory_means_the_same_for_every_process() {
    let dir = StateDir::new(PathBuf::from("some/state"));
    assert_eq!(
        dir.path(),
        std::env::current_dir().unwrap().join("some/state")
    );
}
