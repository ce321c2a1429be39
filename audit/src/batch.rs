//! Batches: what a proxy ships, what the log's tree is made of.

use std::{collections::BTreeMap, fmt, sync::Arc};

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_STANDARD};
use reeve_core::{InstanceName, SpiffeId, UnixTime};
use serde::{Deserialize, Serialize};
use tlog_tiles::{Hash, record_hash};

use crate::{
    canonical::{self, CanonicalError},
    hexes,
    log::tree,
    pace::paced,
    wal::{Chunk, Leaf, MAX_LINES, leaf},
};

/// The version of the batch format, the `schema` member of every header.
pub const BATCH_SCHEMA: &str = "reeve.batch/v1";

/// What a batch's signature covers begins with this line.
const SIGNATURE_CONTEXT: &[u8] = b"reeve.batch/v1 signature\n";

/// The most records in a batch.
pub const MAX_BATCH_RECORDS: usize = 8192;

/// The most bytes of records in a batch.
pub const MAX_BATCH_BYTES: usize = 3 << 20;

/// The longest header: an entry of the tree has a two-byte length.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;

/// A worker of a proxy: whose records are numbered and chained together.
pub(crate) type Source = (InstanceName, u16);

/// A failure of something handed in from outside (a key, a verifier, a channel).
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Gives the identity that signs the next batch; asked for each one, so that rotation needs no further step.
pub trait BatchSigner: fmt::Debug + Send + Sync {
    /// The certificate chain and the key that belongs to it; `None` while there is none.
    fn identity(&self) -> Option<SigningIdentity>;

    /// Whether what it signs at that time will be believed: the certificate has not ended.
    fn is_valid_at(&self, _at: UnixTime) -> bool {
        true
    }
}

/// A certificate chain and its key.
#[derive(Clone, Debug)]
pub struct SigningIdentity {
    /// The chain in DER, the leaf first.
    pub chain_der: Vec<Vec<u8>>,
    /// The leaf's key.
    pub key: Arc<dyn BatchKey>,
}

/// A private key that signs batches.
pub trait BatchKey: fmt::Debug + Send + Sync {
    /// ECDSA P-256 with SHA-256, ASN.1 form.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, BoxError>;
}

/// Verifies who signed a batch. Implemented with `reeve-svid` by the mesh process and the command line.
pub trait BatchVerifier: fmt::Debug + Send + Sync {
    /// Whether `chain_der` was a valid SVID of the mesh at `at`, and `signature` is its leaf's over `message`.
    fn verify(
        &self,
        chain_der: &[Vec<u8>],
        message: &[u8],
        signature: &[u8],
        at: UnixTime,
    ) -> Result<SpiffeId, BoxError>;
}

/// The last record of a worker before an epoch, named by the first record's batch of that epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochLink {
    /// Its epoch: the last that has any record.
    pub epoch: u64,
    /// Its sequence.
    pub sequence: u64,
    /// The hash chain after it.
    #[serde(with = "hexes")]
    pub chain: [u8; 32],
}

/// A batch's header: a leaf of the log's tree, as canonical JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchHeader {
    /// [`BATCH_SCHEMA`].
    pub schema: String,
    /// Whose records.
    pub proxy: InstanceName,
    /// Of which epoch.
    pub epoch: u64,
    /// Counted from 1 within the worker's epoch.
    pub batch: u64,
    /// Worker → first and last sequence; a batch is of one worker.
    pub sequences: BTreeMap<u16, (u64, u64)>,
    /// How many records.
    pub count: u64,
    /// RFC 6962 root over the records.
    #[serde(with = "hexes")]
    pub root: [u8; 32],
    /// The worker's hash chain after the last record.
    #[serde(with = "hexes")]
    pub chain: [u8; 32],
    /// The worker's last record in the epochs before this one.
    pub link: Option<EpochLink>,
    /// RFC 6962 leaf hash of the worker's batch before this one; zeros for its first.
    #[serde(with = "hexes")]
    pub previous: [u8; 32],
    /// SHA-256 over the SHA-256 of each certificate in the signer's chain.
    #[serde(with = "hexes")]
    pub signer: [u8; 32],
    /// The last sequence of this epoch that the worker had written, when that is more than the batch has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
    /// When it was signed.
    pub time: UnixTime,
    /// The signature over everything else, base64; empty only while it is made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signature: String,
}

