//! The PROXY protocol, versions 1 and 2 (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>): who connected
//! to the load balancer before a gateway. Where it is expected, a connection without it is closed.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

use crate::limits::MAX_PROXY_HEADER_BYTES;

/// Begins version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
/// Longest line of version 1 with its end.
const MAX_LINE_BYTES: usize = 107;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Who connected.
    Client(SocketAddr),
    /// Nothing: the load balancer itself connected, or the address is of no kind that is known.
    Nothing,
}

/// What bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parsed {
    /// A header of so many bytes.
    Whole(Said, usize),
    /// The beginning of one.
    More,
    /// None.
    Bad,
}

/// Reads a header; with it come the bytes after it, to be given back to the connection.
pub(crate) async fn read<I: AsyncRead + Unpin>(
    io: &mut I,
    patience: Duration,
) -> Option<(Said, Bytes)> {
    let mut ahead = BytesMut::with_capacity(256);
    let reading = async {
        loop {
            match io.read_buf(&mut ahead).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
            match parse(&ahead) {
                Parsed::Whole(said, length) => {
                    ahead.advance(length);
                    return Some(said);
                }
                Parsed::More => {}
                Parsed::Bad => return None,
            }
        }
    };
    let said = timeout(patience, reading).await.ok().flatten()?;
    Some((said, ahead.freeze()))
}

fn parse(bytes: &[u8]) -> Parsed {
    let start = bytes
        .get(..SIGNATURE.len().min(bytes.len()))
        .unwrap_or_default();
    if SIGNATURE.starts_with(start) {
        return match start.len() == SIGNATURE.len() {
            true => parse_binary(bytes),
            false => Parsed::More,
        };
    }
    let line = bytes
        .get(..MAX_LINE_BYTES.min(bytes.len()))
        .unwrap_or_default();
    match line.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => match line.get(..end).and_then(parse_line) {
            Some(said) => Parsed::Whole(said, end + 2),
            None => Parsed::Bad,
        },
        None if line.len() == MAX_LINE_BYTES => Parsed::Bad,
        None if b"PROXY ".starts_with(line) || line.starts_with(b"PROXY ") => Parsed::More,
        None => Parsed::Bad,
    }
}

fn parse_line(line: &[u8]) -> Option<Said> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split(' ');
    if words.next()? != "PROXY" {
        return None;
    }
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Said::Nothing);
    }
    let (source, destination) = (words.next()?, words.next()?);
    let (port, to_port) = (words.next()?, words.next()?);
    let (source, destination): (IpAddr, IpAddr) = match family {
        "TCP4" => (
            source.parse::<Ipv4Addr>().ok()?.into(),
            destination.parse::<Ipv4Addr>().ok()?.into(),
        ),
        "TCP6" => (
            source.parse::<Ipv6Addr>().ok()?.into(),
            destination.parse::<Ipv6Addr>().ok()?.into(),
        ),
        _ => return None,
    };
    let legal = words.next().is_none() && source.is_ipv4() == destination.is_ipv4();
    to_port.parse::<u16>().ok()?;
    legal.then_some(Said::Client(SocketAddr::new(source, port.parse().ok()?)))
}

