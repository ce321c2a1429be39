//! The binaries under test.

use std::{env, path::PathBuf};

/// The built binary `name` (`reeve`, `reeve-bookinfo`): beside the test executable's folder, or where `REEVE_BIN` says
/// that `reeve` is.
///
/// # Panics
/// When it has not been built.
pub fn binary(name: &str) -> PathBuf {
    let path = match env::var_os("REEVE_BIN") {
        Some(reeve) if name == "reeve" => PathBuf::from(reeve),
        _ => target_dir().join(name),
    };
    assert!(
        path.is_file(),
        "{} is missing; build it first: cargo build -p reeve-cli -p reeve-bookinfo",
        path.display()
    );
    path
}

/// `target/<profile>`: the test executable is in `deps` below it.
pub(crate) fn target_dir() -> PathBuf {
    let test = env::current_exe().expect("the test executable's path");
    let dir = test
        .ancestors()
        .nth(2)
        .expect("target/<profile>/deps/<test>");
    dir.to_path_buf()
}
