use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    time::Duration,
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
        ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
        KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA384, RsaEncoding, RsaPublicKeyComponents,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reeve_core::model::{JwksDocument, JwtHeader};
use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.example";

pub(super) fn now() -> UnixTime {
    UnixTime::from_secs(NOW)
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

type Sign = dyn Fn(&[u8]) -> Vec<u8> + Send + Sync;

/// A signing key and its JWK.
pub(super) struct Signer {
    jwk: Value,
    sign: Box<Sign>,
    alg: &'static str,
}

fn rsa(encoding: &'static dyn RsaEncoding, alg: &'static str, size: KeySize) -> Signer {
    let pair = RsaKeyPair::generate(size).unwrap();
    let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
    Signer {
        jwk: json!({"kty": "RSA", "kid": "rsa", "n": b64(public.n), "e": b64(public.e)}),
        sign: Box::new(move |message| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(encoding, &SystemRandom::new(), message, &mut signature)
                .unwrap();
            signature
        }),
        alg,
    }
}

fn ec(algorithm: &'static EcdsaSigningAlgorithm, curve: &str, alg: &'static str) -> Signer {
    let pair = EcdsaKeyPair::generate(algorithm).unwrap();
    let point = pair.public_key().as_ref()[1..].to_vec();
    let (x, y) = point.split_at(point.len() / 2);
    Signer {
        jwk: json!({"kty": "EC", "kid": "ec", "crv": curve, "x": b64(x), "y": b64(y)}),
        sign: Box::new(move |m| {
            pair.sign(&SystemRandom::new(), m)
                .unwrap()
                .as_ref()
                .to_vec()
        }),
        alg,
    }
}

fn ed25519() -> Signer {
    let pair = Ed25519KeyPair::generate().unwrap();
    Signer {
        jwk: json!({"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": b64(pair.public_key())}),
        sign: Box::new(move |m| pair.sign(m).as_ref().to_vec()),
        alg: "EdDSA",
    }
}

/// The issuer's key in most tests.
pub(super) static KEY: LazyLock<Signer> =
    LazyLock::new(|| ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", "ES256"));
pub(super) static RSA_KEY: LazyLock<Signer> =
    LazyLock::new(|| rsa(&RSA_PKCS1_SHA256, "RS256", KeySize::Rsa2048));

impl Signer {
    pub(super) fn jwks(&self) -> String {
        json!({"keys": [self.jwk]}).to_string()
    }

    /// A token with exactly these texts as header and payload.
    fn raw(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", b64(header), b64(payload));
        let signature = (self.sign)(signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": self.alg, "kid": self.jwk["kid"]});
        self.raw(&header.to_string(), &claims.to_string())
    }
}

pub(super) fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "aud": "shop", "exp": NOW + 60, "iat": NOW - 60, "nbf": NOW - 60})
}

/// [`claims`] with these members changed; null takes one away.
pub(super) fn with(changes: Value) -> Value {
    let mut all = claims();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            all.as_object_mut().unwrap().remove(name);
        } else {
            all[name] = value.clone();
        }
    }
    all
}

fn rule() -> JwtRule {
    JwtRule {
        name: "default/jwt/0".into(),
        issuer: ISSUER.into(),
        audiences: vec!["shop".into()],
        jwks: Some(JwksDocument {
            generation: 1,
            json: KEY.jwks(),
        }),
        ..JwtRule::default()
    }
}

#[derive(Default)]
struct Request {
    headers: BTreeMap<&'static str, Vec<String>>,
    query: BTreeMap<&'static str, Vec<String>>,
}

impl TokenLookup for Request {
    fn header_values(&self, name: &str) -> Vec<&[u8]> {
        let values = self.headers.get(name).into_iter().flatten();
        values.map(String::as_bytes).collect()
    }

    fn query_values(&self, name: &str) -> Vec<String> {
        self.query.get(name).cloned().unwrap_or_default()
    }
}

pub(super) fn verifier(change: impl Fn(&mut JwtRule)) -> JwtVerifier {
    let mut rule = rule();
    change(&mut rule);
    JwtVerifier::compile(&[rule])
}

