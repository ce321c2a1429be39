use std::sync::Arc;

use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::AsyncWriteExt as _;

use super::*;

/// A ClientHello that asks for `name`, in one record.
pub(crate) fn hello(name: &str, protocols: &[&[u8]]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    let name = name.to_owned().try_into().unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same handshake message in records of at most `size` bytes (RFC 8446 section 5.1 allows it).
fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
    let (header, message) = hello.split_at(5);
    let mut bytes = Vec::new();
    for piece in message.chunks(size) {
        let length = u16::try_from(piece.len()).unwrap();
        bytes.extend(&header[..3]);
        bytes.extend(length.to_be_bytes());
        bytes.extend(piece);
    }
    bytes
}

/// What is made of `bytes` that come in pieces of `size`, and how many of them were needed.
fn read(bytes: &[u8], size: usize) -> (ServerName, usize) {
    let mut reader = HelloReader::default();
    let mut seen = 0;
    for piece in bytes.chunks(size) {
        seen += piece.len();
        match reader.read(&bytes[..seen]) {
            Hello::Whole(accepted) => return (named(&accepted), seen),
            Hello::Unreadable => return (ServerName::Unreadable, seen),
            Hello::More => {}
        }
    }
    (ServerName::Unreadable, seen)
}

#[test]
fn the_name_is_found_however_the_hello_is_cut() {
    let whole = hello("Shop.Example.org", &[b"h2"]);
    let name = ServerName::Named("shop.example.org".to_owned());
    for record in [1, 7, 100, 20_000] {
        let bytes = fragmented(&whole, record);
        for piece in [1, 2, 5, 1000, 20_000] {
            assert_eq!(read(&bytes, piece).0, name, "{record} {piece}");
        }
        assert_eq!(read(&bytes[..bytes.len() - 1], 1).0, ServerName::Unreadable);
    }
    let unnamed = hello("127.0.0.1", &[]);
    assert_eq!(
        read(&unnamed, 9).0,
        ServerName::Unnamed,
        "an address is no name"
    );
}

#[test]
fn what_is_no_client_hello_is_nobodys() {
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
        b"\x16\x03\x01\x00\x05junk!",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x02\x00\x00\x05\x01\x00\x00\x01\x00",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\x80\x2e\x01\x03\x01",
        b"",
    ] {
        assert_eq!(read(bytes, 3).0, ServerName::Unreadable, "{bytes:?}");
    }
}

#[test]
fn an_endless_hello_is_read_up_to_the_bound() {
    // A handshake message of 16 MiB less a byte, which never ends.
    let mut message = vec![1, 0xff, 0xff, 0xff];
    message.resize(64 * 1024, 0);
    let bytes = fragmented(&[b"\x16\x03\x01\x00\x00", message.as_slice()].concat(), 100);
    let (name, seen) = read(&bytes, 10);
    assert_eq!(name, ServerName::Unreadable);
    assert!(seen <= MAX_CLIENT_HELLO_BYTES + 10, "{seen}");
}

#[tokio::test(start_paused = true)]
async fn the_bytes_read_are_given_back_and_silence_ends() {
    let patience = Duration::from_secs(1);
    let bytes = [hello("a.example.org", &[]), b"more".to_vec()].concat();
    let (mut near, mut far) = tokio::io::duplex(64 * 1024);
    far.write_all(&bytes).await.unwrap();
    let (name, ahead) = server_name(&mut near, patience).await;
    assert_eq!(name, ServerName::Named("a.example.org".to_owned()));
    assert_eq!(ahead, bytes);
    far.write_all(&bytes[..20]).await.unwrap();
    let (name, ahead) = server_name(&mut near, patience).await;
    assert_eq!(
        (name, ahead.len()),
        (ServerName::Unreadable, 20),
        "half of it, then silence"
    );
    drop(far);
    assert_eq!(
        server_name(&mut near, patience).await.0,
        ServerName::Unreadable
    );
}

proptest! {
    #[test]
    fn no_bytes_harm_the_reader(
        head in prop_oneof![Just(vec![]), Just(b"\x16\x03\x01".to_vec()), Just(b"\x16\x03\x03\x00\x40\x01\x00\x00\x3c\x03\x03".to_vec())],
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        piece in 1usize..300,
    ) {
        let all = [head, bytes].concat();
        let (name, seen) = read(&all, piece);
        prop_assert!(seen <= all.len());
        // The same bytes in one piece say the same, if that was enough of them.
        if name != ServerName::Unreadable {
            prop_assert_eq!(read(&all, all.len().max(1)).0, name);
        }
    }

    #[test]
    fn a_hello_with_flipped_bytes_names_something_or_nothing(
        flips in proptest::collection::vec((0usize..300, any::<u8>()), 1..8), piece in 1usize..600,
    ) {
        let mut bytes = hello("shop.example.org", &[b"h2"]);
        for (at, value) in flips {
            bytes[at] = value;
        }
        let (name, seen) = read(&bytes, piece);
        prop_assert!(seen <= MAX_CLIENT_HELLO_BYTES + piece);
        if let ServerName::Named(name) = name {
            prop_assert!(!name.is_empty() && name.len() <= 255 && !name.bytes().any(|b| b.is_ascii_uppercase()));
        }
    }
}
