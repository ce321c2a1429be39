//! A token that is good somewhere, brought where it is not (RFC 8725 sections 2.7, 2.8, 3.8, 3.9, 3.11, 3.12).

use super::*;

/// `alg: none` in every spelling, with an empty, a missing and somebody's signature (RFC 8725 section 2.1).
#[test]
fn no_spelling_of_none_is_an_algorithm() {
    let payload = b64(claims().to_string());
    let spelt = ["none", "None", "NONE", "nOnE", "noNe"].into_iter();
    assert_refused(spelt.clone().flat_map(|name| {
        let head = b64(json!({"alg": name, "typ": "JWT"}).to_string());
        let (_, signature) = KEY
            .token(&claims())
            .rsplit_once('.')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        [
            (name, format!("{head}.{payload}."), TokenError::Unsigned),
            (
                name,
                format!("{head}.{payload}.{signature}"),
                TokenError::Unsigned,
            ),
        ]
    }));
    let head = b64(r#"{"alg":"none"}"#);
    assert_refused([(
        "no third part",
        format!("{head}.{payload}"),
        TokenError::Malformed,
    )]);
    let near = ["none ", " none", "none\u{0}", "nonе", "null", ""];
    assert_refused(near.map(|name| {
        (
            name,
            signed(json!({"alg": name})),
            TokenError::UnsupportedAlgorithm,
        )
    }));
}

/// An algorithm that is not the key's, or none of ours, whatever the signature is (RFC 8725 section 3.1).
#[test]
fn the_token_does_not_choose_the_algorithm() {
    use TokenError::{
        AlgorithmMismatch, MalformedHeader, SymmetricAlgorithm, UnsupportedAlgorithm,
    };
    let names = |names: &[&'static str], reason| -> Vec<_> {
        names
            .iter()
            .map(|name| (*name, signed(json!({"alg": name})), reason))
            .collect()
    };
    assert_refused(names(&["HS256", "HS384", "HS512"], SymmetricAlgorithm));
    assert_refused(names(
        &[
            "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES384", "ES512", "EdDSA",
        ],
        AlgorithmMismatch,
    ));
    assert_refused(names(
        &[
            "es256", "ES256 ", "ES256K", "RS1", "RSA-OAEP", "dir", "A128KW", "ECDH-ES", "ed25519",
        ],
        UnsupportedAlgorithm,
    ));
    let types = [
        json!(null),
        json!(true),
        json!(256),
        json!(["ES256"]),
        json!({"ES256": 1}),
    ];
    assert_refused(types.map(|alg| {
        (
            alg.to_string(),
            signed(json!({"alg": alg})),
            MalformedHeader,
        )
    }));
}

/// Keys, or addresses of keys, in the token's own header are never looked at (RFC 8725 section 3.10): neither when an
/// attacker's key is there, nor do they do harm in a good token.
#[test]
fn embedded_keys_and_addresses_of_keys_are_not_looked_at() {
    let attacker = ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", "ES256");
    let members = [
        ("jwk", attacker.jwk.clone()),
        ("jku", json!("https://evil.example/jwks")),
        ("jku", json!("http://169.254.169.254/latest/meta-data")),
        ("jku", json!("file:///etc/passwd")),
        ("x5u", json!("https://evil.example/chain.pem")),
        ("x5c", json!(["MIIB"])),
        ("x5t", json!("AAAA")),
        ("x5t#S256", json!("AAAA")),
    ];
    for (name, value) in members {
        let head = header(json!({name: value}));
        let forged = attacker.raw(&head, &claims().to_string());
        assert_refused([(name, forged, TokenError::BadSignature)]);
        let own = json!({"alg": "ES256", "kid": "attacker", name: value});
        let forged = attacker.raw(&own.to_string(), &claims().to_string());
        assert_refused([(name, forged, TokenError::UnknownKey)]);
        assert!(
            verify(&KEY.raw(&head, &claims().to_string())).is_ok(),
            "{name}"
        );
    }
}

/// A `kid` is compared, and nothing else: no path, query or pattern (OWASP, "kid" injections).
#[test]
fn a_key_id_is_a_name_and_nothing_else() {
    let ids = [
        "../../../../dev/null",
        "/dev/null",
        "file:///dev/null",
        "ec' UNION SELECT 'x",
        "ec; DROP TABLE keys",
        "$(id)",
        "ec\u{0}",
        "EC",
        " ec",
        "ec*",
        "%65c",
        "",
    ];
    assert_refused(ids.map(|id| (id, signed(json!({"kid": id})), TokenError::UnknownKey)));
    let long = "k".repeat(4_000);
    assert_refused([(
        "a long one",
        signed(json!({"kid": long})),
        TokenError::UnknownKey,
    )]);
    let types = [json!(null), json!(0), json!(["ec"]), json!({"ec": 1})];
    assert_refused(types.map(|id| {
        (
            id.to_string(),
            signed(json!({"kid": id})),
            TokenError::MalformedHeader,
        )
    }));
}

/// Another kind of token of the same issuer is no access token (RFC 8725 section 3.11): the type is said in `typ`.
#[test]
fn tokens_of_another_type_are_refused() {
    for kind in [
        "JWT",
        "jwt",
        "at+jwt",
        "AT+JWT",
        "application/at+jwt",
        "JOSE",
        "application/jwt",
    ] {
        assert!(verify(&signed(json!({"typ": kind}))).is_ok(), "{kind}");
    }
    let others = [
        "logout+jwt",
        "application/logout+jwt",
        "secevent+jwt",
        "dpop+jwt",
        "oauth-authz-req+jwt",
        "token-introspection+jwt",
        "entity-statement+jwt",
        "id+jwt",
        "JWT ",
        "",
        "application/",
    ];
    assert_refused(others.map(|kind| (kind, signed(json!({"typ": kind})), TokenError::WrongType)));
    assert_refused([(
        "no text",
        signed(json!({"typ": ["JWT"]})),
        TokenError::MalformedHeader,
    )]);
    let bare = CheckOptions {
        bare: true,
        ..CheckOptions::default()
    };
    let any_jws = check_token(
        &signed(json!({"typ": "dpop+jwt"})),
        &KEY.jwks(),
        &bare,
        now(),
    );
    assert!(any_jws.is_ok(), "a bare JWS may be anything");
}

/// What only looks like the issuer is not the issuer (RFC 8725 section 3.8).
#[test]
fn issuers_that_only_look_alike_are_refused() {
    let issuers = [
        "https://issuer.example/",
        "https://issuer.example.evil.example",
        "https://issuer.example@evil.example",
        "https://evil.example/https://issuer.example",
        "HTTPS://ISSUER.EXAMPLE",
        "http://issuer.example",
        "issuer.example",
        " https://issuer.example",
        "https://issuer.example\n",
        "https://issuer.example\u{0}",
        "https://issuer.exаmple",
        "",
    ];
    assert_refused(issuers.map(|iss| {
        (
            iss,
            KEY.token(&with(json!({"iss": iss}))),
            TokenError::UnknownIssuer,
        )
    }));
}

/// A token for another service of the same issuer (RFC 8725 section 3.9).
#[test]
fn tokens_for_somebody_else_are_refused() {
    let audiences = [
        json!("warehouse"),
        json!(["warehouse", "attic"]),
        json!("shop.evil.example"),
        json!("SHOP"),
        json!(" shop"),
        json!("shop,warehouse"),
        json!("*"),
        json!(""),
        json!([]),
    ];
    assert_refused(audiences.map(|aud| {
        let reason = TokenError::WrongAudience;
        (
            aud.to_string(),
            KEY.token(&with(json!({"aud": aud}))),
            reason,
        )
    }));
    let types = [
        json!(["shop", 1]),
        json!([["shop"]]),
        json!({"shop": 1}),
        json!(true),
    ];
    assert_refused(types.map(|aud| {
        let reason = TokenError::ClaimType("aud");
        (
            aud.to_string(),
            KEY.token(&with(json!({"aud": aud}))),
            reason,
        )
    }));
}

/// A token that one rule accepted is not good by another, not even when it is remembered.
#[test]
fn a_token_of_one_rule_is_not_good_by_another() {
    let place = |name: &str| JwtHeader {
        name: name.into(),
        prefix: String::new(),
    };
    let ours = JwtRule {
        from_headers: vec![place("x-ours")],
        ..rule()
    };
    let theirs = JwtRule {
        issuer: "https://partner.example".into(),
        from_headers: vec![place("x-theirs")],
        ..rule()
    };
    let verifier = JwtVerifier::compile(&[ours, theirs]);
    let token = KEY.token(&claims());
    let at = |name: &'static str| Request {
        headers: [(name, vec![token.clone()])].into(),
        ..Request::default()
    };
    assert!(verifier.verify(&at("x-ours"), now()).is_ok());
    let replayed = verifier.verify(&at("x-theirs"), now());
    assert_eq!(replayed, Err(TokenError::UnknownIssuer));
    assert!(verifier.verify(&at("x-ours"), now()).is_ok());
    let nowhere = verifier.verify(&at("x-other"), now()).unwrap();
    assert_eq!(nowhere.user, None, "where no rule looks, there is no token");
}

/// With several tokens all must be good, and the first alone says who it is and what the headers say: a second one cannot
/// put another name beside it.
#[test]
fn a_second_token_says_nothing() {
    let rule = JwtRule {
        claims_to_headers: vec![("x-user".into(), "sub".into())],
        payload_to_header: Some("x-payload".into()),
        ..rule()
    };
    let verifier = JwtVerifier::compile(&[rule]);
    let (first, second) = (
        KEY.token(&claims()),
        KEY.token(&with(json!({"sub": "root"}))),
    );
    let mut request = bearer(&first);
    request.query.insert("access_token", vec![second]);
    let verified = verifier.verify(&request, now()).unwrap();
    assert_eq!(verified.user.unwrap().subject, "alice");
    let payload = first.split('.').nth(1).unwrap().to_owned();
    let expected = [("x-user", "alice".to_owned()), ("x-payload", payload)];
    assert_eq!(
        verified.set_headers,
        expected.map(|(name, value)| (name.to_owned(), value))
    );
}
