//! Known attacks on signed tokens (RFC 8725, OWASP's JSON Web Token cheat sheet and testing guide), each refused for its
//! one reason, by the data path and by `reeve jwt verify` alike.

use super::*;

mod confusion;
mod forgery;
mod keys;
mod shape;

/// Asserts that both ways to verify refuse each token, for the same reason.
fn assert_refused(table: impl IntoIterator<Item = (impl AsRef<str>, String, TokenError)>) {
    assert!(verify(&KEY.token(&claims())).is_ok());
    let options = CheckOptions {
        issuer: Some(ISSUER.into()),
        audiences: vec!["shop".into()],
        ..CheckOptions::default()
    };
    let mut rows = 0;
    for (attack, token, reason) in table {
        let attack = attack.as_ref();
        assert_eq!(verify(&token), Err(reason), "{attack}");
        let offline = check_token(&token, &KEY.jwks(), &options, now());
        assert_eq!(offline, Err(reason), "{attack}, by `reeve jwt verify`");
        rows += 1;
    }
    assert!(rows > 0);
}

/// The header of a good token, with these members changed or added.
fn header(changes: Value) -> String {
    let mut all = json!({"alg": "ES256", "kid": "ec"});
    for (name, value) in changes.as_object().unwrap() {
        all[name] = value.clone();
    }
    all.to_string()
}

/// A token that the issuer's key signed, with these members of its header changed or added.
fn signed(changes: Value) -> String {
    KEY.raw(&header(changes), &claims().to_string())
}

