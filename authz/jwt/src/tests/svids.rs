//! JWT-SVIDs of a trust domain, as a rule whose keys are that domain's takes them.

use reeve_core::{TrustDomain, model::SvidIssuer};

use super::*;

const DOMAIN: &str = "spiffe://other.org";
const LEDGER: &str = "spiffe://other.org/ns/pay/sa/ledger";

static FOREIGN: LazyLock<Signer> =
    LazyLock::new(|| ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", "ES256"));

fn svids(domain: &str, keys: &Signer) -> JwtRule {
    JwtRule {
        name: format!("default/{domain}/0"),
        issuer: format!("spiffe://{domain}"),
        jwks: Some(JwksDocument {
            generation: 1,
            json: keys.jwks(),
        }),
        svids: Some(SvidIssuer {
            trust_domain: TrustDomain::parse(domain).unwrap(),
            revoked: vec!["spiffe://other.org/stolen".parse().unwrap()],
        }),
        ..rule()
    }
}

/// A JWT-SVID's claims, changed.
fn svid(changes: Value) -> Value {
    let mut all = json!({"iss": null, "nbf": null, "sub": LEDGER});
    let changes = changes.as_object().unwrap().clone();
    all.as_object_mut().unwrap().extend(changes);
    with(all)
}

fn judged(token: &str) -> Result<Verified, TokenError> {
    let rules = [svids("other.org", &KEY), svids("mesh.local", &FOREIGN)];
    JwtVerifier::compile(&rules).verify(&bearer(token), now())
}

#[test]
fn a_token_without_issuer_is_its_trust_domains() {
    for iss in [Value::Null, json!(DOMAIN)] {
        let user = user(judged(&KEY.token(&svid(json!({"iss": iss})))));
        assert_eq!((&*user.issuer, &*user.subject), (DOMAIN, LEDGER));
    }
}

#[test]
fn a_trust_domains_keys_speak_for_its_own_workloads_alone() {
    let refused = |signer: &Signer, changes| judged(&signer.token(&svid(changes))).unwrap_err();
    let ours = "spiffe://mesh.local/ns/default/sa/echo";
    let at = json!({"sub": ours});
    // Both domains' keys have the same key id here; each rule knows its own alone.
    assert_eq!(refused(&KEY, at), TokenError::BadSignature);
    assert_eq!(refused(&FOREIGN, json!({})), TokenError::BadSignature);
    let lied = json!({"iss": DOMAIN, "sub": ours});
    assert_eq!(refused(&KEY, lied), TokenError::ForeignSubject);
    for subject in ["ledger", DOMAIN, "spiffe://other.org.evil/x"] {
        let why = refused(&KEY, json!({"iss": DOMAIN, "sub": subject}));
        assert_eq!(why, TokenError::ForeignSubject, "{subject}");
    }
    let third = json!({"sub": "spiffe://third.net/x"});
    assert_eq!(refused(&KEY, third), TokenError::UnknownIssuer);
}

#[test]
fn what_is_no_jwt_svid_is_refused_for_one_reason() {
    let table = [
        (json!({"sub": null}), TokenError::NoIssuer),
        (json!({"sub": "ledger"}), TokenError::NoIssuer),
        (json!({"sub": DOMAIN}), TokenError::NoIssuer),
        (json!({"exp": null}), TokenError::NoExpiry),
        (json!({"aud": null}), TokenError::WrongAudience),
        (json!({"aud": "elsewhere"}), TokenError::WrongAudience),
        (json!({"exp": NOW - 600}), TokenError::Expired),
        (
            json!({"sub": "spiffe://other.org/stolen"}),
            TokenError::Revoked,
        ),
        (
            json!({"iss": "https://other.org"}),
            TokenError::UnknownIssuer,
        ),
    ];
    for (changes, why) in table {
        let refused = judged(&KEY.token(&svid(changes.clone()))).unwrap_err();
        assert_eq!(refused, why, "{changes}");
    }
    let edwards = ed25519();
    let rules = [svids("other.org", &edwards)];
    let token = edwards.token(&svid(json!({})));
    let refused = JwtVerifier::compile(&rules).verify(&bearer(&token), now());
    assert_eq!(refused.unwrap_err(), TokenError::UnsupportedAlgorithm);
}

#[test]
fn other_rules_take_no_token_without_issuer() {
    let plain = JwtRule {
        svids: None,
        ..svids("other.org", &KEY)
    };
    let token = KEY.token(&svid(json!({})));
    let refused = JwtVerifier::compile(&[plain]).verify(&bearer(&token), now());
    assert_eq!(refused.unwrap_err(), TokenError::NoIssuer);
}

#[test]
fn a_domain_that_tells_issuers_of_its_own_is_known_by_them() {
    let rule = JwtRule {
        issuer: ISSUER.to_owned(),
        ..svids("other.org", &KEY)
    };
    let verifier = JwtVerifier::compile(&[rule]);
    let told = KEY.token(&svid(json!({"iss": ISSUER})));
    let told = user(verifier.verify(&bearer(&told), now()));
    assert_eq!((&*told.issuer, &*told.subject), (ISSUER, LEDGER));
    let untold = KEY.token(&svid(json!({})));
    let untold = verifier.verify(&bearer(&untold), now());
    assert_eq!(untold.unwrap_err(), TokenError::UnknownIssuer);
}
