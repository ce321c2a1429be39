//! `@request.auth.claims…` among `headers` and `withoutHeaders`: conditions on the verified token, at gateways alone
//! (<https://istio.io/latest/docs/tasks/security/authentication/jwt-route/>).

use std::collections::BTreeMap;

use reeve_core::model::HeaderMatch;

use super::VsNotes;
use crate::{
    Code,
    kinds::{MatchSpec, StringMatchSpec},
    resolve::{routes::MESH, values::Case},
    source::path::Path,
};

/// What Istio calls the verified token among headers.
const PREFIX: &str = "@request.auth.claims";

type Specs = BTreeMap<String, StringMatchSpec>;

/// Conditions on headers, and on claims.
pub(super) fn split(
    notes: &mut VsNotes<'_>,
    path: &Path,
    spec: &MatchSpec,
    specs: &Specs,
) -> (BTreeMap<String, HeaderMatch>, BTreeMap<String, HeaderMatch>) {
    let mut headers = Specs::new();
    let mut claims = BTreeMap::new();
    for (name, condition) in specs {
        let Some(claim) = claim(name) else {
            headers.insert(name.clone(), condition.clone());
            continue;
        };
        check_place(notes, &path.key(name), spec);
        let one = [(name.clone(), condition.clone())].into();
        let found = notes.value_matches(path, &one, Case::Kept);
        claims.extend(found.into_values().map(|found| (claim.clone(), found)));
    }
    (notes.header_matches(path, &headers, Case::Lower), claims)
}

/// Sidecars verify what they are asked, not what they ask: there is no token to look into.
fn check_place(notes: &mut VsNotes<'_>, path: &Path, spec: &MatchSpec) {
    let whole = &notes.object.spec;
    // A delegate holds where its root does.
    let is_delegate = whole.hosts.is_empty();
    let gateways = match spec.gateways.is_empty() {
        true => &whole.gateways,
        false => &spec.gateways,
    };
    let in_mesh = gateways.is_empty() || gateways.iter().any(|name| name == MESH);
    if in_mesh && !is_delegate {
        let text = "claims are looked at by gateways alone, and the rule holds for sidecars too";
        let hint = "name the gateways in spec.gateways, without mesh";
        notes.hint(path, Code::Invalid, text, hint);
    }
}

/// The claim's name, nested ones joined with dots: `.a.b` or `[a][b]` behind the prefix.
fn claim(name: &str) -> Option<String> {
    let rest = name.strip_prefix(PREFIX)?;
    let parts: Vec<&str> = match rest.strip_prefix('.') {
        Some(dotted) => dotted.split('.').collect(),
        None => {
            let inner = rest.strip_prefix('[')?.strip_suffix(']')?;
            inner.split("][").collect()
        }
    };
    let whole = parts.iter().all(|part| !part.is_empty());
    whole.then(|| parts.join("."))
}

#[cfg(test)]
mod tests {
    use super::claim;

    #[test]
    fn claims_are_named_in_two_ways() {
        for (name, wanted) in [
            ("@request.auth.claims.groups", Some("groups")),
            ("@request.auth.claims.realm.roles", Some("realm.roles")),
            ("@request.auth.claims[realm][roles]", Some("realm.roles")),
            ("@request.auth.claims[https://a.b/c]", Some("https://a.b/c")),
            ("@request.auth.claims", None),
            ("@request.auth.claims.", None),
            ("@request.auth.claims..a", None),
            ("@request.auth.claims[]", None),
            ("@request.auth.claims-a", None),
            ("x-request.auth.claims.a", None),
        ] {
            assert_eq!(claim(name).as_deref(), wanted, "{name}");
        }
    }
}
