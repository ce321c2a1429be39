//! `corsPolicy`.

use reeve_core::model::{CorsPolicy, StringMatch};

use super::VsNotes;
use crate::{Code, kinds::CorsSpec, source::path::Path};

pub(super) fn policy(notes: &mut VsNotes<'_>, path: &Path, spec: &CorsSpec) -> CorsPolicy {
    let origins = match &spec.allow_origins {
        Some(origins) => {
            let each = origins.iter().enumerate();
            let path = path.key("allowOrigins");
            each.filter_map(|(n, m)| notes.string_match(&path.index(n), m))
                .collect()
        }
        // The older field, all of it exact.
        None => spec
            .allow_origin
            .iter()
            .cloned()
            .map(StringMatch::Exact)
            .collect(),
    };
    for (key, names) in [
        ("allowMethods", &spec.allow_methods),
        ("allowHeaders", &spec.allow_headers),
        ("exposeHeaders", &spec.expose_headers),
    ] {
        for (n, name) in names.iter().enumerate() {
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                let text = format!("{name:?} is no name");
                notes.error(&path.key(key).index(n), Code::Invalid, text);
            }
        }
    }
    let words = [("UNSPECIFIED", false), ("FORWARD", false), ("IGNORE", true)];
    let unmatched = spec.unmatched_preflights.as_deref();
    let path_of = path.key("unmatchedPreflights");
    let max_age = spec.max_age.as_deref();
    CorsPolicy {
        allow_origins: origins,
        allow_methods: spec.allow_methods.clone(),
        allow_headers: spec.allow_headers.clone(),
        expose_headers: spec.expose_headers.clone(),
        max_age: max_age.and_then(|text| match text {
            "0s" => Some(std::time::Duration::ZERO),
            text => notes.duration(&path.key("maxAge"), text),
        }),
        allow_credentials: spec.allow_credentials,
        ignore_unmatched_preflights: unmatched
            .and_then(|word| notes.word(&path_of, word, &words))
            .unwrap_or_default(),
    }
}
