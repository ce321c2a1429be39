use proptest::prelude::*;

use super::*;
use crate::{forge::Forge, jwt::tests::Signer};

fn domain() -> TrustDomain {
    TrustDomain::parse("mesh.local").unwrap()
}

fn parse(document: &Value) -> Result<BundleDocument, DocumentError> {
    BundleDocument::parse(domain(), &document.to_string())
}

fn written() -> (BundleDocument, Value) {
    let bundle = Forge::new("mesh.local").bundle();
    let document = BundleDocument {
        bundle: bundle.with_jwt_keys(vec![Signer::new().key()]).unwrap(),
        refresh_hint: Some(Duration::from_secs(300)),
    };
    let text = serde_json::from_str(&document.to_json()).unwrap();
    (document, text)
}

#[test]
fn what_is_written_is_what_is_read() {
    let (document, text) = written();
    assert_eq!(text["spiffe_sequence"], 1);
    assert_eq!(text["spiffe_refresh_hint"], 300);
    assert_eq!(text["keys"][0]["use"], "x509-svid");
    assert_eq!(text["keys"][0]["kty"], "EC");
    assert_eq!(text["keys"][0]["crv"], "P-256");
    assert_eq!(text["keys"][1]["use"], "jwt-svid");
    assert_eq!(text["keys"][1]["kid"], "one");
    let read = parse(&text).unwrap();
    assert_eq!(read.bundle.authorities(), document.bundle.authorities());
    assert_eq!(read.bundle.jwt_keys(), document.bundle.jwt_keys());
    assert_eq!(read.bundle.sequence(), 1);
    assert_eq!(read.refresh_hint, document.refresh_hint);
}

#[test]
fn keys_of_other_uses_are_passed_over() {
    let (document, mut text) = written();
    let keys = text["keys"].as_array_mut().unwrap();
    keys.push(json!({ "use": "wit-svid", "kty": "EC" }));
    keys.push(json!({ "kty": "unheard of" }));
    let read = parse(&text).unwrap();
    assert_eq!(
        read.bundle.authorities().len(),
        document.bundle.authorities().len()
    );
    assert_eq!(read.bundle.jwt_keys().len(), 1);
}

#[test]
fn each_fault_has_its_reason() {
    let (_, good) = written();
    let changed = |change: fn(&mut Value)| {
        let mut text = good.clone();
        change(&mut text);
        parse(&text).unwrap_err()
    };
    assert_eq!(changed(|d| *d = json!([])), DocumentError::Shape);
    assert_eq!(changed(|d| d["keys"] = json!({})), DocumentError::Shape);
    assert_eq!(changed(|d| d["keys"] = json!([1])), DocumentError::Shape);
    assert_eq!(
        changed(|d| d["keys"] = json!([])),
        BundleError::Empty.into()
    );
    let number = DocumentError::Number("spiffe_sequence");
    assert_eq!(changed(|d| d["spiffe_sequence"] = json!(-1)), number);
    let number = DocumentError::Number("spiffe_refresh_hint");
    assert_eq!(changed(|d| d["spiffe_refresh_hint"] = json!("5m")), number);
    let certificate = DocumentError::Certificate { position: 0 };
    assert_eq!(changed(|d| d["keys"][0]["x5c"] = json!([])), certificate);
    assert_eq!(changed(|d| d["keys"][0]["x5c"] = json!(["?"])), certificate);
    assert_eq!(
        changed(|d| d["keys"][0]["x5c"] = json!([d["keys"][0]["x5c"][0], d["keys"][0]["x5c"][0]])),
        certificate
    );
    let key = DocumentError::JwtKey { position: 1 };
    assert_eq!(changed(|d| d["keys"][1]["kid"] = json!("")), key);
    assert_eq!(changed(|d| d["keys"][1]["crv"] = json!("P-384")), key);
    let foreign =
        BundleDocument::parse(TrustDomain::parse("other.org").unwrap(), &good.to_string());
    assert!(matches!(
        foreign,
        Err(DocumentError::Bundle(BundleError::ForeignAuthority { .. }))
    ));
    let long = " ".repeat(MAX_DOCUMENT_BYTES + 1);
    assert_eq!(
        BundleDocument::parse(domain(), &long).unwrap_err(),
        DocumentError::TooLarge
    );
}

/// Some bundle, whatever its publisher says about it.
fn any_document() -> impl Strategy<Value = BundleDocument> {
    // 2^63 and more are whole numbers, too.
    let hint = prop::option::of(0..u64::MAX);
    (1..4_usize, 0..3_usize, any::<u64>(), hint).prop_map(|(roots, keys, sequence, hint)| {
        let roots = (0..roots).map(|_| Forge::new("mesh.local").root.clone());
        let bundle = TrustBundle::new(domain(), roots.collect(), sequence).unwrap();
        let keys = (0..keys).map(|_| Signer::new().key()).collect();
        BundleDocument {
            bundle: bundle.with_jwt_keys(keys).unwrap(),
            refresh_hint: hint.map(Duration::from_secs),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_bundle_is_read_as_it_is_written(document in any_document()) {
        let text = document.to_json();
        let read = BundleDocument::parse(domain(), &text).unwrap();
        prop_assert_eq!(read.bundle.authorities(), document.bundle.authorities());
        prop_assert_eq!(read.bundle.jwt_keys(), document.bundle.jwt_keys());
        prop_assert_eq!(read.bundle.sequence(), document.bundle.sequence());
        prop_assert_eq!(read.refresh_hint, document.refresh_hint);
        prop_assert_eq!(read.to_json(), text);
    }

    /// A byte within the base64 of an authority is changed: what is accepted is an authority of this trust domain still,
    /// as another reader of certificates sees it.
    #[test]
    fn an_authority_that_is_changed_is_an_authority_or_refused(at: prop::sample::Index, with: u8) {
        let (_, mut text) = written();
        let encoded = text["keys"][0]["x5c"][0].as_str().unwrap();
        let mut der = STANDARD.decode(encoded).unwrap();
        let at = at.index(der.len());
        der[at] = with;
        text["keys"][0]["x5c"][0] = STANDARD.encode(&der).into();
        if let Ok(read) = parse(&text) {
            prop_assert_eq!(read.bundle.authorities()[0].as_ref(), der.as_slice());
            let (rest, certificate) = X509Certificate::from_der(&der).unwrap();
            prop_assert!(rest.is_empty() && certificate.is_ca());
            let usage = certificate.key_usage().unwrap().unwrap();
            prop_assert!(usage.value.key_cert_sign());
            let names = certificate.subject_alternative_name().unwrap();
            let names = names.map(|names| names.value.general_names.len());
            prop_assert!(names.is_none() || der.windows(19).any(|w| w == b"spiffe://mesh.local"));
        }
    }

    #[test]
    fn nothing_that_is_published_ends_the_reader(text in ".*", at in 0..4000_usize, with in any::<char>()) {
        drop(BundleDocument::parse(domain(), &text));
        let (_, good) = written();
        let changed: String = good
            .to_string()
            .chars()
            .enumerate()
            .map(|(position, c)| if position == at { with } else { c })
            .collect();
        drop(BundleDocument::parse(domain(), &changed));
    }
}
