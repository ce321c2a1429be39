//! High-water marks: how far a worker had written, in its proxy's own signed words, beside its segments.
//!
//! A write-ahead log whose tail was deleted is whole by itself, and nobody else has seen what was not shipped yet. The mark
//! (`mark`, in the folder of each worker) is rewritten while records come; a log that ends before its mark has lost
//! records, and one that has another chain there has others than were written. Who deletes the tail and rolls the mark back
//! must still get by what batches say ([`crate::BatchHeader::written`]).

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use reeve_core::{InstanceName, RecordId, UnixTime};
use serde::{Deserialize, Serialize};

use super::{Wal, frame::Chain, line::Line};
use crate::{
    BatchSigner, EventKind, EventRecord, SigningIdentity,
    batch::{BoxError, EpochLink},
    canonical, disk, hexes,
};

/// Its file's name.
pub(crate) const FILE_NAME: &str = "mark";

/// The version of its form, the `schema` member.
const MARK_SCHEMA: &str = "reeve.mark/v1";

/// What its signature covers begins with this line.
const SIGNATURE_CONTEXT: &[u8] = b"reeve.mark/v1 signature\n";

/// The longest mark that is read: certificates are most of it.
const MAX_MARK_BYTES: usize = 64 << 10;

/// How often marks are brought up to date.
const MARK_INTERVAL: Duration = Duration::from_millis(250);

/// How far a worker had written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HighWater {
    schema: String,
    pub(crate) proxy: InstanceName,
    pub(crate) worker: u16,
    pub(crate) epoch: u64,
    /// The last record in the file; at level `disk`, on the disk.
    pub(crate) sequence: u64,
    /// The chain after it.
    #[serde(with = "hexes")]
    pub(crate) chain: Chain,
    /// Whether the process ended with it, in good order.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ended: bool,
    pub(crate) time: UnixTime,
    /// The signer's certificates, DER in base64, the leaf first.
    certificates: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    signature: String,
}

