//! What a migration has done, kept beside the configuration, so that whoever comes after a crash knows what to do.
//!
//! INVARIANT: an edit stands in the journal before it stands in the configuration.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use reeve_control::migration::{Edit, PlanFile, Share, WorkloadKey};
use reeve_core::{
    UnixTime,
    model::{Generation, MtlsMode},
};
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// Within the configuration folder.
const PLACE: &str = ".reeve/mtls";
/// Largest journal that is read again.
const MAX_JOURNAL_BYTES: u64 = 16 * 1024 * 1024;
/// Entries of a timeline.
const MAX_EVENTS: usize = 1_000;

/// A migration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Journal {
    /// Its id, which ends in the time it began.
    pub(super) id: String,
    /// Who began it.
    pub(super) by: String,
    /// What for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
    /// When it began.
    pub(super) began_at: UnixTime,
    /// How it ended, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<End>,
    /// What was to be done.
    pub(super) plan: PlanFile,
    /// How each port was before.
    pub(super) before: Vec<Brief>,
    /// How each was when it ended.
    #[serde(default)]
    pub(super) after: Vec<Brief>,
    /// What came of each wave.
    pub(super) waves: Vec<WaveState>,
    /// What happened.
    pub(super) timeline: Vec<Happened>,
}

/// How a migration ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// Every wave is done.
    Done,
    /// A wave was taken back, or not begun; those before it stay.
    Stopped(String),
    /// Somebody took it back to before this wave, counted from 0.
    TakenBack(usize),
}

/// A port in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Brief {
    #[serde(flatten)]
    pub(super) workload: WorkloadKey,
    pub(super) port: u16,
    pub(super) mode: MtlsMode,
    pub(super) origin: String,
    pub(super) share: Share,
}

/// How far a wave has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// Not begun.
    #[default]
    Pending,
    /// What would be refused is watched; nothing has changed.
    Shadow,
    /// The configuration is being changed.
    Flipping,
    /// It is in force, and watched.
    Holding,
    /// It stays.
    Done,
    /// It was taken back.
    RolledBack,
}

/// One wave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct WaveState {
    pub(super) name: String,
    pub(super) phase: Phase,
    /// How its configuration was changed.
    #[serde(default)]
    pub(super) edits: Vec<Edit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) shadow_from: Option<UnixTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) flipped_at: Option<UnixTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) generation: Option<Generation>,
    /// Before the flip.
    #[serde(default)]
    pub(super) before: Figures,
    /// After it.
    #[serde(default)]
    pub(super) after: Figures,
    /// How many connections STRICT refused.
    #[serde(default)]
    pub(super) refused: u64,
    /// Why it was taken back, or not begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
    /// Who was refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) callers: Vec<String>,
    /// From the first refusal seen until the wave was back in force as it was, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) back_after_ms: Option<u64>,
}

/// Requests to a wave's workloads, as their callers' sidecars count them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) requests: u64,
    pub(super) failures: u64,
    pub(super) p99_ms: Option<f64>,
}

/// A moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Happened {
    pub(super) at: UnixTime,
    pub(super) text: String,
}

impl Journal {
    /// Adds a line to its timeline.
    pub(super) fn happened(&mut self, at: UnixTime, text: impl Into<String>) {
        if self.timeline.len() < MAX_EVENTS {
            let text = text.into();
            self.timeline.push(Happened { at, text });
        }
    }
}

/// All journals of a folder; who holds this is the only one that migrates it.
#[derive(Debug)]
pub(super) struct Journals {
    dir: PathBuf,
    _lock: Option<File>,
}

impl Journals {
    /// To read them.
    pub(super) fn of(folder: &Path) -> Self {
        Self {
            dir: folder.join(PLACE),
            _lock: None,
        }
    }

    /// To write one; nobody else does meanwhile. The system ends the lock with the process.
    pub(super) fn alone(folder: &Path) -> Result<Self, Problem> {
        let dir = folder.join(PLACE);
        fs::create_dir_all(&dir).map_err(|error| unwritable(&dir, &error))?;
        let path = dir.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let lock = lock.map_err(|error| unwritable(&path, &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                dir,
                _lock: Some(lock),
            }),
            Err(TryLockError::WouldBlock) => {
                Err(Problem::new("somebody else migrates this mesh now")
                    .at(folder.display())
                    .fix("wait until it ends; `reeve mtls report` shows it"))
            }
            Err(TryLockError::Error(error)) => Err(unwritable(&path, &error)),
        }
    }

    /// The ids, oldest first.
    pub(super) fn ids(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let ids = names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned));
        let mut ids: Vec<String> = ids.collect();
        ids.sort_by_key(|id| id.rsplit('-').next().map(str::to_owned));
        ids
    }

    /// The journal of that id, or the newest.
    pub(super) fn read(&self, id: Option<&str>) -> Result<Journal, Problem> {
        let ids = self.ids();
        let found = match id {
            Some(id) => ids.iter().find(|known| *known == id),
            None => ids.last(),
        };
        let Some(id) = found else {
            let known = match ids.is_empty() {
                true => "begin one with `reeve mtls migrate --plan FILE`".to_owned(),
                false => format!("there are {}", ids.join(", ")),
            };
            return Err(Problem::new("there is no such migration")
                .at(self.dir.display())
                .fix(known));
        };
        let path = self.dir.join(format!("{id}.json"));
        let unreadable = |error: &dyn std::error::Error| {
            Problem::because("the migration's journal cannot be read", error).at(path.display())
        };
        let size = fs::metadata(&path).map_err(|e| unreadable(&e))?.len();
        if size > MAX_JOURNAL_BYTES {
            return Err(Problem::new("it is too large to be a journal").at(path.display()));
        }
        let text = fs::read(&path).map_err(|e| unreadable(&e))?;
        serde_json::from_slice(&text).map_err(|e| unreadable(&e))
    }

    /// Writes one down, on the disk before this returns.
    pub(super) fn keep(&self, journal: &Journal) -> Result<(), Problem> {
        let path = self.dir.join(format!("{}.json", journal.id));
        reeve_files::replace_json(&path, journal).map_err(|error| unwritable(&path, &error))
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Problem {
    Problem::because("the migration's journal cannot be written", error).at(path.display())
}
