//! JSON Web Tokens that a test makes, good and bad.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// An issuer's key, ES256 (RFC 7518 section 3.4).
pub struct Signer {
    key: EcdsaKeyPair,
    kid: String,
}

/// The claims of a token to be made.
#[derive(Clone, Debug)]
pub struct Token(Value);

impl Token {
    /// From this issuer, about this subject, for this audience, valid from now on for `valid_s` seconds (or, if
    /// negative, over for so long).
    pub fn new(issuer: &str, subject: &str, audience: &str, valid_s: i64) -> Self {
        let now = std::time::UNIX_EPOCH
            .elapsed()
            .expect("a clock after 1970")
            .as_secs();
        let now = i64::try_from(now).expect("a clock before the year 292 billion");
        let claims = json!({
            "iss": issuer, "sub": subject, "aud": [audience],
            "iat": now.min(now + valid_s) - 60, "exp": now + valid_s,
        });
        Self(claims)
    }

    /// With one more claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: Value) -> Self {
        self.0[name] = value;
        self
    }

    /// Of the issuer's workloads, as the SPIFFE JWT-SVID standard has it: without `iss`.
    pub fn svid(subject: &str, audience: &str, valid_s: i64) -> Self {
        let mut token = Self::new("", subject, audience, valid_s);
        if let Some(claims) = token.0.as_object_mut() {
            claims.remove("iss");
        }
        token
    }

    /// Unsigned (`"alg": "none"`).
    pub fn unsigned(&self) -> String {
        format!(
            "{}.{}.",
            encode(&json!({"alg": "none", "typ": "JWT"})),
            encode(&self.0)
        )
    }
}

impl Signer {
    /// A fresh key with this name.
    pub fn new(kid: &str) -> Self {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).expect("the key back");
        Self {
            key,
            kid: kid.to_owned(),
        }
    }

    /// The public key as a JWK set.
    pub fn jwks(&self) -> Value {
        // An uncompressed point: 4, x, y (SEC 1 section 2.3.3).
        let point = self.key.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }

    /// Signs.
    pub fn sign(&self, token: &Token) -> String {
        self.sign_under(&json!({}), token)
    }

    /// Signs, with these members of the token's header changed or added.
    pub fn sign_under(&self, header: &Value, token: &Token) -> String {
        let mut head = json!({"alg": "ES256", "typ": "JWT", "kid": self.kid});
        for (name, value) in header.as_object().into_iter().flatten() {
            head[name] = value.clone();
        }
        let message = format!("{}.{}", encode(&head), encode(&token.0));
        let signature = self
            .key
            .sign(&SystemRandom::new(), message.as_bytes())
            .expect("a signature");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
