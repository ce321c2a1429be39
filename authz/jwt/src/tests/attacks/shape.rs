//! Texts that two readers could read differently, or that cost much to read.

use super::*;

/// Base64url has one text for each sequence of bytes: no padding, blanks, other alphabets or loose bits at the end.
#[test]
fn base64url_is_not_malleable() {
    let good = KEY.token(&claims());
    let (start, signature) = good.rsplit_once('.').unwrap();
    let (head, payload) = start.split_once('.').unwrap();
    // 64 bytes end with a character that carries four bits of nothing.
    let loose = {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut changed = signature.to_owned();
        let last = changed.pop().unwrap();
        let at = alphabet.iter().position(|b| char::from(*b) == last);
        changed.push(char::from(alphabet[at.unwrap() ^ 1]));
        format!("{start}.{changed}")
    };
    let with = |head: &str, payload: &str, signature: &str| format!("{head}.{payload}.{signature}");
    let table = [
        ("loose bits", loose),
        ("padding", format!("{good}==")),
        (
            "padded header",
            with(&format!("{head}="), payload, signature),
        ),
        (
            "the other alphabet",
            with(head, payload, &signature.replace(['-', '_'], "+")) + "+",
        ),
        (
            "a blank inside",
            with(head, &format!("{payload} "), signature),
        ),
        (
            "a tab inside",
            with(head, &format!("\t{payload}"), signature),
        ),
        (
            "a line break",
            with(head, payload, &format!("{signature}\n")),
        ),
        (
            "a carriage return",
            with(head, &format!("{payload}\r\n"), signature),
        ),
        ("a NUL", with(head, payload, &format!("{signature}\0"))),
        (
            "percent-encoded",
            with(&head.replacen('e', "%65", 1), payload, signature),
        ),
        ("one character", with(head, payload, "A")),
        ("a quote", format!("\"{good}\"")),
        (
            "a fullwidth dot",
            format!("{head}\u{ff0e}{payload}.{signature}"),
        ),
    ];
    assert_refused(table.map(|(name, token)| (name, token, TokenError::Malformed)));
}