impl HighWater {
    /// The mark in a worker's folder; nothing where there is none.
    pub(crate) fn read(dir: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(dir.join(FILE_NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        let limit = u64::try_from(MAX_MARK_BYTES).unwrap_or(u64::MAX);
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        if bytes.len() > MAX_MARK_BYTES {
            return Err(invalid("is too long for a mark".to_owned()));
        }
        let mark: Self = serde_json::from_slice(&bytes)
            .map_err(|error| invalid(format!("is no mark: {error}")))?;
        match mark.schema == MARK_SCHEMA && canonical::is_canonical(&bytes) {
            true => Ok(Some(mark)),
            false => Err(invalid("is not in the form of a mark".to_owned())),
        }
    }

    fn write(&self, dir: &Path) -> Result<(), BoxError> {
        let bytes = canonical::to_vec(self)?;
        // A loss of power may take it, and what it marks.
        Ok(disk::put_unsynced(&dir.join(FILE_NAME), &bytes)?)
    }

    fn signed(mut self, identity: &SigningIdentity) -> Result<Self, BoxError> {
        let encode = |der: &Vec<u8>| BASE64_STANDARD.encode(der);
        self.certificates = identity.chain_der.iter().map(encode).collect();
        let signature = identity.key.sign(&self.signed_bytes()?)?;
        self.signature = BASE64_STANDARD.encode(signature);
        Ok(self)
    }

    /// What the signature covers.
    pub(crate) fn signed_bytes(&self) -> Result<Vec<u8>, canonical::CanonicalError> {
        let unsigned = Self {
            signature: String::new(),
            ..self.clone()
        };
        let mut bytes = SIGNATURE_CONTEXT.to_vec();
        bytes.extend_from_slice(&canonical::to_vec(&unsigned)?);
        Ok(bytes)
    }

    /// The signer's certificates and the signature; empty where they are not base64.
    pub(crate) fn signature(&self) -> (Vec<Vec<u8>>, Vec<u8>) {
        let decode = |text: &String| BASE64_STANDARD.decode(text).unwrap_or_default();
        let chain = self.certificates.iter().map(decode).collect();
        (chain, decode(&self.signature))
    }

    /// The record that it marks.
    pub(crate) fn record(&self) -> RecordId {
        RecordId {
            proxy: self.proxy.clone(),
            epoch: self.epoch,
            worker: self.worker,
            sequence: self.sequence,
        }
    }

    /// Place in a worker's line.
    pub(crate) fn at(&self) -> (u64, u64) {
        (self.epoch, self.sequence)
    }
}

/// What a log says when it is opened and does not reach its mark; nothing where it does, or where there is none.
pub(super) fn shortfall(dir: &Path, found: Option<&EpochLink>) -> Option<EventRecord> {
    let event = EventRecord::new(EventKind::RecordsMissing);
    let mark = match HighWater::read(dir) {
        Ok(mark) => mark?,
        Err(error) => {
            tracing::error!(dir = %dir.display(), %error, "the write-ahead log's mark cannot be read");
            return Some(event.with("what", format!("the mark: {error}")));
        }
    };
    let reached = found.map_or((0, 0), |link| (link.epoch, link.sequence));
    let what = match reached.cmp(&mark.at()) {
        std::cmp::Ordering::Less => "the write-ahead log ends before its mark",
        std::cmp::Ordering::Equal if found.is_some_and(|link| link.chain != mark.chain) => {
            "the write-ahead log has another record where its mark is"
        }
        std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => return None,
    };
    let found = format!("{}/{}", reached.0, reached.1);
    tracing::error!(dir = %dir.display(), found, marked = %mark.record(), what);
    let event = event
        .with("what", what)
        .with("marked", mark.record().to_string())
        .with("marked_ms", mark.time.as_millis().to_string())
        .with("found", found);
    Some(event)
}

/// What is marked already, by worker.
type Told = BTreeMap<u16, (u64, u64)>;

/// Brings the marks of `wal` up to date for ever; drop the future to stop.
pub(crate) async fn keep(wal: Arc<Wal>, signer: Arc<dyn BatchSigner>) {
    let mut told = Told::new();
    loop {
        let (ours, with) = (Arc::clone(&wal), Arc::clone(&signer));
        let marking = tokio::task::spawn_blocking(move || {
            mark_all(&ours, with.as_ref(), &mut told, false);
            told
        });
        told = marking.await.unwrap_or_default();
        tokio::time::sleep(MARK_INTERVAL).await;
    }
}

impl Wal {
    /// States, signed, how far each worker has written; called once nothing is written any more. Blocks on disk.
    pub fn mark_end(&self, signer: &dyn BatchSigner) {
        mark_all(self, signer, &mut Told::new(), true);
    }
}

fn mark_all(wal: &Wal, signer: &dyn BatchSigner, told: &mut Told, ended: bool) {
    let lines = wal.all_lines();
    let mut due: Vec<(Arc<Line>, HighWater)> = Vec::new();
    for line in lines.into_iter().filter(|line| wal.writes(line.worker)) {
        let Some((epoch, sequence, chain)) = line.settled() else {
            continue;
        };
        if told.get(&line.worker) == Some(&(epoch, sequence)) {
            continue;
        }
        let mark = HighWater {
            schema: MARK_SCHEMA.to_owned(),
            proxy: wal.proxy().clone(),
            worker: line.worker,
            epoch,
            sequence,
            chain,
            ended,
            time: wal.now(),
            certificates: Vec::new(),
            signature: String::new(),
        };
        due.push((line, mark));
    }
    // Nobody can sign before there is an identity; what was written until then is marked with what comes after.
    // With one that has ended nobody would believe it; the last mark before that stays.
    if due.is_empty() || !signer.is_valid_at(wal.now()) {
        return;
    }
    let Some(identity) = signer.identity() else {
        return;
    };
    for (line, mark) in due {
        let at = mark.at();
        let written = mark
            .signed(&identity)
            .and_then(|mark| mark.write(&line.dir));
        match written {
            Ok(()) => drop(told.insert(line.worker, at)),
            Err(error) => {
                tracing::warn!(dir = %line.dir.display(), error, "the mark is not up to date");
            }
        }
    }
}

/// Where a worker's mark is.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}

#[cfg(test)]
mod tests;
