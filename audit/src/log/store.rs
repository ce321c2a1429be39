//! Reading and writing a log folder's files.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{LogError, layout, tree::TILE_WIDTH};
use crate::disk;

/// So many files are waited for one by one; more with the whole file system, which is one wait for all of them.
const SINGLE_FILES: usize = 8;

/// Writes files so that all of them, and the folders they are in, are on the disk when this returns.
pub(crate) fn put_all(
    root: &Path,
    files: impl IntoIterator<Item = (PathBuf, Vec<u8>)>,
) -> Result<(), LogError> {
    let files: Vec<_> = files.into_iter().collect();
    let together = files.len() > SINGLE_FILES;
    let mut folders = BTreeSet::new();
    for (path, bytes) in files {
        let folder = path.parent().unwrap_or(root);
        if !folders.contains(folder) {
            let new = !folder.exists();
            disk::make_dir(folder).map_err(|e| LogError::io(folder, e))?;
            folders.insert(folder.to_owned());
            if new {
                let above = folder
                    .ancestors()
                    .skip(1)
                    .take_while(|a| a.starts_with(root));
                folders.extend(above.map(Path::to_owned));
            }
        }
        let put = if together {
            disk::put_unsynced
        } else {
            disk::put
        };
        put(&path, &bytes).map_err(|e| LogError::io(&path, e))?;
    }
    if together {
        return disk::sync_file_system(root).map_err(|e| LogError::io(root, e));
    }
    for folder in folders {
        disk::sync_dir(&folder).map_err(|e| LogError::io(&folder, e))?;
    }
    Ok(())
}

/// Reads a tile of at least `width`: that width, or the full tile, or another wider one (C2SP lets a log drop partial
/// tiles once wider ones are there).
pub(crate) fn read_tile(
    dir: &Path,
    level: Option<u8>,
    index: u64,
    width: usize,
) -> io::Result<(PathBuf, Vec<u8>)> {
    let exact = layout::tile_path(dir, level, index, width);
    match fs::read(&exact) {
        Ok(bytes) => return Ok((exact, bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for wider in (width + 1..=TILE_WIDTH).rev() {
        let path = layout::tile_path(dir, level, index, wider);
        if let Ok(bytes) = fs::read(&path) {
            return Ok((path, bytes));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("{} is not there", exact.display()),
    ))
}

/// Gets an entry's index, the file it was read from, and the entry or what is wrong with its bundle.
pub(crate) type EachEntry<'a> = &'a mut dyn FnMut(u64, &Path, Result<Vec<u8>, String>);

/// The first `size` entries of the tree, in bundles; each with the file that holds it.
pub(crate) fn read_entries(dir: &Path, size: u64, each: EachEntry<'_>) {
    read_entries_from(dir, 0, size, each);
}

/// The same, for those from `first` on.
pub(crate) fn read_entries_from(dir: &Path, first: u64, size: u64, each: EachEntry<'_>) {
    // Where nothing is wanted, as of a tree whose records are all in columns, the last tile is not read either.
    if first >= size {
        return;
    }
    let mut from = first - first % 256;
    let each: EachEntry<'_> = &mut |at, path, entry| {
        if at >= first || entry.is_err() {
            each(at, path, entry);
        }
    };
    while from < size {
        let wide = (size - from).min(256);
        let width = usize::try_from(wide).unwrap_or(TILE_WIDTH);
        let index = from / 256;
        match read_tile(dir, None, index, width) {
            Err(error) => {
                let path = layout::tile_path(dir, None, index, width);
                each(from, &path, Err(error.to_string()));
            }
            Ok((path, bytes)) => match layout::parse_bundle(&bytes) {
                None => each(
                    from,
                    &path,
                    Err("does not end with a whole entry".to_owned()),
                ),
                Some(entries) if entries.len() < width => {
                    each(
                        from,
                        &path,
                        Err(format!("holds {} entries, not {width}", entries.len())),
                    );
                }
                Some(entries) => {
                    for (at, entry) in (from..).zip(entries.into_iter().take(width)) {
                        each(at, &path, Ok(entry));
                    }
                }
            },
        }
        from += wide;
    }
}

/// Every file below `dir/part`, with its path relative to `dir`, sorted.
pub(crate) fn walk(dir: &Path, part: &str) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut folders = vec![dir.join(part)];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(relative) = path.strip_prefix(dir) {
                found.push((relative.display().to_string(), path.clone()));
            }
        }
    }
    found.sort();
    Ok(found)
}