impl BatchHeader {
    /// The worker whose records these are.
    pub fn worker(&self) -> u16 {
        self.sequences.keys().next().copied().unwrap_or(0)
    }

    /// Whose records these are.
    pub(crate) fn source(&self) -> Source {
        (self.proxy.clone(), self.worker())
    }

    /// The first and last sequence.
    pub fn span(&self) -> Option<(u64, u64)> {
        self.sequences.values().next().copied()
    }

    /// What the signature covers.
    pub fn signed_bytes(&self) -> Result<Vec<u8>, CanonicalError> {
        let unsigned = Self {
            signature: String::new(),
            ..self.clone()
        };
        let mut bytes = SIGNATURE_CONTEXT.to_vec();
        bytes.extend_from_slice(&canonical::to_vec(&unsigned)?);
        Ok(bytes)
    }

    /// The signature's bytes; empty when it is not base64.
    pub fn signature_bytes(&self) -> Vec<u8> {
        BASE64_STANDARD.decode(&self.signature).unwrap_or_default()
    }
}

/// A batch as it is sent and kept; `R` is a record, owned or borrowed from what was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch<R = Vec<u8>> {
    /// Canonical JSON of the header.
    pub header: Vec<u8>,
    /// The signer's certificates in DER, the leaf first.
    pub chain_der: Vec<Vec<u8>>,
    /// Canonical JSON of each record.
    pub records: Vec<R>,
}

/// A batch that holds together; who signed it is another question.
#[derive(Clone, Debug)]
pub(crate) struct CheckedBatch {
    pub(crate) batch: Batch,
    pub(crate) header: BatchHeader,
}

/// A batch does not hold together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BatchFault(pub String);

/// The second line of a batch object.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChainLine {
    certificates: Vec<String>,
}

impl Batch {
    /// Makes and signs the batch of `chunk`.
    pub(crate) fn sign(
        chunk: Chunk,
        proxy: &InstanceName,
        batch: u64,
        previous: [u8; 32],
        identity: &SigningIdentity,
        now: UnixTime,
    ) -> Result<Self, BoxError> {
        let mut header = BatchHeader {
            schema: BATCH_SCHEMA.to_owned(),
            proxy: proxy.clone(),
            epoch: chunk.epoch,
            batch,
            sequences: BTreeMap::from([(
                chunk.worker,
                (chunk.first_sequence, chunk.last_sequence),
            )]),
            count: u64::try_from(chunk.records.len())?,
            root: root_of(&chunk.leaves),
            chain: chunk.chain,
            link: chunk.previous,
            previous,
            signer: signer_hash(&identity.chain_der),
            written: chunk.written.filter(|last| *last > chunk.last_sequence),
            time: now,
            signature: String::new(),
        };
        let signature = identity.key.sign(&header.signed_bytes()?)?;
        header.signature = BASE64_STANDARD.encode(signature);
        Ok(Self {
            header: canonical::to_vec(&header)?,
            chain_der: identity.chain_der.clone(),
            records: chunk.records,
        })
    }

    /// The batch with its header, if it holds together as [`Self::check`] says.
    pub(crate) fn checked(self) -> Result<CheckedBatch, BatchFault> {
        let header = self.check()?;
        Ok(CheckedBatch {
            batch: self,
            header,
        })
    }

    /// Reads a batch object; anything but what [`Batch::to_object`] writes is refused.
    pub fn from_object(bytes: &[u8]) -> Result<Self, BatchFault> {
        let Batch {
            header,
            chain_der,
            records,
        } = Batch::within(bytes)?;
        Ok(Self {
            header,
            chain_der,
            records: records.into_iter().map(<[u8]>::to_vec).collect(),
        })
    }
}

