//! The log's keys: the first, and each that took over, signed for by the one before.
//!
//! A change of key is a signed note (C2SP signed-note) in `keys/<number>`, signed by the old key and by the new one:
//!
//! ```text
//! reeve.dev/log-key/v1
//! <the log's name>
//! <tree size> <root, base64>       the last tree that the old key may sign
//! <the old key, name+hash+key>
//! <the new key>
//! ```

use std::{fs, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::{Checkpoint, Hash};

use super::layout;

/// The first line of a change of key; no log has such a name.
const FIRST_LINE: &str = "reeve.dev/log-key/v1";

/// The most changes of key that are followed.
const MAX_CHANGES: usize = 4096;

/// Who may sign which checkpoints of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyChain {
    /// Each with the size of the last tree that it may sign.
    keys: Vec<(String, u64)>,
    changes: usize,
}

/// A change of key does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChainFault {
    /// The file.
    pub(crate) place: String,
    /// What is wrong.
    pub(crate) what: String,
}

impl KeyChain {
    /// Only this key.
    pub(crate) fn of(key: &str) -> Self {
        Self {
            keys: vec![(key.trim().to_owned(), u64::MAX)],
            changes: 0,
        }
    }

    /// From a key that is trusted over all changes in `dir`. Changes before the trusted key do not concern it.
    pub(crate) fn follow(dir: &Path, trusted: &str) -> (Self, Vec<ChainFault>) {
        Self::over(trusted, Self::changes_in(dir))
    }

    /// The changes of key in `dir`, first to last.
    pub(crate) fn changes_in(dir: &Path) -> Vec<Vec<u8>> {
        let numbers = 1..=MAX_CHANGES;
        numbers
            .map_while(|number| fs::read(layout::key_path(dir, number)).ok())
            .collect()
    }

    /// From a key that is trusted over these changes.
    pub(crate) fn over(trusted: &str, changes: Vec<Vec<u8>>) -> (Self, Vec<ChainFault>) {
        let mut chain = Self::of(trusted);
        let mut faults = Vec::new();
        for (number, bytes) in (1..).zip(changes.iter().take(MAX_CHANGES)) {
            chain.changes = number;
            if let Err(what) = chain.extend(bytes) {
                faults.push(ChainFault {
                    place: layout::key_path(Path::new(""), number)
                        .display()
                        .to_string(),
                    what,
                });
            }
        }
        (chain, faults)
    }

    /// The key in force.
    pub(crate) fn last(&self) -> &str {
        self.keys.last().map_or("", |(key, _)| key)
    }

    /// How many changes there are.
    pub(crate) fn changes(&self) -> usize {
        self.changes
    }

    /// Takes a change of key. SECURITY: changes before that of the key which is trusted say nothing, and are passed over.
    fn extend(&mut self, bytes: &[u8]) -> Result<(), String> {
        let note = Note::from_bytes(bytes).map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(note.text()).into_owned();
        let change = Change::parse(&text).ok_or("is no change of key")?;
        if change.old != self.last() {
            return match self.keys.len() {
                1 => Ok(()),
                _ => Err("is not a change of the key before".to_owned()),
            };
        }
        if change.name != name_of(change.old) || change.name != name_of(change.new) {
            return Err(format!("is of log {:?}", change.name));
        }
        for (which, key) in [("old", change.old), ("new", change.new)] {
            let verifier =
                StandardVerifier::new(key).map_err(|e| format!("the {which} key, {key:?}: {e}"))?;
            note.verify(&VerifierList::new(vec![Box::new(verifier)]))
                .map_err(|e| format!("the {which} key has not signed it: {e}"))?;
        }
        if let Some((_, until)) = self.keys.last_mut() {
            *until = change.size;
        }
        self.keys.push((change.new.to_owned(), u64::MAX));
        Ok(())
    }

    /// Reads a checkpoint and verifies that a key signed it that might.
    pub(crate) fn open(&self, bytes: &[u8]) -> Result<Checkpoint, String> {
        let mut last = String::new();
        for (key, until) in self.keys.iter().rev() {
            match super::key::open_checkpoint(bytes, key) {
                Ok(checkpoint) if checkpoint.size() > *until => {
                    last = format!(
                        "is signed by a key that was replaced at tree size {until}; its own is {}",
                        checkpoint.size()
                    );
                }
                Ok(checkpoint) => return Ok(checkpoint),
                Err(what) if last.is_empty() => last = what,
                Err(_) => {}
            }
        }
        Err(last)
    }
}

/// What a change of key says.
struct Change<'t> {
    name: &'t str,
    size: u64,
    old: &'t str,
    new: &'t str,
}

impl<'t> Change<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        let mut lines = text.lines();
        lines.next().filter(|line| *line == FIRST_LINE)?;
        let name = lines.next()?;
        let (size, _root) = lines.next()?.split_once(' ')?;
        let (old, new) = (lines.next()?, lines.next()?);
        let size = size.parse().ok()?;
        lines.next().is_none().then_some(Self {
            name,
            size,
            old,
            new,
        })
    }
}

/// The key that the first change is of: what the log began with, for those who have no better knowledge.
pub(crate) fn first_key(dir: &Path) -> Option<String> {
    let text = fs::read_to_string(layout::key_path(dir, 1)).ok()?;
    let (text, _signatures) = text.split_once("\n\n")?;
    Some(Change::parse(text)?.old.to_owned())
}

/// The text of a change of key.
pub(super) fn change(name: &str, size: u64, root: Hash, old: &str, new: &str) -> String {
    let root = BASE64_STANDARD.encode(root.0);
    format!("{FIRST_LINE}\n{name}\n{size} {root}\n{old}\n{new}\n")
}

fn name_of(key: &str) -> &str {
    key.split('+').next().unwrap_or_default()
}
