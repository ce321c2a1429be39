//! Whether bytes are DER and nothing looser (X.690 sections 8 and 10), so that no two readers of a certificate read two
//! things. The parser that certificates are read with takes some of BER, too.

/// Deepest nesting; a certificate's names are at depth 6.
const MAX_DEPTH: usize = 16;

const BOOLEAN: u8 = 1;
const INTEGER: u8 = 2;
const BIT_STRING: u8 = 3;
const NULL: u8 = 5;
const UTC_TIME: u8 = 23;
const GENERALIZED_TIME: u8 = 24;
/// Set in the tag of a value that holds others.
const CONSTRUCTED: u8 = 0x20;
/// The tag's number follows in octets of its own, which nothing in a certificate does.
const LONG_TAG: u8 = 0x1f;

/// Whether `bytes` are exactly one value in DER, with all that is in it.
pub(crate) fn is_strict(bytes: &[u8]) -> bool {
    value(bytes, MAX_DEPTH).is_some_and(<[u8]>::is_empty)
}

/// Checks the value in front and gives what follows it.
fn value(bytes: &[u8], depth: usize) -> Option<&[u8]> {
    let (&tag, rest) = bytes.split_first()?;
    let (length, rest) = length(rest)?;
    let (mut content, rest) = rest.split_at_checked(length)?;
    if tag & LONG_TAG == LONG_TAG {
        return None;
    }
    if tag & CONSTRUCTED != 0 {
        let depth = depth.checked_sub(1)?;
        while !content.is_empty() {
            content = value(content, depth)?;
        }
        return Some(rest);
    }
    is_strict_content(tag, content).then_some(rest)
}

/// A definite length in as few octets as it needs.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        return Some((first.into(), rest));
    }
    let (octets, rest) = rest.split_at_checked((first & 0x7f).into())?;
    let shortest = match octets {
        [one] => *one >= 0x80,
        [first, _] | [first, _, _] => *first != 0,
        _ => false,
    };
    let length = octets
        .iter()
        .fold(0, |sum, octet| sum << 8 | usize::from(*octet));
    shortest.then_some((length, rest))
}

fn is_strict_content(tag: u8, content: &[u8]) -> bool {
    match tag {
        BOOLEAN => matches!(content, [0 | 0xff]),
        INTEGER => match content {
            [] => false,
            [0, second, ..] => second & 0x80 != 0,
            [0xff, second, ..] => second & 0x80 == 0,
            _ => true,
        },
        BIT_STRING => match content {
            [] => false,
            [unused] => *unused == 0,
            [unused, .., last] => *unused < 8 && last.trailing_zeros() >= (*unused).into(),
        },
        NULL => content.is_empty(),
        UTC_TIME => is_time(content, 12),
        // What UTCTime can say, it has to (RFC 5280 section 4.1.2.5).
        GENERALIZED_TIME => is_time(content, 14) && content >= b"2050".as_slice(),
        _ => true,
    }
}

/// So many digits, down to the second, and `Z` (RFC 5280 sections 4.1.2.5.1 and 4.1.2.5.2).
fn is_time(content: &[u8], digits: usize) -> bool {
    let numbers = content.strip_suffix(b"Z").unwrap_or_default();
    numbers.len() == digits && numbers.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::forge::{Forge, ID, leaf};

    #[test]
    fn values_that_are_der() {
        let rows: [&[u8]; 12] = [
            &[0x30, 0],
            &[1, 1, 0xff],
            &[2, 1, 0],
            &[2, 2, 0, 0x80],
            &[2, 2, 0xff, 0x7f],
            &[3, 1, 0],
            &[3, 2, 7, 0x80],
            &[5, 0],
            &[0x30, 3, 1, 1, 0],
            &[&[4, 0x81, 0x80][..], &[0; 0x80]].concat(),
            b"\x17\x0d491231235959Z",
            b"\x18\x0f20500101000000Z",
        ];
        for row in rows {
            assert!(is_strict(row), "{row:02x?}");
        }
    }

    #[test]
    fn values_that_are_not() {
        let deep = (0..20).fold(vec![5, 0], |inner, _| {
            [vec![0x30, u8::try_from(inner.len()).unwrap()], inner].concat()
        });
        let rows: [&[u8]; 25] = [
            &[],
            &[0x30],
            &[0x30, 1],
            &[0x30, 0, 0],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x81, 0],
            &[0x30, 0x82, 0, 0x80],
            &[0x30, 0x84, 0, 0, 0, 0],
            &[1, 0],
            &[1, 1, 1],
            &[1, 2, 0, 0],
            &[2, 0],
            &[2, 2, 0, 1],
            &[2, 2, 0xff, 0x80],
            &[3, 0],
            &[3, 1, 1],
            &[3, 2, 8, 0],
            &[3, 2, 1, 1],
            &[5, 1, 0],
            &[0x1f, 1, 0],
            &[0x30, 3, 1, 1, 1],
            b"\x17\x0b4912312359Z",
            b"\x17\x114912312359590100",
            b"\x18\x0f20491231235959Z",
            &deep,
        ];
        for row in rows {
            assert!(!is_strict(row), "{row:02x?}");
        }
    }

    #[test]
    fn what_is_issued_is_der() {
        let forge = Forge::new("mesh.local");
        for certificate in forge.chain(&leaf(ID)) {
            assert!(is_strict(&certificate));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_end_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            is_strict(&bytes);
        }
    }
}
