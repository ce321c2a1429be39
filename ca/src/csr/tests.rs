use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, PublicKeyData};

use super::*;

fn request(key: &KeyPair) -> Vec<u8> {
    let request = CertificateParams::default().serialize_request(key).unwrap();
    request.der().to_vec()
}

#[test]
fn the_key_of_a_request_is_proven() {
    let key = KeyPair::generate().unwrap();
    let proven = proven_key(&request(&key)).unwrap();
    assert_eq!(proven.spki_der, key.subject_public_key_info());
    assert_eq!(proven.subject_public_key_info(), proven.spki_der);
}

#[test]
fn bad_requests_are_refused_with_the_reason() {
    let reason = |der: &[u8]| proven_key(der).err().unwrap();
    assert_eq!(reason(b""), CsrError::Malformed);
    assert_eq!(reason(&[0x30; 8 * 1024 + 1]), CsrError::TooLarge);
    let good = request(&KeyPair::generate().unwrap());
    assert_eq!(
        reason(&[good.as_slice(), b"\0"].concat()),
        CsrError::Malformed
    );
    assert_eq!(reason(&good[..good.len() - 1]), CsrError::Malformed);
    let mut forged = good;
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(reason(&forged), CsrError::BadSignature);
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert_eq!(reason(&request(&key)), CsrError::UnsupportedKey);
    }
}

#[test]
fn a_request_with_anothers_key_is_refused() {
    let (ours, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut stolen = request(&ours);
    let (old, new) = (
        ours.subject_public_key_info(),
        theirs.subject_public_key_info(),
    );
    let at = stolen.windows(old.len()).position(|w| w == old).unwrap();
    stolen[at..at + new.len()].copy_from_slice(&new);
    assert_eq!(proven_key(&stolen).err(), Some(CsrError::BadSignature));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(proven_key(&bytes).is_err());
    }

    /// A flipped bit of the envelope (a tag outside what is signed) may pass; another key never does.
    #[test]
    fn no_flipped_bit_proves_another_key(at: prop::sample::Index, bit in 0..8u8) {
        static GOOD: std::sync::OnceLock<(Vec<u8>, Vec<u8>)> = std::sync::OnceLock::new();
        let (good, key) = GOOD.get_or_init(|| {
            let key = KeyPair::generate().unwrap();
            (request(&key), key.subject_public_key_info())
        });
        let mut bad = good.clone();
        bad[at.index(good.len())] ^= 1 << bit;
        if let Ok(proven) = proven_key(&bad) {
            prop_assert_eq!(&proven.spki_der, key);
        }
    }
}
