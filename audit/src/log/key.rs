//! The log's Ed25519 key and the notes that it signs (C2SP signed-note, tlog-checkpoint).

use std::{fs, path::Path};

use aws_lc_rs::{
    rand,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use signed_note::{Note, Signer, StandardSigner, StandardVerifier, VerifierList};
use tlog_tiles::{Checkpoint, Hash};
use zeroize::Zeroizing;

use super::{
    LogError,
    chain::{self, KeyChain},
    layout, store,
};
use crate::{disk, seal::SealKey};

const ED25519: u8 = 1;

/// The log's signing key.
pub(crate) struct LogKey {
    signer: StandardSigner,
    verifier_key: String,
}

impl LogKey {
    /// Opens the sealed key in `dir`, or makes one when the folder has neither key nor checkpoint. A change of key that a
    /// crash interrupted is finished if it is published, and otherwise forgotten.
    pub(crate) fn open(dir: &Path, origin: &str, seal: &SealKey) -> Result<Self, LogError> {
        let (path, next) = (dir.join(layout::SEALED_KEY), dir.join(layout::NEXT_KEY));
        if !path.exists() {
            if dir.join(layout::CHECKPOINT).exists() {
                return Err(LogError::KeyLost { path });
            }
            seal.seal(&path, &purpose(origin), &*seed()?)?;
        }
        let mut key = Self::read(&path, origin, seal)?;
        if next.exists() {
            let new = Self::read(&next, origin, seal)?;
            let (chain, _) = KeyChain::follow(dir, key.verifier_key());
            if chain.last() == new.verifier_key() {
                replace(&next, &path)?;
                key = new;
            } else {
                fs::remove_file(&next).map_err(|e| LogError::io(&next, e))?;
            }
        }
        key.publish(dir)?;
        Ok(key)
    }

    /// Makes a key that takes over from this one after a tree, and publishes that this one says so.
    pub(super) fn replaced(
        &self,
        dir: &Path,
        origin: &str,
        seal: &SealKey,
        (size, root): (u64, Hash),
    ) -> Result<Self, LogError> {
        let next = dir.join(layout::NEXT_KEY);
        seal.seal(&next, &purpose(origin), &*seed()?)?;
        let new = Self::read(&next, origin, seal)?;
        let text = chain::change(origin, size, root, self.verifier_key(), new.verifier_key());
        let mut note = Note::new(text.as_bytes(), &[]).map_err(|_malformed| LogError::Key)?;
        note.add_sigs(&[&self.signer, &new.signer])
            .map_err(|_failed| LogError::Key)?;
        let number = KeyChain::follow(dir, self.verifier_key()).0.changes() + 1;
        let published = layout::key_path(dir, number);
        store::put_all(dir, [(published, note.to_bytes())])?;
        replace(&next, &dir.join(layout::SEALED_KEY))?;
        new.publish(dir)?;
        Ok(new)
    }

    fn read(path: &Path, origin: &str, seal: &SealKey) -> Result<Self, LogError> {
        Self::from_seed(origin, &seal.open(path, &purpose(origin))?)
    }

    /// Puts the public key beside the log.
    fn publish(&self, dir: &Path) -> Result<(), LogError> {
        let public = dir.join(layout::VERIFIER_KEY);
        let text = format!("{}\n", self.verifier_key);
        if fs::read(&public).ok().as_deref() != Some(text.as_bytes()) {
            disk::put(&public, text.as_bytes()).map_err(|e| LogError::io(&public, e))?;
        }
        Ok(())
    }

    fn from_seed(origin: &str, seed: &[u8]) -> Result<Self, LogError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_rejected| LogError::Key)?;
        let public = [&[ED25519], pair.public_key().as_ref()].concat();
        let id = signed_note::key_id(origin, &public);
        let secret = Zeroizing::new([&[ED25519], seed].concat());
        let text = Zeroizing::new(format!(
            "PRIVATE+KEY+{origin}+{id:08x}+{}",
            BASE64_STANDARD.encode(&*secret)
        ));
        Ok(Self {
            signer: StandardSigner::new(&text).map_err(|_malformed| LogError::Origin {
                origin: origin.to_owned(),
            })?,
            verifier_key: format!("{origin}+{id:08x}+{}", BASE64_STANDARD.encode(public)),
        })
    }

    pub(crate) fn verifier_key(&self) -> &str {
        &self.verifier_key
    }

    /// A checkpoint as a signed note.
    pub(crate) fn checkpoint(
        &self,
        origin: &str,
        size: u64,
        root: Hash,
    ) -> Result<Vec<u8>, LogError> {
        signed_by(&[&self.signer], origin, size, root)
    }

    /// The same with the signature of a key that verifiers do not know, and pass over.
    pub(super) fn cosigned_checkpoint(
        &self,
        origin: &str,
        size: u64,
        root: Hash,
        other: &StandardSigner,
    ) -> Result<Vec<u8>, LogError> {
        signed_by(&[&self.signer, other], origin, size, root)
    }
}

fn signed_by(
    signers: &[&dyn Signer],
    origin: &str,
    size: u64,
    root: Hash,
) -> Result<Vec<u8>, LogError> {
    let text = Checkpoint::new(origin, size, root, "").map_err(|_malformed| LogError::Key)?;
    let mut note = Note::new(&text.to_bytes(), &[]).map_err(|_malformed| LogError::Key)?;
    note.add_sigs(signers).map_err(|_failed| LogError::Key)?;
    Ok(note.to_bytes())
}

/// A key that is kept nowhere, and its public half.
pub(super) fn one_time(name: &str) -> Result<(StandardSigner, String), LogError> {
    let key = LogKey::from_seed(name, &*seed()?)?;
    Ok((key.signer, key.verifier_key))
}

fn purpose(origin: &str) -> String {
    format!("audit log key {origin}")
}

fn seed() -> Result<Zeroizing<[u8; 32]>, LogError> {
    let mut seed = Zeroizing::new([0u8; 32]);
    rand::fill(&mut *seed).map_err(|_unspecified| LogError::Key)?;
    Ok(seed)
}

fn replace(new: &Path, old: &Path) -> Result<(), LogError> {
    fs::rename(new, old).map_err(|e| LogError::io(old, e))?;
    let folder = old.parent().unwrap_or(old);
    disk::sync_dir(folder).map_err(|e| LogError::io(folder, e))
}

/// Reads a checkpoint and verifies its signature with `verifier_key`.
pub(crate) fn open_checkpoint(bytes: &[u8], verifier_key: &str) -> Result<Checkpoint, String> {
    let verifier = StandardVerifier::new(verifier_key.trim())
        .map_err(|e| format!("the log's public key: {e}"))?;
    let origin = verifier_key.split('+').next().unwrap_or_default();
    let note = Note::from_bytes(bytes).map_err(|e| e.to_string())?;
    note.verify(&VerifierList::new(vec![Box::new(verifier)]))
        .map_err(|e| e.to_string())?;
    let checkpoint = Checkpoint::from_bytes(note.text()).map_err(|e| e.to_string())?;
    if checkpoint.origin() != origin {
        return Err(format!(
            "is of log {:?}, not {origin:?}",
            checkpoint.origin()
        ));
    }
    if note.to_bytes() != bytes {
        return Err("is not in its canonical form".to_owned());
    }
    Ok(checkpoint)
}