fn parse_binary(bytes: &[u8]) -> Parsed {
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED_BYTES) else {
        return Parsed::More;
    };
    let [.., command, family, high, low] = fixed else {
        return Parsed::Bad;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let whole = FIXED_BYTES + length;
    if whole > MAX_PROXY_HEADER_BYTES || command >> 4 != 2 {
        return Parsed::Bad;
    }
    let Some(addresses) = rest.get(..length) else {
        return Parsed::More;
    };
    let said = match (command & 0xf, family) {
        (0, _) => Some(Said::Nothing),
        (1, 0x11) => addresses.get(..12).and_then(of_v4),
        (1, 0x21) => addresses.get(..36).and_then(of_v6),
        // Datagrams, Unix sockets and what is not specified.
        (1, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => Some(Said::Nothing),
        _ => None,
    };
    said.map_or(Parsed::Bad, |said| Parsed::Whole(said, whole))
}

fn of_v4(bytes: &[u8]) -> Option<Said> {
    let (source, rest) = bytes.split_first_chunk::<4>()?;
    let (_, ports) = rest.split_first_chunk::<4>()?;
    let (port, _) = ports.split_first_chunk::<2>()?;
    let source = SocketAddr::from((*source, u16::from_be_bytes(*port)));
    Some(Said::Client(source))
}

fn of_v6(bytes: &[u8]) -> Option<Said> {
    let (source, rest) = bytes.split_first_chunk::<16>()?;
    let (_, ports) = rest.split_first_chunk::<16>()?;
    let (port, _) = ports.split_first_chunk::<2>()?;
    let source = SocketAddr::from((*source, u16::from_be_bytes(*port)));
    Some(Said::Client(source))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &[u8]) -> Option<(Said, usize)> {
        match parse(text) {
            Parsed::Whole(said, length) => Some((said, length)),
            Parsed::More | Parsed::Bad => None,
        }
    }

    fn client(text: &str) -> Said {
        Said::Client(text.parse().unwrap())
    }

    /// Version 2 of these bytes after the signature.
    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, body].concat()
    }

    #[test]
    fn both_versions_tell_who_connected() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb];
        let v6: Vec<u8> = [[0x20; 16], [0x30; 16]]
            .concat()
            .into_iter()
            .chain([0, 80, 0, 81])
            .collect();
        let with_more = [v4.as_slice(), &[3, 0, 1, 9]].concat();
        for (text, said) in [
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET".to_vec(),
                Some(client("192.0.2.1:56324")),
            ),
            (
                b"PROXY TCP6 2001:db8::1 ::1 5 6\r\n".to_vec(),
                Some(client("[2001:db8::1]:5")),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), Some(Said::Nothing)),
            (
                b"PROXY UNKNOWN ff:: ff:: 1 2\r\n".to_vec(),
                Some(Said::Nothing),
            ),
            (binary(0x21, 0x11, &v4), Some(client("192.0.2.1:56324"))),
            (
                binary(0x21, 0x11, &with_more),
                Some(client("192.0.2.1:56324")),
            ),
            (
                binary(0x21, 0x21, &v6),
                Some(client("[2020:2020:2020:2020:2020:2020:2020:2020]:80")),
            ),
            (binary(0x20, 0x00, &[]), Some(Said::Nothing)),
            (binary(0x21, 0x31, &[7; 216]), Some(Said::Nothing)),
            (b"PROXY TCP4 2001:db8::1 ::1 5 6\r\n".to_vec(), None),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n".to_vec(),
                None,
            ),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 x\r\n".to_vec(),
                None,
            ),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 70000 443\r\n".to_vec(),
                None,
            ),
            (b"GET / HTTP/1.1\r\n".to_vec(), None),
            (b"\x16\x03\x01".to_vec(), None),
            (binary(0x11, 0x11, &v4), None),
            (binary(0x22, 0x11, &v4), None),
            (binary(0x21, 0x11, &v4[..8]), None),
            (binary(0x21, 0x11, &vec![0; MAX_PROXY_HEADER_BYTES]), None),
        ] {
            assert_eq!(whole(&text).map(|(said, _)| said), said, "{text:?}");
        }
        let (_, length) = whole(b"PROXY UNKNOWN\r\nGET").unwrap();
        assert_eq!(length, 15);
        assert_eq!(whole(&binary(0x21, 0x11, &with_more)).unwrap().1, 32);
    }

    proptest! {
        #[test]
        fn nothing_is_read_beyond_the_bound(bytes: Vec<u8>, start in 0usize..4) {
            let starts: [&[u8]; 4] = [b"", b"PROXY ", SIGNATURE, b"PROXY TCP4 1.1.1.1 "];
            let bytes = [starts[start], &bytes].concat();
            match parse(&bytes) {
                Parsed::Whole(_, length) => prop_assert!(length <= bytes.len() && length <= MAX_PROXY_HEADER_BYTES),
                Parsed::More => prop_assert!(bytes.len() < MAX_PROXY_HEADER_BYTES),
                Parsed::Bad => {}
            }
        }

        #[test]
        fn what_is_printed_is_read(a: u32, b: u32, p: u16, q: u16, cut in 0usize..60) {
            let (a, b) = (Ipv4Addr::from(a), Ipv4Addr::from(b));
            let expected = Said::Client(SocketAddr::from((a, p)));
            let line = format!("PROXY TCP4 {a} {b} {p} {q}\r\n");
            prop_assert_eq!(whole(line.as_bytes()), Some((expected, line.len())));
            let body = [a.octets().as_slice(), &b.octets(), &p.to_be_bytes(), &q.to_be_bytes()].concat();
            let packet = binary(0x21, 0x11, &body);
            prop_assert_eq!(whole(&packet), Some((expected, packet.len())));
            for text in [line.as_bytes(), &packet] {
                let part = &text[..cut.min(text.len() - 1)];
                prop_assert_eq!(parse(part), Parsed::More);
            }
        }
    }
}
