//! The opaque form of a record id, which a denied caller may see and an operator can turn back.
//!
//! `d-` and then Crockford's base32 (lower case) of: epoch, worker, sequence as LEB128, the proxy's name, and four
//! bytes of SHA-256 over all of that. The checksum catches a mistyped id; it is no secret: someone who
//! takes an id apart learns the instance's name and how many decisions it has made since it started.

use aws_lc_rs::digest;
use reeve_core::{InstanceName, RecordId};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const PREFIX: &str = "d-";
const CHECK_BYTES: usize = 4;

/// The text is no decision id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no decision id (d-…) and no record id (proxy/epoch/worker/sequence)")]
pub struct DecisionIdError(pub String);

/// The opaque form of `id`, such as `d-04005m...`: the body of a 403 and `x-reeve-decision-id`.
pub fn decision_id(id: &RecordId) -> String {
    let mut bytes = Vec::with_capacity(64);
    leb128(id.epoch, &mut bytes);
    leb128(u64::from(id.worker), &mut bytes);
    leb128(id.sequence, &mut bytes);
    bytes.extend_from_slice(id.proxy.as_str().as_bytes());
    bytes.extend_from_slice(&check(&bytes));
    let mut text = PREFIX.to_owned();
    encode(&bytes, &mut text);
    text
}

/// The record that `text` names: either form is understood, the opaque one in upper or lower case.
pub fn parse_record_id(text: &str) -> Result<RecordId, DecisionIdError> {
    let text = text.trim();
    text.parse()
        .ok()
        .or_else(|| parse_opaque(text))
        .ok_or_else(|| DecisionIdError(text.chars().take(300).collect()))
}

fn parse_opaque(text: &str) -> Option<RecordId> {
    let bytes = decode(text.to_ascii_lowercase().strip_prefix(PREFIX)?)?;
    let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECK_BYTES)?)?;
    if check(body) != checksum {
        return None;
    }
    let mut rest = body;
    let epoch = read_leb128(&mut rest)?;
    let worker = u16::try_from(read_leb128(&mut rest)?).ok()?;
    let sequence = read_leb128(&mut rest)?;
    let proxy = InstanceName::parse(std::str::from_utf8(rest).ok()?).ok()?;
    Some(RecordId {
        proxy,
        epoch,
        worker,
        sequence,
    })
}

fn check(body: &[u8]) -> Vec<u8> {
    let hash = digest::digest(&digest::SHA256, body);
    hash.as_ref().iter().copied().take(CHECK_BYTES).collect()
}

fn leb128(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn read_leb128(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(first & 0x7f);
        value |= part.checked_shl(shift).filter(|v| v >> shift == part)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn encode(bytes: &[u8], out: &mut String) {
    let (mut held, mut bits) = (0u32, 0u32);
    let mut push = |index: u32| {
        let index = usize::try_from(index & 31).unwrap_or_default();
        out.extend(ALPHABET.get(index).map(|c| char::from(*c)));
    };
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            push(held >> bits);
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        push(held << (5 - bits));
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let (mut held, mut bits) = (0u32, 0u32);
    for c in text.bytes() {
        let value = ALPHABET.iter().position(|a| *a == c)?;
        held = (held << 5) | u32::try_from(value).ok()?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(held >> bits).ok()?);
            held &= (1 << bits) - 1;
        }
    }
    // What is left is padding: fewer bits than a letter, all zero.
    (bits < 5 && held == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn either_form_names_the_record() {
        let id: RecordId = "reviews-v1-0/3/0/42".parse().unwrap();
        let opaque = decision_id(&id);
        assert!(opaque.starts_with("d-") && !opaque.contains("reviews"));
        assert_eq!(parse_record_id(&opaque).unwrap(), id);
        assert_eq!(parse_record_id(&opaque.to_uppercase()).unwrap(), id);
        assert_eq!(parse_record_id("reviews-v1-0/3/0/42").unwrap(), id);
    }

    #[test]
    fn a_mistyped_id_is_refused() {
        let good = decision_id(&"a/1/0/7".parse().unwrap());
        for at in 2..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let bad = String::from_utf8(bytes).unwrap();
            assert!(parse_record_id(&bad).is_err(), "{bad}");
        }
        for bad in ["", "d-", "d-u", "x", "d-é"] {
            assert!(parse_record_id(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn ids_round_trip(proxy in "[a-z][a-z0-9-]{0,40}[a-z0-9]", epoch: u64, worker: u16, sequence: u64) {
            let id = RecordId { proxy: proxy.parse().unwrap(), epoch, worker, sequence };
            prop_assert_eq!(parse_record_id(&decision_id(&id)).unwrap(), id);
        }

        #[test]
        fn no_text_panics(text in "(d-)?\\PC{0,60}") {
            let _parsed = parse_record_id(&text);
        }
    }
}
