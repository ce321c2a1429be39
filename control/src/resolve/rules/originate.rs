//! `trafficPolicy.tls`: how a client's proxy speaks to a service.

use std::sync::Arc;

use reeve_core::model::{AuthoritySource, CertificateSource, ClientTls, OriginateTls, SecretName};

use crate::{
    Code,
    index::OWN,
    kinds::{DestinationRuleSpec, TlsSpec},
    resolve::values::Notes,
    source::path::Path,
};

type DrNotes<'a> = Notes<'a, DestinationRuleSpec>;

/// What `caCertificates` says for the public authorities.
const SYSTEM: &str = "system";

pub(super) fn client_tls(notes: &mut DrNotes<'_>, path: &Path, spec: &TlsSpec) -> ClientTls {
    let mode_path = path.key("mode");
    match spec.mode.as_deref().unwrap_or("DISABLE") {
        "ISTIO_MUTUAL" => ClientTls::Mutual,
        "DISABLE" => ClientTls::Disable,
        mode @ ("SIMPLE" | "MUTUAL") => {
            let options = originate(notes, path, spec, mode);
            ClientTls::Originate(Arc::new(options))
        }
        other => {
            let text = format!("{other:?} is not allowed here");
            let hint = "use DISABLE, SIMPLE, MUTUAL or ISTIO_MUTUAL";
            notes.hint(&mode_path, Code::Invalid, text, hint);
            ClientTls::default()
        }
    }
}

fn originate(notes: &mut DrNotes<'_>, path: &Path, spec: &TlsSpec, mode: &str) -> OriginateTls {
    let by_file = !spec.client_certificate.is_empty() || !spec.private_key.is_empty();
    let by_secret = !spec.credential_name.is_empty();
    if by_secret && by_file {
        let text = "credentialName and clientCertificate both name a certificate";
        notes.error(&path.key("credentialName"), Code::Conflict, text);
    }
    if mode == "SIMPLE" && by_file {
        let text = "with SIMPLE no certificate is shown";
        notes.hint(
            &path.key("clientCertificate"),
            Code::Conflict,
            text,
            "use MUTUAL",
        );
    }
    if mode == "MUTUAL" && !by_file && !by_secret {
        let text = "MUTUAL needs a certificate to show";
        let hint = "name a Secret in credentialName, or files in clientCertificate and privateKey";
        notes.hint(path, Code::Missing, text, hint);
    }
    if spec.insecure_skip_verify {
        let text = "any server is taken for this service: its certificate is not verified";
        let hint = "name its authorities in caCertificates or credentialName";
        notes.warn(&path.key("insecureSkipVerify"), Code::Insecure, text, hint);
    }
    let secret = |suffix: &str| OWN.to_owned() + &spec.credential_name + suffix;
    let secret = |suffix: &str| SecretName(secret(suffix));
    let certificate = match mode {
        "MUTUAL" if by_secret => Some(CertificateSource::Secret(secret(""))),
        "MUTUAL" if by_file => Some(CertificateSource::Files {
            certificate: file(
                notes,
                &path.key("clientCertificate"),
                &spec.client_certificate,
            ),
            key: file(notes, &path.key("privateKey"), &spec.private_key),
        }),
        _ => None,
    };
    let authorities = match spec.ca_certificates.as_str() {
        "" if by_secret => Some(AuthoritySource::Secrets(vec![
            secret("-cacert"),
            secret(""),
        ])),
        "" | SYSTEM => None,
        _ => Some(AuthoritySource::File {
            authorities: file(notes, &path.key("caCertificates"), &spec.ca_certificates),
            revoked: (!spec.ca_crl.is_empty())
                .then(|| file(notes, &path.key("caCrl"), &spec.ca_crl)),
        }),
    };
    OriginateTls {
        sni: (!spec.sni.is_empty()).then(|| spec.sni.clone()),
        subject_alt_names: spec.subject_alt_names.clone(),
        authorities,
        certificate,
        danger_skip_verify: spec.insecure_skip_verify,
    }
}

fn file(notes: &mut DrNotes<'_>, path: &Path, name: &str) -> String {
    if !name.starts_with('/') || name.contains('\0') {
        let text = format!("{name:?} is not the path of a file from the root on");
        let hint = "begin it with a slash; it is a file of the proxy's machine";
        notes.hint(path, Code::Invalid, text, hint);
    }
    name.to_owned()
}
