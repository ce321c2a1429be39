//! The objects of a configuration folder that make its policy set – policies, roles, schema and entities – replaced as a
//! set where they stand.
//!
//! A set is changed by writing files; what reads the folder meanwhile must not see half of it. So whoever writes holds
//! `.reeve/lock` alone, and whoever reads the folder holds it with others ([`FolderLock`]).

mod change;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, File, TryLockError},
    io,
    path::Path,
    thread,
    time::Duration,
};

pub use self::change::Change;
use self::change::Edit;
pub(crate) use self::change::is_pending;
use crate::{DEFAULT_NAMESPACE, Fault, Mesh, resolve, source::Source};

/// The folder within a configuration folder that holds what is no configuration.
const OWN: &str = ".reeve";
/// How long a reader or writer waits for the other.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(10);

/// A kind of object that a policy set is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// Policies.
    Policy,
    /// A role.
    Role,
    /// Who has a role.
    RoleBinding,
    /// What the mesh adds to the schema.
    Schema,
    /// What is known of entities.
    Entities,
}

impl PolicyKind {
    const ALL: [Self; 5] = [
        Self::Policy,
        Self::Role,
        Self::RoleBinding,
        Self::Schema,
        Self::Entities,
    ];

    /// As it stands in YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "AccessPolicy",
            Self::Role => "AccessRole",
            Self::RoleBinding => "AccessRoleBinding",
            Self::Schema => "AccessSchema",
            Self::Entities => "AccessEntities",
        }
    }

    fn named(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == kind)
    }
}

/// One object of a policy set, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyObject {
    /// What it is.
    pub kind: PolicyKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The file that it stands in, relative to its folder.
    pub file: String,
    /// Its YAML document.
    pub text: String,
}

/// A folder of YAML (or a single file), read as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyFolder {
    /// File, relative to the folder → its text.
    files: BTreeMap<String, String>,
}

