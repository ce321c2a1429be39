use serde_json::json;

use super::*;
use crate::jwt::tests::{KEY, claims, with};

fn remembered(keys: &KeySet) -> usize {
    keys.remembered.lock().unwrap().len()
}

#[test]
fn a_verified_token_is_remembered_and_its_forgery_is_not() {
    let keys = KeySet::parse(&KEY.jwks()).unwrap();
    let good = KEY.token(&claims());
    let verify = |token: &str| keys.verify(&Token::parse(token).unwrap());
    for _ in 0..3 {
        assert_eq!(verify(&good), Ok(()));
    }
    assert_eq!(remembered(&keys), 1);
    let other = KEY.token(&with(json!({"sub": "root"})));
    let (signed, _) = other.rsplit_once('.').unwrap();
    let (_, signature) = good.rsplit_once('.').unwrap();
    for _ in 0..2 {
        assert_eq!(
            verify(&format!("{signed}.{signature}")),
            Err(TokenError::BadSignature)
        );
    }
    assert_eq!(remembered(&keys), 1, "only what verified");
    let rotated = KeySet::parse(&crate::jwt::tests::RSA_KEY.jwks()).unwrap();
    assert!(
        rotated.verify(&Token::parse(&good).unwrap()).is_err(),
        "new keys remember nothing"
    );
}

#[test]
fn memory_is_bounded() {
    let keys = KeySet::parse(&KEY.jwks()).unwrap();
    for n in 0..2 * MAX_REMEMBERED {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash[..8].copy_from_slice(&n.to_be_bytes());
        keys.remember(hash);
        assert!(remembered(&keys) <= MAX_REMEMBERED);
        assert!(keys.remembers(&hash));
    }
}
