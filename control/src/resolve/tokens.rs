//! `RequestAuthentication`: which tokens a workload takes, and from where.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use reeve_authz::jwt::{JwksError, check_jwks};
use reeve_core::{
    Namespace, ServiceName, SpiffeId, TrustDomain,
    model::{JwksDocument, JwtHeader, JwtRule},
};

use super::{
    targets::{self, Targeting},
    values::Notes,
};
use crate::{
    Code, Fault,
    jwks::{self, MAX_SOURCES, WELL_KNOWN},
    kinds::{JwtRuleSpec, KubernetesGatewaySpec, Object, RequestAuthenticationSpec},
    mesh::{Jwks, KeyPlace, KeySource, RequestAuthentication, RequestRule, Service},
    source::path::Path,
};

/// Difference of clocks that is forgiven (Envoy's default).
const LEEWAY: Duration = Duration::from_secs(60);
/// Bound on one fetch of keys where none is given (Istio's default).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest bound on one fetch of keys.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// Most rules of one object (Istio's bound).
const MAX_RULES: usize = 4096;
/// Most places of one kind in which one rule looks for tokens.
const MAX_PLACES: usize = 64;
/// What frames or routes a message, or is said by the mesh alone: no claim is put there.
const RESERVED: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
    "x-request-id",
];

type TokenNotes<'a> = Notes<'a, RequestAuthenticationSpec>;

/// What the objects may speak of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) root: &'a Namespace,
    pub(super) services: &'a BTreeMap<ServiceName, Arc<Service>>,
    pub(super) gateways: &'a [Object<KubernetesGatewaySpec>],
    /// Our own trust domain, and those that we are federated with.
    pub(super) domains: &'a [&'a TrustDomain],
}

pub(super) fn resolve(
    objects: &[Object<RequestAuthenticationSpec>],
    known: Known<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<RequestAuthentication> {
    let mut resolved = Vec::new();
    for object in objects {
        let mut notes = Notes { object, faults };
        let path = Path::of(&["spec", "jwtRules"]);
        if object.spec.jwt_rules.len() > MAX_RULES {
            let text = format!("there are more than {MAX_RULES} rules");
            notes.error(&path, Code::Invalid, text);
            continue;
        }
        let mut rules = Vec::new();
        for (n, spec) in object.spec.jwt_rules.iter().enumerate() {
            let name = format!("{}/{}/{n}", object.namespace, object.name);
            let resolved = rule(&mut notes, &path.index(n), name, spec);
            if let Some(Jwks::Of(domain)) = resolved.as_ref().map(|rule| &rule.jwks)
                && !known.domains.contains(&domain)
            {
                unknown_domain(&mut notes, &path.index(n), domain);
            }
            rules.extend(resolved);
        }
        let targeting = Targeting {
            selector: object.spec.selector.as_ref(),
            target_ref: object.spec.target_ref.as_ref(),
            target_refs: &object.spec.target_refs,
            gateways: known.gateways,
        };
        let scopes = targets::scopes(&mut notes, known.root, known.services, targeting);
        resolved.push(RequestAuthentication { scopes, rules });
    }
    bound_sources(objects, &resolved, faults);
    resolved
}

/// What is beyond would never be fetched, and nobody would know.
fn bound_sources(
    objects: &[Object<RequestAuthenticationSpec>],
    resolved: &[RequestAuthentication],
    faults: &mut Vec<Fault>,
) {
    let mut known = std::collections::BTreeSet::new();
    for (object, resolved) in objects.iter().zip(resolved) {
        known.extend(resolved.rules.iter().filter_map(|rule| match &rule.jwks {
            Jwks::From(source) => Some(&source.place),
            Jwks::Inline | Jwks::Of(_) => None,
        }));
        if known.len() > MAX_SOURCES {
            let text = format!("the mesh fetches keys from more than {MAX_SOURCES} places");
            let path = Path::of(&["spec", "jwtRules"]);
            return faults.push(object.error(&path, Code::Invalid, text));
        }
    }
}

fn rule(
    notes: &mut TokenNotes<'_>,
    path: &Path,
    name: String,
    spec: &JwtRuleSpec,
) -> Option<RequestRule> {
    if spec.issuer.is_empty() {
        notes.error(&path.key("issuer"), Code::Missing, "the rule has no issuer");
    }
    let timeout = timeout(notes, &path.key("timeout"), spec.timeout.as_deref());
    places(notes, path, spec);
    let outputs = outputs(notes, path, spec);
    let (source, inline) = keys(notes, path, spec, timeout)?;
    let header = |h: &crate::kinds::JwtHeaderSpec| JwtHeader {
        name: h.name.to_ascii_lowercase(),
        prefix: h.prefix.clone().unwrap_or_default(),
    };
    Some(RequestRule {
        rule: JwtRule {
            name,
            issuer: spec.issuer.clone(),
            audiences: spec.audiences.clone(),
            from_headers: spec.from_headers.iter().map(header).collect(),
            from_params: spec.from_params.clone(),
            from_cookies: spec.from_cookies.clone(),
            forward_original_token: spec.forward_original_token,
            claims_to_headers: outputs,
            payload_to_header: spec
                .output_payload_to_header
                .as_ref()
                .map(|h| h.to_ascii_lowercase()),
            space_delimited_claims: spec.space_delimited_claims.clone(),
            leeway: LEEWAY,
            jwks: inline,
            svids: None,
        },
        jwks: source,
    })
}

fn timeout(notes: &mut TokenNotes<'_>, path: &Path, text: Option<&str>) -> Duration {
    let given = text.and_then(|text| notes.duration(path, text));
    let timeout = given.unwrap_or(DEFAULT_TIMEOUT);
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        let text = format!("a fetch of keys takes more than 0 s and at most {MAX_TIMEOUT:?}");
        notes.error(path, Code::Invalid, text);
    }
    timeout
}

