//! The frames of a segment: how a record lies in the file, and how a torn one differs from a damaged one.
//!
//! `length: u32 LE, !length: u32 LE, payload, chain: 32 bytes`. The length stands twice so that a flipped bit in it
//! cannot pass for an unfinished write. The chain of a record is SHA-256 over the chain before it and the record's leaf hash
//! (RFC 6962 section 2.1), so that who checks the chain has the leaves of the batch's tree from the same pass.

use aws_lc_rs::digest;

use crate::record::MAX_RECORD_BYTES;

/// A link of the hash chain through all records of a proxy.
pub(crate) type Chain = [u8; 32];

/// A record's leaf hash.
pub(crate) type Leaf = [u8; 32];

/// The chain before a proxy's first record.
pub(crate) const CHAIN_START: Chain = [0; 32];

const LENGTH_BYTES: usize = 8;
/// What a frame adds to its payload.
pub(crate) const OVERHEAD: usize = LENGTH_BYTES + 32;

/// The leaf hash of `record` in its batch's tree.
pub(crate) fn leaf(record: &[u8]) -> Leaf {
    hash([&[0], record])
}

/// The chain after the record with that leaf hash.
pub(crate) fn link(chain: &Chain, leaf: &Leaf) -> Chain {
    let mut both = [0; 64];
    let (before, after) = both.split_at_mut(32);
    before.copy_from_slice(chain);
    after.copy_from_slice(leaf);
    to_chain(digest::digest(&digest::SHA256, &both))
}

/// The chain after `record`.
pub(crate) fn advance(chain: &Chain, record: &[u8]) -> Chain {
    link(chain, &leaf(record))
}

fn hash(parts: [&[u8]; 2]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    to_chain(context.finish())
}

/// The check of a segment's header, which is no record and leaves the chain as it is.
pub(crate) fn header_check(payload: &[u8]) -> Chain {
    hash([b"reeve write-ahead log segment 1\n", payload])
}

/// The frame of `payload`; `check` is its chain or header check.
pub(crate) fn encode(payload: &[u8], check: &Chain, out: &mut Vec<u8>) {
    // INVARIANT: payloads are at most MAX_RECORD_BYTES long, which the writer checks.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(check);
}

/// Writes a record's frame to the end of `out`; `payload` adds the record. Answers the chain after it.
pub(crate) fn append<E>(
    out: &mut Vec<u8>,
    chain: &Chain,
    payload: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<Chain, E> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    payload(out)?;
    // The zero that a leaf hash begins with stands before the record already: one pass, without a copy.
    let prefixed = out.get(start + LENGTH_BYTES - 1..).unwrap_or_default();
    let chain = link(chain, &to_chain(digest::digest(&digest::SHA256, prefixed)));
    let (head, record) = out
        .get_mut(start..)
        .unwrap_or_default()
        .split_at_mut(LENGTH_BYTES);
    let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
    for (to, from) in head.iter_mut().zip(
        length
            .to_le_bytes()
            .into_iter()
            .chain((!length).to_le_bytes()),
    ) {
        *to = from;
    }
    out.extend_from_slice(&chain);
    Ok(chain)
}

/// What stands at a place in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// A frame that is all there; whether its check holds is for the caller to say.
    Frame {
        /// What it carries.
        payload: &'a [u8],
        /// The check stored with it.
        check: Chain,
        /// Its length in the file.
        length: usize,
    },
    /// The end.
    End,
    /// The last write did not finish: the file ends within the frame, or nothing but zeros follow.
    Torn,
    /// Something that no unfinished write leaves behind.
    Damaged(&'static str),
}

