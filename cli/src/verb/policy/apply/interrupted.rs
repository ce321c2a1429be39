//! Finishing what an apply that was interrupted had begun.

use std::path::Path;

use reeve_control::PolicyFolder;

use super::{
    super::history::{Entry, Store},
    short, unusable,
};
use crate::{output, problem::Problem, supervisor::logfile::timestamp};

/// Finishes a change of policies that was interrupted in `folder`, if there is one, and says so.
pub(crate) fn finish(folder: &Path) -> Result<(), Problem> {
    let found = PolicyFolder::recover(folder).map_err(|error| unusable(folder, &error))?;
    let Some(change) = found else {
        return Ok(());
    };
    let files = change.files().join(", ");
    let entry: Result<Entry, _> = serde_json::from_str(change.memo());
    let told = match &entry {
        Ok(entry) => {
            let store = Store::of(folder);
            let same = |other: &Entry| other.hash == entry.hash && other.time == entry.time;
            if !store.entries()?.iter().any(same) {
                store.add(entry.clone())?;
            }
            let (hash, what) = (short(&entry.hash), entry.what.as_str());
            let began = timestamp(entry.time);
            format!("policy set {hash}, {what} by {} at {began}", entry.by)
        }
        // It is done all the same; only the history does not know of it.
        Err(_) => "it is not in the history".to_owned(),
    };
    change.finish().map_err(|error| unusable(folder, &error))?;
    output::note(&format!(
        "{}: a change of policies had been interrupted and is finished now: {files} ({told})",
        folder.display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use reeve_core::UnixTime;

    use super::*;
    use crate::verb::policy::history::What;

    #[test]
    fn an_interrupted_apply_is_finished_with_its_place_in_the_history() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let entry = Entry {
            number: 0,
            time: UnixTime::from_secs(1_800_000_000),
            what: What::Apply,
            hash: "abcdef".to_owned(),
            by: "alice".to_owned(),
            note: None,
        };
        let before = PolicyFolder::read(path).unwrap();
        let new = tempfile::tempdir().unwrap();
        fs::write(new.path().join("a.yaml"), "# a\n").unwrap();
        let after = PolicyFolder::read(new.path()).unwrap();
        let memo = serde_json::to_string(&entry).unwrap();
        // Killed before the history knows of it, and once more after that.
        for _ in 0..2 {
            let pending = match before.replace(path, &after, &memo) {
                Ok(change) => change,
                Err(error) => panic!("{error}"),
            };
            drop(pending);
            assert!(PolicyFolder::read(path).is_err(), "nobody reads it now");
            finish(path).unwrap();
            assert_eq!(PolicyFolder::read(path).unwrap(), after);
            let entries = Store::of(path).entries().unwrap();
            assert_eq!(entries.len(), 1);
            assert_eq!((entries[0].number, entries[0].hash.as_str()), (1, "abcdef"));
            fs::remove_file(path.join("a.yaml")).unwrap();
        }
        finish(path).unwrap();
    }
}
