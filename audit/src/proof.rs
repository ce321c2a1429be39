//! Proofs that a record is in the log: one file that holds all it takes to check them, but for the log's public key.
//!
//! A record is a leaf of its batch's tree, and the batch's header, which holds that tree's root, is a leaf of the log's:
//! two audit paths (RFC 6962, section 2.1.1), the second of which leads to a signed checkpoint. Both are written in the
//! form of C2SP tlog-proof; the second is one that any tool for them takes as it is.

pub mod inputs;
mod search;
pub mod tiles;
pub mod tlog_proof;

use std::{fs, io, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use reeve_core::{RecordId, SpiffeId, UnixTime};
use serde::{Deserialize, Serialize};
use tlog_tiles::{Checkpoint, record_hash};

use self::{
    inputs::Inclusion,
    tiles::{Tiles, path_in},
    tlog_proof::TlogProof,
};
use crate::{
    BatchVerifier, Record,
    batch::{Batch, BatchHeader},
    canonical,
    log::{chain::KeyChain, layout},
    record::RECORD_SCHEMA,
};

/// The version of the proof file, its `schema` member.
pub const PROOF_SCHEMA: &str = "reeve.proof/v1";

/// The longest proof file that is read: a record, a header, certificates, two paths and a checkpoint.
pub const MAX_PROOF_BYTES: usize = 4 << 20;

/// A proof file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// [`PROOF_SCHEMA`].
    pub schema: String,
    /// The record, byte for byte: the first path's leaf.
    pub record: String,
    /// The batch's header, byte for byte: the second path's leaf.
    pub batch: String,
    /// The certificates of whoever signed the batch, DER in base64, the leaf first.
    pub certificates: Vec<String>,
    /// The path from the record to the root that the header names; what follows it is that tree's name, size and root.
    pub record_in_batch: String,
    /// The path from the header to the checkpoint, a C2SP tlog-proof.
    pub batch_in_log: String,
    /// The log's changes of key, first to last: who knows an earlier key is led by them to the one that signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// No proof can be made.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is there does not lead to the checkpoint.
    #[error("{path}: {what}; `reeve audit verify` tells more")]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong.
        what: String,
    },
}

impl ProveError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.display().to_string(),
            source,
        }
    }

    fn damaged(path: &Path, what: impl ToString) -> Self {
        Self::Damaged {
            path: path.display().to_string(),
            what: what.to_string(),
        }
    }
}

/// What a proof says, once it checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proven {
    /// The record's id.
    pub id: RecordId,
    /// When it was written.
    pub time: UnixTime,
    /// Which log holds it.
    pub log: String,
    /// Under a checkpoint of so many batches.
    pub tree_size: u64,
    /// Whose signature the batch has; absent when the mesh's authorities were not given.
    pub signer: Option<SpiffeId>,
    /// The two paths, as `verify-inclusion` takes them.
    pub paths: [Inclusion; 2],
}

/// A proof does not prove anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct ProofFault {
    /// Which part of it.
    pub place: &'static str,
    /// What is wrong.
    pub what: String,
}

fn fault(place: &'static str) -> impl Fn(&str) -> ProofFault {
    move |what| ProofFault {
        place,
        what: what.to_owned(),
    }
}