/// Why a set of policies cannot be changed where it stands.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFolderError {
    /// It cannot be read.
    #[error("it cannot be read: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unreadable(Vec<Fault>),
    /// An object is there twice.
    #[error("there are two of {0}")]
    Twice(String),
    /// A file is not laid out so that one document of it can be replaced.
    #[error("{0}: its documents cannot be told apart; begin each with a line `---` of its own")]
    Crowded(String),
    /// The folder is not as it was when it was read.
    #[error("{0} was changed by somebody else meanwhile; nothing was written")]
    Changed(String),
    /// A change was interrupted, and a file of it was changed by somebody else since.
    #[error(
        "a change of policies was interrupted, and {0} was changed since by somebody else; put it right, then remove \
         .reeve/policy-change.json"
    )]
    Unfinished(String),
    /// A change was interrupted.
    #[error("a change of policies was interrupted here and is not finished yet")]
    Pending,
    /// Somebody else reads or writes, without end.
    #[error("the folder is in use")]
    Locked,
    /// The operating system said no.
    #[error("{path}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl PolicyFolder {
    /// Reads every file of configuration in `path`.
    pub fn read(path: &Path) -> Result<Self, PolicyFolderError> {
        let (texts, faults) = Source::texts(path);
        match faults.is_empty() {
            true => Ok(Self {
                files: texts.into_iter().collect(),
            }),
            false => Err(PolicyFolderError::Unreadable(faults)),
        }
    }

    /// The objects of its policy set, by file and place.
    pub fn objects(&self) -> Result<Vec<PolicyObject>, PolicyFolderError> {
        let mut objects: Vec<PolicyObject> = Vec::new();
        for (file, text) in &self.files {
            for piece in pieces(file, text)? {
                let Some(key) = piece.key else {
                    continue;
                };
                if objects.iter().any(|object| object.key() == key) {
                    return Err(PolicyFolderError::Twice(key.to_string()));
                }
                let Key(kind, namespace, name) = key;
                objects.push(PolicyObject {
                    kind,
                    namespace,
                    name,
                    file: file.clone(),
                    text: piece.body,
                });
            }
        }
        Ok(objects)
    }

    /// How many documents it has that are no part of its policy set.
    pub fn others(&self) -> usize {
        let pieces = self
            .files
            .iter()
            .filter_map(|(f, text)| pieces(f, text).ok());
        pieces
            .flatten()
            .filter(|piece| piece.key.is_none() && !piece.is_blank())
            .count()
    }

    /// The same with `wanted` in place of the objects of those names; those that are new go to the file that they
    /// name. `only` says which others stay.
    pub fn with(&self, wanted: &[PolicyObject], only: Only) -> Result<Self, PolicyFolderError> {
        let mut placed: BTreeSet<Key> = BTreeSet::new();
        let mut files = BTreeMap::new();
        for (file, text) in &self.files {
            let mut kept = Vec::new();
            let before = pieces(file, text)?;
            for mut piece in before.clone() {
                let Some(key) = piece.key.clone() else {
                    kept.push(piece);
                    continue;
                };
                let new = wanted.iter().find(|object| object.key() == key);
                match new {
                    Some(new) => {
                        if !placed.insert(key.clone()) {
                            return Err(PolicyFolderError::Twice(key.to_string()));
                        }
                        piece.body.clone_from(&new.text);
                        kept.push(piece);
                    }
                    None if only.drops(key.0, wanted) => {}
                    None => kept.push(piece),
                }
            }
            let emptied = kept.len() < before.len() && kept.iter().all(Piece::is_blank);
            if !emptied {
                files.insert(file.clone(), joined(&kept));
            }
        }
        let new = wanted.iter().filter(|o| !placed.contains(&o.key()));
        for object in new {
            let text: &mut String = files.entry(object.file.clone()).or_default();
            if !text.trim().is_empty() {
                if !text.ends_with('\n') {
                    text.push('\n');
                }
                text.push_str("---\n");
            }
            text.push_str(&object.text);
        }
        Ok(Self { files })
    }

    /// Its documents.
    pub(crate) fn source(&self) -> Source {
        let mut source = Source::default();
        for (file, text) in &self.files {
            source.add(file, text);
        }
        source
    }

    /// The text of a file.
    pub(crate) fn text(&self, file: &str) -> Option<&str> {
        self.files.get(file).map(String::as_str)
    }

    /// Puts a text in a file's place, or takes the file away.
    pub(crate) fn put(&mut self, file: &str, text: Option<String>) {
        match text {
            Some(text) => drop(self.files.insert(file.to_owned(), text)),
            None => drop(self.files.remove(file)),
        }
    }

    /// What it says.
    pub fn mesh(&self) -> Result<Mesh, Vec<Fault>> {
        let resolved = resolve::resolve(&self.source());
        resolved.mesh.ok_or(resolved.findings)
    }

    /// Writes all of it to a new folder.
    pub fn write_to(&self, folder: &Path) -> Result<(), PolicyFolderError> {
        for (file, text) in &self.files {
            let path = folder.join(file);
            let made = path.parent().map_or(Ok(()), fs::create_dir_all);
            made.and_then(|()| fs::write(&path, text))
                .map_err(|source| failed(&path, source))?;
        }
        Ok(())
    }

    /// The files that `self` and `other` do not have alike.
    pub fn differing(&self, other: &Self) -> Vec<String> {
        let all: BTreeSet<_> = self.files.keys().chain(other.files.keys()).collect();
        all.into_iter()
            .filter(|file| self.files.get(*file) != other.files.get(*file))
            .cloned()
            .collect()
    }

    /// Writes `new` in place of this one to `folder`, which must still be as it was read. Nothing that reads the folder by
    /// [`crate::load`] or watches it sees some of the files alone, not even if this process is killed. `memo` is kept with
    /// the change until it is finished.
    pub fn replace(
        &self,
        folder: &Path,
        new: &Self,
        memo: &str,
    ) -> Result<Change, PolicyFolderError> {
        let lock = FolderLock::alone(folder)?;
        if is_pending(folder) {
            return Err(PolicyFolderError::Pending);
        }
        let now = Self::read_unlocked(folder)?;
        if let Some(file) = self.differing(&now).into_iter().next() {
            return Err(PolicyFolderError::Changed(file));
        }
        let edits = self.differing(new).into_iter().map(|file| Edit {
            before: self.files.get(&file).cloned(),
            after: new.files.get(&file).cloned(),
            file,
        });
        let what = (edits.collect(), memo);
        Change::make(folder, lock, what, &mut |_| {})
    }

    /// Finishes the files of a change that was interrupted in `folder`, if there is one.
    pub fn recover(folder: &Path) -> Result<Option<Change>, PolicyFolderError> {
        Change::recover(folder, FolderLock::alone, &mut |_| {})
    }

    fn read_unlocked(path: &Path) -> Result<Self, PolicyFolderError> {
        let (texts, faults) = Source::texts_unlocked(path);
        match faults.is_empty() {
            true => Ok(Self {
                files: texts.into_iter().collect(),
            }),
            false => Err(PolicyFolderError::Unreadable(faults)),
        }
    }
}

impl PolicyObject {
    fn key(&self) -> Key {
        Key(self.kind, self.namespace.clone(), self.name.clone())
    }
}

