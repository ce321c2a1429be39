//! Witnesses: who cosigns a log's checkpoints, and only such as continue what they cosigned before (C2SP tlog-witness and
//! tlog-cosignature, the Ed25519 form). With one that the log's operator does not control, the operator cannot rewrite.

mod cosignature;
mod quorum;

use std::{
    collections::BTreeMap,
    fmt, fs,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::{digest, rand, signature::Ed25519KeyPair};
use base64::{Engine, prelude::BASE64_STANDARD};
use reeve_core::Clock;
use signed_note::{Note, Signature};
use tlog_tiles::Checkpoint;
use zeroize::Zeroizing;

pub use self::{
    cosignature::{CosignerKey, cosigned_at, cosigners_of},
    quorum::{Peer, Quorum, Unwitnessed, WitnessLine, WitnessStatus, ask},
};
use crate::{
    disk,
    log::{key::open_checkpoint, layout},
    proof::{inputs::Consistency, tiles::Tiles, tlog_proof::MAX_PATH},
    seal::{SealError, SealKey},
};

/// The longest request that a witness reads: a path and a checkpoint.
pub const MAX_WITNESS_REQUEST: usize = 64 * 1024;

/// A witness cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// Another process has the folder.
    #[error("the witness's folder {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A file cannot be used.
    #[error("cannot use {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The key cannot be opened.
    #[error("cannot open the witness's key")]
    Seal(#[from] SealError),
    /// The key, the name or what was cosigned before cannot be used.
    #[error("{0}")]
    Bad(String),
}

/// An answer to `add-checkpoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessAnswer {
    /// The HTTP status.
    pub status: u16,
    /// `text/plain`, or `text/x.tlog.size` with the size to prove from.
    pub content_type: &'static str,
    /// Signature lines, the size, or the reason.
    pub body: String,
}

impl WitnessAnswer {
    fn refused(status: u16, reason: &str) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: format!("{reason}\n"),
        }
    }
}

/// A witness: its key, the logs that it knows, and how far it has cosigned each.
pub struct Witness {
    dir: PathBuf,
    name: String,
    pair: Ed25519KeyPair,
    key: CosignerKey,
    /// Name of a log → its public keys.
    logs: BTreeMap<String, Vec<String>>,
    /// Held from the look at what was cosigned until the new one is on the disk.
    turn: Mutex<()>,
    clock: Arc<dyn Clock>,
    _lock: File,
}

impl Witness {
    /// Opens the witness in `dir`, and makes its key the first time. Blocks on disk.
    pub fn open(
        dir: &Path,
        name: &str,
        seal: &SealKey,
        logs: &[String],
        clock: Arc<dyn Clock>,
    ) -> Result<Self, WitnessError> {
        let io = |source| WitnessError::Io {
            path: dir.to_owned(),
            source,
        };
        disk::make_dir(dir).map_err(io)?;
        let lock = disk::lock(dir).map_err(io)?;
        let lock = lock.ok_or_else(|| WitnessError::InUse(dir.to_owned()))?;
        if !signed_note::is_key_name_valid(name) {
            return Err(WitnessError::Bad(format!(
                "{name:?} cannot be a witness's name"
            )));
        }
        let (path, purpose) = (dir.join("witness.key"), format!("witness key {name}"));
        let unusable = || WitnessError::Bad("the witness's key cannot be used".to_owned());
        if !path.exists() {
            let mut seed = Zeroizing::new([0u8; 32]);
            rand::fill(&mut *seed).map_err(|_unspecified| unusable())?;
            seal.seal(&path, &purpose, &*seed)?;
        }
        let seed = seal.open(&path, &purpose)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_rejected| unusable())?;
        let key = CosignerKey::of(name, &pair);
        let mut known: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for log in logs {
            let origin = log.split('+').next().unwrap_or_default();
            known
                .entry(origin.to_owned())
                .or_default()
                .push(log.clone());
        }
        Ok(Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
            pair,
            key,
            logs: known,
            turn: Mutex::new(()),
            clock,
            _lock: lock,
        })
    }

    /// The key to verify its cosignatures with (`name+hash+key`).
    pub fn verifier_key(&self) -> &str {
        self.key.text()
    }

    /// C2SP tlog-witness `add-checkpoint`. Blocks on disk.
    pub fn add_checkpoint(&self, body: &[u8]) -> WitnessAnswer {
        self.add(body).unwrap_or_else(|refused| refused)
    }

    fn add(&self, body: &[u8]) -> Result<WitnessAnswer, WitnessAnswer> {
        let refused = WitnessAnswer::refused;
        let request = Request::parse(body).map_err(|what| refused(400, what))?;
        let origin = request.checkpoint.lines().next().unwrap_or_default();
        let keys =
            (self.logs.get(origin)).ok_or_else(|| refused(404, "the log is not known here"))?;
        let opened = keys
            .iter()
            .find_map(|key| open_checkpoint(request.checkpoint.as_bytes(), key).ok());
        let checkpoint = opened.ok_or_else(|| refused(403, "no key of the log has signed it"))?;
        if request.old > checkpoint.size() {
            return Err(refused(400, "the old size is larger than the new one"));
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |what: String| {
            tracing::error!(log = origin, what, "cannot cosign");
            refused(500, "the witness cannot cosign now")
        };
        let latest = self.latest(origin).map_err(failed)?;
        let (size, root) = latest.unwrap_or((0, Vec::new()));
        if size != request.old {
            return Err(WitnessAnswer {
                status: 409,
                content_type: "text/x.tlog.size",
                body: format!("{size}\n"),
            });
        }
        if size == checkpoint.size() && size > 0 && root != checkpoint.hash().0 {
            tracing::error!(log = origin, size, "the log shows two trees of one size");
            return Err(refused(409, "another tree of that size was cosigned"));
        }
        let claim = Consistency {
            size1: size,
            size2: checkpoint.size(),
            root1: root,
            root2: checkpoint.hash().0.to_vec(),
            proof: request.proof,
        };
        // From nothing, everything follows; there must be no path to prove it.
        let consistent = match size {
            0 if claim.proof.is_empty() => Ok(()),
            0 => Err("nothing can be proved of the empty tree".to_owned()),
            _ => claim.verify(),
        };
        consistent.map_err(|what| {
            tracing::error!(log = origin, size, what, "the log did not only grow");
            refused(422, &what)
        })?;
        self.keep(origin, request.checkpoint)
            .map_err(|e| failed(e.to_string()))?;
        let time = self.clock.now().as_millis() / 1000;
        let text = request
            .checkpoint
            .split_once("\n\n")
            .map_or("", |(text, _)| text);
        let line = self.key.sign(&self.pair, &format!("{text}\n"), time);
        Ok(WitnessAnswer {
            status: 200,
            content_type: "text/plain; charset=utf-8",
            body: line,
        })
    }

    fn place(&self, origin: &str) -> PathBuf {
        let hash = digest::digest(&digest::SHA256, origin.as_bytes());
        self.dir
            .join(hex::encode(hash))
            .with_extension("checkpoint")
    }

    /// Size and root of the latest checkpoint of a log that was cosigned.
    fn latest(&self, origin: &str) -> Result<Option<(u64, Vec<u8>)>, String> {
        let text = match fs::read_to_string(self.place(origin)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let (body, _) = text
            .split_once("\n\n")
            .ok_or("no checkpoint is kept there")?;
        let checkpoint = Checkpoint::from_bytes(format!("{body}\n").as_bytes());
        let checkpoint = checkpoint.map_err(|e| e.to_string())?;
        Ok(Some((checkpoint.size(), checkpoint.hash().0.to_vec())))
    }

    fn keep(&self, origin: &str, checkpoint: &str) -> io::Result<()> {
        disk::put(&self.place(origin), checkpoint.as_bytes())?;
        disk::sync_dir(&self.dir)
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness")
            .field("dir", &self.dir)
            .field("name", &self.name)
            .field("logs", &self.logs)
            .finish_non_exhaustive()
    }
}

/// The body of an `add-checkpoint` request.
struct Request<'b> {
    old: u64,
    proof: Vec<Vec<u8>>,
    checkpoint: &'b str,
}