/// Reads the frame at the start of `rest`, which reaches to the end of the file.
pub(crate) fn read(rest: &[u8]) -> Step<'_> {
    if rest.is_empty() {
        return Step::End;
    }
    let Some((length, inverse, body)) = lengths(rest) else {
        return short_header(rest);
    };
    if length != !inverse {
        return if rest.iter().all(|b| *b == 0) {
            Step::Torn
        } else {
            Step::Damaged("the frame's length and its complement differ")
        };
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_RECORD_BYTES {
        return Step::Damaged("the frame is longer than any record");
    }
    let Some((payload, after)) = body.split_at_checked(length) else {
        return Step::Torn;
    };
    match after.first_chunk::<32>() {
        Some(check) => Step::Frame {
            payload,
            check: *check,
            length: length + OVERHEAD,
        },
        None => Step::Torn,
    }
}

/// Fewer than eight bytes are left. They are the start of a length or zeros; four or more can be checked in part.
fn short_header(rest: &[u8]) -> Step<'_> {
    let plausible = match rest.first_chunk::<4>() {
        None => true,
        Some(length) => {
            let inverse = (!u32::from_le_bytes(*length)).to_le_bytes();
            rest.iter().skip(4).zip(inverse).all(|(a, b)| *a == b)
        }
    };
    if plausible || rest.iter().all(|b| *b == 0) {
        Step::Torn
    } else {
        Step::Damaged("the frame's length and its complement differ")
    }
}

/// What a disk writes whole or not at all, at least.
const SECTOR: usize = 512;

/// Whether what begins at `good`, and is no frame that checks, is what an interrupted write leaves: blocks that were reserved
/// and never written read as zeros, also where later ones were written. SECURITY: no record holds such zeros, and no flipped
/// bit makes them; who can write them can as well cut the file.
pub(crate) fn is_unwritten(bytes: &[u8], good: usize) -> bool {
    let span = match read(bytes.get(good..).unwrap_or_default()) {
        Step::Frame { length, .. } => length,
        Step::End | Step::Torn | Step::Damaged(_) => LENGTH_BYTES,
    };
    let zero = |from: usize, to: usize| {
        let sector = bytes.get(from..to.min(bytes.len())).unwrap_or_default();
        !sector.is_empty() && sector.iter().all(|byte| *byte == 0)
    };
    // The rest of the sector that the last whole frame ends in, and then each whole one that the frame is in.
    let first = good / SECTOR * SECTOR;
    let lead = first + SECTOR;
    zero(good, lead)
        || (lead..good.saturating_add(span))
            .step_by(SECTOR)
            .any(|from| zero(from, from + SECTOR))
}

fn lengths(rest: &[u8]) -> Option<(u32, u32, &[u8])> {
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (inverse, rest) = rest.split_first_chunk::<4>()?;
    Some((
        u32::from_le_bytes(*length),
        u32::from_le_bytes(*inverse),
        rest,
    ))
}

fn to_chain(hash: digest::Digest) -> Chain {
    let mut chain = CHAIN_START;
    chain.copy_from_slice(hash.as_ref());
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(payload, &advance(&CHAIN_START, payload), &mut out);
        out
    }

    #[test]
    fn a_whole_frame_reads_back() {
        let bytes = frame(b"hello");
        assert!(matches!(
            read(&bytes),
            Step::Frame { payload: b"hello", check, length } if length == bytes.len()
                && check == advance(&CHAIN_START, b"hello")
        ));
        assert_eq!(read(&[]), Step::End);
    }

    #[test]
    fn a_leaf_is_the_one_of_rfc_6962() {
        for record in [&b""[..], b"hello"] {
            assert_eq!(leaf(record), tlog_tiles::record_hash(record).0);
        }
    }

    #[test]
    fn every_proper_prefix_is_torn_and_so_are_zeros() {
        let bytes = frame(b"hello");
        for cut in 1..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Step::Torn, "{cut}");
        }
        for zeros in 1..200 {
            assert_eq!(read(&vec![0; zeros]), Step::Torn, "{zeros}");
        }
    }

    #[test]
    fn a_flipped_length_is_damage_and_not_torn() {
        let bytes = frame(b"hello");
        for at in 0..8 {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert!(matches!(read(&bad), Step::Damaged(_)), "{at}.{bit}");
            }
        }
    }
}
