//! Applied policy sets, kept by their hash in the folder that they were applied to.
//!
//! `sets/HASH/FILE.yaml` has the objects of each file that make the set – policies, roles, schema, entities –, as they stood; `applied/NNNNNN.json` says when a set
//! was applied, by whom and what for. Nothing is ever changed once it is there, so that it merges well under git.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use reeve_control::{PolicyFolder, PolicyObject};
use reeve_core::UnixTime;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// Within a configuration folder.
const HISTORY: &str = ".reeve/policy-history";
/// Fewest digits of a hash that name a set.
const MIN_HASH_DIGITS: usize = 4;

/// The history of one folder.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

/// A set that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// From 1.
    pub(crate) number: u32,
    pub(crate) time: UnixTime,
    pub(crate) what: What,
    /// Of the policy set that was then in the folder.
    pub(crate) hash: String,
    /// Who did it, as the system knows them.
    pub(crate) by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

/// How a set came to be in the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// It was there, written by other means.
    Found,
    /// By `reeve policy apply`.
    Apply,
    /// By `reeve policy rollback`.
    Rollback,
}

impl What {
    /// As it stands in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Apply => "apply",
            Self::Rollback => "rollback",
        }
    }
}

impl Store {
    /// The history of `folder`.
    pub(crate) fn of(folder: &Path) -> Self {
        Self {
            root: folder.join(HISTORY),
        }
    }

    /// Every entry, the oldest first.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, Problem> {
        let applied = self.root.join("applied");
        let listed = match fs::read_dir(&applied) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(&applied, &error)),
        };
        let mut entries = Vec::new();
        for file in listed {
            let path = file.map_err(|error| unreadable(&applied, &error))?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let text = fs::read(&path).map_err(|error| unreadable(&path, &error))?;
            let entry: Entry = serde_json::from_slice(&text).map_err(|error| {
                Problem::because("the entry is damaged", &error).at(path.display())
            })?;
            entries.push(entry);
        }
        // Two that were made apart may have one number.
        entries.sort_by_key(|entry| (entry.number, entry.time));
        Ok(entries)
    }

    /// The hash of the one kept set that `text` begins, or is.
    pub(crate) fn hash(&self, text: &str) -> Result<String, Problem> {
        let sets = self.root.join("sets");
        let listed = fs::read_dir(&sets).map_err(|error| {
            Problem::because(
                format!("there is no set {text}: nothing was applied yet"),
                &error,
            )
            .at(sets.display())
        })?;
        let names = listed.flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut found: Vec<_> = names
            .filter(|name| !name.starts_with('.') && name.starts_with(text))
            .collect();
        found.sort();
        match found.as_slice() {
            [one] if text.len() >= MIN_HASH_DIGITS => Ok(one.clone()),
            [] => Err(Problem::new(format!("there is no set {text}"))
                .fix("`reeve policy history` lists those that were applied")),
            _ => Err(
                Problem::new(format!("{text} may be one of {}", found.join(", ")))
                    .fix("write more of it"),
            ),
        }
    }

    /// The objects of a kept set.
    pub(crate) fn objects(&self, text: &str) -> Result<Vec<PolicyObject>, Problem> {
        let path = self.root.join("sets").join(self.hash(text)?);
        PolicyFolder::read(&path)
            .and_then(|folder| folder.objects())
            .map_err(|error| Problem::because("the set cannot be read", &error).at(path.display()))
    }

    /// Keeps a set under its hash.
    pub(crate) fn keep(&self, hash: &str, objects: &[PolicyObject]) -> Result<(), Problem> {
        let path = self.root.join("sets").join(hash);
        if path.is_dir() {
            return Ok(());
        }
        let mut files: BTreeMap<&str, String> = BTreeMap::new();
        for object in objects {
            let text = files.entry(&object.file).or_default();
            if !text.is_empty() {
                text.push_str("---\n");
            }
            text.push_str(&object.text);
            if !text.ends_with('\n') {
                text.push('\n');
            }
        }
        // All of it or nothing bears the name.
        let new = self
            .root
            .join("sets")
            .join(format!(".{hash}.{}", std::process::id()));
        let write = || {
            for (file, text) in &files {
                let file = new.join(file);
                fs::create_dir_all(file.parent().unwrap_or(&new))?;
                fs::write(file, text)?;
            }
            fs::create_dir_all(&new)?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| {
            drop(fs::remove_dir_all(&new));
            unwritable(&path, &error)
        })
    }

    /// Adds an entry; its number is the next one.
    pub(crate) fn add(&self, mut entry: Entry) -> Result<Entry, Problem> {
        let applied = self.root.join("applied");
        fs::create_dir_all(&applied).map_err(|error| unwritable(&applied, &error))?;
        let last = self.entries()?.last().map_or(0, |entry| entry.number);
        entry.number = last + 1;
        let path = applied.join(format!("{:06}.json", entry.number));
        reeve_files::replace_json(&path, &entry).map_err(|error| unwritable(&path, &error))?;
        Ok(entry)
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem::because("the history cannot be read", error).at(path.display())
}

fn unwritable(path: &Path, error: &io::Error) -> Problem {
    Problem::because("the history cannot be written", error).at(path.display())
}

#[cfg(test)]
mod tests {
    use reeve_control::PolicyKind;

    use super::*;

    fn object(name: &str, file: &str) -> PolicyObject {
        PolicyObject {
            kind: PolicyKind::Policy,
            namespace: "default".into(),
            name: name.into(),
            file: file.into(),
            text: format!(
                "apiVersion: reeve.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
                 spec:\n  cedar: |\n    permit (principal, action, resource);\n"
            ),
        }
    }

    fn entry(what: What, hash: &str) -> Entry {
        Entry {
            number: 0,
            time: UnixTime::from_secs(1),
            what,
            hash: hash.into(),
            by: "alice".into(),
            note: None,
        }
    }

    #[test]
    fn sets_are_kept_by_hash_and_named_by_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(folder.path());
        assert!(store.hash("abcd").is_err());
        let objects = [
            object("a", "x.yaml"),
            object("b", "sub/y.yaml"),
            object("c", "x.yaml"),
        ];
        store.keep("abcdef01", &objects).unwrap();
        store.keep("abcd9999", &[]).unwrap();
        store.keep("abcd9999", &objects).unwrap();
        assert_eq!(store.hash("abcde").unwrap(), "abcdef01");
        assert!(
            store
                .hash("abcd")
                .unwrap_err()
                .to_string()
                .contains("may be one of")
        );
        assert!(store.hash("abc").is_err() && store.hash("ffff").is_err());
        let mut kept = store.objects("abcdef").unwrap();
        kept.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(kept, objects);
        assert_eq!(store.objects("abcd9").unwrap(), []);
    }

    #[test]
    fn entries_are_numbered_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(folder.path());
        assert_eq!(store.entries().unwrap(), []);
        store.add(entry(What::Found, "aa")).unwrap();
        let second = store.add(entry(What::Apply, "bb")).unwrap();
        assert_eq!(second.number, 2);
        let entries = store.entries().unwrap();
        let hashes: Vec<_> = entries.iter().map(|e| e.hash.as_str()).collect();
        assert_eq!(hashes, ["aa", "bb"]);
        assert_eq!(entries[1], second);
    }
}