impl<'b> Request<'b> {
    fn parse(body: &'b [u8]) -> Result<Self, &'static str> {
        if body.len() > MAX_WITNESS_REQUEST {
            return Err("the request is too long");
        }
        let text = std::str::from_utf8(body).map_err(|_not| "the request is not UTF-8")?;
        let (head, checkpoint) = text.split_once("\n\n").ok_or("there is no empty line")?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old "));
        let size = old.and_then(|digits| digits.parse::<u64>().ok());
        let old = size
            .filter(|size| old == Some(size.to_string().as_str()))
            .ok_or("there is no old size")?;
        let proof = lines.map(|line| BASE64_STANDARD.decode(line));
        let proof: Vec<_> = proof
            .collect::<Result<_, _>>()
            .map_err(|_not| "a hash of the path is not base64")?;
        if proof.len() > MAX_PATH {
            return Err("the path is too long");
        }
        Ok(Self {
            old,
            proof,
            checkpoint,
        })
    }
}

/// What to send a witness that has cosigned the log in `dir` up to `old`, for its checkpoint as it is now.
pub fn request(dir: &Path, old: u64) -> io::Result<(String, Vec<u8>)> {
    let note = fs::read_to_string(dir.join(layout::CHECKPOINT))?;
    let size = note.lines().nth(1).and_then(|line| line.parse().ok());
    let size = size.ok_or_else(|| io::Error::other("the checkpoint has no size"))?;
    let mut body = format!("old {old}\n");
    for hash in Tiles::new(dir, size).consistency(old)? {
        body.push_str(&BASE64_STANDARD.encode(hash.0));
        body.push('\n');
    }
    body.push('\n');
    body.push_str(&note);
    Ok((note, body.into_bytes()))
}

/// `note` with the cosignatures of `answer` that are by `key`; an error when there is none that verifies.
pub fn cosigned(note: &str, answer: &str, key: &CosignerKey) -> Result<String, String> {
    let parsed = Note::from_bytes(note.as_bytes()).map_err(|e| e.to_string())?;
    let mut all = note.to_owned();
    let mut any = false;
    for line in answer.lines() {
        let signature = Signature::from_bytes(line.as_bytes()).map_err(|e| e.to_string())?;
        if (signature.name(), signature.id()) == (key.name(), key.id())
            && key.verifies(parsed.text(), signature.signature())
        {
            any = true;
            if !all.lines().any(|known| known == line) {
                all.push_str(line);
                all.push('\n');
            }
        }
    }
    match any {
        true => Ok(all),
        false => Err(format!("{} has not cosigned it", key.name())),
    }
}

/// Keeps a cosigned checkpoint beside the log.
pub fn keep_cosigned(dir: &Path, note: &str) -> io::Result<()> {
    disk::put(&dir.join(layout::COSIGNED), note.as_bytes())?;
    disk::sync_dir(dir)
}

#[cfg(test)]
mod tests;
