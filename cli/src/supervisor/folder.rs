//! Notices edits of the configuration folder.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Deeper folders are not looked at.
const MAX_DEPTH: usize = 8;
/// Nor are more files than this.
const MAX_FILES: usize = 10_000;

/// What the folder's files looked like: path, size, time of change, inode.
pub(crate) type Fingerprint = Vec<(PathBuf, u64, i64, i64, u64)>;

/// Looks at the folder.
pub(crate) fn fingerprint(folder: &Path) -> Fingerprint {
    let mut found = Vec::new();
    drop(gather(folder, MAX_DEPTH, &mut found));
    found.sort();
    found
}

fn gather(path: &Path, depth: usize, found: &mut Fingerprint) -> io::Result<()> {
    let meta = fs::metadata(path)?;
    if meta.is_dir() && depth > 0 {
        for entry in fs::read_dir(path)? {
            // A file that vanishes meanwhile is a change that the next look sees.
            drop(gather(&entry?.path(), depth - 1, found));
        }
    } else if is_yaml(path) && found.len() < MAX_FILES {
        found.push((
            path.to_owned(),
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ino(),
        ));
    }
    Ok(())
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml")
}

/// Returns when the folder differs from `seen` and has been quiet for one look. Cancel-safe.
pub(crate) async fn changed(folder: &Path, seen: &Fingerprint) -> Fingerprint {
    let mut before = seen.clone();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = fingerprint(folder);
        if now == before && now != *seen {
            return now;
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn edits_additions_and_removals_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, "a").unwrap();
        let first = fingerprint(folder.path());
        fs::write(&file, "ab").unwrap();
        let second = changed(folder.path(), &first).await;
        fs::create_dir(folder.path().join("more")).unwrap();
        fs::write(folder.path().join("more/b.yml"), "b").unwrap();
        let third = changed(folder.path(), &second).await;
        fs::remove_file(&file).unwrap();
        let fourth = changed(folder.path(), &third).await;
        assert_eq!(
            (first.len(), second.len(), third.len(), fourth.len()),
            (1, 1, 2, 1)
        );
        fs::write(folder.path().join("notes.txt"), "x").unwrap();
        assert_eq!(fingerprint(folder.path()), fourth);
    }
}
