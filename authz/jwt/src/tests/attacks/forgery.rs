//! Signatures that are none (RFC 8725 sections 2.2, 2.3, 3.2, 3.4).

use super::*;

/// `header.payload` of a good token, and its signature's bytes.
fn apart(token: &str) -> (String, Vec<u8>) {
    let (start, signature) = token.rsplit_once('.').unwrap();
    (start.to_owned(), URL_SAFE_NO_PAD.decode(signature).unwrap())
}

/// "Psychic" signatures (CVE-2022-21449) and other numbers that are out of range, and other encodings.
#[test]
fn ecdsa_signatures_have_two_numbers_in_range() {
    // The order of P-256 (SEC 2 section 2.4.2), and its half.
    let order =
        hex::decode("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551").unwrap();
    let zero = vec![0; 32];
    let one = [vec![0; 31], vec![1]].concat();
    let (start, good) = apart(&KEY.token(&claims()));
    let (r, s) = good.split_at(32);
    let der = [&[0x30, 0x44, 0x02, 0x20], r, &[0x02, 0x20], s].concat();
    let negated = [&[0xff], r, s].concat();
    let signatures = [
        ("zero, zero", [zero.clone(), zero.clone()].concat()),
        ("zero, s", [&zero, s].concat()),
        ("r, zero", [r, &zero].concat()),
        ("order, order", [order.clone(), order.clone()].concat()),
        ("order, s", [&order, s].concat()),
        ("r, order", [r, &order].concat()),
        ("one, one", [one.clone(), one].concat()),
        ("all ones", vec![0xff; 64]),
        ("empty", Vec::new()),
        ("half", r.to_vec()),
        ("one byte short", good[..63].to_vec()),
        ("one byte long", [good.as_slice(), &[0]].concat()),
        ("a zero before", [&[0], good.as_slice()].concat()),
        ("negative", negated),
        ("in DER", der),
        ("swapped", [s, r].concat()),
        ("twice", [good.clone(), good.clone()].concat()),
    ];
    assert_refused(signatures.map(|(name, bytes)| {
        (
            name,
            format!("{start}.{}", b64(bytes)),
            TokenError::BadSignature,
        )
    }));
}

#[test]
fn rsa_signatures_are_of_the_keys_length_and_padding() {
    let (start, good) = apart(&RSA_KEY.token(&claims()));
    let verify = |bytes: Vec<u8>| {
        let token = format!("{start}.{}", b64(bytes));
        check_token(&token, &RSA_KEY.jwks(), &CheckOptions::default(), now())
    };
    assert!(verify(good.clone()).is_ok());
    let forged = [
        ("zero", vec![0; 256]),
        ("one", [vec![0; 255], vec![1]].concat()),
        ("all ones", vec![0xff; 256]),
        ("empty", Vec::new()),
        ("short", good[1..].to_vec()),
        ("long", [vec![0], good.clone()].concat()),
        ("reversed", good.iter().rev().copied().collect()),
    ];
    for (name, bytes) in forged {
        assert_eq!(verify(bytes), Err(TokenError::BadSignature), "{name}");
    }
}

/// PKCS#1 v1.5 does not pass for PSS, nor one hash for another, though the key is the same.
#[test]
fn the_signature_is_by_the_algorithm_that_is_named() {
    for alg in ["RS384", "RS512", "PS256", "PS384", "PS512"] {
        let head = json!({"alg": alg, "kid": "rsa"}).to_string();
        let token = RSA_KEY.raw(&head, &claims().to_string());
        let refused = check_token(&token, &RSA_KEY.jwks(), &CheckOptions::default(), now());
        assert_eq!(refused, Err(TokenError::BadSignature), "{alg}");
    }
}

/// The parts of two good tokens, put together anew.
#[test]
fn parts_of_good_tokens_make_no_token() {
    let (one, two) = (
        KEY.token(&claims()),
        KEY.token(&with(json!({"sub": "root"}))),
    );
    let parts = |token: &str| -> Vec<String> { token.split('.').map(str::to_owned).collect() };
    let (one, two) = (parts(&one), parts(&two));
    assert_refused([
        (
            "another's payload",
            format!("{}.{}.{}", one[0], two[1], one[2]),
            TokenError::BadSignature,
        ),
        (
            "another's signature",
            format!("{}.{}.{}", one[0], one[1], two[2]),
            TokenError::BadSignature,
        ),
        (
            "payload as header",
            format!("{}.{}.{}", one[1], one[0], one[2]),
            TokenError::MalformedHeader,
        ),
        (
            "an ID of no key",
            KEY.raw(r#"{"alg":"ES256","kid":"ec2"}"#, &claims().to_string()),
            TokenError::UnknownKey,
        ),
    ]);
}
