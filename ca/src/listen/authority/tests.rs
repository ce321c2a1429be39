use proptest::prelude::*;

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags, 0, 0, 0, 1];
    frame.extend_from_slice(payload);
    frame
}

fn literal(first: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut field = vec![first];
    if matches!(first, 0x40 | 0x00 | 0x10) {
        field.push(u8::try_from(name.len()).unwrap());
        field.extend_from_slice(name);
    }
    field.push(u8::try_from(value.len()).unwrap());
    field.extend_from_slice(value);
    field
}

fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    Mender::default().mend(&mut bytes);
    bytes
}

/// What gRPC for Python 1.85 sends before and in its first request, shortened.
fn python() -> Vec<u8> {
    let mut block = literal(0x40, b":path", b"/SpiffeWorkloadAPI/FetchX509SVID");
    block.extend(literal(0x40, b":authority", b"tmp%2Fca-x.sock"));
    block.extend([0x83, 0x86]);
    block.extend(literal(0x40, b"te", b"a%2Fb"));
    let mut all = PREFACE.to_vec();
    all.extend(frame(4, 0, &[0, 2, 0, 0, 0, 0]));
    all.extend(frame(8, 0, &[0, 63, 0, 1]));
    all.extend(frame(1, END_HEADERS, &block));
    all.extend(frame(0, 1, b"\0\0\0\0\x05%2F%2"));
    all
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

#[test]
fn an_encoded_path_becomes_a_legal_authority_and_nothing_else_changes() {
    let before = python();
    let after = mended(&before);
    assert!(contains(&after, b":authority\x0ftmp-2Fca-x.sock"));
    let changed = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert_eq!((before.len(), changed), (after.len(), 1));
    assert!(
        contains(&after, b"a%2Fb") && contains(&after, b"%2F%2"),
        "other values stay"
    );
}

#[test]
fn every_way_to_write_the_literal_is_found() {
    for first in [0x41, 0x01, 0x11, 0x40, 0x00, 0x10] {
        let field = literal(first, b":authority", b"/run/a.sock");
        let first_frame = [PREFACE, &frame(1, END_HEADERS, &field)].concat();
        assert!(
            contains(&mended(&first_frame), b"-run-a.sock"),
            "{first:#x}"
        );
        // Padded, with priority, and spread over two frames.
        let (head, tail) = field.split_at(5);
        let mut payload = vec![3, 0, 0, 0, 0, 16];
        payload.extend_from_slice(head);
        payload.extend_from_slice(&[0, 0, 0]);
        let spread = [
            PREFACE,
            &frame(1, PADDED | PRIORITY, &payload),
            &frame(9, END_HEADERS, tail),
        ];
        let after = mended(&spread.concat());
        assert!(
            after.iter().skip(PREFACE.len()).all(|b| *b != b'/'),
            "{first:#x}"
        );
    }
}

#[test]
fn legal_and_coded_authorities_stay() {
    for value in [b"localhost".as_slice(), b"127.0.0.1:80"] {
        let bytes = [PREFACE, &frame(1, END_HEADERS, &literal(0x41, b"", value))].concat();
        assert_eq!(mended(&bytes), bytes);
    }
    // The high bit says Huffman.
    let bytes = [
        PREFACE,
        &frame(1, END_HEADERS, &[0x41, 0x83, b'%', b'%', b'/']),
    ]
    .concat();
    assert_eq!(mended(&bytes), bytes);
}

#[test]
fn what_is_not_understood_ends_the_mending() {
    let bad = frame(1, END_HEADERS | PADDED, &[200, 0x82]);
    let good = frame(1, END_HEADERS, &literal(0x41, b"", b"/"));
    let bytes = [PREFACE, &bad, &good].concat();
    assert_eq!(mended(&bytes), bytes);
}

proptest! {
    #[test]
    fn any_bytes_pass_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let all = [PREFACE, &bytes].concat();
        prop_assert_eq!(mended(&all).len(), all.len());
    }

    /// How the bytes are cut into reads makes no difference.
    #[test]
    fn cuts_do_not_matter(cuts in prop::collection::vec(1..40usize, 1..40)) {
        let whole = mended(&python());
        let mut pieces = python();
        let (mut mender, mut rest) = (Mender::default(), pieces.as_mut_slice());
        for cut in cuts {
            let (piece, after) = rest.split_at_mut(cut.min(rest.len()));
            mender.mend(piece);
            rest = after;
        }
        mender.mend(rest);
        prop_assert_eq!(pieces, whole);
    }
}
