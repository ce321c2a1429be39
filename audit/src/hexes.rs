//! Hashes as lower-case hexadecimal text in JSON, for `#[serde(with = "hexes")]`.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

pub(crate) fn serialize<S: Serializer>(hash: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex::encode(hash))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
    parse(&String::deserialize(from)?).ok_or_else(|| D::Error::custom("not a SHA-256 in hex"))
}

/// A hash from 64 lower-case hexadecimal digits.
pub(crate) fn parse(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
    (lower && hex::decode_to_slice(text, &mut hash).is_ok()).then_some(hash)
}
