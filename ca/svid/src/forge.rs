//! Certificates for tests: good ones, and ones with exactly one fault.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use reeve_core::{TrustDomain, UnixTime};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{TrustBundle, X509Svid};

pub(crate) const ID: &str = "spiffe://mesh.local/ns/default/sa/reviews";
/// When the certificates of these tests are valid.
pub(crate) const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// An authority of a trust domain, with an intermediate.
pub(crate) struct Forge {
    pub(crate) root: CertificateDer<'static>,
    pub(crate) intermediate: CertificateDer<'static>,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

pub(crate) fn valid(params: &mut CertificateParams, from: UnixTime, to: UnixTime) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from.as_secs());
    params.not_after = epoch + Duration::from_secs(to.as_secs());
}

fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A good leaf's parameters.
pub(crate) fn leaf(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    valid(&mut params, NOW.minus(hours(1)), NOW.plus(hours(1)));
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.serial_number = Some(SerialNumber::from_slice(&[0x2a]));
    params
}

/// A good signing certificate's parameters.
pub(crate) fn signing(name: &str, domain: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    valid(&mut params, NOW.minus(hours(24)), NOW.plus(hours(24)));
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

pub(crate) fn self_signed(
    params: CertificateParams,
) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.der().clone(), Issuer::new(params, key))
}

impl Forge {
    pub(crate) fn new(domain: &str) -> Self {
        Self::with_intermediate(domain, signing("intermediate", domain))
    }

    pub(crate) fn with_intermediate(domain: &str, params: CertificateParams) -> Self {
        Self::with_root_key(domain, params).0
    }

    /// The same, with the key of the root.
    pub(crate) fn with_root_key(domain: &str, params: CertificateParams) -> (Self, KeyPair) {
        Self::under(signing(&format!("root of {domain}"), domain), params)
    }

    /// With a root of these parameters.
    pub(crate) fn with_root(root: CertificateParams, params: CertificateParams) -> Self {
        Self::under(root, params).0
    }

    fn under(root: CertificateParams, params: CertificateParams) -> (Self, KeyPair) {
        let (root, root_issuer) = self_signed(root);
        let key = KeyPair::generate().unwrap();
        let intermediate = params.signed_by(&key, &root_issuer).unwrap();
        let this = Self {
            root,
            intermediate: intermediate.der().clone(),
            issuer: Issuer::new(params, key),
        };
        (
            this,
            KeyPair::from_pem(&root_issuer.key().serialize_pem()).unwrap(),
        )
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        let domain = TrustDomain::parse("mesh.local").unwrap();
        TrustBundle::new(domain, vec![self.root.clone()], 1).unwrap()
    }

    /// The chain of a leaf with these parameters, and its key.
    pub(crate) fn issue(
        &self,
        params: &CertificateParams,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        (
            vec![leaf.der().clone(), self.intermediate.clone()],
            der.into(),
        )
    }

    pub(crate) fn chain(&self, params: &CertificateParams) -> Vec<CertificateDer<'static>> {
        self.issue(params).0
    }

    pub(crate) fn svid(&self, id: &str) -> X509Svid {
        let (chain, key) = self.issue(&leaf(id));
        X509Svid::parse(chain, key).unwrap()
    }
}
