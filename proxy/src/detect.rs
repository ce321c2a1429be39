//! What the first bytes of a connection are: mesh TLS, an application's own TLS, HTTP, or anything else.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reeve_svid::alpn;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

use crate::hello::{Hello, HelloReader};

/// The HTTP/2 connection preface (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Only a ClientHello that offers one of these is taken for the mesh's.
const MESH_PROTOCOLS: [&[u8]; 4] = [alpn::H2, alpn::HTTP1, alpn::TCP, alpn::NAMED_TCP];
/// Longest method name that still looks like HTTP.
const MAX_METHOD_BYTES: usize = 24;

/// What a connection starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// A ClientHello with one of the mesh's protocols.
    MeshTls,
    /// TLS of the application's own.
    OtherTls,
    /// An HTTP request line or the HTTP/2 preface.
    Http,
    /// Bytes that are none of these.
    Other,
    /// Nothing within the time allowed.
    Silent,
    /// The peer closed before it said enough to tell.
    Closed,
}

/// Reads ahead until it is clear what the connection is; the bytes read must be given back to it.
pub(crate) async fn detect<I: AsyncRead + Unpin>(
    io: &mut I,
    patience: Duration,
) -> (Opening, Bytes) {
    let mut ahead = BytesMut::with_capacity(1024);
    let mut reader = HelloReader::default();
    let reading = async {
        loop {
            if let Some(opening) = classify(&ahead, &mut reader) {
                return opening;
            }
            match io.read_buf(&mut ahead).await {
                Ok(0) | Err(_) if ahead.is_empty() => return Opening::Closed,
                Ok(0) | Err(_) => return Opening::Other,
                Ok(_) => {}
            }
        }
    };
    let opening = timeout(patience, reading).await;
    let opening = match opening {
        Ok(opening) => opening,
        Err(_) if ahead.is_empty() => Opening::Silent,
        Err(_) => Opening::Other,
    };
    (opening, ahead.freeze())
}

/// `None` = more bytes are needed.
fn classify(ahead: &[u8], reader: &mut HelloReader) -> Option<Opening> {
    match ahead {
        [] => None,
        // A TLS record of type handshake, version 3.x.
        [0x16] => None,
        [0x16, 0x03, ..] => client_hello(reader.read(ahead)),
        _ => plaintext(ahead),
    }
}

fn client_hello(hello: Hello) -> Option<Opening> {
    let accepted = match hello {
        Hello::Whole(accepted) => accepted,
        Hello::More => return None,
        // Not a ClientHello that we understand; the application may.
        Hello::Unreadable => return Some(Opening::OtherTls),
    };
    let hello = accepted.client_hello();
    let mut offered = hello.alpn().into_iter().flatten();
    let mesh = offered.any(|protocol| MESH_PROTOCOLS.contains(&protocol));
    Some(if mesh {
        Opening::MeshTls
    } else {
        Opening::OtherTls
    })
}

fn plaintext(ahead: &[u8]) -> Option<Opening> {
    if ahead.starts_with(HTTP2_PREFACE) {
        return Some(Opening::Http);
    }
    if HTTP2_PREFACE.starts_with(ahead) {
        return None;
    }
    let token = |b: &u8| b.is_ascii_alphabetic() || *b == b'-' || *b == b'_';
    match ahead.iter().position(|b| !token(b)) {
        Some(at) if at > 0 && at <= MAX_METHOD_BYTES && ahead.get(at) == Some(&b' ') => {
            Some(Opening::Http)
        }
        None if ahead.len() <= MAX_METHOD_BYTES => None,
        _ => Some(Opening::Other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hello::tests;

    fn hello(protocols: &[&[u8]]) -> Vec<u8> {
        tests::hello("a", protocols)
    }

    fn classify(ahead: &[u8]) -> Option<Opening> {
        super::classify(ahead, &mut HelloReader::default())
    }

    #[test]
    fn each_opening_is_told() {
        for (bytes, opening) in [
            (hello(&[b"h2", alpn::H2]), Some(Opening::MeshTls)),
            (hello(&[b"h2"]), Some(Opening::OtherTls)),
            (hello(&[]), Some(Opening::OtherTls)),
            (b"GET / HTTP/1.1\r\n".to_vec(), Some(Opening::Http)),
            (b"M-SEARCH * HTTP/1.1".to_vec(), Some(Opening::Http)),
            (HTTP2_PREFACE.to_vec(), Some(Opening::Http)),
            (b"PRI * HTTP/2.0\r\n".to_vec(), None),
            (b"GE".to_vec(), None),
            (b"".to_vec(), None),
            (b"\x16".to_vec(), None),
            (b" GET /".to_vec(), Some(Opening::Other)),
            (b"SSH-2.0-x\r\n".to_vec(), Some(Opening::Other)),
            (b"*1\r\n$4\r\n".to_vec(), Some(Opening::Other)),
            (vec![b'A'; 30], Some(Opening::Other)),
            (
                b"\x16\x03\x01\x00\x05junk!".to_vec(),
                Some(Opening::OtherTls),
            ),
        ] {
            assert_eq!(
                classify(&bytes),
                opening,
                "{:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
    }

    #[test]
    fn a_hello_in_pieces_is_told_once_it_is_whole() {
        let whole = hello(&[alpn::TCP]);
        for cut in 0..whole.len() {
            assert_eq!(classify(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(classify(&whole), Some(Opening::MeshTls));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_closing_are_told_apart() {
        let patience = Duration::from_millis(10);
        let (mut near, far) = tokio::io::duplex(64);
        assert_eq!(detect(&mut near, patience).await.0, Opening::Silent);
        drop(far);
        assert_eq!(detect(&mut near, patience).await.0, Opening::Closed);
    }

    proptest! {
        #[test]
        fn what_is_told_of_the_first_bytes_is_not_taken_back(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            text in "(PRI|GET|M-)?[A-Z *-]{0,9}(HTTP/2.0\r\n\r\nSM\r\n\r\n)?",
            at in any::<prop::sample::Index>(),
            flip in any::<u8>(),
        ) {
            let mut damaged = hello(&[alpn::H2]);
            let place = at.index(damaged.len());
            damaged[place] = flip;
            let record = [&[0x16, 0x03, 0x01, 0, 40], bytes.as_slice()].concat();
            for whole in [bytes, record, text.into_bytes(), damaged] {
                let mut reader = HelloReader::default();
                let told = (0..=whole.len()).find_map(|end| super::classify(&whole[..end], &mut reader));
                if told.is_some() {
                    prop_assert_eq!(classify(&whole), told);
                }
            }
        }
    }
}