#[test]
fn names_occur_once_in_header_and_claims() {
    let body = claims().to_string();
    let double = |name: &str, value: &str| {
        let body = body.trim_start_matches('{');
        KEY.raw(
            r#"{"alg":"ES256"}"#,
            &format!("{{\"{name}\":{value},{body}"),
        )
    };
    let table = [
        ("iss", double("iss", "\"https://evil.example\"")),
        ("sub", double("sub", "\"root\"")),
        ("aud", double("aud", "[\"shop\"]")),
        ("exp", double("exp", "99999999999")),
        ("an escaped name", double("\\u0073ub", "\"root\"")),
        (
            "a nested name",
            double("realm", r#"{"roles":["user"],"roles":["admin"]}"#),
        ),
        ("alg", KEY.raw(r#"{"alg":"none","alg":"ES256"}"#, &body)),
        (
            "kid",
            KEY.raw(r#"{"alg":"ES256","kid":"x","kid":"ec"}"#, &body),
        ),
        (
            "typ",
            KEY.raw(r#"{"alg":"ES256","typ":"logout+jwt","typ":"JWT"}"#, &body),
        ),
    ];
    assert_refused(table.map(|(name, token)| (name, token, TokenError::DuplicateMember)));
}

/// Extensions that must be understood, and are not (RFC 7515 section 4.1.11, RFC 7797).
#[test]
fn critical_extensions_are_refused() {
    let table = [
        json!({"crit": ["b64"], "b64": false}),
        json!({"b64": false}),
        json!({"b64": true}),
        json!({"crit": []}),
        json!({"crit": null}),
        json!({"crit": "exp"}),
        json!({"crit": ["alg"]}),
        json!({"crit": ["http://example.com/UNDEFINED"], "http://example.com/UNDEFINED": true}),
        json!({"crit": ["", ""]}),
    ];
    assert_refused(table.map(|changes| {
        (
            changes.to_string(),
            signed(changes),
            TokenError::CriticalHeader,
        )
    }));
    // The payload as it is, which RFC 7797 would let be signed.
    let payload = claims().to_string();
    let bare = format!(
        "{}.{payload}",
        b64(r#"{"alg":"ES256","b64":false,"crit":["b64"]}"#)
    );
    let token = format!("{bare}.{}", b64((KEY.sign)(bare.as_bytes())));
    assert_refused([("unencoded", token, TokenError::Malformed)]);
}

/// Encrypted, compressed, nested and JSON-serialised tokens are other things than a signed token (RFC 8725 section 3.6).
#[test]
fn only_compact_signed_tokens_of_claims_are_read() {
    let inner = KEY.token(&claims());
    let nested = KEY.raw(r#"{"alg":"ES256","cty":"JWT"}"#, &inner);
    // "{}" by DEFLATE (RFC 1951), with fixed codes.
    let deflated = {
        let head = b64(r#"{"alg":"ES256","zip":"DEF"}"#);
        let start = format!("{head}.{}", b64([0xab, 0xae, 0x05, 0x00]));
        format!("{start}.{}", b64((KEY.sign)(start.as_bytes())))
    };
    let encrypted = {
        let head = b64(r#"{"alg":"RSA-OAEP","enc":"A256GCM","zip":"DEF"}"#);
        [
            head,
            b64([1; 256]),
            b64([2; 12]),
            b64([3; 64]),
            b64([4; 16]),
        ]
        .join(".")
    };
    let direct = {
        let head = b64(r#"{"alg":"dir","enc":"A256GCM"}"#);
        [
            head,
            String::new(),
            b64([2; 12]),
            b64([3; 64]),
            b64([4; 16]),
        ]
        .join(".")
    };
    let parts: Vec<&str> = inner.split('.').collect();
    let flat = json!({"protected": parts[0], "payload": parts[1], "signature": parts[2]});
    assert_refused([
        ("nested", nested, TokenError::MalformedClaims),
        ("compressed", deflated, TokenError::MalformedClaims),
        ("encrypted", encrypted, TokenError::Malformed),
        ("encrypted directly", direct, TokenError::Malformed),
        ("as JSON", flat.to_string(), TokenError::Malformed),
        (
            "detached",
            format!("{}..{}", parts[0], parts[2]),
            TokenError::MalformedClaims,
        ),
        ("two dots", "..".to_owned(), TokenError::MalformedHeader),
    ]);
}

/// Depth, length and number are bounded before anything is believed; nothing of it overflows a stack.
#[test]
fn what_is_large_or_deep_is_refused() {
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let claims = |x: &str| format!(r#"{{"iss":"{ISSUER}","aud":"shop","x":{x}}}"#);
    let head = r#"{"alg":"ES256"}"#;
    let wide: Vec<String> = (0..300).map(|n| format!("\"c{n}\":0")).collect();
    assert_refused([
        (
            "deep claims",
            KEY.raw(head, &claims(&deep(60))),
            TokenError::TooManyClaims,
        ),
        (
            "deeper claims",
            KEY.raw(head, &claims(&deep(2_500))),
            TokenError::MalformedClaims,
        ),
        (
            "a deep header",
            KEY.raw(&format!(r#"{{"alg":"ES256","x":{}}}"#, deep(2_500)), "{}"),
            TokenError::MalformedHeader,
        ),
        (
            "open brackets",
            KEY.raw(head, &"[".repeat(5_000)),
            TokenError::MalformedClaims,
        ),
        (
            "many claims",
            KEY.raw(head, &claims(&format!("{{{}}}", wide.join(",")))),
            TokenError::TooManyClaims,
        ),
        (
            "long",
            KEY.raw(head, &claims(&format!("\"{}\"", "x".repeat(8_000)))),
            TokenError::TooLarge,
        ),
        ("dots", ".".repeat(8 * 1024), TokenError::MalformedHeader),
        ("many dots", ".".repeat(1 << 20), TokenError::TooLarge),
        (
            "not UTF-8",
            {
                let start = format!("{}.{}", b64(head), b64(b"{\"iss\":\"\xff\"}"));
                format!("{start}.{}", b64((KEY.sign)(start.as_bytes())))
            },
            TokenError::MalformedClaims,
        ),
        (
            "a lone surrogate",
            KEY.raw(head, r#"{"iss":"\ud800"}"#),
            TokenError::MalformedClaims,
        ),
        (
            "a byte order mark",
            KEY.raw(head, "\u{feff}{}"),
            TokenError::MalformedClaims,
        ),
    ]);
}

/// Times that a lax reader would take for something else.
#[test]
fn times_are_whole_numbers_of_seconds() {
    let later = NOW + 60;
    for name in ["exp", "nbf", "iat"] {
        let table = [
            json!(later.to_string()),
            json!(later as f64 + 0.5),
            json!(-1),
            json!(1e300),
            json!([later]),
            json!({"s": later}),
            json!(true),
            json!(null),
        ];
        assert_refused(table.map(|value| {
            let mut claims = claims();
            claims[name] = value.clone();
            (
                format!("{name} {value}"),
                KEY.token(&claims),
                TokenError::ClaimType(name),
            )
        }));
    }
    assert_refused([
        (
            "milliseconds in iat",
            KEY.token(&with(json!({"iat": NOW * 1000}))),
            TokenError::IssuedInFuture,
        ),
        (
            "long over",
            KEY.token(&with(json!({"exp": 0}))),
            TokenError::Expired,
        ),
        (
            "for later",
            KEY.token(&with(json!({"nbf": u64::MAX}))),
            TokenError::NotYetValid,
        ),
    ]);
}
