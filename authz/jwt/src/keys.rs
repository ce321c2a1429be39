//! Key sets (RFC 7517, 7518, 8037) and the check of a signature.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    EcdsaVerificationAlgorithm, ParsedPublicKey,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};

use super::{
    JwksError, TokenError, json,
    json::JsonError,
    token::{Algorithm, Token},
};

/// Longest key set.
const MAX_JWKS_BYTES: usize = 512 * 1024;
/// Most keys in a set.
const MAX_KEYS: usize = 256;
/// Most keys that one token is tried with: a token without a `kid` fits them all.
const MAX_TRIES: usize = 16;
/// Modulus of RSA keys, in bytes: 2048 to 8192 bits.
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// Longest exponent of RSA keys, in bytes.
const RSA_EXPONENT_BYTES: usize = 4;

/// The usable keys of an issuer.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// `alg`, when the key is for one algorithm only.
    only: Option<Algorithm>,
    material: Material,
}

enum Material {
    Rsa(DecodingKey),
    P256(ParsedPublicKey),
    P384(ParsedPublicKey),
    P521(ParsedPublicKey),
    Ed25519(ParsedPublicKey),
}

impl KeySet {
    /// Reads a key set, or a single key. Keys of other types or uses are left out (RFC 7517 section 5).
    pub fn parse(document: &str) -> Result<Self, JwksError> {
        if document.len() > MAX_JWKS_BYTES {
            return Err(JwksError::TooLarge {
                max: MAX_JWKS_BYTES,
            });
        }
        let value = json::parse(document.as_bytes()).map_err(|e| match e {
            JsonError::Syntax(message) | JsonError::Duplicate(message) => JwksError::Json(message),
        })?;
        let Value::Object(mut set) = value else {
            return Err(JwksError::Shape);
        };
        let keys = match set.remove("keys") {
            Some(Value::Array(keys)) => keys,
            None if set.contains_key("kty") => vec![Value::Object(set)],
            _ => return Err(JwksError::Shape),
        };
        if keys.len() > MAX_KEYS {
            return Err(JwksError::TooManyKeys { max: MAX_KEYS });
        }
        let usable = keys.iter().filter_map(|key| Key::parse(key.as_object()?));
        Ok(Self {
            keys: usable.collect(),
        })
    }

    /// Whether none is usable.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many are usable.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Checks the token's signature. A `kid` in the token selects the keys that have it; a key or token without one
    /// fits all (as in Envoy).
    pub(super) fn verify(&self, token: &Token<'_>) -> Result<(), TokenError> {
        if self.keys.is_empty() {
            return Err(TokenError::NoKeys);
        }
        let fits = |key: &&Key| match (&token.key_id, &key.id) {
            (Some(wanted), Some(id)) => wanted == id,
            _ => true,
        };
        let mut reason = TokenError::UnknownKey;
        let mut tries = 0;
        for key in self.keys.iter().filter(fits) {
            if !key.allows(token.algorithm) {
                if reason == TokenError::UnknownKey {
                    reason = TokenError::AlgorithmMismatch;
                }
                continue;
            }
            // SECURITY: what a caller writes must not cost a signature check for each of the issuer's keys.
            if tries == MAX_TRIES {
                return Err(TokenError::TooManyKeys);
            }
            tries += 1;
            if key.verifies(token) {
                return Ok(());
            }
            reason = TokenError::BadSignature;
        }
        Err(reason)
    }
}

