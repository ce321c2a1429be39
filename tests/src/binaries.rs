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

/// `target/<profile>`: a test executable is in `deps` below it, another one in it.
pub(crate) fn target_dir() -> PathBuf {
    let own = env::current_exe().expect("this executable's path");
    let dir = own.parent().expect("target/<profile>[/deps]/<executable>");
    let dir = if dir.ends_with("deps") {
        dir.parent()
    } else {
        Some(dir)
    };
    dir.expect("target/<profile>").to_path_buf()
}
