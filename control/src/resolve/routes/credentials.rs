//! `tls` of a `Gateway`'s server.

use reeve_core::{Namespace, model::TlsVersion};

use crate::{
    Code,
    kinds::{GatewaySpec, ServerTlsSpec},
    mesh::{Credential, GatewayCertificates, GatewayClients, GatewayTls},
    resolve::values::Notes,
    source::path::Path,
};

/// Certificates of one server.
const MAX_CERTIFICATES: usize = 8;
/// Cipher suites of TLS 1.2 by OpenSSL's names (BoringSSL's set, as in Envoy, without CBC).
const CIPHER_SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

type GwNotes<'a> = Notes<'a, GatewaySpec>;

/// How the server ends TLS. Where nothing is said, the enumeration's first value holds, which is PASSTHROUGH.
pub(super) fn tls(notes: &mut GwNotes<'_>, path: &Path, spec: &ServerTlsSpec) -> GatewayTls {
    let mode_path = path.key("mode");
    let mode = spec.mode.as_deref().unwrap_or("PASSTHROUGH");
    if spec.https_redirect {
        let text = "only a server in plaintext redirects to https";
        let hint = "set it on a server of protocol HTTP without a mode";
        notes.warn(&path.key("httpsRedirect"), Code::Conflict, text, hint);
    }
    match mode {
        "" | "PASSTHROUGH" => GatewayTls::Passthrough,
        "ISTIO_MUTUAL" => {
            if !certificates_named(spec).is_empty() {
                let text = "with ISTIO_MUTUAL the workload's own certificate is shown";
                notes.error(&mode_path, Code::Conflict, text);
            }
            GatewayTls::Mesh
        }
        "SIMPLE" | "MUTUAL" | "OPTIONAL_MUTUAL" => {
            GatewayTls::Public(certificates(notes, path, spec, mode))
        }
        "AUTO_PASSTHROUGH" => GatewayTls::AutoPassthrough,
        other => {
            let hint = "use PASSTHROUGH, AUTO_PASSTHROUGH, SIMPLE, MUTUAL, OPTIONAL_MUTUAL or ISTIO_MUTUAL";
            notes.hint(
                &mode_path,
                Code::Invalid,
                format!("{other} is no mode"),
                hint,
            );
            GatewayTls::Passthrough
        }
    }
}

/// The ways to name certificates that are used.
fn certificates_named(spec: &ServerTlsSpec) -> Vec<&'static str> {
    let ways = [
        ("credentialName", !spec.credential_name.is_empty()),
        ("credentialNames", !spec.credential_names.is_empty()),
        ("tlsCertificates", !spec.tls_certificates.is_empty()),
        ("serverCertificate", !spec.server_certificate.is_empty()),
    ];
    let used = ways.into_iter().filter(|(_, used)| *used);
    used.map(|(name, _)| name).collect()
}

fn certificates(
    notes: &mut GwNotes<'_>,
    path: &Path,
    spec: &ServerTlsSpec,
    mode: &str,
) -> GatewayCertificates {
    let mut found = Vec::new();
    match certificates_named(spec).as_slice() {
        [] => {
            let text = format!("{mode} needs a certificate");
            let hint =
                "name a Secret in credentialName, or files in serverCertificate and privateKey";
            notes.hint(path, Code::Missing, text, hint);
        }
        [_] => found = sources(notes, path, spec),
        [first, second, ..] => {
            let text = format!("{first} and {second} both name certificates");
            notes.error(&path.key(second), Code::Conflict, text);
        }
    }
    if found.len() > MAX_CERTIFICATES {
        let text = format!("at most {MAX_CERTIFICATES} certificates for one server");
        notes.error(path, Code::TooLarge, text);
    }
    for (n, name) in spec.cipher_suites.iter().enumerate() {
        if !CIPHER_SUITES.contains(&name.as_str()) {
            let hint = format!("use {}", CIPHER_SUITES.join(", "));
            let path = path.key("cipherSuites").index(n);
            notes.hint(
                &path,
                Code::Unsupported,
                format!("{name:?} is not spoken"),
                &hint,
            );
        }
    }
    let least = version(
        notes,
        path,
        "minProtocolVersion",
        &spec.min_protocol_version,
    );
    let most = version(
        notes,
        path,
        "maxProtocolVersion",
        &spec.max_protocol_version,
    );
    let (least, most) = (
        least.unwrap_or(TlsVersion::V1_2),
        most.unwrap_or(TlsVersion::V1_3),
    );
    if least > most {
        let text = "the oldest version is newer than the newest";
        notes.error(&path.key("minProtocolVersion"), Code::Conflict, text);
    }
    GatewayCertificates {
        client: clients(notes, path, spec, mode),
        certificates: found,
        min_version: least,
        max_version: most,
        cipher_suites: spec.cipher_suites.clone(),
    }
}