/// Proves that the log in `dir` holds record `id`; `None` when it does not.
pub fn prove(dir: &Path, id: &RecordId) -> Result<Option<Proof>, ProveError> {
    let place = dir.join(layout::CHECKPOINT);
    let note = fs::read_to_string(&place).map_err(|e| ProveError::io(&place, e))?;
    let body = note.split_once("\n\n").map(|(body, _)| format!("{body}\n"));
    let checkpoint = Checkpoint::from_bytes(body.unwrap_or_default().as_bytes())
        .map_err(|e| ProveError::damaged(&place, e))?;
    let Some((index, entry)) = search::leaf_of(dir, checkpoint.size(), id)? else {
        return Ok(None);
    };
    let in_log = TlogProof {
        index,
        hashes: path_to(dir, &checkpoint, index, &entry)?,
        checkpoint: note,
    };
    let object = layout::batch_path(dir, &record_hash(&entry).0);
    let (batch, header, leaves) = read_batch(&object, &entry)?;
    let at = (header.span()).and_then(|(first, _)| id.sequence.checked_sub(first));
    let at = at.and_then(|at| usize::try_from(at).ok());
    let Some((at, record)) = at.and_then(|at| Some((at, batch.records.get(at)?))) else {
        return Ok(None);
    };
    let in_batch = TlogProof {
        index: u64::try_from(at).unwrap_or(u64::MAX),
        hashes: path_in(&leaves, at),
        checkpoint: subtree(checkpoint.origin(), &header, &batch.hash()),
    };
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec()).map_err(|e| ProveError::damaged(&object, e))
    };
    Ok(Some(Proof {
        schema: PROOF_SCHEMA.to_owned(),
        record: text(record)?,
        batch: text(&entry)?,
        certificates: (batch.chain_der.iter())
            .map(|der| BASE64_STANDARD.encode(der))
            .collect(),
        record_in_batch: in_batch.to_string(),
        batch_in_log: in_log.to_string(),
        keys: KeyChain::changes_in(dir)
            .iter()
            .map(|bytes| text(bytes))
            .collect::<Result<_, _>>()?,
    }))
}

/// The path from an entry to the checkpoint, which it does lead to.
fn path_to(
    dir: &Path,
    checkpoint: &Checkpoint,
    index: u64,
    entry: &[u8],
) -> Result<Vec<[u8; 32]>, ProveError> {
    let tiles = Tiles::new(dir, checkpoint.size());
    let path = tiles.path(index).map_err(|e| ProveError::io(dir, e))?;
    let path: Vec<_> = path.into_iter().map(|hash| hash.0).collect();
    let root = inputs::root_of(index, checkpoint.size(), &record_hash(entry).0, &path);
    if root != Ok(checkpoint.hash().0) {
        let place = dir.join(layout::CHECKPOINT);
        return Err(ProveError::damaged(
            &place,
            "its root is not that of the tiles",
        ));
    }
    Ok(path)
}

/// The batch of a header, with its records' leaf hashes.
fn read_batch(
    object: &Path,
    entry: &[u8],
) -> Result<(Batch, BatchHeader, Vec<[u8; 32]>), ProveError> {
    let bytes = fs::read(object).map_err(|e| ProveError::io(object, e))?;
    let batch = Batch::from_object(&bytes).map_err(|e| ProveError::damaged(object, e))?;
    let leaves = batch.leaves();
    let header = batch
        .check_with(&leaves)
        .map_err(|e| ProveError::damaged(object, e))?;
    match batch.header == entry {
        true => Ok((batch, header, leaves)),
        false => Err(ProveError::damaged(object, "is of another header")),
    }
}

/// A batch's tree in the form of a checkpoint's body: name, size, root. What signs for it is the checkpoint above.
fn subtree(origin: &str, header: &BatchHeader, leaf: &[u8; 32]) -> String {
    format!(
        "{origin}/batches/{}\n{}\n{}\n",
        hex::encode(leaf),
        header.count,
        BASE64_STANDARD.encode(header.root)
    )
}

