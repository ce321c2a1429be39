//! Cases for suggested policies: what was seen is allowed, and its neighbours are not.

use std::collections::{BTreeMap, BTreeSet};

use reeve_authz::Engine;
use reeve_core::{
    SpiffeId,
    decision::{AccessRequest, Action, Principal, ResourceRef},
};
use serde::Serialize;

use super::{evidence::Target, policy::Permit};

/// Cases for the paths of one permit.
const MAX_TRIED: usize = 5;
/// Claims of a case's end user.
const MAX_CLAIMS: usize = 8;

/// Nobody is called so.
const STRANGER: &str = "spiffe://stranger.invalid/ns/nowhere/sa/nobody";

/// The file's text.
pub(super) fn file(target: &Target, permits: &[Permit], engine: &Engine) -> String {
    let mut text = format!(
        "# Cases for the policies suggested for {target}:\n\
         # what was seen is allowed, its neighbours are not. reeve policy test -f FOLDER THIS_FILE\n"
    );
    let first = permits.iter().flat_map(|permit| &permit.samples).next();
    if let Some(first) = first {
        text.push_str(&format!(
            "request:\n  resource: {}\n",
            json(&first.resource)
        ));
    }
    text.push_str("cases:\n");
    for permit in permits {
        for (what, request) in seen(permit) {
            if !engine.decide(&request).is_allow() {
                continue;
            }
            let mut said = Change::all(&request);
            said.resource = said
                .resource
                .filter(|r| first.is_none_or(|f| f.resource != **r));
            text.push_str(&format!(
                "  - name: {}\n    change: {}\n    expect: {{\"decision\": \"allow\"}}\n",
                json(&format!("{}: {what}", permit.id)),
                json(&said),
            ));
            let twins = twins(permit, &request).into_iter();
            let denied: Vec<_> = twins
                .filter(|(twin, _)| !engine.decide(twin).is_allow())
                .collect();
            if !denied.is_empty() {
                text.push_str("    twins:\n");
            }
            for (_, change) in denied {
                text.push_str(&format!(
                    "      - {{\"change\": {change}, \"expect\": {{\"decision\": \"deny\"}}}}\n"
                ));
            }
        }
    }
    text
}

/// A request for each path, and what it is.
fn seen(permit: &Permit) -> Vec<(String, AccessRequest)> {
    let mut found = Vec::new();
    for sample in &permit.samples {
        let method = sample.action.as_str();
        let paths: Vec<_> = permit.shapes.iter().map(|s| s.sample.clone()).collect();
        let Some(http) = &sample.context.http else {
            found.push((
                format!("{method} to port {}", sample.context.port),
                sample.clone(),
            ));
            continue;
        };
        let paths = match paths.is_empty() {
            true => vec![http.path.clone()],
            false => paths,
        };
        for path in paths.into_iter().take(MAX_TRIED) {
            found.push((format!("{method} {path}"), with_path(sample, &path)));
        }
    }
    found
}

/// Requests that differ in one thing (the caller, the method, the path), and what that is.
fn twins(permit: &Permit, request: &AccessRequest) -> Vec<(AccessRequest, String)> {
    let mut found = Vec::new();
    if let Ok(id) = SpiffeId::parse(STRANGER) {
        let mut stranger = request.clone();
        stranger.principal = Principal::Workload(id);
        let change = Change {
            principal: Some(STRANGER.to_owned()),
            ..Change::default()
        };
        found.push((stranger, json(&change)));
    }
    let Some(http) = &request.context.http else {
        return found;
    };
    let others = [Action::Delete, Action::Post, Action::Get];
    if let Some(other) = others.into_iter().find(|a| !permit.actions.contains(a)) {
        let mut changed = request.clone();
        changed.action = other;
        let change = Change {
            action: Some(other),
            ..Change::default()
        };
        found.push((changed, json(&change)));
    }
    let path = format!("{}/never-asked-for", http.path);
    let changed = with_path(request, &path);
    let change = Change {
        context: Some(Context {
            http: Some(Http {
                method: None,
                path: &path,
            }),
            port: None,
        }),
        ..Change::default()
    };
    let change = json(&change);
    found.push((changed, change));
    found
}

fn with_path(request: &AccessRequest, path: &str) -> AccessRequest {
    let mut changed = request.clone();
    if let Some(http) = &mut changed.context.http {
        path.clone_into(&mut http.path);
    }
    changed
}

/// What a case says of its request; the rest is as `reeve policy test` fills it in.
#[derive(Default, Serialize)]
struct Change<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<Action>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<&'a ResourceRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Claimed<'a>>,
}

#[derive(Serialize)]
struct Context<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<Http<'a>>,
}

#[derive(Serialize)]
struct Http<'a> {
    /// Only where it is not the action's.
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    path: &'a str,
}

#[derive(Serialize)]
struct Claimed<'a> {
    issuer: &'a str,
    subject: &'a str,
    claims: BTreeMap<&'a str, &'a BTreeSet<String>>,
}

impl<'a> Change<'a> {
    fn all(request: &'a AccessRequest) -> Self {
        let context = &request.context;
        let http = context.http.as_ref().map(|http| Http {
            method: (request.action == Action::Other).then_some(&http.method),
            path: &http.path,
        });
        let user = request.user.as_ref().map(|user| Claimed {
            claims: user
                .claims
                .iter()
                .take(MAX_CLAIMS)
                .map(|(name, values)| (name.as_str(), values))
                .collect(),
            issuer: &user.issuer,
            subject: &user.subject,
        });
        Self {
            principal: Some(request.principal.to_string()),
            action: Some(request.action),
            resource: Some(&request.resource),
            context: Some(Context {
                port: Some(context.port),
                http,
            }),
            user,
        }
    }
}

/// JSON, which YAML takes, on one line.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
