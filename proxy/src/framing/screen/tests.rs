use proptest::prelude::*;

use super::*;

const LINE: &str = "POST / HTTP/1.1\r\n";

fn refused(bytes: &[u8]) -> Option<usize> {
    match Screen::new(1024).read(bytes) {
        Verdict::Fine | Verdict::Http2 { .. } => None,
        Verdict::Refused { at } => Some(at),
    }
}

/// Whether the bytes are refused when they come in these pieces.
fn refused_in_pieces(bytes: &[u8], pieces: usize) -> bool {
    let mut screen = Screen::new(1024);
    bytes
        .chunks(pieces.max(1))
        .any(|piece| matches!(screen.read(piece), Verdict::Refused { .. }))
}

#[test]
fn a_refusal_begins_with_the_doubtful_line() {
    let first = format!("{LINE}Host: a\r\n");
    let text = format!("{first}X: y\nZ: z\r\n\r\n");
    assert_eq!(refused(text.as_bytes()), Some(first.len()));
    let both = format!("{first}Content-Length: 3\r\n");
    let text = format!("{both}Transfer-Encoding: chunked\r\n\r\n");
    assert_eq!(refused(text.as_bytes()), Some(both.len()));
}

#[test]
fn legal_messages_pass() {
    for rest in [
        "Host: a\r\n\r\n",
        "Content-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\n\r\n",
        "content-length:5 \r\n\r\nhello",
        "Transfer-Encoding: Chunked\r\n\r\n5;a=\"b\"\r\nhe\nlo\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "Content-Length: 0\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "X-Blank:\r\nX_Under: 1\r\n\r\n",
    ] {
        assert_eq!(
            refused(format!("{LINE}{rest}").as_bytes()),
            None,
            "{rest:?}"
        );
    }
}

#[test]
fn doubtful_messages_do_not() {
    for rest in [
        "Host: a\n\r\n",
        "Host: a\r\n\n",
        "Host: a\rX: y\r\n\r\n",
        "X: a\0\r\n\r\n",
        " X: y\r\n\r\n",
        "X : y\r\n\r\n",
        "X\r\n\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        "Content-Length: +5\r\n\r\n",
        "Content-Length: 99999999999999999999\r\n\r\n",
        "Content_Length: 5\r\n\r\n",
        "Transfer-Encoding: ,chunked\r\n\r\n",
        "Transfer-Encoding: gzip, chunked\r\n\r\n",
        "Transfer_Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5 \r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\nhello",
        "Transfer-Encoding: chunked\r\n\r\n0000000000000005\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\n X: y\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\n",
    ] {
        let text = format!("{LINE}{rest}");
        assert!(refused(text.as_bytes()).is_some(), "{rest:?}");
        for pieces in 1..9 {
            assert!(
                refused_in_pieces(text.as_bytes(), pieces),
                "{pieces}: {rest:?}"
            );
        }
    }
    assert!(refused(b"GET /#x HTTP/1.1\r\n").is_some());
}

#[test]
fn nothing_may_come_between_a_request_for_an_upgrade_and_its_answer() {
    let asks = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
    let mut early = Screen::new(1024);
    assert_eq!(early.read(asks), Verdict::Fine);
    assert_eq!(early.read(b"\x81"), Verdict::Refused { at: 0 });

    for (answer, junk_passes) in [("101 Switching Protocols", true), ("200 OK", false)] {
        let mut screen = Screen::new(1024);
        assert_eq!(screen.read(asks), Verdict::Fine);
        screen.answer(b"HTTP/1.1 100 Continue\r\n\r\n");
        screen.answer(format!("HTTP/1.1 {answer}\r\n").as_bytes());
        let passes = screen.read(b"\x81\x05hello\n") == Verdict::Fine;
        assert_eq!(passes, junk_passes, "{answer}");
    }
    let mut tunnel = Screen::new(1024);
    assert_eq!(
        tunnel.read(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"),
        Verdict::Fine
    );
    tunnel.answer(b"HTTP/1.1 200 OK\r\n");
    assert_eq!(tunnel.read(b"\n\n\n"), Verdict::Fine);
}

#[test]
fn http2_passes_only_from_the_first_line_on() {
    assert_eq!(refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\n\n"), None);
    assert!(refused(b"GET / HTTP/1.1\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\n").is_some());
}

#[test]
fn an_endless_line_is_not_kept() {
    let mut screen = Screen::new(64);
    for _ in 0..100 {
        assert_eq!(screen.read(&[b'a'; 33]), Verdict::Fine);
        assert!(screen.unfinished.len() <= 64);
    }
}

/// Pieces of messages, legal and not, so that arbitrary sequences get past the first line.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(b"POST /a HTTP/1.1\r\n".to_vec()),
        4 => Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        4 => (0u64..20).prop_map(|n| format!("Content-Length: {n}\r\n").into_bytes()),
        4 => Just(b"\r\n".to_vec()),
        4 => (0u64..20).prop_map(|n| format!("{n:x}\r\n").into_bytes()),
        2 => Just(b"Upgrade: x\r\n".to_vec()),
        1 => Just(b"\n".to_vec()),
        1 => Just(b"\r".to_vec()),
        2 => proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #[test]
    fn how_bytes_are_cut_into_pieces_changes_nothing(
        parts in proptest::collection::vec(fragment(), 0..12), pieces in 1usize..40,
    ) {
        let bytes = parts.concat();
        prop_assert_eq!(refused(&bytes).is_some(), refused_in_pieces(&bytes, pieces));
    }

    #[test]
    fn bodies_of_any_bytes_pass_and_the_next_message_is_read(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..4),
        chunked in any::<bool>(), pieces in 1usize..40,
    ) {
        let mut bytes = Vec::new();
        for body in &bodies {
            bytes.extend_from_slice(LINE.as_bytes());
            if chunked {
                bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in body.chunks(7) {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            } else {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                bytes.extend_from_slice(body);
            }
        }
        prop_assert_eq!(refused(&bytes), None);
        prop_assert!(!refused_in_pieces(&bytes, pieces));
        bytes.extend_from_slice(b"x\n");
        prop_assert!(refused(&bytes).is_some(), "the reading is not at a request line");
    }
}
