//! Kubernetes' `Secret`, as far as it holds certificates and keys.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reeve_core::model::{KeyPem, SecretName, TlsSecret};
use zeroize::Zeroizing;

use super::values::Notes;
use crate::{
    Code, Fault,
    kinds::{Object, SecretSpec, SecretText},
    source::path::Path,
};

/// Largest value of a `Secret` (Kubernetes bounds all of one to this).
const MAX_SECRET_BYTES: usize = 1024 * 1024;

/// Key material by name.
pub(crate) type Secrets = BTreeMap<SecretName, Arc<TlsSecret>>;

/// The names of one part, the usual one first (Istio takes the others in generic secrets).
const CERTIFICATE: [&str; 2] = ["tls.crt", "cert"];
const KEY: [&str; 2] = ["tls.key", "key"];
const AUTHORITIES: [&str; 2] = ["ca.crt", "cacert"];
const REVOKED: [&str; 2] = ["ca.crl", "crl"];

pub(super) fn resolve(objects: &[Object<SecretSpec>], faults: &mut Vec<Fault>) -> Secrets {
    let mut secrets = Secrets::new();
    for object in objects {
        let mut notes = Notes { object, faults };
        let mut part = |names: [&str; 2]| {
            let found = names.iter().find_map(|name| part(&mut notes, name));
            found.unwrap_or_default()
        };
        let (certificate, key) = (part(CERTIFICATE), part(KEY));
        let (authorities, revoked) = (part(AUTHORITIES), part(REVOKED));
        if certificate.is_empty() && authorities.is_empty() {
            continue; // Something else than TLS.
        }
        if certificate.is_empty() != key.is_empty() {
            let text = "a certificate needs its key, and a key its certificate";
            notes.error(&Path::of(&["data"]), Code::Missing, text);
        }
        let name = SecretName(format!("{}/{}", object.namespace, object.name));
        let secret = TlsSecret {
            name: name.clone(),
            certificate_chain: certificate.to_string(),
            private_key: KeyPem::new(key.to_string()),
            authorities: authorities.to_string(),
            revoked: revoked.to_string(),
        };
        secrets.insert(name, Arc::new(secret));
    }
    secrets
}

/// One part's text; what `stringData` says wins, as in Kubernetes.
fn part(notes: &mut Notes<'_, SecretSpec>, name: &str) -> Option<Zeroizing<String>> {
    let spec = &notes.object.spec;
    let (field, text) = match (spec.string_data.get(name), spec.data.get(name)) {
        (Some(text), _) => ("stringData", Some(Zeroizing::new(text.expose().to_owned()))),
        (None, Some(encoded)) => ("data", decoded(encoded)),
        (None, None) => return None,
    };
    let path = Path::of(&[field, name]);
    let Some(text) = text else {
        notes.error(&path, Code::Invalid, "not the base64 of a text");
        return None;
    };
    if text.len() > MAX_SECRET_BYTES {
        let said = format!("longer than {MAX_SECRET_BYTES} bytes");
        notes.error(&path, Code::TooLarge, said);
        return None;
    }
    if !text.is_empty() && !text.contains("-----BEGIN ") {
        notes.error(&path, Code::Invalid, "not PEM: there is no BEGIN line");
        return None;
    }
    Some(text)
}

/// The text under `name`, whatever it is.
pub(super) fn text_of(spec: &SecretSpec, name: &str) -> Option<Zeroizing<String>> {
    match (spec.string_data.get(name), spec.data.get(name)) {
        (Some(text), _) => Some(Zeroizing::new(text.expose().to_owned())),
        (None, Some(encoded)) => decoded(encoded),
        (None, None) => None,
    }
}

fn decoded(encoded: &SecretText) -> Option<Zeroizing<String>> {
    let compact: Zeroizing<String> = Zeroizing::new(encoded.expose().split_whitespace().collect());
    let bytes = Zeroizing::new(STANDARD.decode(compact.as_bytes()).ok()?);
    let text = std::str::from_utf8(&bytes).ok()?;
    Some(Zeroizing::new(text.to_owned()))
}
