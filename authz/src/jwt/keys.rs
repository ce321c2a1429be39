//! Key sets (RFC 7517, 7518, 8037) and the check of a signature.

use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, UnparsedPublicKey};
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
/// Modulus of RSA keys, in bytes: 2048 to 8192 bits.
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// The usable keys of an issuer.
#[derive(Debug, Default)]
pub(super) struct KeySet {
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
    P256(DecodingKey),
    P384(DecodingKey),
    /// Uncompressed point; `jsonwebtoken` has no ES512.
    P521(Vec<u8>),
    Ed25519(DecodingKey),
}

impl KeySet {
    /// Reads a key set, or a single key. Keys of other types or uses are left out (RFC 7517 section 5).
    pub(super) fn parse(document: &str) -> Result<Self, JwksError> {
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

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn len(&self) -> usize {
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
        for key in self.keys.iter().filter(fits) {
            if !key.allows(token.algorithm) {
                if reason == TokenError::UnknownKey {
                    reason = TokenError::AlgorithmMismatch;
                }
                continue;
            }
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
        let coordinate = |name: &str, bytes: usize| {
            let found = text(name)?;
            (decode(found)?.len() == bytes).then_some(found)
        };
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                let (modulus, exponent) = (text("n")?, text("e")?);
                let bytes = decode(modulus)?;
                let leading_zeros = bytes.iter().take_while(|b| **b == 0).count();
                if !RSA_MODULUS_BYTES.contains(&(bytes.len() - leading_zeros)) {
                    return None;
                }
                Material::Rsa(DecodingKey::from_rsa_components(modulus, exponent).ok()?)
            }
            ("EC", Some("P-256")) => {
                let (x, y) = (coordinate("x", 32)?, coordinate("y", 32)?);
                Material::P256(DecodingKey::from_ec_components(x, y).ok()?)
            }
            ("EC", Some("P-384")) => {
                let (x, y) = (coordinate("x", 48)?, coordinate("y", 48)?);
                Material::P384(DecodingKey::from_ec_components(x, y).ok()?)
            }
            ("EC", Some("P-521")) => {
                let (x, y) = (coordinate("x", 66)?, coordinate("y", 66)?);
                Material::P521([vec![4], decode(x)?, decode(y)?].concat())
            }
            ("OKP", Some("Ed25519")) => {
                Material::Ed25519(DecodingKey::from_ed_components(coordinate("x", 32)?).ok()?)
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
            Material::P521(point) => decode(token.signature).is_some_and(|signature| {
                let key = UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point);
                key.verify(signed, &signature).is_ok()
            }),
            Material::Rsa(key)
            | Material::P256(key)
            | Material::P384(key)
            | Material::Ed25519(key) => token
                .algorithm
                .as_str()
                .parse()
                .and_then(|alg| jsonwebtoken::crypto::verify(token.signature, signed, key, alg))
                .unwrap_or(false),
        }
    }
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