impl Proof {
    /// Reads a proof file.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, ProofFault> {
        if bytes.len() > MAX_PROOF_BYTES {
            return Err(fault("the file")("is too long for a proof"));
        }
        serde_json::from_slice(bytes).map_err(|e| fault("the file")(&e.to_string()))
    }

    /// Checks it with the log's public key (`name+hash+key`), and with `batches` the signature of the batch's signer too.
    pub fn check(
        &self,
        key: &str,
        batches: Option<&dyn BatchVerifier>,
    ) -> Result<Proven, ProofFault> {
        if self.schema != PROOF_SCHEMA {
            return Err(fault("schema")("is not one that is known here"));
        }
        let in_log = self.in_log(key)?;
        let (header, in_batch) = self.in_batch(&in_log)?;
        let record = self.record(&header, in_batch.leaf_idx)?;
        let signer = batches.map(|v| self.signer(&header, v)).transpose()?;
        let checkpoint = in_log.tree_size;
        Ok(Proven {
            id: record.id,
            time: record.time,
            log: key.split('+').next().unwrap_or_default().to_owned(),
            tree_size: checkpoint,
            signer,
            paths: [in_batch, in_log],
        })
    }

    fn in_log(&self, key: &str) -> Result<Inclusion, ProofFault> {
        let fault = fault("batch_in_log");
        let path: TlogProof = self.batch_in_log.parse().map_err(|e: String| fault(&e))?;
        let checkpoint = self.chain(key)?.open(path.checkpoint.as_bytes());
        let checkpoint = checkpoint.map_err(|e| fault(&e))?;
        let leaf = record_hash(self.batch.as_bytes()).0;
        let inclusion = path.inclusion(checkpoint.size(), checkpoint.hash().0, leaf);
        inclusion.verify().map_err(|e| fault(&e))?;
        Ok(inclusion)
    }

    /// The keys that the one that is trusted leads to.
    fn chain(&self, key: &str) -> Result<KeyChain, ProofFault> {
        let changes = self.keys.iter().map(|change| change.as_bytes().to_vec());
        let (chain, faults) = KeyChain::over(key, changes.collect());
        match faults.first() {
            None => Ok(chain),
            Some(first) => Err(fault("keys")(&format!("{}: {}", first.place, first.what))),
        }
    }

    fn in_batch(&self, in_log: &Inclusion) -> Result<(BatchHeader, Inclusion), ProofFault> {
        let bad = fault("batch");
        if !canonical::is_canonical(self.batch.as_bytes()) {
            return Err(bad("is not canonical JSON"));
        }
        let header: BatchHeader =
            serde_json::from_str(&self.batch).map_err(|e| bad(&e.to_string()))?;
        let fault = fault("record_in_batch");
        let path: TlogProof = self
            .record_in_batch
            .parse()
            .map_err(|e: String| fault(&e))?;
        let leaf: [u8; 32] = in_log.leaf_hash.as_slice().try_into().unwrap_or_default();
        let origin = path
            .checkpoint
            .split("/batches/")
            .next()
            .unwrap_or_default();
        if path.checkpoint != subtree(origin, &header, &leaf) {
            return Err(fault(
                "does not end with the tree that the batch's header names",
            ));
        }
        let leaf = record_hash(self.record.as_bytes()).0;
        let inclusion = path.inclusion(header.count, header.root, leaf);
        inclusion.verify().map_err(|e| fault(&e))?;
        Ok((header, inclusion))
    }

    fn record(&self, header: &BatchHeader, index: u64) -> Result<Record, ProofFault> {
        let fault = fault("record");
        let record =
            Record::from_slice(self.record.as_bytes()).map_err(|e| fault(&e.to_string()))?;
        let first = header.span().map_or(u64::MAX, |(first, _)| first);
        let here = RecordId {
            proxy: header.proxy.clone(),
            epoch: header.epoch,
            worker: header.worker(),
            sequence: first.saturating_add(index),
        };
        if record.id != here {
            return Err(fault(&format!("is {}, at the place of {here}", record.id)));
        }
        if record.schema != RECORD_SCHEMA || !canonical::is_canonical(self.record.as_bytes()) {
            return Err(fault("is not in the canonical form of its schema"));
        }
        Ok(record)
    }

    fn signer(
        &self,
        header: &BatchHeader,
        verifier: &dyn BatchVerifier,
    ) -> Result<SpiffeId, ProofFault> {
        let fault = fault("certificates");
        let chain: Result<Vec<_>, _> = (self.certificates.iter())
            .map(|c| BASE64_STANDARD.decode(c))
            .collect();
        let chain = chain.map_err(|e| fault(&e.to_string()))?;
        let message = header.signed_bytes().map_err(|e| fault(&e.to_string()))?;
        verifier
            .verify(&chain, &message, &header.signature_bytes(), header.time)
            .map_err(|e| fault(&e.to_string()))
    }
}

#[cfg(test)]
mod tests;
