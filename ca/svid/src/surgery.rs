//! Certificates changed beneath any library's rules, and signed again, so that the change is their only fault.

use rcgen::{KeyPair, SigningKey as _};
use rustls_pki_types::CertificateDer;

/// A value in DER, or bytes that only look like one.
#[derive(Clone, Debug)]
pub(crate) enum Der {
    /// Tag and content.
    Leaf(u8, Vec<u8>),
    /// Tag and the values in it.
    Tree(u8, Vec<Der>),
    /// As it is, tag and length included.
    Raw(Vec<u8>),
}

/// Where the parts of a TBSCertificate stand (RFC 5280 section 4.1).
pub(crate) mod part {
    pub(crate) const VERSION: usize = 0;
    pub(crate) const SERIAL: usize = 1;
    pub(crate) const ALGORITHM: usize = 2;
    pub(crate) const ISSUER: usize = 3;
    pub(crate) const VALIDITY: usize = 4;
    pub(crate) const SUBJECT: usize = 5;
    pub(crate) const EXTENSIONS: usize = 7;
}

/// Object identifiers of extensions, in DER.
pub(crate) mod oid {
    pub(crate) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
    pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
    pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
    pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
    pub(crate) const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];
}

impl Der {
    pub(crate) fn sequence(values: Vec<Self>) -> Self {
        Self::Tree(0x30, values)
    }

    /// Reads one value in DER.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let (value, rest) = Self::read(bytes);
        assert!(rest.is_empty(), "one value");
        value
    }

    /// Reads one value and gives what follows.
    fn read(bytes: &[u8]) -> (Self, &[u8]) {
        let (tag, first) = (bytes[0], usize::from(bytes[1]));
        let long = if first < 0x80 { 0 } else { first & 0x7f };
        let length = match long {
            0 => first,
            _ => bytes[2..2 + long]
                .iter()
                .fold(0, |n, b| n << 8 | usize::from(*b)),
        };
        let (content, rest) = bytes[2 + long..].split_at(length);
        let value = match tag & 0x20 {
            0 => Self::Leaf(tag, content.to_vec()),
            _ => Self::Tree(tag, Self::read_all(content)),
        };
        (value, rest)
    }

    fn read_all(mut bytes: &[u8]) -> Vec<Self> {
        let mut values = Vec::new();
        while !bytes.is_empty() {
            let (value, rest) = Self::read(bytes);
            values.push(value);
            bytes = rest;
        }
        values
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let (tag, content) = match self {
            Self::Raw(bytes) => return bytes.clone(),
            Self::Leaf(tag, content) => (*tag, content.clone()),
            Self::Tree(tag, values) => (*tag, values.iter().flat_map(Self::encode).collect()),
        };
        let mut bytes = vec![tag];
        let length = u16::try_from(content.len()).expect("a short value");
        match length.to_be_bytes() {
            [0, short @ 0..0x80] => bytes.push(short),
            [0, middle] => bytes.extend([0x81, middle]),
            [high, low] => bytes.extend([0x82, high, low]),
        }
        bytes.extend(content);
        bytes
    }

    pub(crate) fn parts(&mut self) -> &mut Vec<Self> {
        match self {
            Self::Tree(_, values) => values,
            Self::Leaf(..) | Self::Raw(_) => panic!("no tree"),
        }
    }

    /// The content of a value that holds no others.
    pub(crate) fn content(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Leaf(_, content) => content,
            Self::Tree(..) | Self::Raw(_) => panic!("no leaf"),
        }
    }

    /// Of a TBSCertificate: its extensions.
    pub(crate) fn extensions(&mut self) -> &mut Vec<Self> {
        self.parts()[part::EXTENSIONS].parts()[0].parts()
    }

    /// Of a TBSCertificate: the extension of that OID.
    pub(crate) fn extension(&mut self, oid: &[u8]) -> &mut Self {
        let is = |e: &mut &mut Self| matches!(&e.parts()[0], Self::Leaf(6, id) if id == oid);
        let mut found = self.extensions().iter_mut();
        found
            .find_map(|mut e| is(&mut e).then_some(e))
            .expect("the extension")
    }

    /// Of a TBSCertificate: replaces what an extension says.
    pub(crate) fn say(&mut self, oid: &[u8], value: Vec<u8>) {
        let extension = self.extension(oid).parts();
        *extension.last_mut().expect("a value") = Self::Leaf(4, value);
    }
}

/// An extension.
pub(crate) fn extension(oid: &[u8], critical: bool, value: Vec<u8>) -> Der {
    let mut parts = vec![Der::Leaf(6, oid.to_vec())];
    if critical {
        parts.push(Der::Leaf(1, vec![0xff]));
    }
    parts.push(Der::Leaf(4, value));
    Der::sequence(parts)
}

/// The certificate with its TBSCertificate changed, signed by `key`.
pub(crate) fn changed_within(
    certificate: &CertificateDer<'_>,
    key: &KeyPair,
    change: impl FnOnce(&mut Der),
) -> CertificateDer<'static> {
    let (mut whole, _) = Der::read(certificate);
    change(&mut whole.parts()[0]);
    let signature = key.sign(&whole.parts()[0].encode()).expect("a signature");
    whole.parts()[2] = Der::Leaf(3, [vec![0], signature].concat());
    whole.encode().into()
}

/// The certificate changed around its TBSCertificate, which keeps its signature.
pub(crate) fn changed_around(
    certificate: &CertificateDer<'_>,
    change: impl FnOnce(&mut Der),
) -> CertificateDer<'static> {
    let (mut whole, _) = Der::read(certificate);
    change(&mut whole);
    whole.encode().into()
}
