//! `PeerAuthentication` and `RequestAuthentication`.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use reeve_core::{
    Namespace,
    model::{JwksDocument, JwtHeader, JwtRule},
};

use super::values::Notes;
use crate::{
    Code, Fault, LocalWorkload,
    jwks::{self, check_document},
    kinds::{JwtRuleSpec, Object, PeerAuthenticationSpec, RequestAuthenticationSpec, SelectorSpec},
    mesh::{Jwks, PeerAuthentication, RequestAuthentication, RequestRule, Scope},
    source::path::Path,
};

/// Difference of clocks that is forgiven (Envoy's default).
const LEEWAY: Duration = Duration::from_secs(60);

fn scope(namespace: &Namespace, root: &Namespace, selector: Option<&SelectorSpec>) -> Scope {
    Scope {
        namespace: (namespace != root).then(|| namespace.clone()),
        selector: selector.map(|s| s.match_labels.clone()).unwrap_or_default(),
    }
}

pub(super) fn peers(
    objects: &[Object<PeerAuthenticationSpec>],
    root: &Namespace,
    workloads: &[LocalWorkload],
    faults: &mut Vec<Fault>,
) -> Vec<PeerAuthentication> {
    let mut resolved: Vec<PeerAuthentication> = Vec::new();
    let mut claimed: HashMap<(usize, Option<&Namespace>), &str> = HashMap::new();
    for object in objects {
        let spec = &object.spec;
        let mut notes = Notes { object, faults };
        let scope = scope(&object.namespace, root, spec.selector.as_ref());
        let mode = spec.mtls.as_ref().and_then(|m| m.mode.as_deref());
        let mode = notes.mtls_mode(&Path::of(&["spec", "mtls", "mode"]), mode);
        let ports = ports(&mut notes, &scope);
        if scope.rank() < 2 {
            if resolved.iter().any(|p| p.scope == scope) {
                let text = "there are two of these without a selector in one namespace";
                notes.hint(
                    &Path::of(&["kind"]),
                    Code::Conflict,
                    text,
                    "keep one; select workloads in the other",
                );
            }
        } else {
            for (n, workload) in workloads
                .iter()
                .enumerate()
                .filter(|(_, w)| scope.covers(w))
            {
                if let Some(other) = claimed.insert((n, None), &object.name) {
                    let text = format!("{other} selects the workload {} too", workload.name);
                    notes.error(&Path::of(&["spec", "selector"]), Code::Conflict, text);
                }
            }
        }
        resolved.push(PeerAuthentication { scope, mode, ports });
    }
    resolved
}

fn ports(
    notes: &mut Notes<'_, PeerAuthenticationSpec>,
    scope: &Scope,
) -> BTreeMap<u16, Option<reeve_core::model::MtlsMode>> {
    let path = Path::of(&["spec", "portLevelMtls"]);
    let specs = &notes.object.spec.port_level_mtls;
    if !specs.is_empty() && scope.selector.is_empty() {
        notes.hint(
            &path,
            Code::Invalid,
            "modes by port need a selector",
            "add spec.selector.matchLabels",
        );
    }
    let mut ports = BTreeMap::new();
    for (key, spec) in specs {
        let path = path.key(key);
        match key.parse() {
            Ok(0) | Err(_) => notes.error(&path, Code::Invalid, format!("{key:?} is not a port")),
            Ok(port) => {
                let mode = notes.mtls_mode(&path.key("mode"), spec.mode.as_deref());
                ports.insert(port, mode);
            }
        }
    }
    ports
}

pub(super) fn requests(
    objects: &[Object<RequestAuthenticationSpec>],
    root: &Namespace,
    faults: &mut Vec<Fault>,
) -> Vec<RequestAuthentication> {
    let mut resolved = Vec::new();
    for object in objects {
        let mut notes = Notes { object, faults };
        let mut rules = Vec::new();
        for (n, spec) in object.spec.jwt_rules.iter().enumerate() {
            let path = Path::of(&["spec", "jwtRules"]).index(n);
            let name = format!("{}/{}/{n}", object.namespace, object.name);
            rules.extend(rule(&mut notes, &path, name, spec));
        }
        let scope = scope(&object.namespace, root, object.spec.selector.as_ref());
        resolved.push(RequestAuthentication { scope, rules });
    }
    resolved
}

fn rule(
    notes: &mut Notes<'_, RequestAuthenticationSpec>,
    path: &Path,
    name: String,
    spec: &JwtRuleSpec,
) -> Option<RequestRule> {
    if spec.issuer.is_empty() {
        notes.error(&path.key("issuer"), Code::Missing, "the rule has no issuer");
    }
    if let Some(text) = &spec.timeout {
        notes.duration(&path.key("timeout"), text);
    }
    let (source, inline) = keys(notes, path, spec)?;
    let header = |h: &crate::kinds::JwtHeaderSpec| JwtHeader {
        name: h.name.to_ascii_lowercase(),
        prefix: h.prefix.clone().unwrap_or_default(),
    };
    for (n, h) in spec.from_headers.iter().enumerate() {
        notes.header_name(&path.key("fromHeaders").index(n).key("name"), &h.name);
    }
    for (n, c) in spec.output_claim_to_headers.iter().enumerate() {
        let path = path.key("outputClaimToHeaders").index(n);
        notes.header_name(&path.key("header"), &c.header);
        if c.claim.is_empty() {
            notes.error(&path.key("claim"), Code::Missing, "there is no claim");
        }
    }
    let claims = spec.output_claim_to_headers.iter();
    let claims = claims.map(|c| (c.header.to_ascii_lowercase(), c.claim.clone()));
    Some(RequestRule {
        rule: JwtRule {
            name,
            issuer: spec.issuer.clone(),
            audiences: spec.audiences.clone(),
            from_headers: spec.from_headers.iter().map(header).collect(),
            from_params: spec.from_params.clone(),
            forward_original_token: spec.forward_original_token,
            claims_to_headers: claims.collect(),
            leeway: LEEWAY,
            jwks: inline,
        },
        jwks: source,
    })
}

fn keys(
    notes: &mut Notes<'_, RequestAuthenticationSpec>,
    path: &Path,
    spec: &JwtRuleSpec,
) -> Option<(Jwks, Option<JwksDocument>)> {
    match (&spec.jwks, &spec.jwks_uri) {
        (Some(json), None) => match check_document(json) {
            Ok(()) => Some((Jwks::Inline, Some(jwks::document(json)))),
            Err(reason) => {
                notes.hint(
                    &path.key("jwks"),
                    Code::Invalid,
                    reason,
                    "give a JSON Web Key Set (RFC 7517)",
                );
                None
            }
        },
        (None, Some(uri)) => {
            let parsed = uri.parse::<http::Uri>().ok();
            let usable = |u: http::Uri| {
                matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some()
            };
            if !parsed.is_some_and(usable) {
                notes.error(
                    &path.key("jwksUri"),
                    Code::Invalid,
                    format!("{uri:?} is not an http or https URL"),
                );
                return None;
            }
            Some((Jwks::Uri(uri.clone()), None))
        }
        (Some(_), Some(_)) => {
            notes.error(
                &path.key("jwksUri"),
                Code::Conflict,
                "give jwks or jwksUri, not both",
            );
            None
        }
        (None, None) => {
            let text = "the rule has no keys";
            notes.hint(path, Code::Missing, text, "give jwks (inline) or jwksUri; discovery by issuer is not supported in this version");
            None
        }
    }
}