#[test]
fn the_header_decides_nothing_it_should_not() {
    use TokenError::{
        AlgorithmMismatch, CriticalHeader, DuplicateMember, MalformedHeader, SymmetricAlgorithm,
        UnknownKey, UnsupportedAlgorithm,
    };
    let sign = |header: &str| KEY.raw(header, &claims().to_string());
    assert_refused([
        ("HMAC", sign(r#"{"alg":"HS256"}"#), SymmetricAlgorithm),
        (
            "unknown algorithm",
            sign(r#"{"alg":"ES256K"}"#),
            UnsupportedAlgorithm,
        ),
        (
            "lower case",
            sign(r#"{"alg":"es256"}"#),
            UnsupportedAlgorithm,
        ),
        (
            "another key type",
            sign(r#"{"alg":"RS256"}"#),
            AlgorithmMismatch,
        ),
        (
            "another curve",
            sign(r#"{"alg":"ES384"}"#),
            AlgorithmMismatch,
        ),
        ("no algorithm", sign("{}"), MalformedHeader),
        (
            "algorithm not text",
            sign(r#"{"alg":["ES256"]}"#),
            MalformedHeader,
        ),
        ("not an object", sign("[]"), MalformedHeader),
        ("not JSON", sign("{"), MalformedHeader),
        (
            "algorithm twice",
            sign(r#"{"alg":"ES256","alg":"none"}"#),
            DuplicateMember,
        ),
        (
            "critical",
            sign(r#"{"alg":"ES256","crit":["exp"],"exp":1}"#),
            CriticalHeader,
        ),
        (
            "nothing critical",
            sign(r#"{"alg":"ES256","crit":[]}"#),
            CriticalHeader,
        ),
        (
            "unencoded payload",
            sign(r#"{"alg":"ES256","b64":false}"#),
            CriticalHeader,
        ),
        (
            "wrong key id",
            sign(r#"{"alg":"ES256","kid":"other"}"#),
            UnknownKey,
        ),
        (
            "key id not text",
            sign(r#"{"alg":"ES256","kid":1}"#),
            MalformedHeader,
        ),
    ]);
}

#[test]
fn signatures_cover_header_and_payload() {
    use TokenError::{BadSignature, Unsigned};
    let good = KEY.raw(r#"{"alg":"ES256"}"#, &claims().to_string());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (head, payload) = signed.split_once('.').unwrap();
    let other = b64(with(json!({"sub": "root"})).to_string());
    let none = |name: &str| format!("{}.{payload}.", b64(json!({"alg": name}).to_string()));
    let spaced = b64(r#"{"alg":"ES256" }"#);
    let foreign = ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", "ES256");
    assert_refused([
        ("unsigned", none("none"), Unsigned),
        ("unsigned, other case", none("nOnE"), Unsigned),
        (
            "unsigned with a signature",
            none("none") + signature,
            Unsigned,
        ),
        (
            "other payload",
            format!("{head}.{other}.{signature}"),
            BadSignature,
        ),
        (
            "other header",
            format!("{spaced}.{payload}.{signature}"),
            BadSignature,
        ),
        ("no signature", format!("{signed}."), BadSignature),
        (
            "all-zero signature",
            format!("{signed}.{}", b64([0; 64])),
            BadSignature,
        ),
        (
            "another's signature",
            foreign.token(&claims()),
            BadSignature,
        ),
    ]);
}

#[test]
fn only_the_compact_form_is_read() {
    use TokenError::{DuplicateMember, Malformed, MalformedClaims, TooLarge};
    let body = claims().to_string();
    let sign = |payload: &str| KEY.raw(r#"{"alg":"ES256"}"#, payload);
    let good = sign(&body);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (head, payload) = signed.split_once('.').unwrap();
    let twice = format!(r#"{{"sub":"root",{}"#, body.trim_start_matches('{'));
    assert_refused([
        ("empty", String::new(), Malformed),
        ("two parts", signed.to_owned(), Malformed),
        ("four parts", format!("{good}.{signature}"), Malformed),
        (
            "five parts, as if encrypted",
            format!("{good}.a.b"),
            Malformed,
        ),
        ("padding", format!("{signed}.{signature}=="), Malformed),
        ("plain base64", format!("{signed}.+{signature}"), Malformed),
        (
            "space inside",
            format!("{head} .{payload}.{signature}"),
            Malformed,
        ),
        (
            "too large",
            KEY.token(&with(json!({"pad": "x".repeat(7_000)}))),
            TooLarge,
        ),
        ("payload not an object", sign("[]"), MalformedClaims),
        ("payload not JSON", sign("x"), MalformedClaims),
        (
            "payload followed by more",
            sign(&format!("{body}{body}")),
            MalformedClaims,
        ),
        ("claim twice", sign(&twice), DuplicateMember),
    ]);
}

/// RS256 → HS256 with the public key as secret (RFC 8725 section 2.1), by its modulus and by its PEM.
#[test]
fn a_public_key_is_never_a_shared_secret() {
    use aws_lc_rs::hmac;
    for secret in [
        RSA_KEY.jwk["n"].as_str().unwrap().as_bytes().to_vec(),
        RSA_KEY.jwks().into_bytes(),
    ] {
        let signed = format!(
            "{}.{}",
            b64(r#"{"alg":"HS256","kid":"rsa"}"#),
            b64(claims().to_string())
        );
        let tag = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, &secret),
            signed.as_bytes(),
        );
        let token = format!("{signed}.{}", b64(tag));
        let refused = check_token(&token, &RSA_KEY.jwks(), &CheckOptions::default(), now());
        assert_eq!(refused, Err(TokenError::SymmetricAlgorithm));
    }
    let octets = json!({"keys": [{"kty": "oct", "kid": "o", "k": b64("secret")}]}).to_string();
    assert_eq!(check_jwks(&octets), Err(JwksError::NoUsableKey));
}

#[test]
fn keys_in_the_token_itself_are_never_used() {
    let attacker = ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", "ES256");
    let header = json!({"alg": "ES256", "jwk": attacker.jwk, "jku": "https://evil.example/jwks"});
    let token = attacker.raw(&header.to_string(), &claims().to_string());
    assert_eq!(verify(&token), Err(TokenError::BadSignature));
}