impl<'a> Batch<&'a [u8]> {
    /// The same as [`Batch::from_object`], with the records left where they are.
    pub(crate) fn within(object: &'a [u8]) -> Result<Self, BatchFault> {
        let fault = |what: &str| BatchFault(what.to_owned());
        let object = object
            .strip_suffix(b"\n")
            .ok_or_else(|| fault("does not end with a line"))?;
        let (header, rest) = line(object);
        let (certificates, rest) = line(rest.unwrap_or_default());
        let chain: ChainLine = serde_json::from_slice(certificates)
            .map_err(|e| BatchFault(format!("line 2, the certificates: {e}")))?;
        let chain_der: Result<Vec<_>, _> = (chain.certificates.iter())
            .map(|c| BASE64_STANDARD.decode(c))
            .collect();
        let chain_der = chain_der.map_err(|_bad| fault("line 2: a certificate is not base64"))?;
        // The other lines are kept as they are.
        if !certificates_line(&chain_der).is_ok_and(|again| again == certificates) {
            return Err(fault("line 2 is not in its canonical form"));
        }
        let mut records = Vec::new();
        let mut left = rest;
        while let Some(lines) = left {
            let (record, rest) = line(lines);
            records.push(record);
            left = rest;
        }
        Ok(Self {
            header: header.to_vec(),
            chain_der,
            records,
        })
    }
}

/// The first line of some, and what comes after it, if anything does.
fn line(lines: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'\n', lines) {
        Some(end) => {
            let (line, rest) = lines.split_at(end);
            (line, rest.get(1..))
        }
        None => (lines, None),
    }
}

/// The second line of a batch object.
fn certificates_line(chain_der: &[Vec<u8>]) -> Result<Vec<u8>, CanonicalError> {
    canonical::to_vec(&ChainLine {
        certificates: (chain_der.iter())
            .map(|der| BASE64_STANDARD.encode(der))
            .collect(),
    })
}

impl<R: AsRef<[u8]>> Batch<R> {
    /// The leaf hash of its header: its name and place in the tree.
    pub fn hash(&self) -> [u8; 32] {
        record_hash(&self.header).0
    }

    /// Reads the header and checks it against the rest: bounds, canonical form, count, root, signer.
    pub fn check(&self) -> Result<BatchHeader, BatchFault> {
        self.check_with(&self.leaves())
    }

    /// The leaf hash of each record.
    pub(crate) fn leaves(&self) -> Vec<Leaf> {
        paced(self.records.iter())
            .map(|r| leaf(r.as_ref()))
            .collect()
    }

    /// The same as [`Self::check`], given [`Self::leaves`].
    pub(crate) fn check_with(&self, leaves: &[Leaf]) -> Result<BatchHeader, BatchFault> {
        let fault = |what: &str| Err(BatchFault(what.to_owned()));
        if self.header.len() > MAX_HEADER_BYTES || !canonical::is_canonical(&self.header) {
            return fault("the header is not canonical JSON of legal length");
        }
        let header: BatchHeader = serde_json::from_slice(&self.header)
            .map_err(|e| BatchFault(format!("the header: {e}")))?;
        if header.schema != BATCH_SCHEMA || header.epoch == 0 || header.batch == 0 {
            return fault("the header is of an unknown form");
        }
        let bytes: usize = self.records.iter().map(|r| r.as_ref().len()).sum();
        if self.records.len() > MAX_BATCH_RECORDS || bytes > MAX_BATCH_BYTES {
            return fault("the batch is too large");
        }
        let known = header.sequences.len() == 1 && header.worker() < MAX_LINES;
        let span = header.span().filter(|_| known);
        let counted = span.and_then(|(first, last)| last.checked_sub(first)?.checked_add(1));
        let count = u64::try_from(self.records.len()).unwrap_or(u64::MAX);
        if count == 0 || header.count != count || counted != Some(count) {
            return fault("the header's count and sequences do not fit its records");
        }
        if root_of(leaves) != header.root {
            return fault("the records do not hash to the header's root");
        }
        if signer_hash(&self.chain_der) != header.signer {
            return fault("the certificates are not those that the header names");
        }
        Ok(header)
    }

    /// The batch object: the header, the certificates, then each record, one a line.
    pub fn to_object(&self) -> Result<Vec<u8>, CanonicalError> {
        let mut out = self.header.clone();
        out.push(b'\n');
        out.extend_from_slice(&certificates_line(&self.chain_der)?);
        out.push(b'\n');
        for record in &self.records {
            out.extend_from_slice(record.as_ref());
            out.push(b'\n');
        }
        Ok(out)
    }
}

fn root_of(leaves: &[Leaf]) -> [u8; 32] {
    let leaves: Vec<Hash> = leaves.iter().copied().map(Hash).collect();
    tree::root(&leaves).0
}

fn signer_hash(chain_der: &[Vec<u8>]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for der in chain_der {
        context.update(digest::digest(&digest::SHA256, der).as_ref());
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}