/// Where tokens are looked for.
fn places(notes: &mut TokenNotes<'_>, path: &Path, spec: &JwtRuleSpec) {
    for (n, h) in spec.from_headers.iter().enumerate() {
        notes.header_name(&path.key("fromHeaders").index(n).key("name"), &h.name);
    }
    for (key, names) in [
        ("fromParams", &spec.from_params),
        ("fromCookies", &spec.from_cookies),
        ("spaceDelimitedClaims", &spec.space_delimited_claims),
    ] {
        for (n, name) in names.iter().enumerate() {
            if name.is_empty() {
                notes.error(&path.key(key).index(n), Code::Missing, "there is no name");
            }
        }
    }
    for (n, name) in spec.from_cookies.iter().enumerate() {
        // A cookie's name is a token (RFC 6265 section 4.1.1), as a header's is.
        if !name.is_empty() && http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            let text = format!("{name:?} is not the name of a cookie");
            notes.error(&path.key("fromCookies").index(n), Code::Invalid, text);
        }
    }
    for (key, count) in [
        ("audiences", spec.audiences.len()),
        ("fromHeaders", spec.from_headers.len()),
        ("fromParams", spec.from_params.len()),
        ("fromCookies", spec.from_cookies.len()),
        ("outputClaimToHeaders", spec.output_claim_to_headers.len()),
        ("spaceDelimitedClaims", spec.space_delimited_claims.len()),
    ] {
        if count > MAX_PLACES {
            let text = format!("there are more than {MAX_PLACES}");
            notes.error(&path.key(key), Code::Invalid, text);
        }
    }
}

/// The headers that claims are put into; each is named once.
fn outputs(notes: &mut TokenNotes<'_>, path: &Path, spec: &JwtRuleSpec) -> Vec<(String, String)> {
    let mut named: Vec<String> = Vec::new();
    let mut output = |notes: &mut TokenNotes<'_>, path: &Path, header: &str| {
        notes.header_name(path, header);
        let header = header.to_ascii_lowercase();
        if RESERVED.contains(&header.as_str()) || header.starts_with("x-reeve-") {
            let text = format!("{header} frames the message, or is the mesh's own to say");
            notes.error(path, Code::Invalid, text);
        }
        if named.contains(&header) {
            let text = format!("the rule puts two things into {header}");
            notes.error(path, Code::Conflict, text);
        }
        named.push(header);
    };
    if let Some(header) = &spec.output_payload_to_header {
        output(notes, &path.key("outputPayloadToHeader"), header);
    }
    for (n, c) in spec.output_claim_to_headers.iter().enumerate() {
        let path = path.key("outputClaimToHeaders").index(n);
        output(notes, &path.key("header"), &c.header);
        if c.claim.is_empty() {
            notes.error(&path.key("claim"), Code::Missing, "there is no claim");
        }
    }
    let claims = spec.output_claim_to_headers.iter();
    claims
        .map(|c| (c.header.to_ascii_lowercase(), c.claim.clone()))
        .collect()
}

