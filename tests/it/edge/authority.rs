//! A certificate authority of the outside world.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use serde_json::json;

/// An authority, and what it issues.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, both PEM.
pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these DNS names and URIs.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.contains("://") {
                true => SanType::URI((*name).try_into().expect("a URI")),
                false => SanType::DnsName((*name).try_into().expect("a name")),
            })
            .collect();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        let key = KeyPair::generate().expect("a key");
        let made = params.signed_by(&key, &self.0).expect("a certificate");
        Issued {
            chain: made.pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Issued {
    /// As a Kubernetes `Secret`, with authorities for clients if there are any.
    pub(crate) fn secret(&self, name: &str, authorities: Option<&Authority>) -> String {
        let mut data = json!({"tls.crt": self.chain, "tls.key": self.key});
        if let Some(authority) = authorities {
            data["ca.crt"] = json!(authority.pem());
        }
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": "default"}, "stringData": data,
        });
        format!("---\n{secret:#}\n")
    }
}
