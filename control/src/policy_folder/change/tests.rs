//! Whoever changes a folder is killed at every step; what is left is the old set, or is finished to the new one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::{PolicyFolder, source::Source};

/// One file changes, one comes, one in a folder of its own comes, and one goes.
fn edits() -> Vec<Edit> {
    let edit = |file: &str, before: Option<&str>, after: Option<&str>| Edit {
        file: file.to_owned(),
        before: before.map(str::to_owned),
        after: after.map(str::to_owned),
    };
    vec![
        edit("a.yaml", Some("# a\n"), Some("# a, new\n")),
        edit("b.yaml", None, Some("# b\n")),
        edit("c.yaml", Some("# c\n"), None),
        edit("deep/d.yaml", None, Some("# d\n")),
    ]
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for edit in edits() {
        if let Some(text) = edit.before {
            fs::write(folder.path().join(edit.file), text).unwrap();
        }
    }
    folder
}

fn is(folder: &Path, side: impl Fn(&Edit) -> &Option<String>) -> bool {
    edits()
        .iter()
        .all(|edit| text_of(&folder.join(&edit.file)).unwrap() == *side(edit))
}

/// Ends before the step of that number, as a kill would: nothing is cleaned up.
fn killed_at<T>(number: usize, work: impl FnOnce(Steps<'_>) -> T) -> Option<T> {
    let mut steps = 0;
    let mut step = |what: &'static str| {
        assert!(steps != number, "killed {what}");
        steps += 1;
    };
    catch_unwind(AssertUnwindSafe(|| work(&mut step))).ok()
}

fn make(folder: &Path, step: Steps<'_>) -> Result<(), PolicyFolderError> {
    let lock = FolderLock::alone(folder)?;
    let change = Change::make(folder, lock, (edits(), "who and why"), step)?;
    change.finish_by(step)
}

fn recover(folder: &Path, step: Steps<'_>) -> Result<Option<Change>, PolicyFolderError> {
    Change::recover(folder, FolderLock::alone, step)
}

/// Files that no configuration has: hidden ones.
fn left_behind(folder: &Path) -> Vec<PathBuf> {
    let places = [folder.to_owned(), folder.join(OWN), folder.join("deep")];
    let entries = places.iter().flat_map(fs::read_dir).flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.to_string_lossy().ends_with(".reeve-new"))
        .collect()
}

#[test]
fn whoever_is_killed_leaves_the_old_set_or_one_that_is_finished() {
    let (mut undone, mut finished, mut number) = (0, 0, 0);
    loop {
        let folder = folder();
        let path = folder.path();
        if killed_at(number, |step| make(path, step).unwrap()).is_some() {
            assert!(is(path, |edit| &edit.after) && !is_pending(path));
            break;
        }
        match is_pending(path) {
            false if is(path, |edit| &edit.before) => undone += 1,
            // Killed when the journal was gone already.
            false => assert!(is(path, |edit| &edit.after), "step {number}"),
            true => {
                let (texts, faults) = Source::texts(path);
                assert!(texts.is_empty(), "step {number}: {texts:?}");
                assert!(faults[0].text.contains("was interrupted"), "{faults:?}");
                let change = recover(path, &mut |_| {}).unwrap().expect("one to finish");
                assert_eq!(change.memo(), "who and why");
                assert_eq!(
                    change.files(),
                    ["a.yaml", "b.yaml", "c.yaml", "deep/d.yaml"]
                );
                change.finish().unwrap();
                finished += 1;
                assert!(is(path, |edit| &edit.after), "step {number}");
            }
        }
        assert!(recover(path, &mut |_| {}).unwrap().is_none());
        assert!(Source::texts(path).1.is_empty(), "step {number}");
        if is(path, |edit| &edit.before) {
            make(path, &mut |_| {}).unwrap();
        }
        assert!(is(path, |edit| &edit.after), "step {number}");
        assert!(left_behind(path).is_empty(), "step {number}");
        number += 1;
    }
    assert!(undone >= 3 && finished >= 12, "{undone} and {finished}");
}

#[test]
fn whoever_finishes_may_be_killed_as_well() {
    let half_done = || {
        let folder = folder();
        assert!(killed_at(8, |step| make(folder.path(), step).unwrap()).is_none());
        assert!(is_pending(folder.path()));
        folder
    };
    let mut number = 0;
    loop {
        let folder = half_done();
        let path = folder.path();
        let finished = killed_at(number, |step| {
            recover(path, step)
                .unwrap()
                .unwrap()
                .finish_by(step)
                .unwrap();
        });
        if finished.is_some() {
            break;
        }
        if let Some(change) = recover(path, &mut |_| {}).unwrap() {
            change.finish().unwrap();
        }
        assert!(is(path, |edit| &edit.after) && !is_pending(path));
        assert!(left_behind(path).is_empty(), "step {number}");
        number += 1;
    }
    assert!(number >= 12, "{number}");
}

#[test]
fn what_somebody_wrote_meanwhile_is_not_overwritten() {
    let folder = folder();
    let path = folder.path();
    assert!(killed_at(8, |step| make(path, step).unwrap()).is_none());
    fs::write(path.join("c.yaml"), "# mine\n").unwrap();
    let error = recover(path, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, PolicyFolderError::Unfinished(file) if file == "c.yaml"));
    assert_eq!(text_of(&path.join("c.yaml")).unwrap().unwrap(), "# mine\n");
    // Nor does another change begin on top of it.
    let before = PolicyFolder::default();
    let more = before.replace(path, &before, "");
    assert!(matches!(more, Err(PolicyFolderError::Pending)), "{more:?}");
    // Whoever has looked takes the journal away.
    fs::remove_file(journal_of(path)).unwrap();
    assert!(Source::texts(path).1.is_empty());
}

#[test]
fn what_cannot_be_written_is_taken_back() {
    let folder = folder();
    let path = folder.path();
    // The last of the files stands where a folder cannot be made.
    fs::write(path.join("deep"), "a file").unwrap();
    let error = make(path, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, PolicyFolderError::Io { path, .. } if path.ends_with("d.yaml")));
    assert!(!is_pending(path), "nothing is left to finish");
    let first_three = edits().into_iter().take(3);
    for edit in first_three {
        assert_eq!(text_of(&path.join(&edit.file)).unwrap(), edit.before);
    }
}

#[test]
fn a_journal_that_leads_out_of_the_folder_is_none() {
    let folder = folder();
    let path = folder.path();
    fs::create_dir_all(path.join(OWN)).unwrap();
    for file in ["../out.yaml", "/etc/out.yaml", ""] {
        let journal = serde_json::json!({"version": 1, "memo": "", "files": [{"file": file, "before": null, "after": "x"}]});
        fs::write(journal_of(path), journal.to_string()).unwrap();
        assert!(
            matches!(
                recover(path, &mut |_| {}),
                Err(PolicyFolderError::Io { .. })
            ),
            "{file}"
        );
    }
    fs::write(journal_of(path), "{\"version\": 1").unwrap();
    assert!(recover(path, &mut |_| {}).is_err());
}