fn keys(
    notes: &mut TokenNotes<'_>,
    path: &Path,
    spec: &JwtRuleSpec,
    timeout: Duration,
) -> Option<(Jwks, Option<JwksDocument>)> {
    let from = |place| Some((Jwks::From(KeySource { place, timeout }), None));
    let jwks = spec.jwks.as_ref().filter(|text| !text.is_empty());
    let uri = spec.jwks_uri.as_ref().filter(|text| !text.is_empty());
    match (jwks, uri) {
        (Some(json), None) => match check_jwks(json) {
            Ok(_) => Some((Jwks::Inline, Some(jwks::document(json)))),
            // Other verifiers may use them, and for us it means no more than that tokens of the issuer are refused.
            Err(reason @ JwksError::NoUsableKey) if !is_empty(json) => {
                let hint = "tokens of this issuer are refused";
                notes.warn(&path.key("jwks"), Code::Invalid, reason.to_string(), hint);
                Some((Jwks::Inline, Some(jwks::document(json))))
            }
            Err(reason) => {
                let hint = "give a JSON Web Key Set (RFC 7517)";
                notes.hint(&path.key("jwks"), Code::Invalid, reason.to_string(), hint);
                None
            }
        },
        (None, Some(uri)) if is_spiffe(uri) => of_domain(notes, &path.key("jwksUri"), uri, spec),
        (None, None) if is_spiffe(&spec.issuer) => {
            of_domain(notes, &path.key("issuer"), &spec.issuer, spec)
        }
        (None, Some(uri)) => {
            if !is_fetchable(uri) {
                let text = format!("{uri:?} is not an http or https URL");
                notes.error(&path.key("jwksUri"), Code::Invalid, text);
                return None;
            }
            from(KeyPlace::Uri(uri.clone()))
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
            if !is_fetchable(&spec.issuer) {
                let text = "the rule has no keys, and its issuer is no URL that would tell them";
                notes.hint(path, Code::Missing, text, "give jwks (inline) or jwksUri");
                return None;
            }
            let issuer = spec.issuer.trim_end_matches('/');
            from(KeyPlace::Discovery(format!("{issuer}{WELL_KNOWN}")))
        }
    }
}

fn is_spiffe(uri: &str) -> bool {
    uri.starts_with("spiffe://")
}

/// The keys of the trust domain `uri`, which is what the rule's `at` says, for tokens of its workloads.
fn of_domain(
    notes: &mut TokenNotes<'_>,
    at: &Path,
    uri: &str,
    spec: &JwtRuleSpec,
) -> Option<(Jwks, Option<JwksDocument>)> {
    let rule = at.parent();
    let domain = match SpiffeId::parse(uri) {
        Ok(id) if id.path().is_empty() => id.trust_domain(),
        Ok(id) => {
            let text = format!("{id} names a workload; keys are those of a trust domain");
            notes.error(at, Code::Invalid, text);
            return None;
        }
        Err(error) => {
            notes.error(at, Code::Invalid, format!("{uri:?}: {error}"));
            return None;
        }
    };
    if is_spiffe(&spec.issuer) && spec.issuer != uri {
        let text = format!("the issuer {} has no keys of {uri}", spec.issuer);
        notes.error(at, Code::Conflict, text);
    }
    // SECURITY: a JWT-SVID is for whom it names (SPIFFE JWT-SVID, section 3); else whoever is called by a workload could
    // call others in its name.
    if spec.audiences.is_empty() {
        let text = format!("tokens of {domain}'s workloads are for an audience, and none is given");
        let hint = "give the audience that callers ask tokens for";
        notes.hint(&rule.key("audiences"), Code::Missing, text, hint);
    }
    Some((Jwks::Of(domain), None))
}

/// No error: what is federated no longer must be gone at once, whatever else still speaks of it.
fn unknown_domain(notes: &mut TokenNotes<'_>, rule: &Path, domain: &TrustDomain) {
    let text =
        format!("{domain} is neither our trust domain nor federated: its tokens are refused");
    let hint = "a ClusterFederatedTrustDomain says where its bundle is";
    notes.warn(&rule.key("issuer"), Code::UnknownReference, text, hint);
}

/// Whether a key set has no keys at all.
fn is_empty(json: &str) -> bool {
    let value = serde_json::from_str::<serde_json::Value>(json).ok();
    let keys = value.as_ref().and_then(|set| set.get("keys")?.as_array());
    keys.is_some_and(Vec::is_empty)
}

fn is_fetchable(uri: &str) -> bool {
    let parsed = uri.parse::<http::Uri>().ok();
    parsed.is_some_and(|u| {
        let authority = u.authority().map(http::uri::Authority::as_str);
        matches!(u.scheme_str(), Some("http" | "https"))
            && u.host().is_some_and(|host| !host.is_empty())
            && !authority.is_some_and(|a| a.contains('@'))
    })
}