impl Key {
    /// A key that can verify signatures; `None` for any other.
    fn parse(jwk: &Map<String, Value>) -> Option<Self> {
        match jwk.get("use") {
            None => {}
            Some(Value::String(purpose)) if purpose == "sig" => {}
            Some(_) => return None,
        }
        if let Some(operations) = jwk.get("key_ops") {
            operations.as_array()?.iter().find(|o| *o == "verify")?;
        }
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| decode(text(name)?);
        let point = |algorithm, length| point(algorithm, length, bytes("x")?, bytes("y")?);
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                check_rsa(&bytes("n")?, &bytes("e")?)?;
                Material::Rsa(DecodingKey::from_rsa_components(text("n")?, text("e")?).ok()?)
            }
            ("EC", Some("P-256")) => Material::P256(point(&ECDSA_P256_SHA256_FIXED, 32)?),
            ("EC", Some("P-384")) => Material::P384(point(&ECDSA_P384_SHA384_FIXED, 48)?),
            ("EC", Some("P-521")) => Material::P521(point(&ECDSA_P521_SHA512_FIXED, 66)?),
            ("OKP", Some("Ed25519")) => {
                let key = bytes("x")?;
                if key.len() != 32 || is_small_order(&key) {
                    return None;
                }
                Material::Ed25519(ParsedPublicKey::new(&ED25519, key).ok()?)
            }
            _ => return None,
        };
        let only = match jwk.get("alg") {
            None => None,
            Some(name) => Some(Algorithm::parse(name.as_str()?).ok()?),
        };
        let id = match jwk.get("kid") {
            None => None,
            Some(id) => Some(id.as_str()?.to_owned()),
        };
        let key = Self { id, only, material };
        only.is_none_or(|alg| key.material.allows(alg))
            .then_some(key)
    }

    fn allows(&self, algorithm: Algorithm) -> bool {
        self.only.is_none_or(|only| only == algorithm) && self.material.allows(algorithm)
    }

    fn verifies(&self, token: &Token<'_>) -> bool {
        let signed = token.signed.as_bytes();
        match &self.material {
            Material::P256(key)
            | Material::P384(key)
            | Material::P521(key)
            | Material::Ed25519(key) => decode(token.signature)
                .is_some_and(|signature| key.verify_sig(signed, &signature).is_ok()),
            Material::Rsa(key) => token
                .algorithm
                .as_str()
                .parse()
                .and_then(|alg| jsonwebtoken::crypto::verify(token.signature, signed, key, alg))
                .unwrap_or(false),
        }
    }
}

/// SECURITY: of a modulus that can be factored, or an exponent with which anybody can sign (1, even numbers), nothing is
/// believed. The library bounds the exponent to 33 bits.
fn check_rsa(modulus: &[u8], exponent: &[u8]) -> Option<()> {
    let number = |bytes: &[u8]| -> Vec<u8> {
        let significant = bytes.iter().skip_while(|byte| **byte == 0);
        significant.copied().collect()
    };
    let (modulus, exponent) = (number(modulus), number(exponent));
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
    let sound = RSA_MODULUS_BYTES.contains(&modulus.len())
        && is_odd(&modulus)
        && is_odd(&exponent)
        && exponent != [1]
        && exponent.len() <= RSA_EXPONENT_BYTES;
    sound.then_some(())
}

/// The key that an affine point on the algorithm's curve is; off the curve there is none (invalid-curve attacks).
fn point(
    algorithm: &'static EcdsaVerificationAlgorithm,
    length: usize,
    x: Vec<u8>,
    y: Vec<u8>,
) -> Option<ParsedPublicKey> {
    if x.len() != length || y.len() != length {
        return None;
    }
    // Uncompressed (SEC 1 section 2.3.3).
    ParsedPublicKey::new(algorithm, [vec![4], x, y].concat()).ok()
}

/// SECURITY: with a key of small order, one signature fits every message. These are all encodings of such points (RFC 8032
/// section 5.1.3, also of numbers beyond the field's), without the sign.
fn is_small_order(key: &[u8]) -> bool {
    const ORDER_8: [[u8; 32]; 2] = [
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef,
            0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88,
            0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10,
            0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77,
            0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    let mut y = key.to_vec();
    if let Some(last) = y.last_mut() {
        *last &= 0x7f;
    }
    let is = |first: u8, middle: u8, last: u8| match y.as_slice() {
        [a, between @ .., z] => {
            *a == first && *z == last && between.iter().all(|byte| *byte == middle)
        }
        _ => false,
    };
    is(0, 0, 0)
        || is(1, 0, 0)
        || [0xec, 0xed, 0xee]
            .iter()
            .any(|first| is(*first, 0xff, 0x7f))
        || ORDER_8.iter().any(|known| y == known)
}

impl Material {
    /// SECURITY: the key's type decides which algorithms count, never the token (RFC 8725 section 2.1).
    fn allows(&self, algorithm: Algorithm) -> bool {
        use Algorithm::{EdDsa, Es256, Es384, Es512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        match self {
            Self::Rsa(_) => matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
            Self::P256(_) => algorithm == Es256,
            Self::P384(_) => algorithm == Es384,
            Self::P521(_) => algorithm == Es512,
            Self::Ed25519(_) => algorithm == EdDsa,
        }
    }
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rsa(_) => "RSA",
            Self::P256(_) => "P-256",
            Self::P384(_) => "P-384",
            Self::P521(_) => "P-521",
            Self::Ed25519(_) => "Ed25519",
        })
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