fn bearer(token: &str) -> Request {
    Request {
        headers: [("authorization", vec![format!("Bearer {token}")])].into(),
        ..Request::default()
    }
}

fn verify(token: &str) -> Result<Verified, TokenError> {
    JwtVerifier::compile(&[rule()]).verify(&bearer(token), now())
}

fn verify_claims(changes: Value) -> Result<Verified, TokenError> {
    verify(&KEY.token(&with(changes)))
}

fn user(verified: Result<Verified, TokenError>) -> Arc<User> {
    verified.unwrap().user.unwrap()
}

fn values(user: &User, claim: &str) -> Vec<String> {
    user.claims
        .get(claim)
        .into_iter()
        .flatten()
        .cloned()
        .collect()
}

#[test]
fn a_good_token_passes_and_its_claims_reach_policy() {
    let verified = verify(&KEY.token(&claims())).unwrap();
    assert_eq!(verified.strip_headers, ["authorization"]);
    let user = verified.user.unwrap();
    assert_eq!(
        (user.issuer.as_str(), user.subject.as_str()),
        (ISSUER, "alice")
    );
    assert_eq!(user.expires_at, Some(UnixTime::from_secs(NOW + 60)));
    assert_eq!(values(&user, "aud"), ["shop"]);
}

#[test]
fn every_algorithm_verifies_with_its_key_and_no_other_message() {
    let signers = [
        rsa(&RSA_PKCS1_SHA256, "RS256", KeySize::Rsa2048),
        rsa(&RSA_PSS_SHA384, "PS384", KeySize::Rsa2048),
        ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", "ES256"),
        ec(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384", "ES384"),
        ec(&ECDSA_P521_SHA512_FIXED_SIGNING, "P-521", "ES512"),
        ed25519(),
    ];
    let options = CheckOptions::default();
    for signer in &signers {
        let token = signer.token(&claims());
        let checked = check_token(&token, &signer.jwks(), &options, now()).unwrap();
        assert_eq!(checked.algorithm, signer.alg);
        assert_eq!(checked.claims, claims());
        assert_eq!(check_jwks(&signer.jwks()), Ok(1));
        let (start, signature) = token.rsplit_once('.').unwrap();
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        let forged = format!("{start}.{}", b64(bytes));
        let refused = check_token(&forged, &signer.jwks(), &options, now());
        assert_eq!(refused, Err(TokenError::BadSignature), "{}", signer.alg);
    }
}

/// Each row: changed claims, and the outcome.
#[test]
fn registered_claims_are_checked_strictly() {
    use TokenError::{
        ClaimType, Expired, IssuedInFuture, NoIssuer, NotYetValid, UnknownIssuer, WrongAudience,
    };
    let table = [
        (json!({}), None),
        (json!({"exp": null}), None),
        (json!({"nbf": null, "iat": null, "sub": null}), None),
        (json!({"exp": NOW + 1}), None),
        (json!({"exp": NOW}), Some(Expired)),
        (json!({"exp": 0}), Some(Expired)),
        (json!({"exp": u64::MAX}), None),
        (
            json!({"exp": (NOW + 60) as f64 + 0.5}),
            Some(ClaimType("exp")),
        ),
        (json!({"exp": 1e300}), Some(ClaimType("exp"))),
        (json!({"exp": -1}), Some(ClaimType("exp"))),
        (
            json!({"exp": (NOW + 60).to_string()}),
            Some(ClaimType("exp")),
        ),
        (json!({"exp": [NOW + 60]}), Some(ClaimType("exp"))),
        (json!({"nbf": NOW}), None),
        (json!({"nbf": NOW + 1}), Some(NotYetValid)),
        (json!({"nbf": "0"}), Some(ClaimType("nbf"))),
        (json!({"iat": NOW}), None),
        (json!({"iat": NOW + 1}), Some(IssuedInFuture)),
        (json!({"iat": 1.5}), Some(ClaimType("iat"))),
        (json!({"aud": ["other", "shop"]}), None),
        (json!({"aud": "other"}), Some(WrongAudience)),
        (json!({"aud": "shop/"}), Some(WrongAudience)),
        (json!({"aud": "SHOP"}), Some(WrongAudience)),
        (json!({"aud": []}), Some(WrongAudience)),
        (json!({"aud": null}), Some(WrongAudience)),
        (json!({"aud": ["shop", 1]}), Some(ClaimType("aud"))),
        (json!({"aud": {"shop": true}}), Some(ClaimType("aud"))),
        (
            json!({"iss": "https://issuer.example/"}),
            Some(UnknownIssuer),
        ),
        (json!({"iss": "https://evil.example"}), Some(UnknownIssuer)),
        (json!({"iss": [ISSUER]}), Some(ClaimType("iss"))),
        (json!({"iss": null}), Some(NoIssuer)),
        (json!({"sub": 7}), Some(ClaimType("sub"))),
    ];
    for (changes, reason) in table {
        assert_eq!(verify_claims(changes.clone()).err(), reason, "{changes}");
    }
}

#[test]
fn leeway_bounds_every_time() {
    let rule = JwtRule {
        leeway: Duration::from_secs(30),
        ..rule()
    };
    let verifier = JwtVerifier::compile(&[rule]);
    let table = [
        (json!({"exp": NOW - 29}), None),
        (json!({"exp": NOW - 30}), Some(TokenError::Expired)),
        (json!({"nbf": NOW + 30}), None),
        (json!({"nbf": NOW + 31}), Some(TokenError::NotYetValid)),
        (json!({"iat": NOW + 30}), None),
        (json!({"iat": NOW + 31}), Some(TokenError::IssuedInFuture)),
    ];
    for (changes, reason) in table {
        let token = KEY.token(&with(changes.clone()));
        assert_eq!(
            verifier.verify(&bearer(&token), now()).err(),
            reason,
            "{changes}"
        );
    }
}

#[test]
fn claims_are_sets_under_dotted_names() {
    let user = user(verify_claims(json!({
        "groups": ["b", "a", ["c"], null],
        "realm": {"roles": ["r1", "r2"], "deep": {"er": 1}},
        "teams": [{"name": "x"}, {"name": "y"}],
        "scope": "read  write",
        "permission": "p q",
        "other": "two words",
        "flag": true,
        "ratio": 1.5,
        "nothing": [],
    })));
    assert_eq!(values(&user, "groups"), ["a", "b", "c"]);
    assert_eq!(values(&user, "realm.roles"), ["r1", "r2"]);
    assert_eq!(values(&user, "realm.deep.er"), ["1"]);
    assert_eq!(values(&user, "teams.name"), ["x", "y"]);
    assert_eq!(values(&user, "scope"), ["read", "write"]);
    assert_eq!(values(&user, "permission"), ["p", "q"]);
    assert_eq!(values(&user, "other"), ["two words"]);
    assert_eq!(values(&user, "flag"), ["true"]);
    assert_eq!(values(&user, "ratio"), ["1.5"]);
    assert!(!user.claims.contains_key("nothing"));
}

#[test]
fn a_dotted_claim_cannot_pass_for_a_nested_one() {
    let both = json!({"realm": {"roles": ["user"]}, "realm.roles": "admin"});
    assert_eq!(verify_claims(both).err(), Some(TokenError::AmbiguousClaims));
    let user = user(verify_claims(json!({"https://shop.example/roles": "x"})));
    assert_eq!(values(&user, "https://shop.example/roles"), ["x"]);
}

#[test]
fn claims_are_bounded() {
    let names =
        |n: usize| -> BTreeMap<String, u8> { (0..n).map(|i| (format!("c{i}"), 0)).collect() };
    let values = |n: usize| -> BTreeSet<usize> { (0..n).collect() };
    let nested = |n: usize| (0..n).fold(json!(1), |inner, _| json!([inner]));
    let table = [
        (json!({"n": names(240)}), None),
        (json!({"n": names(260)}), Some(TokenError::TooManyClaims)),
        (json!({"v": values(1000)}), None),
        (json!({"v": values(1030)}), Some(TokenError::TooManyClaims)),
        (json!({"d": nested(7)}), None),
        (json!({"d": nested(8)}), Some(TokenError::TooManyClaims)),
    ];
    for (changes, reason) in table {
        assert_eq!(verify_claims(changes).err(), reason);
    }
}

mod arbitrary;
mod attacks;
mod requests;
mod svids;
