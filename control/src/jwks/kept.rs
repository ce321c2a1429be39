//! Keys that were fetched, kept in the state folder: a mesh process that starts again while an issuer is away goes on with
//! what it had, and no proxy loses keys because of a restart. They are public.

use std::{collections::BTreeMap, path::Path};

use reeve_core::UnixTime;
use reeve_files::{read_json, replace_json};
use serde::{Deserialize, Serialize};

use super::{MAX_SOURCES, source::Fetched};
use crate::mesh::KeyPlace;

const FILE_NAME: &str = "jwks.json";

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    place: KeyPlace,
    fetched_at: UnixTime,
    jwks: String,
}

/// What was kept and is still good. A file that cannot be read is as good as none: keys are fetched at once anyhow.
pub(super) fn read(state: &Path, now: UnixTime) -> BTreeMap<KeyPlace, Fetched> {
    let path = state.join(FILE_NAME);
    let entries = read_json::<Vec<Entry>>(&path).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "kept token keys cannot be read");
        None
    });
    let entries = entries.unwrap_or_default().into_iter();
    let fetched = entries.take(MAX_SOURCES).filter_map(|entry| {
        let fetched = Fetched::check(&entry.jwks, entry.fetched_at).ok()?;
        fetched.is_usable(now).then_some((entry.place, fetched))
    });
    fetched.collect()
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
    if let Err(error) = replace_json(&path, &entries) {
        tracing::warn!(path = %path.display(), %error, "token keys could not be kept");
    }
}
