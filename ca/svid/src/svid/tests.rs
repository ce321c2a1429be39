use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384};
use rustls_pki_types::PrivateSec1KeyDer;

use super::*;
use crate::forge::{Forge, ID, leaf};

#[test]
fn a_chain_with_its_key_is_an_svid() {
    let forge = Forge::new("mesh.local");
    let svid = forge.svid(ID);
    assert_eq!(svid.id().as_str(), ID);
    assert_eq!(svid.chain().len(), 2);
    let debug = format!("{svid:?}");
    assert!(debug.contains(ID) && !debug.contains("pkcs8"), "{debug}");
}

#[test]
fn a_signature_verifies_with_the_leafs_key() {
    let forge = Forge::new("mesh.local");
    let svid = forge.svid(ID);
    let signature = svid.sign(b"batch").unwrap();
    let leaf = webpki::EndEntityCert::try_from(&svid.chain()[0]).unwrap();
    let algorithm = webpki::aws_lc_rs::ECDSA_P256_SHA256;
    assert!(
        leaf.verify_signature(algorithm, b"batch", &signature)
            .is_ok()
    );
    assert!(
        leaf.verify_signature(algorithm, b"other", &signature)
            .is_err()
    );
}

#[test]
fn another_leafs_key_is_refused() {
    let forge = Forge::new("mesh.local");
    let (chain, _) = forge.issue(&leaf(ID));
    let (_, key) = forge.issue(&leaf(ID));
    assert_eq!(
        X509Svid::parse(chain, key).unwrap_err(),
        SvidError::KeyMismatch
    );
}

#[test]
fn keys_in_other_forms_are_refused() {
    let forge = Forge::new("mesh.local");
    let (chain, _) = forge.issue(&leaf(ID));
    let sec1 = PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(vec![1, 2, 3]));
    assert_eq!(
        X509Svid::parse(chain.clone(), sec1).unwrap_err(),
        SvidError::KeyNotPkcs8
    );
    let junk = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(vec![1, 2, 3]));
    assert_eq!(
        X509Svid::parse(chain, junk).unwrap_err(),
        SvidError::UnsupportedKey
    );
}

#[test]
fn an_svid_of_another_curve_is_held_but_does_not_sign_records() {
    let forge = Forge::new("mesh.local");
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let certificate = leaf(ID).signed_by(&key, &forge.issuer).unwrap();
    let chain = vec![certificate.der().clone(), forge.intermediate.clone()];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let svid = X509Svid::parse(chain, key).unwrap();
    assert_eq!(svid.sign(b"x").unwrap_err(), SignError::NotP256);
}

#[test]
fn pem_reads_back() {
    let forge = Forge::new("mesh.local");
    let svid = forge.svid(ID);
    let read = crate::certificates_from_pem(svid.chain_pem().as_bytes()).unwrap();
    assert_eq!(read, svid.chain());
    let key = svid.key_pkcs8_pem();
    assert!(key.lines().all(|line| line.len() <= 64));
    let key = <PrivatePkcs8KeyDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(
        key.as_bytes(),
    );
    assert_eq!(
        key.unwrap().secret_pkcs8_der(),
        svid.key_pkcs8_der().as_slice()
    );
    let bundle = forge.bundle();
    let again =
        crate::TrustBundle::from_pem("mesh.local".parse().unwrap(), bundle.to_pem().as_bytes(), 1);
    assert_eq!(again.unwrap().authorities(), bundle.authorities());
}

#[test]
fn what_cannot_be_a_bundle_is_refused() {
    use crate::{BundleError, TrustBundle};
    let forge = Forge::new("mesh.local");
    let domain = || "mesh.local".parse().unwrap();
    let new = |authorities| TrustBundle::new(domain(), authorities, 0).unwrap_err();
    assert_eq!(new(vec![]), BundleError::Empty);
    assert_eq!(new(vec![forge.root.clone(); 65]), BundleError::TooMany(65));
    let (chain, _) = forge.issue(&leaf(ID));
    let source = SvidError::IssuerIsNotCa { position: 0 };
    assert_eq!(
        new(vec![chain[0].clone()]),
        BundleError::BadAuthority {
            position: 0,
            source
        }
    );
    let found = "other.local".parse().unwrap();
    let other = Forge::new("other.local").root;
    assert_eq!(
        new(vec![forge.root.clone(), other]),
        BundleError::ForeignAuthority { position: 1, found }
    );
    assert_eq!(
        TrustBundle::from_pem(domain(), b"nothing", 0).unwrap_err(),
        BundleError::Empty
    );
}
