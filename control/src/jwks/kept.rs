//! Keys that were fetched, kept in the state folder: a mesh process that starts again while an issuer is away goes on with
//! what it had, and no proxy loses keys because of a restart. They are public.

use std::{collections::BTreeMap, fs, io, path::Path};

use reeve_core::UnixTime;
use serde::{Deserialize, Serialize};

use super::{MAX_SOURCES, source::Fetched};
use crate::mesh::KeyPlace;

const FILE_NAME: &str = "jwks.json";
/// Largest file: every place's keys, and as much again for how JSON escapes them.
const MAX_KEPT_BYTES: u64 = 128 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    place: KeyPlace,
    fetched_at: UnixTime,
    jwks: String,
}

/// What was kept and is still good. A file that cannot be read is as good as none: keys are fetched at once anyhow.
pub(super) fn read(state: &Path, now: UnixTime) -> BTreeMap<KeyPlace, Fetched> {
    let path = state.join(FILE_NAME);
    let entries = match read_entries(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "kept token keys cannot be read");
            Vec::new()
        }
    };
    let fetched = entries.into_iter().take(MAX_SOURCES).filter_map(|entry| {
        let fetched = Fetched::check(&entry.jwks, entry.fetched_at).ok()?;
        fetched.is_usable(now).then_some((entry.place, fetched))
    });
    fetched.collect()
}

fn read_entries(path: &Path) -> io::Result<Vec<Entry>> {
    let length = fs::metadata(path)?.len();
    if length > MAX_KEPT_BYTES {
        return Err(io::Error::other(format!("{length} bytes are too many")));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Keeps them, wholly or not at all.
pub(super) fn write<'k>(state: &Path, keys: impl Iterator<Item = (&'k KeyPlace, &'k Fetched)>) {
    let entries: Vec<Entry> = keys
        .map(|(place, keys)| Entry {
            place: place.clone(),
            fetched_at: keys.at,
            jwks: keys.document.json.clone(),
        })
        .collect();
    let path = state.join(FILE_NAME);
    let temporary = path.with_extension("json.new");
    let written = serde_json::to_vec(&entries)
        .map_err(io::Error::from)
        .and_then(|text| fs::write(&temporary, text))
        .and_then(|()| fs::rename(&temporary, &path));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "token keys could not be kept");
    }
}
