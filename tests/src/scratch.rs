//! Folders for what servers write, and the user who runs them.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

use crate::folder::fresh_path;

/// `nobody`, on Debian.
const NOBODY: u32 = 65_534;

/// A fresh folder that an ordinary user may write to; removed in the end.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// An empty one.
    pub fn new(kind: &str) -> Self {
        let path = fresh_path(kind);
        fs::create_dir(&path).expect("a fresh folder");
        let scratch = Self(path);
        scratch.give("");
        scratch
    }

    /// With a file of that user's.
    pub fn write(&self, name: &str, text: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        self.give(name);
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn give(&self, name: &str) {
        if geteuid().is_root() {
            chown(self.0.join(name), Some(NOBODY), Some(NOBODY)).expect("another owner");
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// The words before a command that must not run as root: none for who is not. It may still reach what only root may, since
/// the programs can lie below root's home.
pub fn as_ordinary_user() -> Vec<String> {
    if !geteuid().is_root() {
        return Vec::new();
    }
    let words = "setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=+dac_override \
                 --ambient-caps=+dac_override";
    words.split_whitespace().map(str::to_owned).collect()
}
