use proptest::prelude::*;

use super::*;

#[test]
fn well_formed_ids_parse() {
    for (uri, domain, path) in [
        ("spiffe://mesh.local", "mesh.local", ""),
        (
            "spiffe://mesh.local/ns/default/sa/reviews",
            "mesh.local",
            "/ns/default/sa/reviews",
        ),
        ("spiffe://1.2.3.4/A_b-c.D", "1.2.3.4", "/A_b-c.D"),
        ("spiffe://td/...", "td", "/..."),
        ("spiffe://a_b-c/x", "a_b-c", "/x"),
    ] {
        let id = SpiffeId::parse(uri).unwrap();
        assert_eq!(id.trust_domain().as_str(), domain, "{uri}");
        assert_eq!(id.path(), path, "{uri}");
        assert_eq!(id.as_str(), uri);
    }
}

#[test]
fn malformed_ids_are_refused_with_the_exact_reason() {
    use SpiffeIdError as E;
    for (uri, error) in [
        ("", E::Empty),
        ("https://mesh.local/x", E::WrongScheme),
        ("SPIFFE://mesh.local", E::WrongScheme),
        ("spiffe:/mesh.local", E::WrongScheme),
        ("spiffe://", E::MissingTrustDomain),
        ("spiffe:///path", E::MissingTrustDomain),
        ("spiffe://Mesh.local", E::BadTrustDomainChar('M')),
        ("spiffe://mesh.local:80/x", E::BadTrustDomainChar(':')),
        ("spiffe://user@mesh/x", E::BadTrustDomainChar('@')),
        ("spiffe://me%73h/x", E::BadTrustDomainChar('%')),
        ("spiffe://méh/x", E::BadTrustDomainChar('é')),
        ("spiffe://mesh?q", E::BadTrustDomainChar('?')),
        ("spiffe://mesh/", E::TrailingSlash),
        ("spiffe://mesh/a/", E::TrailingSlash),
        ("spiffe://mesh/a//b", E::EmptySegment),
        ("spiffe://mesh//b", E::EmptySegment),
        ("spiffe://mesh/./b", E::DotSegment),
        ("spiffe://mesh/a/..", E::DotSegment),
        ("spiffe://mesh/a?q=1", E::BadPathChar('?')),
        ("spiffe://mesh/a#f", E::BadPathChar('#')),
        ("spiffe://mesh/a%2Fb", E::BadPathChar('%')),
        ("spiffe://mesh/ä", E::BadPathChar('ä')),
        ("spiffe://mesh/a b", E::BadPathChar(' ')),
    ] {
        assert_eq!(SpiffeId::parse(uri).unwrap_err(), error, "{uri}");
    }
}

#[test]
fn length_limits_are_exact() {
    let domain = "a".repeat(255);
    assert!(TrustDomain::parse(&domain).is_ok());
    assert_eq!(
        TrustDomain::parse(&format!("{domain}a")).unwrap_err(),
        SpiffeIdError::TrustDomainTooLong
    );
    let prefix = "spiffe://td/";
    let longest = format!("{prefix}{}", "x".repeat(2048 - prefix.len()));
    assert!(SpiffeId::parse(&longest).is_ok());
    assert_eq!(
        SpiffeId::parse(&format!("{longest}x")).unwrap_err(),
        SpiffeIdError::TooLong
    );
}

#[test]
fn only_the_default_form_has_namespace_and_account() {
    let parts = |uri: &str| {
        SpiffeId::parse(uri)
            .unwrap()
            .namespace_and_account()
            .map(|(ns, sa)| format!("{ns}/{sa}"))
    };
    assert_eq!(
        parts("spiffe://td/ns/pay/sa/ledger").as_deref(),
        Some("pay/ledger")
    );
    assert_eq!(parts("spiffe://td/ns/pay/sa/ledger/x"), None);
    assert_eq!(parts("spiffe://td/ns/pay"), None);
    assert_eq!(parts("spiffe://td/sa/pay/ns/ledger"), None);
    assert_eq!(parts("spiffe://td"), None);
}

/// The standard's rules (SPIFFE-ID sections 2.1 to 2.3) said another way than the parser says them.
fn is_strict(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else {
        return false;
    };
    let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
    let any_case = |b: u8| lower(b) || b.is_ascii_uppercase();
    let segment = |s: &str| !["", ".", ".."].contains(&s) && s.bytes().all(any_case);
    text.len() <= 2048
        && (1..=255).contains(&domain.len())
        && domain.bytes().all(lower)
        && path
            .strip_prefix('/')
            .is_none_or(|path| path.split('/').all(segment))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// Bytes of a good ID are replaced, put in, taken out and doubled: what is accepted keeps the rules, and what keeps
    /// them is accepted.
    #[test]
    fn a_changed_id_is_accepted_exactly_if_it_keeps_the_rules(
        changes in prop::collection::vec((0..4_u8, any::<prop::sample::Index>(), "[a-zA-Z0-9/:@%?#\\\\ ._~é\u{0}-]"), 0..6),
    ) {
        let mut text: Vec<char> = "spiffe://mesh.local/ns/pay/sa/Ledger_1".chars().collect();
        for (how, at, with) in &changes {
            let at = at.index(text.len() + 1);
            let with = with.chars().next().unwrap_or('/');
            match (how, text.get(at).copied()) {
                (0, Some(_)) => text[at] = with,
                (1, Some(_)) => drop(text.drain(at..=at)),
                (2, Some(there)) => text.insert(at, there),
                _ => text.insert(at, with),
            }
        }
        let text: String = text.into_iter().collect();
        prop_assert_eq!(SpiffeId::parse(&text).is_ok(), is_strict(&text), "{}", text);
    }

    #[test]
    fn any_text_parses_to_itself_or_is_refused(text in "\\PC{0,80}") {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.as_str(), text);
        }
    }

    #[test]
    fn generated_ids_round_trip(domain in "[a-z0-9._-]{1,20}", segments in prop::collection::vec("[a-zA-Z0-9_-]{1,8}", 0..5)) {
        let path: String = segments.iter().map(|s| format!("/{s}")).collect();
        let id = SpiffeId::parse(&format!("spiffe://{domain}{path}")).unwrap();
        prop_assert_eq!(id.path(), path);
        let json = serde_json::to_string(&id).unwrap();
        prop_assert_eq!(serde_json::from_str::<SpiffeId>(&json).unwrap(), id);
    }
}
