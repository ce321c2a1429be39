//! Cosignatures (C2SP tlog-cosignature, `cosignature/v1`): an Ed25519 signature with a time.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine, prelude::BASE64_STANDARD};
use signed_note::Note;

/// The kind of key, in key ids and the text form.
const COSIGNATURE_V1: u8 = 4;

/// A witness's public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CosignerKey {
    name: String,
    id: u32,
    public: Vec<u8>,
    text: String,
}

impl CosignerKey {
    pub(super) fn of(name: &str, pair: &Ed25519KeyPair) -> Self {
        Self::new(name, pair.public_key().as_ref())
    }

    fn new(name: &str, public: &[u8]) -> Self {
        let material = [&[COSIGNATURE_V1], public].concat();
        let id = signed_note::key_id(name, &material);
        Self {
            name: name.to_owned(),
            id,
            public: public.to_vec(),
            text: format!("{name}+{id:08x}+{}", BASE64_STANDARD.encode(&material)),
        }
    }

    /// Reads `name+hash+key`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = || format!("{text:?} is no witness's key (name+hash+key of kind 4)");
        let (name, rest) = text.split_once('+').ok_or_else(wrong)?;
        let (_, key) = rest.split_once('+').ok_or_else(wrong)?;
        let material = BASE64_STANDARD.decode(key).map_err(|_not| wrong())?;
        let public = match material.split_first() {
            Some((&COSIGNATURE_V1, public)) if public.len() == 32 => public,
            _ => return Err(wrong()),
        };
        let read = Self::new(name, public);
        match signed_note::is_key_name_valid(name) && read.text == text {
            true => Ok(read),
            false => Err(wrong()),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// `name+hash+key`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A signature line over a checkpoint's text.
    pub(super) fn sign(&self, pair: &Ed25519KeyPair, text: &str, time: u64) -> String {
        let signature = pair.sign(message(text.as_bytes(), time).as_slice());
        let bytes = [
            self.id.to_be_bytes().as_slice(),
            &time.to_be_bytes(),
            signature.as_ref(),
        ]
        .concat();
        format!("\u{2014} {} {}\n", self.name, BASE64_STANDARD.encode(bytes))
    }

    /// Whether `signature` (time and Ed25519 signature) is its own over a checkpoint's text.
    pub(super) fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        let Some((time, signature)) = signature.split_first_chunk::<8>() else {
            return false;
        };
        let message = message(text, u64::from_be_bytes(*time));
        let key = UnparsedPublicKey::new(&ED25519, &self.public);
        key.verify(&message, signature).is_ok()
    }
}

fn message(text: &[u8], time: u64) -> Vec<u8> {
    let mut message = format!("cosignature/v1\ntime {time}\n").into_bytes();
    message.extend_from_slice(text);
    message
}

/// When `key` cosigned the checkpoint, in seconds since 1970; an error when it has not, or the signature is wrong.
pub fn cosigned_at(note: &[u8], key: &CosignerKey) -> Result<u64, String> {
    let parsed = Note::from_bytes(note).map_err(|e| e.to_string())?;
    let text = std::str::from_utf8(note).map_err(|e| e.to_string())?;
    let (_, signatures) = text.rsplit_once("\n\n").unwrap_or_default();
    for line in signatures.lines() {
        let signature = signed_note::Signature::from_bytes(line.as_bytes());
        let signature = signature.map_err(|e| e.to_string())?;
        if (signature.name(), signature.id()) != (key.name(), key.id()) {
            continue;
        }
        if !key.verifies(parsed.text(), signature.signature()) {
            return Err(format!("the cosignature of {} is wrong", key.name()));
        }
        let time = signature.signature().split_first_chunk::<8>();
        return Ok(time.map_or(0, |(time, _)| u64::from_be_bytes(*time)));
    }
    Err(format!("{} has not cosigned it", key.name()))
}

/// The names of those who signed a checkpoint beside the log itself, whose name is its first line; nobody's signature is checked.
pub fn cosigners_of(note: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(note);
    let origin = text.lines().next().unwrap_or_default();
    let (_, signatures) = text.rsplit_once("\n\n").unwrap_or_default();
    let names = signatures.lines().filter_map(|line| {
        let signature = signed_note::Signature::from_bytes(line.as_bytes()).ok()?;
        Some(signature.name().to_owned())
    });
    names.filter(|name| name != origin).collect()
}
