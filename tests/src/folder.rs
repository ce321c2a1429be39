//! A folder of configuration that a test writes.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A fresh folder of YAML files; removed in the end.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// An empty one.
    #[expect(clippy::new_without_default, reason = "making a folder is no default")]
    pub fn new() -> Self {
        let path = fresh_path("conf");
        fs::create_dir(&path).expect("a fresh folder");
        Self { path }
    }

    /// A copy of the demo's folder.
    pub fn bookinfo() -> Self {
        let folder = Self::new();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/bookinfo/mesh");
        for entry in fs::read_dir(&source).expect("the demo's folder") {
            let entry = entry.expect("an entry");
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                fs::copy(entry.path(), folder.path.join(entry.file_name())).expect("a copy");
            }
        }
        folder
    }

    /// With one more file.
    #[must_use]
    pub fn with(self, name: &str, text: impl AsRef<str>) -> Self {
        self.write(name, text);
        self
    }

    /// Writes a file at once, so that a reader sees the old text or the new.
    pub fn write(&self, name: &str, text: impl AsRef<str>) {
        let hidden = self.path.join(format!(".{name}.new"));
        fs::write(&hidden, text.as_ref()).expect("a file of configuration");
        fs::rename(&hidden, self.path.join(name)).expect("its place");
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path.join(name)).expect("a file to remove");
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path.join(name)).expect("a file of configuration")
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.path));
    }
}

/// A path in the temporary directory that no other test uses, short enough for sockets below it.
pub(crate) fn fresh_path(kind: &str) -> PathBuf {
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    env::temp_dir().join(format!("rv-{}-{count}-{kind}", process::id()))
}
