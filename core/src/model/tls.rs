//! TLS with those outside the mesh: where a gateway ends it, and by which certificates.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::model::{Destination, Protocol, RouteTableName};

/// Names key material: `<namespace>/<name>` of a Kubernetes `Secret`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretName(pub String);

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The content of a TLS `Secret`. It goes only to the proxy that serves by it, and is in no dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSecret {
    /// Its name.
    pub name: SecretName,
    /// PEM, the leaf first; empty where the secret holds authorities alone.
    pub certificate_chain: String,
    /// PEM; empty where the secret holds authorities alone.
    pub private_key: KeyPem,
    /// PEM of the authorities by which peers are judged.
    pub authorities: String,
    /// PEM of certificate revocation lists.
    pub revoked: String,
}

/// A private key as PEM: zeroed when dropped, never shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct KeyPem(Zeroizing<String>);

impl KeyPem {
    /// Takes the text of a key.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for the TLS library and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for KeyPem {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<KeyPem> for String {
    fn from(key: KeyPem) -> Self {
        key.expose().to_owned()
    }
}

impl fmt::Debug for KeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPem(..)")
    }
}

/// Where a certificate and its key come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateSource {
    /// A `Secret`.
    Secret(SecretName),
    /// Files of the proxy's own machine.
    Files {
        /// The chain, PEM.
        certificate: String,
        /// The key, PEM.
        key: String,
    },
}

/// Where the authorities come from that judge a peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthoritySource {
    /// The first of these `Secret`s that has any.
    Secrets(Vec<SecretName>),
    /// A file of the proxy's own machine, PEM, and one of revocation lists if there is one.
    File {
        /// The authorities.
        authorities: String,
        /// The revocation lists.
        revoked: Option<String>,
    },
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[serde(rename = "TLSV1_2")]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "TLSV1_3")]
    V1_3,
}

/// TLS that a gateway ends, for the server names of one of its servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerTls {
    /// For people, and unique on its listener: the `Gateway` with its namespace, and the server's number.
    pub name: String,
    /// Server names in lower case: `host`, `*.suffix` or `*`; the last also stands for a ClientHello without a name.
    pub hosts: Vec<String>,
    /// Who the gateway is here, and whom it takes.
    pub mode: ServerTlsMode,
    /// What is spoken inside; `Tcp` needs `tcp`.
    pub protocol: Protocol,
    /// The route table that HTTP requests are matched in.
    pub routes: RouteTableName,
    /// Where bytes go that are no HTTP, with weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tcp: Vec<Destination>,
}

/// Who ends TLS, and by what peers are judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerTlsMode {
    /// The workload's own SVID, for workloads of the mesh (`ISTIO_MUTUAL`).
    Mesh,
    /// A certificate of its own (`SIMPLE`, `MUTUAL`, `OPTIONAL_MUTUAL`).
    Public(PublicTls),
}

/// How TLS is ended by a certificate from outside the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicTls {
    /// The first whose key the client can verify is shown.
    pub certificates: Vec<CertificateSource>,
    /// Whether clients show certificates.
    pub client: Option<ClientCertificates>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// The newest version that is spoken.
    pub max_version: TlsVersion,
    /// OpenSSL's names of the TLS 1.2 cipher suites that are spoken; none = all that there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cipher_suites: Vec<String>,
}

/// What is asked of a client's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificates {
    /// Whether a client without one is refused; one that is shown must verify in any case.
    pub required: bool,
    /// By what it is judged.
    pub authorities: AuthoritySource,
    /// One of these must be among its subject alternative names; none = any.
    pub subject_alt_names: Vec<String>,
    /// One of these must be its SHA-256 (hex) or that of its public key (base64); none = any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<String>,
}

/// How a proxy begins TLS towards a service outside the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct OriginateTls {
    /// The server name that is asked for; the service's host if not given.
    pub sni: Option<String>,
    /// One of these must be among the server's alternative names; none = the name asked for.
    pub subject_alt_names: Vec<String>,
    /// By what the server is judged; the public authorities if not given.
    pub authorities: Option<AuthoritySource>,
    /// What is shown to the server.
    pub certificate: Option<CertificateSource>,
    /// Whether any server is taken, whoever it is.
    pub danger_skip_verify: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_travels_and_is_never_shown() {
        let secret = TlsSecret {
            name: SecretName("default/shop".to_owned()),
            certificate_chain: "chain".to_owned(),
            private_key: KeyPem::new("the-key-itself".to_owned()),
            authorities: String::new(),
            revoked: String::new(),
        };
        assert!(!format!("{secret:?} {secret:#?}").contains("the-key-itself"));
        let wire = serde_json::to_string(&secret).unwrap();
        let back: TlsSecret = serde_json::from_str(&wire).unwrap();
        assert_eq!(back, secret);
        assert_eq!(back.private_key.expose(), "the-key-itself");
    }
}
