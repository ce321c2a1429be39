//! Keys with which anybody could sign, or that are not for this (RFC 8725 sections 3.2 to 3.5).

use super::*;

fn set(jwk: &Value) -> String {
    json!({ "keys": [jwk] }).to_string()
}

fn changed(jwk: &Value, changes: Value) -> Value {
    let mut jwk = jwk.clone();
    for (name, value) in changes.as_object().unwrap() {
        jwk[name] = value.clone();
    }
    jwk
}

fn assert_unusable(name: &str, jwk: &Value) {
    assert_eq!(check_jwks(&set(jwk)), Err(JwksError::NoUsableKey), "{name}");
    let refused = check_token(
        &KEY.token(&claims()),
        &set(jwk),
        &CheckOptions::default(),
        now(),
    );
    assert_eq!(refused, Err(TokenError::NoKeys), "{name}");
}

#[test]
fn weak_rsa_keys_are_not_used() {
    let good = &RSA_KEY.jwk;
    assert_eq!(check_jwks(&set(good)), Ok(1));
    let modulus = URL_SAFE_NO_PAD.decode(good["n"].as_str().unwrap()).unwrap();
    let even = [&modulus[..255], &[modulus[255] & 0xfe]].concat();
    let table = [
        ("512 bits", json!({"n": b64(vec![0xc5; 64])})),
        ("1024 bits", json!({"n": b64(vec![0xc5; 128])})),
        (
            "1024 bits behind zeros",
            json!({"n": b64([vec![0; 128], vec![0xc5; 128]].concat())}),
        ),
        ("16384 bits", json!({"n": b64(vec![0xc5; 2048])})),
        ("an even modulus", json!({"n": b64(even)})),
        ("no modulus", json!({"n": ""})),
        ("zero", json!({"n": b64(vec![0; 256])})),
        ("exponent one", json!({"e": "AQ"})),
        ("exponent one behind zeros", json!({"e": "AAAB"})),
        ("exponent zero", json!({"e": "AA"})),
        ("no exponent", json!({"e": ""})),
        ("an even exponent", json!({"e": "AQAA"})),
        ("a long exponent", json!({"e": b64([0x01, 0, 0, 0, 0, 1])})),
        ("not base64url", json!({"n": "++++"})),
        ("padded", json!({"e": "AQAB="})),
        ("not text", json!({"e": 65537})),
    ];
    for (name, changes) in table {
        assert_unusable(name, &changed(good, changes));
    }
}

/// Invalid-curve attacks: a point must be on the curve of its name.
#[test]
fn points_off_their_curve_are_not_used() {
    let good = &KEY.jwk;
    let x = URL_SAFE_NO_PAD.decode(good["x"].as_str().unwrap()).unwrap();
    let mut beside = x.clone();
    beside[31] ^= 1;
    let table = [
        ("beside the curve", json!({"x": b64(beside)})),
        ("the origin", json!({"x": b64([0; 32]), "y": b64([0; 32])})),
        ("beyond the field", json!({"x": b64([0xff; 32])})),
        ("x twice", json!({"y": good["x"]})),
        ("short", json!({"x": b64(&x[1..])})),
        ("long", json!({"x": b64([&[0], x.as_slice()].concat())})),
        ("another curve", json!({"crv": "P-384"})),
        ("a curve of its own", json!({"crv": "secp256k1"})),
        ("no curve", json!({"crv": ""})),
        ("no y", json!({"y": null})),
    ];
    for (name, changes) in table {
        assert_unusable(name, &changed(good, changes));
    }
}

/// With such a key the signature (R = that point, S = 0) fits every message.
#[test]
fn ed25519_keys_of_small_order_are_not_used() {
    let wide = |first: u8, middle: u8, last: u8| {
        let mut y = vec![middle; 32];
        (y[0], y[31]) = (first, last);
        y
    };
    let points = [
        wide(0, 0, 0),
        wide(1, 0, 0),
        wide(0xec, 0xff, 0x7f),
        wide(0xed, 0xff, 0x7f),
        wide(0xee, 0xff, 0x7f),
        hex::decode("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05").unwrap(),
        hex::decode("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a").unwrap(),
    ];
    for mut point in points {
        for sign in [0, 0x80] {
            point[31] |= sign;
            let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": b64(&point)});
            assert_unusable(&hex::encode(&point), &jwk);
        }
    }
    assert_eq!(check_jwks(&ed25519().jwks()), Ok(1));
}

/// Secrets, keys for encryption, and keys for signing alone.
#[test]
fn keys_for_something_else_are_not_used() {
    let table = [
        ("a secret", json!({"kty": "oct", "k": b64("secret")})),
        ("no type", changed(&KEY.jwk, json!({"kty": null}))),
        ("another type", changed(&KEY.jwk, json!({"kty": "ec"}))),
        ("for encryption", changed(&KEY.jwk, json!({"use": "enc"}))),
        ("use not text", changed(&KEY.jwk, json!({"use": ["sig"]}))),
        (
            "for signing",
            changed(&KEY.jwk, json!({"key_ops": ["sign"]})),
        ),
        ("for nothing", changed(&KEY.jwk, json!({"key_ops": []}))),
        (
            "operations not a list",
            changed(&KEY.jwk, json!({"key_ops": "verify"})),
        ),
        (
            "another algorithm",
            changed(&KEY.jwk, json!({"alg": "ES384"})),
        ),
        (
            "a secret's algorithm",
            changed(&KEY.jwk, json!({"alg": "HS256"})),
        ),
        ("no algorithm", changed(&KEY.jwk, json!({"alg": "none"}))),
        (
            "an ID that is no text",
            changed(&KEY.jwk, json!({"kid": 7})),
        ),
        (
            "X25519",
            json!({"kty": "OKP", "crv": "X25519", "x": b64([9; 32])}),
        ),
        (
            "Ed448",
            json!({"kty": "OKP", "crv": "Ed448", "x": b64([9; 57])}),
        ),
        ("not an object", json!("key")),
    ];
    for (name, jwk) in table {
        assert_unusable(name, &jwk);
    }
}

/// A token without a `kid` fits every key; what that costs is bounded.
#[test]
fn a_token_is_tried_with_a_bounded_number_of_keys() {
    let strangers = |count: usize| -> Vec<Value> {
        let one = || ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", "ES256").jwk;
        (0..count)
            .map(|_| changed(&one(), json!({"kid": "s"})))
            .collect()
    };
    let token = KEY.raw(r#"{"alg":"ES256"}"#, &claims().to_string());
    let verify = |others: usize, token: &str| {
        let keys = [strangers(others), vec![KEY.jwk.clone()]].concat();
        check_token(
            token,
            &json!({ "keys": keys }).to_string(),
            &CheckOptions::default(),
            now(),
        )
    };
    assert!(verify(15, &token).is_ok());
    assert_eq!(verify(16, &token), Err(TokenError::TooManyKeys));
    assert!(
        verify(40, &KEY.token(&claims())).is_ok(),
        "a name makes it one key"
    );
}