fn sources(notes: &mut GwNotes<'_>, path: &Path, spec: &ServerTlsSpec) -> Vec<Credential> {
    if !spec.credential_name.is_empty() {
        let found = secret(notes, &path.key("credentialName"), &spec.credential_name);
        return found.into_iter().collect();
    }
    if !spec.server_certificate.is_empty() {
        return vec![Credential::Files {
            certificate: file(
                notes,
                &path.key("serverCertificate"),
                &spec.server_certificate,
            ),
            key: file(notes, &path.key("privateKey"), &spec.private_key),
        }];
    }
    let mut found = Vec::new();
    for (n, name) in spec.credential_names.iter().enumerate() {
        found.extend(secret(notes, &path.key("credentialNames").index(n), name));
    }
    for (n, pair) in spec.tls_certificates.iter().enumerate() {
        let path = path.key("tlsCertificates").index(n);
        found.push(Credential::Files {
            certificate: file(
                notes,
                &path.key("serverCertificate"),
                &pair.server_certificate,
            ),
            key: file(notes, &path.key("privateKey"), &pair.private_key),
        });
    }
    found
}

fn clients(
    notes: &mut GwNotes<'_>,
    path: &Path,
    spec: &ServerTlsSpec,
    mode: &str,
) -> Option<GatewayClients> {
    if mode == "SIMPLE" {
        for (key, used) in [
            ("subjectAltNames", !spec.subject_alt_names.is_empty()),
            (
                "verifyCertificateSpki",
                !spec.verify_certificate_spki.is_empty(),
            ),
            (
                "verifyCertificateHash",
                !spec.verify_certificate_hash.is_empty(),
            ),
        ] {
            if used {
                let text = "SIMPLE asks clients for no certificate that this could be about";
                notes.hint(&path.key(key), Code::Conflict, text, "use MUTUAL");
            }
        }
        return None;
    }
    let by_file = !spec.ca_certificates.is_empty();
    let pairs = spec
        .tls_certificates
        .iter()
        .map(|p| p.ca_certificates.as_str());
    let of_pairs = pairs.clone().find(|p| !p.is_empty());
    let authorities = if !spec.ca_cert_credential_name.is_empty() {
        let path = path.key("caCertCredentialName");
        secret(notes, &path, &spec.ca_cert_credential_name)?
    } else if by_file || of_pairs.is_some() {
        let authorities = of_pairs
            .filter(|_| !by_file)
            .unwrap_or(&spec.ca_certificates);
        let revoked = (!spec.ca_crl.is_empty()).then_some(&spec.ca_crl);
        Credential::Authorities {
            authorities: file(notes, &path.key("caCertificates"), authorities),
            revoked: revoked.map(|f| file(notes, &path.key("caCrl"), f)),
        }
    } else {
        let named = Some(&spec.credential_name).filter(|name| !name.is_empty());
        match named.or(spec.credential_names.first()) {
            Some(name) => secret(notes, &path.key("credentialName"), name)?,
            None => {
                let text = format!("{mode} needs authorities to judge clients by");
                notes.error(&path.key("caCertificates"), Code::Missing, text);
                return None;
            }
        }
    };
    let hashes = spec.verify_certificate_hash.iter();
    Some(GatewayClients {
        required: mode == "MUTUAL",
        authorities,
        subject_alt_names: spec.subject_alt_names.clone(),
        pins: hashes
            .chain(&spec.verify_certificate_spki)
            .cloned()
            .collect(),
    })
}

/// `NAME`, `kubernetes://NAME` or `kubernetes-gateway://NAMESPACE/NAME`.
fn secret(notes: &mut GwNotes<'_>, path: &Path, text: &str) -> Option<Credential> {
    let bare = text.strip_prefix("kubernetes://").unwrap_or(text);
    let spread = bare
        .strip_prefix("kubernetes-gateway://")
        .map(|rest| rest.split_once('/'));
    let (namespace, name) = match spread {
        None => (None, bare),
        Some(Some((namespace, name))) => (Some(namespace), name),
        Some(None) => (None, ""),
    };
    let namespace = namespace.map(Namespace::parse).transpose();
    let legal = reeve_core::WorkloadName::parse(name).is_ok();
    match namespace {
        Ok(namespace) if legal => Some(Credential::Secret {
            namespace,
            name: name.to_owned(),
        }),
        Ok(_) | Err(_) => {
            let said = format!("{text:?} is not the name of a Secret");
            notes.error(path, Code::Invalid, said);
            None
        }
    }
}

fn file(notes: &mut GwNotes<'_>, path: &Path, name: &str) -> String {
    if !name.starts_with('/') || name.contains('\0') {
        let text = format!("{name:?} is not the path of a file from the root on");
        let hint = "begin it with a slash; it is a file of the gateway's machine";
        notes.hint(path, Code::Invalid, text, hint);
    }
    name.to_owned()
}

fn version(
    notes: &mut GwNotes<'_>,
    path: &Path,
    key: &str,
    text: &Option<String>,
) -> Option<TlsVersion> {
    let text = text.as_deref()?;
    let path = path.key(key);
    if matches!(text, "TLSV1_0" | "TLSV1_1") {
        let said = format!("{text} is not spoken any more (RFC 8996)");
        notes.hint(&path, Code::Unsupported, said, "use TLSV1_2 or TLSV1_3");
        return None;
    }
    let words = [
        ("TLS_AUTO", None),
        ("TLSV1_2", Some(TlsVersion::V1_2)),
        ("TLSV1_3", Some(TlsVersion::V1_3)),
    ];
    notes.word(&path, text, &words).flatten()
}
