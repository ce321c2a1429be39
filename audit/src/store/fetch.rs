//! Fetching a log from a store into a folder, so that everything that reads folders reads it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{Listed, Store, StoreError};
use crate::{disk, log::layout};

/// The folder's note of which version of each object it has.
const NOTES: &str = "fetched";

/// Which objects are fetched.
pub type Wanted<'a> = &'a dyn Fn(&str) -> bool;

/// What fetching did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Objects that came from the store.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that the folder had in the store's version.
    pub kept: u64,
}

/// Brings the folder `into` to what the store holds, as far as it is wanted: what the folder has in the same version stays,
/// and what the store has no more goes. The checkpoint is read first, so that what it covers is there.
pub fn fetch(store: &dyn Store, into: &Path, wanted: Wanted<'_>) -> Result<Fetched, StoreError> {
    let at = |e: io::Error| StoreError::failed(&into.display().to_string(), e);
    disk::make_dir(into).map_err(at)?;
    let had = read_notes(into);
    let checkpoint = store.get(layout::CHECKPOINT)?;
    let Some(checkpoint) = checkpoint else {
        let what = "there is no log: it has no checkpoint";
        return Err(StoreError::failed(layout::CHECKPOINT, what));
    };
    let mut listed = Vec::new();
    store.list("", &mut |object| listed.push(object))?;
    listed.retain(|object| {
        let name = object.name.as_str();
        is_safe(name) && wanted(name) && ![layout::CHECKPOINT, layout::WRITER].contains(&name)
    });
    let mut done = Fetched::default();
    let mut notes = BTreeMap::new();
    for Listed { name, bytes, tag } in listed {
        let place = into.join(&name);
        let whole = fs::metadata(&place).is_ok_and(|held| held.len() == bytes);
        let seen = had.get(&name).filter(|tag| !tag.is_empty());
        if whole && seen == tag.as_ref().map(|tag| &tag.0) && seen.is_some() {
            done.kept += 1;
        } else {
            disk::make_dir(place.parent().unwrap_or(into)).map_err(at)?;
            match store.download(&name, &place) {
                // A narrower tile that has made room for a wider one, or a batch that retention has taken, meanwhile.
                Err(_) if store.get(&name).is_ok_and(|object| object.is_none()) => continue,
                done => done?,
            }
            done.objects += 1;
            done.bytes += bytes;
        }
        notes.insert(name, tag.map_or_else(String::new, |tag| tag.0));
    }
    for gone in had.keys().filter(|name| !notes.contains_key(*name)) {
        // Not there any more, or not wanted this time; a later fetch brings it again.
        drop(fs::remove_file(into.join(gone)));
    }
    disk::put(&into.join(layout::CHECKPOINT), &checkpoint.bytes).map_err(at)?;
    write_notes(into, &notes).map_err(at)?;
    Ok(done)
}

/// SECURITY: names come from the store; none may lead out of the folder.
fn is_safe(name: &str) -> bool {
    let sound = |part: &str| !part.is_empty() && part != "." && part != "..";
    name != NOTES && name.split('/').all(sound) && !name.contains(['\n', '\t', '\\', '\0'])
}

fn notes_in(dir: &Path) -> PathBuf {
    dir.join(NOTES)
}

fn read_notes(dir: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(notes_in(dir)).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once('\t'));
    pairs
        .filter(|(name, _)| is_safe(name))
        .map(|(name, tag)| (name.to_owned(), tag.to_owned()))
        .collect()
}

fn write_notes(dir: &Path, notes: &BTreeMap<String, String>) -> io::Result<()> {
    let lines: Vec<_> = notes.iter().map(|(n, t)| format!("{n}\t{t}\n")).collect();
    disk::put(&notes_in(dir), lines.concat().as_bytes())
}
