//! Witnesses that a log asks before it acknowledges: what it holds counts once enough of them have cosigned its checkpoint.

use std::{
    fmt, io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use super::{CosignerKey, cosigned, keep_cosigned, request};

/// How often a witness is asked again with the size that it named.
const MAX_ATTEMPTS: usize = 3;

/// For so long nobody is asked again after there was no quorum, however many proxies come.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The way to a witness.
pub trait WitnessLine: fmt::Debug + Send + Sync {
    /// Posts to its `add-checkpoint`: the status and the body, or why there is no answer. Blocks, for a bounded time.
    fn add_checkpoint(&self, body: Vec<u8>) -> Result<(u16, String), String>;
}

/// A witness that is asked.
#[derive(Debug)]
pub struct Peer {
    name: String,
    /// Absent where it cannot be used: such a witness never cosigns.
    key: Option<CosignerKey>,
    line: Arc<dyn WitnessLine>,
    /// The size that it last cosigned, as far as is known.
    size: AtomicU64,
}

impl Peer {
    /// The witness with that key (`name+hash+key`), asked by `line`.
    pub fn new(key: &str, line: Arc<dyn WitnessLine>) -> Self {
        let parsed = CosignerKey::parse(key);
        if let Err(error) = &parsed {
            tracing::error!(error, "a witness cannot be asked");
        }
        Self {
            name: key.split('+').next().unwrap_or_default().to_owned(),
            key: parsed.ok(),
            line,
            size: AtomicU64::new(0),
        }
    }
}

/// What a log does where too few witnesses have cosigned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unwitnessed {
    /// It acknowledges nothing: proxies keep their records.
    #[default]
    Refuse,
    /// It acknowledges, and counts.
    Count,
}

/// The witnesses of a log, and how many of them it takes.
#[derive(Debug)]
pub struct Quorum {
    peers: Vec<Peer>,
    needed: usize,
    otherwise: Unwitnessed,
    state: Mutex<WitnessStatus>,
    failed_at: Mutex<Option<Instant>>,
}

/// How a log's witnesses stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WitnessStatus {
    /// How many are asked; with none, whoever runs the log can rewrite it.
    pub asked: usize,
    /// How many must cosign.
    pub needed: usize,
    /// Who cosigned the last checkpoint that enough did.
    pub cosigned_by: Vec<String>,
    /// Its tree size.
    pub cosigned_size: u64,
    /// Who did not cosign when last asked, and why.
    pub missing: Vec<String>,
    /// Checkpoints that were acknowledged all the same.
    pub unwitnessed: u64,
}

impl fmt::Display for WitnessStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.asked == 0 {
            return f.write_str("none, so the operator can rewrite the log");
        }
        let (needed, asked) = (self.needed, self.asked);
        match self.cosigned_by.is_empty() {
            true => write!(f, "nobody has cosigned the log yet")?,
            false => write!(
                f,
                "{} cosigned up to tree size {}",
                self.cosigned_by.join(" and "),
                self.cosigned_size
            )?,
        }
        write!(f, " ({needed} of {asked} must)")?;
        for missing in &self.missing {
            write!(f, "; {missing}")?;
        }
        if self.unwitnessed > 0 {
            let count = self.unwitnessed;
            write!(f, "; {count} checkpoints were acknowledged without")?;
        }
        Ok(())
    }
}

impl Quorum {
    /// `needed` of `peers`, at least one.
    pub fn new(peers: Vec<Peer>, needed: usize, otherwise: Unwitnessed) -> Self {
        let status = WitnessStatus {
            asked: peers.len(),
            needed: needed.max(1),
            ..WitnessStatus::default()
        };
        Self {
            peers,
            needed: needed.max(1),
            otherwise,
            state: Mutex::new(status),
            failed_at: Mutex::new(None),
        }
    }

    /// How they stand.
    pub fn status(&self) -> WitnessStatus {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clone()
    }

    /// Whether a tree of that size may be acknowledged as it is.
    pub(crate) fn has_cosigned(&self, size: u64) -> bool {
        size == 0 || self.status().cosigned_size == size
    }

    /// Asks for cosignatures of the checkpoint in `dir`, which is of a tree of that size; whether it may be acknowledged, or
    /// why not. Blocks.
    pub(crate) fn cosign(&self, dir: &Path, size: u64) -> Result<(), String> {
        if self.has_cosigned(size) {
            return Ok(());
        }
        let mut failed_at = self
            .failed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let lately = failed_at.is_some_and(|at| at.elapsed() < RETRY_AFTER);
        let outcome = match lately {
            true => Err("not enough witnesses have cosigned the log".to_owned()),
            false => self.ask_all(dir, size),
        };
        *failed_at = match (&outcome, lately) {
            (Ok(()), _) => None,
            (Err(_), true) => *failed_at,
            (Err(_), false) => Some(Instant::now()),
        };
        match (outcome, self.otherwise) {
            (Err(what), Unwitnessed::Count) => {
                tracing::warn!(what, "acknowledged without witnesses");
                self.note(|status| status.unwitnessed += 1);
                Ok(())
            }
            (outcome, _) => outcome,
        }
    }

