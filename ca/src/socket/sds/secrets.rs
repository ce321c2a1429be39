//! What each name stands for.

use envoy_types::pb::{
    envoy::{
        config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate,
            secret::Type, spiffe_cert_validator_config::TrustDomain as Validated,
        },
    },
    google::protobuf::Any,
};
use prost::Message;
use reeve_core::TrustDomain;
use reeve_svid::{TrustBundle, X509Svid};

use crate::identities::Ready;

/// The type of every resource here.
pub(super) const SECRET: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Our certificate and key.
pub(super) const DEFAULT: &str = "default";
/// The validation context of our own trust domain.
pub(super) const ROOT_CA: &str = "ROOTCA";
/// The validation context of all trust domains.
const ALL: &str = "ALL";

/// The extension of Envoy that judges each peer by the bundle of its own trust domain.
const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const VALIDATOR_CONFIG: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
/// A trust domain that no certificate names (RFC 6761 section 6.4).
const NOBODY: &str = "withdrawn.invalid";

/// Whether there is such a secret for who has the identities `current`.
pub(super) fn is_served(name: &str, current: &[Ready]) -> bool {
    let Some(bundle) = bundle(current) else {
        return false;
    };
    [ROOT_CA, ALL].contains(&name)
        || certificate_of(name, current).is_some()
        || named(name).is_some_and(|domain| bundle.of(&domain).is_some())
}

/// Differs whenever the secret does.
pub(super) fn version(name: &str, current: &[Ready]) -> Option<String> {
    match certificate_of(name, current) {
        Some(svid) => Some(svid.serial().to_owned()),
        None => Some(bundle(current)?.sequence().to_string()),
    }
}

/// The secret of a name that was served before, at least; none of an identity that is no longer among these.
pub(super) fn any(name: &str, current: &[Ready]) -> Option<Any> {
    let r#type = match certificate_of(name, current) {
        Some(svid) => Type::TlsCertificate(certificate(svid)),
        None => Type::ValidationContext(context(name, bundle(current)?)?),
    };
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(r#type),
    };
    Some(Any {
        type_url: SECRET.to_owned(),
        value: secret.encode_to_vec(),
    })
}

/// The trust bundle, which is the same for all identities.
fn bundle(current: &[Ready]) -> Option<&TrustBundle> {
    current.first().map(|one| &*one.credentials.bundle)
}

fn certificate_of<'c>(name: &str, current: &'c [Ready]) -> Option<&'c X509Svid> {
    let mut own = current.iter().map(|one| &*one.credentials.svid);
    match name {
        DEFAULT => own.next(),
        name => own.find(|svid| name == svid.id().as_str()),
    }
}

/// The trust domain whose SPIFFE ID this is.
fn named(name: &str) -> Option<TrustDomain> {
    TrustDomain::parse(name.strip_prefix("spiffe://")?).ok()
}

fn certificate(svid: &X509Svid) -> TlsCertificate {
    TlsCertificate {
        certificate_chain: Some(inline(svid.chain_pem())),
        private_key: Some(inline(svid.key_pkcs8_pem().to_string())),
        ..Default::default()
    }
}

/// Of `ROOTCA`, `ALL` or a trust domain; another name has none.
fn context(name: &str, bundle: &TrustBundle) -> Option<CertificateValidationContext> {
    if name == ALL {
        let all = bundle.all().map(|one| (one.trust_domain().as_str(), one));
        return Some(spiffe(all));
    }
    let own = CertificateValidationContext {
        trusted_ca: Some(inline(bundle.to_pem())),
        ..Default::default()
    };
    if name == ROOT_CA {
        return Some(own);
    }
    let domain = named(name)?;
    if domain == *bundle.trust_domain() {
        return Some(own);
    }
    Some(match bundle.of(&domain) {
        // SECURITY: by its authorities alone Envoy would take its word for our own workloads, too.
        Some(other) => spiffe([(other.trust_domain().as_str(), other)].into_iter()),
        // SECURITY: a peer that got this context keeps it until there is another; this one admits nobody, for there is no
        // such trust domain (and Envoy wants one).
        None => spiffe([(NOBODY, bundle)].into_iter()),
    })
}

fn spiffe<'b>(
    bundles: impl Iterator<Item = (&'b str, &'b TrustBundle)>,
) -> CertificateValidationContext {
    let validated = |(name, bundle): (&str, &TrustBundle)| Validated {
        name: name.to_owned(),
        trust_bundle: Some(inline(bundle.to_pem())),
        ..Default::default()
    };
    let config = SpiffeCertValidatorConfig {
        trust_domains: bundles.map(validated).collect(),
        ..Default::default()
    };
    CertificateValidationContext {
        custom_validator_config: Some(TypedExtensionConfig {
            name: VALIDATOR.to_owned(),
            typed_config: Some(Any {
                type_url: VALIDATOR_CONFIG.to_owned(),
                value: config.encode_to_vec(),
            }),
        }),
        ..Default::default()
    }
}

fn inline(text: String) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(text.into_bytes())),
        ..Default::default()
    }
}
