//! Tokens in requests: where they are looked for, how many there may be, what becomes of them.

use super::*;

fn headers<const N: usize>(values: [(&'static str, &str); N]) -> Request {
    let mut request = Request::default();
    for (name, value) in values {
        request
            .headers
            .entry(name)
            .or_default()
            .push(value.to_owned());
    }
    request
}

#[test]
fn no_token_is_fine_and_nobody() {
    let verifier = verifier(|_| {});
    for request in [
        Request::default(),
        headers([("authorization", "Basic dXNlcjpwYXNz")]),
        headers([("x-other", "token")]),
    ] {
        assert_eq!(verifier.verify(&request, now()), Ok(Verified::default()));
    }
    let nobody = JwtVerifier::compile(&[]).verify(&bearer("junk"), now());
    assert_eq!(nobody, Ok(Verified::default()), "no rule looks");
}

#[test]
fn the_scheme_has_no_case_and_must_bring_a_token() {
    let token = KEY.token(&claims());
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let request = headers([("authorization", &format!("{scheme}  {token} "))]);
        assert!(
            verifier(|_| {})
                .verify(&request, now())
                .unwrap()
                .user
                .is_some(),
            "{scheme}"
        );
    }
    for value in ["Bearer ", "Bearer junk"] {
        let refused = verifier(|_| {}).verify(&headers([("authorization", value)]), now());
        assert_eq!(refused, Err(TokenError::Malformed), "{value}");
    }
}

#[test]
fn tokens_are_looked_for_where_rules_say() {
    let token = KEY.token(&claims());
    let by_default = |request: &Request| verifier(|_| {}).verify(request, now()).unwrap();
    let query = Request {
        query: [("access_token", vec![token.clone()])].into(),
        ..Request::default()
    };
    let verified = by_default(&query);
    assert!(verified.user.is_some());
    assert_eq!(verified.strip_query, ["access_token"]);

    let own = verifier(|rule| {
        rule.from_headers = vec![JwtHeader {
            name: "X-Token".into(),
            prefix: String::new(),
        }];
        rule.from_params = vec!["t".into()];
    });
    let verified = own.verify(&headers([("x-token", &token)]), now()).unwrap();
    assert!(verified.user.is_some());
    assert_eq!(verified.strip_headers, ["x-token"]);
    assert_eq!(
        own.verify(&bearer(&token), now()).unwrap().user,
        None,
        "not where it looks"
    );
    assert_eq!(own.verify(&query, now()).unwrap().user, None);
}

#[test]
fn every_token_present_must_verify() {
    let good = KEY.token(&claims());
    let bad = KEY.token(&with(json!({"exp": NOW - 1})));
    let both = |first: &str, second: &str| {
        let mut request = bearer(first);
        request
            .query
            .insert("access_token", vec![second.to_owned()]);
        verifier(|_| {}).verify(&request, now())
    };
    assert!(both(&good, &good).is_ok());
    assert_eq!(both(&good, &bad), Err(TokenError::Expired));
    assert_eq!(both(&bad, &good), Err(TokenError::Expired));
    let twice = headers([
        ("authorization", &format!("Bearer {good}")),
        ("authorization", &format!("Bearer {bad}")),
    ]);
    assert_eq!(
        verifier(|_| {}).verify(&twice, now()),
        Err(TokenError::Expired)
    );
    let other = KEY.token(&with(json!({"sub": "bob"})));
    assert_eq!(
        both(&good, &other).unwrap().user.unwrap().subject,
        "alice",
        "the header's comes first"
    );
}

#[test]
fn tokens_of_a_request_are_bounded() {
    let request = |count: usize| {
        let values = (0..count).map(|n| KEY.token(&with(json!({"n": n}))));
        Request {
            query: [("access_token", values.collect())].into(),
            ..Request::default()
        }
    };
    assert!(verifier(|_| {}).verify(&request(MAX_TOKENS), now()).is_ok());
    let refused = verifier(|_| {}).verify(&request(MAX_TOKENS + 1), now());
    assert_eq!(refused, Err(TokenError::TooManyTokens));
}

#[test]
fn the_issuer_selects_the_rule() {
    let partner = ed25519();
    let partner_rule = JwtRule {
        issuer: "https://partner.example".into(),
        audiences: Vec::new(),
        jwks: Some(JwksDocument {
            generation: 1,
            json: partner.jwks(),
        }),
        ..rule()
    };
    let verifier = JwtVerifier::compile(&[rule(), partner_rule]);
    let theirs = with(json!({"iss": "https://partner.example", "aud": null}));
    let ok = |token: &str| {
        verifier
            .verify(&bearer(token), now())
            .map(|v| v.user.unwrap().issuer.clone())
    };
    assert_eq!(ok(&KEY.token(&claims())).as_deref(), Ok(ISSUER));
    assert_eq!(
        ok(&partner.token(&theirs)).as_deref(),
        Ok("https://partner.example")
    );
    assert!(
        ok(&partner.token(&claims())).is_err(),
        "a partner cannot speak for another issuer"
    );
    assert!(ok(&KEY.token(&theirs)).is_err());
}

#[test]
fn rules_of_one_issuer_may_differ_in_audience() {
    let other = JwtRule {
        audiences: vec!["warehouse".into()],
        ..rule()
    };
    let verifier = JwtVerifier::compile(&[rule(), other]);
    let verify =
        |aud: &str| verifier.verify(&bearer(&KEY.token(&with(json!({"aud": aud})))), now());
    assert!(verify("shop").is_ok());
    assert!(verify("warehouse").is_ok());
    assert_eq!(verify("attic").err(), Some(TokenError::WrongAudience));
}

#[test]
fn without_keys_every_token_of_the_issuer_is_refused() {
    let good = bearer(&KEY.token(&claims()));
    for jwks in [
        None,
        Some("junk"),
        Some(r#"{"keys":[]}"#),
        Some(r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#),
    ] {
        let verifier = verifier(|rule| {
            rule.jwks = jwks.map(|json| JwksDocument {
                generation: 0,
                json: json.into(),
            });
        });
        assert_eq!(
            verifier.verify(&good, now()),
            Err(TokenError::NoKeys),
            "{jwks:?}"
        );
        assert_eq!(
            verifier.verify(&Request::default(), now()),
            Ok(Verified::default())
        );
    }
}

#[test]
fn forwarded_tokens_stay_and_claims_become_headers() {
    let verifier = verifier(|rule| {
        rule.forward_original_token = true;
        rule.claims_to_headers = [
            ("X-User", "sub"),
            ("x-level", "profile.level"),
            ("x-groups", "groups"),
            ("x-bad", "bad"),
        ]
        .map(|(header, claim)| (header.to_owned(), claim.to_owned()))
        .to_vec();
    });
    let claims =
        with(json!({"profile": {"level": 3}, "groups": ["a"], "bad": "a\r\nx-admin: yes"}));
    let verified = verifier
        .verify(&bearer(&KEY.token(&claims)), now())
        .unwrap();
    let expected = [("x-user", "alice"), ("x-level", "3")];
    assert_eq!(
        verified.set_headers,
        expected.map(|(h, v)| (h.to_owned(), v.to_owned()))
    );
    let names = ["x-bad", "x-groups", "x-level", "x-user"];
    assert_eq!(
        verified.strip_headers, names,
        "a caller's own are removed, the token is not"
    );
    let nobody = verifier.verify(&Request::default(), now()).unwrap();
    assert_eq!(nobody.strip_headers, names, "also when there is no token");
}

#[test]
fn the_payload_becomes_a_header_whatever_the_caller_says_there() {
    let verifier = verifier(|rule| rule.payload_to_header = Some("X-Payload".into()));
    let token = KEY.token(&claims());
    let mut request = bearer(&token);
    request.headers.insert("x-payload", vec!["forged".into()]);
    let verified = verifier.verify(&request, now()).unwrap();
    let payload = token.split('.').nth(1).unwrap();
    let expected = [("x-payload".to_owned(), payload.to_owned())];
    assert_eq!(verified.set_headers, expected);
    let nobody = verifier.verify(&Request::default(), now()).unwrap();
    assert_eq!(nobody.strip_headers, ["x-payload"]);
    assert_eq!(nobody.set_headers, []);
}

#[test]
fn cookies_are_looked_in_by_name_and_every_value_counts() {
    let verifier = verifier(|rule| rule.from_cookies = vec!["session".into()]);
    let (token, bad) = (KEY.token(&claims()), KEY.token(&with(json!({"exp": 1}))));
    let verify = |fields: &[&str]| {
        let request = Request {
            headers: [("cookie", fields.iter().map(|f| (*f).to_owned()).collect())].into(),
            ..Request::default()
        };
        let verified = verifier.verify(&request, now())?;
        Ok((verified.user.is_some(), verified.strip_cookies))
    };
    let session = vec!["session".to_owned()];
    assert_eq!(
        verify(&[&format!("a=b; session={token}; c")]),
        Ok((true, session.clone()))
    );
    assert_eq!(
        verify(&[&format!("session=\"{token}\"")]),
        Ok((true, session.clone()))
    );
    assert_eq!(
        verify(&["a=b", &format!(" session = {token}")]),
        Ok((true, session))
    );
    let others = [
        format!("Session={token}"),
        format!("xsession={token}"),
        "session".to_owned(),
        String::new(),
    ];
    for other in others {
        assert_eq!(verify(&[&other]), Ok((false, vec![])), "{other}");
    }
    assert_eq!(
        verify(&[&format!("session={token}; session={bad}")]),
        Err(TokenError::Expired)
    );
    assert_eq!(
        verify(&[&format!("session={token}"), &format!("session={bad}")]),
        Err(TokenError::Expired)
    );
    assert_eq!(verify(&["session="]), Err(TokenError::Malformed));
    let header = verifier.verify(&bearer(&token), now()).unwrap();
    assert_eq!(header.user, None, "it looks nowhere else");
}

#[test]
fn further_claims_are_split_at_spaces_where_a_rule_says_so() {
    let verifier = verifier(|rule| rule.space_delimited_claims = vec!["roles".into()]);
    let claims =
        with(json!({"roles": "a b", "scope": "c d", "other": "e f", "in": {"roles": "g h"}}));
    let user = user(verifier.verify(&bearer(&KEY.token(&claims)), now()));
    assert_eq!(values(&user, "roles"), ["a", "b"]);
    assert_eq!(values(&user, "scope"), ["c", "d"]);
    assert_eq!(values(&user, "other"), ["e f"]);
    assert_eq!(values(&user, "in.roles"), ["g h"], "of the top level alone");
}

#[test]
fn keys_are_chosen_by_id_use_and_algorithm() {
    let change = |changes: Value| {
        let mut jwk = KEY.jwk.clone();
        for (name, value) in changes.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        if changes["kid"].is_null() && changes.get("kid").is_some() {
            jwk.as_object_mut().unwrap().remove("kid");
        }
        json!({"keys": [RSA_KEY.jwk, jwk]}).to_string()
    };
    let verify = |jwks: &str, header: &str| {
        let token = KEY.raw(header, &claims().to_string());
        check_token(&token, jwks, &CheckOptions::default(), now()).err()
    };
    let (with_kid, without) = (r#"{"alg":"ES256","kid":"ec"}"#, r#"{"alg":"ES256"}"#);
    let table = [
        (json!({}), with_kid, None),
        (json!({}), without, None),
        (json!({"kid": null}), with_kid, None),
        (
            json!({"kid": "new"}),
            with_kid,
            Some(TokenError::UnknownKey),
        ),
        (
            json!({"use": "sig", "alg": "ES256", "key_ops": ["verify"]}),
            with_kid,
            None,
        ),
        (
            json!({"use": "enc"}),
            with_kid,
            Some(TokenError::UnknownKey),
        ),
        (
            json!({"key_ops": ["sign"]}),
            with_kid,
            Some(TokenError::UnknownKey),
        ),
        (
            json!({"alg": "RS256"}),
            with_kid,
            Some(TokenError::UnknownKey),
        ),
        (
            json!({"crv": "P-384"}),
            with_kid,
            Some(TokenError::UnknownKey),
        ),
        (json!({"x": "AA"}), with_kid, Some(TokenError::UnknownKey)),
        (
            json!({"kid": "rsa"}),
            r#"{"alg":"ES256","kid":"rsa"}"#,
            None,
        ),
        (
            json!({}),
            r#"{"alg":"ES256","kid":"rsa"}"#,
            Some(TokenError::AlgorithmMismatch),
        ),
    ];
    for (changes, header, reason) in table {
        assert_eq!(
            verify(&change(changes.clone()), header),
            reason,
            "{changes} {header}"
        );
    }
}

#[test]
fn key_sets_are_bounded_and_strict() {
    let single = KEY.jwk.to_string();
    assert_eq!(check_jwks(&single), Ok(1), "a single key will do");
    let many = json!({"keys": vec![KEY.jwk.clone(); 257]}).to_string();
    let small = rsa(&RSA_PKCS1_SHA256, "RS256", KeySize::Rsa2048).jwk;
    let short =
        json!({"keys": [{"kty": "RSA", "n": b64([0xc5; 128]), "e": small["e"]}]}).to_string();
    assert!(matches!(
        check_jwks(&many),
        Err(JwksError::TooManyKeys { .. })
    ));
    assert!(matches!(
        check_jwks(&" ".repeat(600_000)),
        Err(JwksError::TooLarge { .. })
    ));
    assert!(matches!(check_jwks("{"), Err(JwksError::Json(_))));
    assert!(matches!(
        check_jwks(r#"{"keys":[],"keys":[]}"#),
        Err(JwksError::Json(_))
    ));
    assert!(matches!(check_jwks("[]"), Err(JwksError::Shape)));
    assert!(matches!(
        check_jwks(r#"{"keys":{}}"#),
        Err(JwksError::Shape)
    ));
    assert_eq!(
        check_jwks(&short),
        Err(JwksError::NoUsableKey),
        "RSA of 1024 bits"
    );
}

#[test]
fn bare_signatures_leave_the_payload_alone() {
    let token = KEY.raw(r#"{"alg":"ES256"}"#, "not JSON");
    let bare = CheckOptions {
        bare: true,
        ..CheckOptions::default()
    };
    let checked = check_token(&token, &KEY.jwks(), &bare, now()).unwrap();
    assert_eq!((checked.claims, checked.key_id), (Value::Null, None));
    let strict = check_token(&token, &KEY.jwks(), &CheckOptions::default(), now());
    assert_eq!(strict, Err(TokenError::MalformedClaims));
    let elsewhere = CheckOptions {
        issuer: Some("https://other.example".into()),
        ..CheckOptions::default()
    };
    let refused = check_token(&KEY.token(&claims()), &KEY.jwks(), &elsewhere, now());
    assert_eq!(refused, Err(TokenError::UnknownIssuer));
}

#[test]
fn a_remembered_token_still_expires() {
    let verifier = verifier(|_| {});
    let request = bearer(&KEY.token(&claims()));
    assert!(verifier.verify(&request, now()).is_ok());
    assert!(
        verifier
            .verify(&request, UnixTime::from_secs(NOW + 59))
            .is_ok()
    );
    let late = verifier.verify(&request, UnixTime::from_secs(NOW + 60));
    assert_eq!(late, Err(TokenError::Expired));
}

/// Forged tokens are no reason to ask an issuer; tokens whose key is not here are, once each time they are asked for.
#[test]
fn tokens_with_unknown_keys_say_by_which_rule_they_came() {
    let verifier = verifier(|_| {});
    let lacking = |token: &str| {
        assert!(verifier.verify(&bearer(token), now()).is_err());
        (verifier.take_lacking(), verifier.take_lacking())
    };
    let named = || (vec!["default/jwt/0".to_owned()], Vec::new());
    let none = || (Vec::new(), Vec::new());
    let newer = ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", "ES256");
    let body = claims().to_string();
    assert_eq!(
        lacking(&newer.raw(r#"{"alg":"ES256","kid":"new"}"#, &body)),
        named()
    );
    assert_eq!(lacking(&newer.raw(r#"{"alg":"ES256"}"#, &body)), named());
    assert_eq!(
        lacking(&newer.raw(r#"{"alg":"ES256","kid":"ec"}"#, &body)),
        none()
    );
    assert_eq!(lacking(&KEY.token(&with(json!({"exp": 1})))), none());
    let elsewhere = with(json!({"iss": "https://evil.example"})).to_string();
    assert_eq!(
        lacking(&newer.raw(r#"{"alg":"ES256","kid":"new"}"#, &elsewhere)),
        none()
    );
    let logout = r#"{"alg":"ES256","kid":"new","typ":"logout+jwt"}"#;
    assert_eq!(lacking(&newer.raw(logout, &body)), none());
}
