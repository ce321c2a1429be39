use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use std::sync::Arc;

use super::*;
use crate::Revoked;
use crate::forge::{Forge, ID, NOW};

/// A key that signs JWT-SVIDs.
pub(crate) struct Signer(EcdsaKeyPair);

impl Signer {
    pub(crate) fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn jwk(&self) -> Map<String, Value> {
        let point = self.0.public_key().as_ref();
        let encode =
            |range| URL_SAFE_NO_PAD.encode(point.get::<std::ops::Range<_>>(range).unwrap());
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "kid": "one", "use": "jwt-svid",
            "x": encode(1..33), "y": encode(33..65),
        });
        jwk.as_object().unwrap().clone()
    }

    pub(crate) fn key(&self) -> JwtKey {
        JwtKey::from_jwk(&self.jwk()).unwrap()
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self
            .0
            .sign(&SystemRandom::new(), signed.as_bytes())
            .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn header() -> Value {
    json!({ "alg": "ES256", "kid": "one", "typ": "JWT" })
}

fn claims() -> Value {
    json!({ "sub": ID, "aud": ["ledger", "pay"], "exp": NOW.as_secs() + 60, "iat": NOW.as_secs() })
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    object
        .as_object_mut()
        .unwrap()
        .insert(name.to_owned(), value);
    object
}

fn without(mut object: Value, name: &str) -> Value {
    object.as_object_mut().unwrap().remove(name).unwrap();
    object
}

fn bundle(signer: &Signer) -> TrustBundle {
    let bundle = Forge::new("mesh.local").bundle();
    bundle.with_jwt_keys(vec![signer.key()]).unwrap()
}

fn verify(bundle: &TrustBundle, token: &str, audience: &str) -> Result<JwtSvid, JwtSvidError> {
    verify_jwt_svid(token, audience, |_| Some(bundle), NOW)
}

#[test]
fn a_token_of_the_trust_domain_for_the_audience_says_whose_it_is() {
    let signer = Signer::new();
    let token = signer.token(&header(), &claims());
    let svid = verify(&bundle(&signer), &token, "ledger").unwrap();
    assert_eq!(svid.id.as_str(), ID);
    assert_eq!(svid.expires_at, NOW.plus(Duration::from_secs(60)));
    assert_eq!(svid.claims["aud"][1], "pay");
}

#[test]
fn each_fault_has_its_reason() {
    let signer = Signer::new();
    let bundle = bundle(&signer);
    let refused = |header: Value, claims: Value| {
        let token = signer.token(&header, &claims);
        verify(&bundle, &token, "ledger").unwrap_err().as_str()
    };
    assert_eq!(
        refused(header(), with(claims(), "aud", json!(["other"]))),
        "wrong_audience"
    );
    assert_eq!(
        refused(header(), without(claims(), "aud")),
        "wrong_audience"
    );
    assert_eq!(refused(header(), without(claims(), "sub")), "no_subject");
    assert_eq!(
        refused(header(), with(claims(), "sub", json!("alice"))),
        "bad_spiffe_id"
    );
    let domain = json!("spiffe://mesh.local");
    assert_eq!(
        refused(header(), with(claims(), "sub", domain)),
        "without_path"
    );
    let foreign = json!("spiffe://other.org/ns/default/sa/reviews");
    assert_eq!(
        refused(header(), with(claims(), "sub", foreign)),
        "unknown_trust_domain"
    );
    assert_eq!(refused(header(), without(claims(), "exp")), "no_expiry");
    let past = json!(NOW.as_secs() - 11);
    assert_eq!(refused(header(), with(claims(), "exp", past)), "expired");
    assert_eq!(
        refused(with(header(), "alg", json!("none")), claims()),
        "unsigned"
    );
    assert_eq!(
        refused(with(header(), "alg", json!("HS256")), claims()),
        "symmetric_algorithm"
    );
    assert_eq!(
        refused(with(header(), "kid", json!("two")), claims()),
        "unknown_key"
    );
    assert_eq!(
        refused(with(header(), "typ", json!("logout+jwt")), claims()),
        "wrong_type"
    );
    let forged = Signer::new().token(&header(), &claims());
    assert_eq!(
        verify(&bundle, &forged, "ledger").unwrap_err().as_str(),
        "bad_signature"
    );
}

#[test]
fn no_bundle_no_trust() {
    let signer = Signer::new();
    let token = signer.token(&header(), &claims());
    let refused = verify_jwt_svid(&token, "ledger", |_| None, NOW).unwrap_err();
    assert_eq!(refused.as_str(), "unknown_trust_domain");
    let keyless = Forge::new("mesh.local").bundle();
    let refused = verify(&keyless, &token, "ledger").unwrap_err();
    assert_eq!(refused, JwtSvidError::Token(TokenError::NoKeys));
}

#[test]
fn a_revoked_identity_has_no_good_token() {
    let signer = Signer::new();
    let token = signer.token(&header(), &claims());
    let revoked = Revoked::new([ID.parse().unwrap()], []);
    let bundle = bundle(&signer).with_revoked(Arc::new(revoked));
    assert_eq!(
        verify(&bundle, &token, "ledger").unwrap_err().as_str(),
        "revoked"
    );
}

#[test]
fn a_key_without_a_name_or_a_private_one_is_not_taken_as_it_is() {
    let jwk = Signer::new().jwk();
    let mut nameless = jwk.clone();
    nameless.remove("kid");
    assert_eq!(JwtKey::from_jwk(&nameless), None);
    let mut elsewhere = jwk.clone();
    elsewhere.insert("x".to_owned(), "AAAA".into());
    assert_eq!(JwtKey::from_jwk(&elsewhere), None);
    let mut private = jwk;
    private.insert("d".to_owned(), "secret".into());
    assert!(!JwtKey::from_jwk(&private).unwrap().jwk().contains_key("d"));
}

#[test]
fn a_bundle_has_a_bounded_number_of_keys() {
    let keys = vec![Signer::new().key(); MAX_JWT_KEYS + 1];
    let refused = Forge::new("mesh.local").bundle().with_jwt_keys(keys);
    assert_eq!(
        refused.unwrap_err(),
        BundleError::TooManyJwtKeys(MAX_JWT_KEYS + 1)
    );
}
