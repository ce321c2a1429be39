//! Finds private keys in bytes: by what a key's number looks like in binary, hexadecimal and base64, and any P-256 key by
//! the form that keys have.

use base64::{
    Engine as _, alphabet,
    engine::general_purpose::{GeneralPurpose, NO_PAD, STANDARD, URL_SAFE_NO_PAD},
};
use memchr::memmem;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};

/// Bytes of a number of P-256.
const SCALAR: usize = 32;
/// What stands before the number in every DER form of such a key: an octet string of 32 bytes, after version 1 (SEC 1,
/// appendix C.4; inside PKCS#8, RFC 5208).
const BEFORE_SCALAR: [u8; 5] = [0x02, 0x01, 0x01, 0x04, 0x20];

/// A private key.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) scalar: Vec<u8>,
    pkcs8: Vec<u8>,
}

impl Key {
    /// Every whole key of a PEM text.
    pub(crate) fn all_of_pem(text: &str) -> Vec<Self> {
        let keys = PrivateKeyDer::pem_slice_iter(text.as_bytes()).map_while(Result::ok);
        keys.map(|key| Self::of_pkcs8(key.secret_der())).collect()
    }

    fn of_pkcs8(pkcs8: &[u8]) -> Self {
        let at = pkcs8
            .windows(BEFORE_SCALAR.len())
            .position(|w| w == BEFORE_SCALAR);
        let at = at.expect("a P-256 key in PKCS#8") + BEFORE_SCALAR.len();
        Self {
            scalar: pkcs8[at..at + SCALAR].to_vec(),
            pkcs8: pkcs8.to_vec(),
        }
    }

    /// The SEC 1 form, which PKCS#8 holds.
    fn sec1(&self) -> Vec<u8> {
        let at = self
            .pkcs8
            .windows(BEFORE_SCALAR.len())
            .position(|w| w == BEFORE_SCALAR);
        let at = at.expect("a P-256 key in PKCS#8");
        // The sequence's tag and length (below 128) come before the version.
        self.pkcs8[at - 2..].to_vec()
    }

    /// Every form that the key could lie around in.
    pub(crate) fn forms(&self) -> Vec<(&'static str, Vec<u8>)> {
        let wrapped = |label: &str, der: &[u8]| {
            let body = STANDARD.encode(der).into_bytes();
            let lines: Vec<_> = body
                .chunks(64)
                .map(|line| String::from_utf8_lossy(line).into_owned())
                .collect();
            format!(
                "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
                lines.join("\n")
            )
        };
        let pem = wrapped("PRIVATE KEY", &self.pkcs8);
        // A label of its own, so that the key is found by what it is.
        let unlabelled = wrapped("THING", &self.pkcs8);
        let json = serde_json::to_string(&unlabelled).expect("JSON");
        vec![
            ("PKCS#8", self.pkcs8.clone()),
            ("SEC 1", self.sec1()),
            ("the number", self.scalar.clone()),
            ("hexadecimal", hex(&self.scalar).into_bytes()),
            ("HEXADECIMAL", hex(&self.scalar).to_uppercase().into_bytes()),
            ("base64", STANDARD.encode(&self.scalar).into_bytes()),
            (
                "base64url",
                URL_SAFE_NO_PAD.encode(&self.scalar).into_bytes(),
            ),
            (
                "base64 of PKCS#8",
                STANDARD.encode(&self.pkcs8).into_bytes(),
            ),
            ("base64 of SEC 1", STANDARD.encode(self.sec1()).into_bytes()),
            ("PEM", pem.into_bytes()),
            ("PEM under another label", unlabelled.into_bytes()),
            ("the same in JSON", json.into_bytes()),
        ]
    }
}

/// Searches for some keys, and for any.
pub(crate) struct Scanner {
    binary: Vec<(&'static str, Vec<u8>)>,
    text: Vec<(&'static str, Vec<u8>)>,
}

impl Scanner {
    pub(crate) fn new(keys: Vec<Key>) -> Self {
        let mut binary = vec![("a key in DER", BEFORE_SCALAR.to_vec())];
        let mut text = vec![("a key in PEM", b"PRIVATEKEY-----".to_vec())];
        for key in keys {
            binary.push(("the number", key.scalar.clone()));
            let hex = hex(&key.scalar);
            text.push(("hexadecimal", hex.to_uppercase().into_bytes()));
            text.push(("hexadecimal", hex.into_bytes()));
            for standard in in_base64(&key.scalar) {
                let url: String = standard
                    .chars()
                    .map(|c| match c {
                        '+' => '-',
                        '/' => '_',
                        c => c,
                    })
                    .collect();
                text.extend([
                    ("base64", standard.into_bytes()),
                    ("base64url", url.into_bytes()),
                ]);
            }
        }
        Self { binary, text }
    }

    /// What is found.
    pub(crate) fn search(&self, bytes: &[u8]) -> Vec<&'static str> {
        let joined = without_breaks(bytes);
        let in_binary = self
            .binary
            .iter()
            .filter(|(_, needle)| memmem::find(bytes, needle).is_some());
        let in_text = self
            .text
            .iter()
            .filter(|(_, needle)| memmem::find(&joined, needle).is_some());
        in_binary.chain(in_text).map(|(kind, _)| *kind).collect()
    }
}

/// What is sure to stand in base64 of anything that holds `bytes`, wherever they begin in a group of three.
fn in_base64(bytes: &[u8]) -> Vec<String> {
    let engine = GeneralPurpose::new(&alphabet::STANDARD, NO_PAD);
    let at = |before: usize| {
        let text = engine.encode([&vec![0; before][..], bytes].concat());
        // The first characters depend on what is before, the last on what comes after.
        let (from, bits) = ((before * 8).div_ceil(6), (before + bytes.len()) * 8);
        text[from..bits / 6].to_owned()
    };
    (0..3).map(at).collect()
}

/// Without the ends of lines, in a file or in JSON, and without spaces.
fn without_breaks(bytes: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        rest = match (first, tail.first()) {
            (b'\\', Some(b'n' | b'r')) => &tail[1..],
            (b'\n' | b'\r' | b' ', _) => tail,
            _ => {
                joined.push(*first);
                tail
            }
        };
    }
    joined
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_key_is_found_in_every_form_and_another_one_is_not() {
    let key = || {
        let pair = rcgen::KeyPair::generate().expect("a key");
        Key::of_pkcs8(pair.serialized_der())
    };
    let (ours, other) = (key(), key());
    let scanner = Scanner::new(vec![ours.clone()]);
    for (form, bytes) in ours.forms() {
        for before in 0..3 {
            let around = [&b"xyz"[..before], &bytes, b"more"].concat();
            assert!(!scanner.search(&around).is_empty(), "{form}");
        }
    }
    let forms: Vec<_> = other
        .forms()
        .into_iter()
        .filter(|(form, _)| {
            ["the number", "hexadecimal", "base64", "the same in JSON"].contains(form)
        })
        .collect();
    for (form, bytes) in forms {
        assert!(scanner.search(&bytes).is_empty(), "another key as {form}");
    }
}