/// What tells an object of a policy set from every other: kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(PolicyKind, String, String);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.0.as_str(), self.1, self.2)
    }
}

/// Which objects of a policy set stay beside those that are put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// None: what is put in is the whole set.
    These,
    /// Those of kinds of which none are put in.
    OfTheirKinds,
    /// All of them.
    AndOthers,
}

impl Only {
    fn drops(self, kind: PolicyKind, wanted: &[PolicyObject]) -> bool {
        match self {
            Self::These => true,
            Self::OfTheirKinds => wanted.iter().any(|object| object.kind == kind),
            Self::AndOthers => false,
        }
    }
}

/// One document of a file, or what stands before the first.
#[derive(Clone, Debug)]
struct Piece {
    /// The line `---` that begins it, empty at a file's beginning.
    separator: String,
    body: String,
    /// Which object it is, if it is one of a policy set.
    key: Option<Key>,
}

impl Piece {
    /// Whether it has nothing but comments.
    fn is_blank(&self) -> bool {
        self.body
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
    }
}

/// A file's documents. A line that begins with `---` begins a document wherever it stands (YAML 1.2.2 section 9.1.2).
fn pieces(file: &str, text: &str) -> Result<Vec<Piece>, PolicyFolderError> {
    let mut pieces = vec![Piece {
        separator: String::new(),
        body: String::new(),
        key: None,
    }];
    for line in text.split_inclusive('\n') {
        let after = line.strip_prefix("---");
        let begins =
            after.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if begins {
            pieces.push(Piece {
                separator: line.to_owned(),
                body: String::new(),
                key: None,
            });
        } else if let Some(last) = pieces.last_mut() {
            last.body.push_str(line);
        }
    }
    for piece in &mut pieces {
        let mut source = Source::default();
        source.add(file, &format!("{}{}", piece.separator, piece.body));
        let ours = source.documents.iter().filter_map(|document| {
            let kind = document.kind.as_deref().and_then(PolicyKind::named)?;
            Some((kind, document))
        });
        let found: Vec<_> = ours.collect();
        piece.key = match (found.as_slice(), source.documents.len()) {
            ([], _) => None,
            ([(kind, one)], 1) => {
                let namespace = one.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
                let name = one.name.clone().unwrap_or_default();
                Some(Key(*kind, namespace.to_owned(), name))
            }
            _ => return Err(PolicyFolderError::Crowded(file.to_owned())),
        };
    }
    Ok(pieces)
}

fn joined(pieces: &[Piece]) -> String {
    let mut text = String::new();
    for piece in pieces {
        // The document before may have ended without a line break.
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&piece.separator);
        text.push_str(&piece.body);
    }
    text
}

fn failed(path: &Path, source: io::Error) -> PolicyFolderError {
    PolicyFolderError::Io {
        path: path.display().to_string(),
        source,
    }
}

/// Keeps writers from a folder that is read, and readers from one that is written. It ends with its process.
#[derive(Debug)]
pub(crate) struct FolderLock(Option<File>);

impl FolderLock {
    /// With other readers. A folder that nobody has written to has no lock; nor has one that cannot be locked.
    pub(crate) fn shared(folder: &Path) -> Option<Self> {
        let Ok(file) = File::open(folder.join(OWN).join("lock")) else {
            return Some(Self(None));
        };
        let mut waited = Duration::ZERO;
        loop {
            match file.try_lock_shared() {
                Ok(()) => return Some(Self(Some(file))),
                Err(TryLockError::Error(_)) => return Some(Self(None)),
                Err(TryLockError::WouldBlock) if waited >= PATIENCE => return None,
                Err(TryLockError::WouldBlock) => {
                    thread::sleep(LOOK);
                    waited += LOOK;
                }
            }
        }
    }

    fn alone(folder: &Path) -> Result<Self, PolicyFolderError> {
        let own = folder.join(OWN);
        fs::create_dir_all(&own).map_err(|source| failed(&own, source))?;
        let path = own.join("lock");
        let opened = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .open(&path);
        let file = opened.map_err(|source| failed(&path, source))?;
        let mut waited = Duration::ZERO;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(Some(file))),
                Err(TryLockError::Error(source)) => return Err(failed(&path, source)),
                Err(TryLockError::WouldBlock) if waited >= PATIENCE => {
                    return Err(PolicyFolderError::Locked);
                }
                Err(TryLockError::WouldBlock) => {
                    thread::sleep(LOOK);
                    waited += LOOK;
                }
            }
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing the file would do; this says so.
        if let Some(file) = self.0.take() {
            drop(file.unlock());
        }
    }
}

#[cfg(test)]
mod tests;
