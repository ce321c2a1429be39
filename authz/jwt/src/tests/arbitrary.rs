//! Whatever a peer sends, there is one of the known answers.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_changed_character_is_refused(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.~=-]") {
        static GOOD: LazyLock<String> = LazyLock::new(|| KEY.token(&claims()));
        let at = at.index(GOOD.len());
        let mut changed = GOOD.clone();
        changed.replace_range(at..=at, &to);
        if changed != *GOOD {
            prop_assert!(verify(&changed).is_err(), "{changed}");
        }
    }

    #[test]
    fn any_text_is_refused(text in "\\PC*", parts in prop::collection::vec("[A-Za-z0-9_-]{0,40}", 0..6)) {
        prop_assert!(verify(&text).is_err());
        prop_assert!(verify(&parts.join(".")).is_err());
    }

    #[test]
    fn any_header_and_payload_have_an_answer(header in json_text(), payload in json_text()) {
        // The signature is right, so that only what is signed decides.
        prop_assert!(verify(&KEY.raw(&header, &payload)).is_err(), "no issuer is in these");
        let payload = format!(r#"{{"iss":"{ISSUER}","aud":"shop","x":{payload}}}"#);
        match verify(&KEY.raw(r#"{"alg":"ES256"}"#, &payload)) {
            Ok(verified) => prop_assert!(verified.user.is_some()),
            Err(e) => prop_assert!(
                matches!(e, TokenError::DuplicateMember | TokenError::TooManyClaims | TokenError::AmbiguousClaims),
                "{e:?} {payload}"
            ),
        }
    }

    #[test]
    fn any_key_set_has_an_answer(text in "\\PC*", keys in json_text()) {
        prop_assert!(check_jwks(&text).is_err());
        let set = format!(r#"{{"keys":[{keys}]}}"#);
        prop_assert!(check_jwks(&set).is_err());
    }
}

/// JSON with the names that matter, nested a little; names may repeat.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u32>().prop_map(|n| format!("{n}.5")),
        prop::sample::select(vec!["ES256", "none", "shop", "sig", "EC", "P-256", ""])
            .prop_map(|s| format!("{s:?}")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let name = prop::sample::select(vec![
            "alg", "kid", "crit", "iss", "aud", "exp", "scope", "kty", "crv", "x", "y", "a.b", "a",
            "b",
        ]);
        let member = (name, inner.clone()).prop_map(|(name, value)| format!("{name:?}:{value}"));
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(member, 0..4)
                .prop_map(|items| format!("{{{}}}", items.join(","))),
        ]
    })
}
