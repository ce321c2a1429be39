//! A token, and the rule that it verifies by.

use std::time::Duration;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reeve_core::{
    Clock as _, SystemClock, UnixTime,
    model::{JwksDocument, JwtRule},
};
use serde_json::{Value, json};

const ISSUER: &str = "https://issuer.example";

/// A token that ends `valid_s` seconds from now, and its rule.
pub(super) fn token(valid_s: u64) -> (String, JwtRule) {
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).unwrap();
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let now = SystemClock.now().since(UnixTime::default()).as_secs();
    let head = encode(json!({"alg": "ES256", "typ": "JWT", "kid": "key-1"}));
    let claims = encode(json!({
        "iss": ISSUER, "sub": "alice", "iat": now - 1, "exp": now + valid_s,
    }));
    let message = format!("{head}.{claims}");
    let signature = key.sign(&random, message.as_bytes()).unwrap();
    let signature = URL_SAFE_NO_PAD.encode(signature.as_ref());
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    let jwks = json!({"keys": [{
        "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "key-1",
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    }]});
    let rule = JwtRule {
        name: "default/jwt/0".to_owned(),
        issuer: ISSUER.to_owned(),
        leeway: Duration::from_secs(60),
        jwks: Some(JwksDocument {
            generation: 1,
            json: jwks.to_string(),
        }),
        ..JwtRule::default()
    };
    (format!("{message}.{signature}"), rule)
}
