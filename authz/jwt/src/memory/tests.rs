use serde_json::json;

use super::*;
use crate::tests::{KEY, claims, now, verifier, with};

fn remembered() -> usize {
    MEMORY.with_borrow(|memory| memory.tokens.len())
}

#[test]
fn an_accepted_token_is_remembered_and_its_forgery_is_not() {
    let verifier = verifier(|_| {});
    let good = KEY.token(&claims());
    let first = accepted(&verifier, &good, &[0], now()).unwrap();
    let again = accepted(&verifier, &good, &[0], now()).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(remembered(), 1);

    let other = KEY.token(&with(json!({"sub": "root"})));
    let (signed, _) = other.rsplit_once('.').unwrap();
    let (_, signature) = good.rsplit_once('.').unwrap();
    for _ in 0..2 {
        let forged = accepted(&verifier, &format!("{signed}.{signature}"), &[0], now());
        assert_eq!(forged.unwrap_err(), TokenError::BadSignature);
    }
    assert_eq!(remembered(), 1, "only what was accepted");
    let unlooked = accepted(&verifier, &good, &[], now());
    assert_eq!(unlooked.unwrap_err(), TokenError::UnknownIssuer);
}

#[test]
fn another_verifier_remembers_nothing() {
    let good = KEY.token(&claims());
    accepted(&verifier(|_| {}), &good, &[0], now()).unwrap();
    let rotated = verifier(|rule| {
        rule.jwks = Some(reeve_core::model::JwksDocument {
            json: crate::tests::RSA_KEY.jwks(),
            ..rule.jwks.clone().unwrap()
        });
    });
    assert!(accepted(&rotated, &good, &[0], now()).is_err());
}

#[test]
fn memory_is_bounded() {
    let verifier = verifier(|_| {});
    let accepted = accepted(&verifier, &KEY.token(&claims()), &[0], now()).unwrap();
    for n in 0..2 * MAX_REMEMBERED {
        MEMORY.with_borrow_mut(|memory| {
            let mut hash = [0; SHA256_OUTPUT_LEN];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            let remembered = Remembered {
                rules: vec![0],
                accepted: accepted.clone(),
            };
            memory.tokens.insert(hash, remembered);
        });
        super::accepted(&verifier, &KEY.token(&claims()), &[0], now()).unwrap();
        assert!(remembered() <= MAX_REMEMBERED + 1);
    }
}
