//! Files that a process keeps for the next one: read within a bound, replaced wholly or not at all.

use std::{
    fs::{self, File, Permissions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

/// Largest file that is read back: 32 trust domains' bundles of 1 MiB, twice for how JSON escapes them, is the largest that
/// anything here writes.
const MAX_KEPT_BYTES: u64 = 128 * 1024 * 1024;

/// What a JSON file holds; `None` where there is no such file. A file of more than 128 MiB is an error, and what is no JSON of
/// a `T`, too.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_KEPT_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_KEPT_BYTES {
        let what = format!("it is larger than {MAX_KEPT_BYTES} bytes");
        return Err(io::Error::new(ErrorKind::FileTooLarge, what));
    }
    Ok(Some(serde_json::from_slice(&text)?))
}

/// Replaces a file by a value's JSON, as [`replace`] does.
pub fn replace_json<T: Serialize + ?Sized>(path: &Path, value: &T) -> io::Result<()> {
    replace(path, &serde_json::to_vec_pretty(value)?)
}

/// Replaces a file: who reads it meanwhile sees the old content or the new, and the new is on the disk when this returns. Its
/// permissions stay; a new file has those of the umask. Nothing is left beside it by an error.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut beside = tempfile::Builder::new()
        // No name that a folder of configuration or of logs is searched for.
        .prefix(&format!(".{name}."))
        .suffix(".new")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)?;
    beside.write_all(content)?;
    if let Ok(before) = fs::metadata(path) {
        beside.as_file().set_permissions(before.permissions())?;
    }
    beside.as_file().sync_all()?;
    beside.persist(path).map_err(|failed| failed.error)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
