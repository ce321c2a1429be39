//! Keys of those who sign grants: PKCS #8 and SubjectPublicKeyInfo in PEM (RFC 8410), as OpenSSL writes them too.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use reeve_core::model::SignerKey;
use zeroize::Zeroizing;

/// Longest key, in bytes of text.
const MAX_KEY_BYTES: usize = 4 * 1024;
/// A SubjectPublicKeyInfo of Ed25519 up to the key itself (RFC 8410 section 4).
const SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// It is no public key.
    #[error(
        "this is no Ed25519 public key; write PEM (SubjectPublicKeyInfo) or the base64 of its 32 bytes"
    )]
    Public,
    /// It is no private key.
    #[error("this is no Ed25519 private key in PEM (PKCS #8)")]
    Private,
    /// None could be made.
    #[error("no key could be made")]
    Made,
}

/// A private key. It is overwritten in memory when dropped.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public()).finish()
    }
}

impl SigningKey {
    /// Makes a new one.
    pub fn generate() -> Result<Self, KeyFault> {
        let pair = Ed25519KeyPair::generate().map_err(|_none| KeyFault::Made)?;
        Ok(Self(pair))
    }

    /// Reads one from PEM.
    pub fn from_pem(text: &str) -> Result<Self, KeyFault> {
        let der = Zeroizing::new(unarmoured(text, "PRIVATE KEY").ok_or(KeyFault::Private)?);
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der);
        Ok(Self(pair.map_err(|_bad| KeyFault::Private)?))
    }

    /// The key in PEM.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyFault> {
        let der = self.0.to_pkcs8v1().map_err(|_none| KeyFault::Made)?;
        Ok(Zeroizing::new(armoured(der.as_ref(), "PRIVATE KEY")))
    }

    /// Its public half.
    pub fn public(&self) -> SignerKey {
        let bytes = self.0.public_key().as_ref();
        // An Ed25519 key is of this length.
        SignerKey(bytes.try_into().unwrap_or_default())
    }

    /// The public half in PEM.
    pub fn public_pem(&self) -> String {
        let der: Vec<u8> = SPKI.into_iter().chain(self.public().0).collect();
        armoured(&der, "PUBLIC KEY")
    }

    /// Signs, for [`verifies`]. What is signed must begin with what it is signed for, and be said nowhere else.
    pub fn sign(&self, message: &[u8]) -> String {
        BASE64_STANDARD.encode(self.0.sign(message))
    }
}

/// Whether `signature`, in base64, is one of `signer` over `message`.
pub fn verifies(signer: &SignerKey, message: &[u8], signature: &str) -> bool {
    BASE64_STANDARD.decode(signature).is_ok_and(|signature| {
        let key = UnparsedPublicKey::new(&ED25519, signer.0);
        key.verify(message, &signature).is_ok()
    })
}

/// Reads a public key: PEM, or the base64 of its 32 bytes or of its SubjectPublicKeyInfo.
pub fn parse_public_key(text: &str) -> Result<SignerKey, KeyFault> {
    let bytes = unarmoured(text, "PUBLIC KEY").ok_or(KeyFault::Public)?;
    let key = bytes.strip_prefix(&SPKI).unwrap_or(&bytes);
    let key = key.try_into().map_err(|_other| KeyFault::Public)?;
    // SECURITY: under a key of small order anybody can make signatures; these are the ones in canonical form.
    if SMALL_ORDER.contains(&key) {
        return Err(KeyFault::Public);
    }
    Ok(SignerKey(key))
}

/// Points whose order is 1, 2 or 4, and the two encodings of each sign of those of order 8.
const SMALL_ORDER: [[u8; 32]; 8] = {
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = [0xff; 32];
    minus_one[0] = 0xec;
    minus_one[31] = 0x7f;
    let mut zero_signed = [0; 32];
    zero_signed[31] = 0x80;
    let mut eight_signed = EIGHT_A;
    eight_signed[31] |= 0x80;
    let mut other_signed = EIGHT_B;
    other_signed[31] |= 0x80;
    [
        one,
        minus_one,
        [0; 32],
        zero_signed,
        EIGHT_A,
        eight_signed,
        EIGHT_B,
        other_signed,
    ]
};
const EIGHT_A: [u8; 32] = [
    0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
    0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
];
const EIGHT_B: [u8; 32] = [
    0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
    0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
];

fn armoured(der: &[u8], label: &str) -> String {
    // A key of Ed25519 fits on one line of 64 characters or two.
    let text = Zeroizing::new(BASE64_STANDARD.encode(der));
    let mut pem = format!("-----BEGIN {label}-----\n");
    for (at, character) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem.push_str(&format!("\n-----END {label}-----\n"));
    pem
}

fn unarmoured(text: &str, label: &str) -> Option<Vec<u8>> {
    if text.len() > MAX_KEY_BYTES {
        return None;
    }
    let (begin, end) = (
        format!("-----BEGIN {label}-----"),
        format!("-----END {label}-----"),
    );
    let text = text.trim();
    let inner = match text.strip_prefix(&begin) {
        Some(rest) => rest.strip_suffix(&end)?,
        None if text.starts_with('-') => return None,
        None => text,
    };
    let bare: Zeroizing<String> =
        Zeroizing::new(inner.chars().filter(|c| !c.is_ascii_whitespace()).collect());
    BASE64_STANDARD.decode(bare.as_bytes()).ok()
}