    fn ask_all(&self, dir: &Path, size: u64) -> Result<(), String> {
        let answers: Vec<_> = thread::scope(|scope| {
            let asking: Vec<_> = (self.peers.iter())
                .map(|peer| scope.spawn(move || peer.ask(dir)))
                .collect();
            let panicked = |_| Err("it was not asked to the end".to_owned());
            (asking.into_iter())
                .map(|asked| asked.join().unwrap_or_else(panicked))
                .collect()
        });
        let mut note: Option<String> = None;
        let (mut by, mut missing) = (Vec::new(), Vec::new());
        for (peer, answer) in self.peers.iter().zip(answers) {
            match answer.and_then(|one| merged(note.as_deref(), &one, peer)) {
                Ok(all) => {
                    note = Some(all);
                    by.push(peer.name.clone());
                }
                Err(what) => missing.push(format!("{}: {what}", peer.name)),
            }
        }
        if let Some(note) = &note {
            keep_cosigned(dir, note).map_err(|error| error.to_string())?;
        }
        if by.len() >= self.needed {
            self.note(|status| {
                status.cosigned_by = by;
                status.cosigned_size = size;
                status.missing = missing;
            });
            return Ok(());
        }
        let what = format!(
            "{} of the {} witnesses that must have cosigned the log: {}",
            by.len(),
            self.needed,
            missing.join("; ")
        );
        self.note(|status| status.missing = missing);
        Err(what)
    }

    fn note(&self, change: impl FnOnce(&mut WitnessStatus)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Peer {
    fn ask(&self, dir: &Path) -> Result<String, String> {
        let key = self.key.as_ref().ok_or("its key cannot be used")?;
        let mut size = self.size.load(Ordering::Relaxed);
        let asked = ask(dir, key, &mut size, None, self.line.as_ref());
        self.size.store(size, Ordering::Relaxed);
        asked.map_err(|error| error.to_string())?
    }
}

/// The cosigned checkpoint with one more cosignature, `one` being the checkpoint with that alone.
fn merged(note: Option<&str>, one: &str, peer: &Peer) -> Result<String, String> {
    let (Some(note), Some(key)) = (note, &peer.key) else {
        return Ok(one.to_owned());
    };
    let signatures = one.split_once("\n\n").map_or("", |(_, lines)| lines);
    cosigned(note, signatures, key)
}

/// Asks a witness for a cosignature of the checkpoint in `dir`, from the size on that it cosigned last: the checkpoint with it,
/// or why there is none. `before` is what others have cosigned in this round.
pub fn ask(
    dir: &Path,
    key: &CosignerKey,
    size: &mut u64,
    before: Option<&str>,
    line: &dyn WitnessLine,
) -> io::Result<Result<String, String>> {
    for _ in 0..MAX_ATTEMPTS {
        let (note, body) = request(dir, *size)?;
        let text = |note: &str| note.split("\n\n").next().unwrap_or_default().to_owned();
        let so_far = match before {
            Some(before) if text(before) == text(&note) => before,
            _ => note.as_str(),
        };
        let (status, answer) = match line.add_checkpoint(body) {
            Ok(reply) => reply,
            Err(error) => return Ok(Err(error)),
        };
        match status {
            200 => {
                let cosigned = cosigned(so_far, &answer, key);
                *size = grown(&note);
                return Ok(cosigned);
            }
            409 => match answer.trim().parse::<u64>() {
                Ok(named) if named > grown(&note) => {
                    let has = grown(&note);
                    let text = format!("it has cosigned {named} entries, and the log has {has}");
                    return Ok(Err(text));
                }
                Ok(named) if named != *size => *size = named,
                _ => return Ok(Err(answer.trim().to_owned())),
            },
            status => return Ok(Err(format!("HTTP status {status}: {}", answer.trim()))),
        }
    }
    Ok(Err("the log grew while it was asked".to_owned()))
}

/// The tree size of a checkpoint.
fn grown(note: &str) -> u64 {
    let size = note.lines().nth(1).and_then(|line| line.parse().ok());
    size.unwrap_or(0)
}

#[cfg(test)]
mod tests;
