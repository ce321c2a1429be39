//! Keys sign as certificates and tokens want it, and nothing of them is shown.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use proptest::prelude::*;

use super::*;

#[test]
fn a_signature_verifies_in_both_forms() {
    let key = Keyring::new(None).make().unwrap();
    let point = key.point().unwrap().to_vec();
    // Often enough for numbers that begin with zeros and such that need a sign.
    for n in 0..600_u32 {
        let message = n.to_be_bytes();
        let fixed = key.sign_fixed(&message).unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point)
            .verify(&message, &fixed)
            .unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point)
            .verify(&message, &SigningKey::sign(&key, &message).unwrap())
            .unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point)
            .verify(b"another", &to_der(&fixed))
            .unwrap_err();
    }
}

proptest! {
    #[test]
    fn integers_are_positive_and_as_short_as_can_be(
        zeros in 0..=32_usize, first: u8, fill: u8, s: [u8; 32],
    ) {
        let mut signature = [fill; SIGNATURE_BYTES];
        signature[..zeros].fill(0);
        if zeros < 32 {
            signature[zeros] = first;
        }
        signature[32..].copy_from_slice(&s);
        let der = to_der(&signature);
        prop_assert_eq!(usize::from(der[1]), der.len() - 2);
        let mut rest = &der[2..];
        for number in signature.chunks(32) {
            prop_assert_eq!(rest[0], 2);
            let (value, tail) = rest[2..].split_at(usize::from(rest[1]));
            prop_assert!(!value.is_empty() && value[0] < 0x80, "positive");
            prop_assert!(value.len() == 1 || value[0] != 0 || value[1] >= 0x80, "short");
            let mut whole = vec![0; 33 - value.len()];
            whole.extend(value);
            prop_assert_eq!(&whole[1..], number);
            rest = tail;
        }
        prop_assert!(rest.is_empty());
    }
}

#[test]
fn what_was_kept_is_the_same_key_and_shows_nothing() {
    let ring = Keyring::new(None);
    let key = ring.make().unwrap();
    let text = serde_json::to_string(&key.kept).unwrap();
    let kept: KeptKey = serde_json::from_str(&text).unwrap();
    let again = ring.open(&kept).unwrap();
    assert_eq!(again.point(), key.point());
    let KeptKey::Sealed(secret) = &kept else {
        panic!("in memory");
    };
    for shown in [
        format!("{key:?}"),
        format!("{kept:?}"),
        format!("{ring:?}"),
        format!("{:?}", secret),
    ] {
        assert!(!shown.contains(&secret.0), "{shown}");
        let part: String = secret.0.chars().skip(60).take(20).collect();
        assert!(!shown.contains(&part), "{shown}");
    }
    let wrong = KeptKey::Sealed(Secret("c2VjcmV0c2VjcmV0".to_owned()));
    let error = ring.open(&wrong).unwrap_err();
    assert!(
        !format!("{error} {error:?}").contains("c2VjcmV0"),
        "{error:?}"
    );
}

#[test]
fn a_key_in_a_vault_is_not_opened_without_it() {
    let kept: KeptKey = serde_json::from_str(r#"{"id":"00ff","public_key":"04"}"#).unwrap();
    let error = Keyring::new(None).open(&kept).unwrap_err();
    assert!(matches!(error, CaError::Vault(VaultError::NoVault(id)) if id == "00ff"));
}
