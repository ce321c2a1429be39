//! `Policy` and `MeshPolicy` as `PeerAuthentication`, `RequestAuthentication` and, where a token is demanded, a `forbid`.

use std::collections::BTreeMap;

use reeve_core::Namespace;
use serde_json::{Value, json};

use super::{
    super::{Imported, access_policy, yaml::yaml},
    origin,
};
use crate::{
    Code,
    authorization::{World, cedar::quoted},
    kinds::{AuthenticationSpec, AuthenticationTargetSpec, LegacyJwtSpec, Object},
    resolve::Notes,
    source::path::Path,
};

/// What a policy holds for: a name's ending, labels, ports and the service.
struct Part {
    suffix: String,
    selector: BTreeMap<String, String>,
    ports: Vec<u16>,
    host: Option<String>,
}

/// Translates one policy.
pub(super) fn import(
    object: &Object<AuthenticationSpec>,
    world: World<'_>,
    imported: &mut Imported,
) {
    let mut notes = Notes {
        object,
        faults: &mut imported.faults,
    };
    let before = notes.faults.len();
    refuse(&mut notes);
    let parts = parts(&mut notes, world);
    if notes.faults.len() > before {
        return;
    }
    let spec = &object.spec;
    let of = origin(object);
    let whole = object.document.kind.as_deref() == Some("MeshPolicy");
    let root = Namespace::parse("reeve-system").unwrap_or_else(|_| object.namespace.clone());
    let home = if whole { &root } else { &object.namespace };
    let mut text = of.comment();
    for part in &parts {
        let metadata =
            json!({"name": format!("{}{}", object.name, part.suffix), "namespace": home});
        let selected = |mut spec: Value| {
            if let (Some(spec), false) = (spec.as_object_mut(), part.selector.is_empty()) {
                spec.insert("selector".to_owned(), json!({"matchLabels": part.selector}));
            }
            spec
        };
        let object = |kind: &str, spec: Value| {
            let whole = json!({
                "apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": selected(spec),
            });
            format!("{}---\n", yaml(&whole))
        };
        text.push_str(&object("PeerAuthentication", peers(spec, &part.ports)));
        let tokens: Vec<Value> = spec
            .origins
            .iter()
            .filter_map(|o| o.jwt.as_ref())
            .map(token)
            .collect();
        if !tokens.is_empty() {
            text.push_str(&object(
                "RequestAuthentication",
                json!({"jwtRules": tokens}),
            ));
        }
        if !tokens.is_empty() && !spec.origin_is_optional {
            let resource = match &part.host {
                Some(host) => format!("resource in Service::{}", quoted(host)),
                None => "resource".to_owned(),
            };
            let id = format!("token-demanded{}", part.suffix);
            let cedar = format!(
                "@id({})\nforbid (principal, action in Action::\"http\", {resource})\nunless {{ context has user }};",
                quoted(&id)
            );
            let policy = access_policy(&of, home, &cedar).replacen(&of.comment(), "", 1);
            let named = format!("name: {}\n", of.name);
            let own = format!("name: {}{}-token\n", of.name, part.suffix);
            text.push_str(&policy.replacen(&named, &own, 1));
            text.push_str("---\n");
        }
    }
    let text = text.strip_suffix("---\n").unwrap_or(&text).to_owned();
    imported.objects.push(of.imported(text));
}

/// What has no counterpart.
fn refuse(notes: &mut Notes<'_, AuthenticationSpec>) {
    let spec = &notes.object.spec;
    for (n, peer) in spec.peers.iter().enumerate() {
        if peer.jwt.is_some() {
            let path = Path::of(&["spec", "peers"]).index(n).key("jwt");
            notes.error(
                &path,
                Code::Unsupported,
                "a peer is told by its certificate, not by a token",
            );
        }
    }
    for (n, origin) in spec.origins.iter().enumerate() {
        let triggered = origin
            .jwt
            .as_ref()
            .is_some_and(|jwt| !jwt.trigger_rules.is_empty());
        if triggered {
            let path = Path::of(&["spec", "origins"])
                .index(n)
                .key("jwt")
                .key("triggerRules");
            let hint = "demand the token in an AccessPolicy, where context.path tells the paths";
            notes.hint(
                &path,
                Code::Unsupported,
                "tokens are verified on every path",
                hint,
            );
        }
    }
}

fn parts(notes: &mut Notes<'_, AuthenticationSpec>, world: World<'_>) -> Vec<Part> {
    let object = notes.object;
    if object.spec.targets.is_empty() {
        return vec![Part {
            suffix: String::new(),
            selector: BTreeMap::new(),
            ports: Vec::new(),
            host: None,
        }];
    }
    let several = object.spec.targets.len() > 1;
    let mut parts = Vec::new();
    for (n, target) in object.spec.targets.iter().enumerate() {
        let path = Path::of(&["spec", "targets"]).index(n);
        if let Some(part) = part(notes, &path, target, world) {
            let suffix = match several {
                true => format!("-{}", target.name),
                false => String::new(),
            };
            parts.push(Part { suffix, ..part });
        }
    }
    parts
}

fn part(
    notes: &mut Notes<'_, AuthenticationSpec>,
    path: &Path,
    target: &AuthenticationTargetSpec,
    world: World<'_>,
) -> Option<Part> {
    let namespace = &notes.object.namespace;
    let host = format!("{}.{namespace}.svc.cluster.local", target.name);
    let service = world.services.values().find(|s| s.host.as_str() == host);
    let Some(service) = service.filter(|s| !s.selector.is_empty()) else {
        let text = format!("there is no service {host} with a selector that is known");
        let hint = "name the folder with the mesh's services with -f";
        notes.hint(&path.key("name"), Code::UnknownReference, text, hint);
        return None;
    };
    let mut ports = Vec::new();
    for (n, port) in target.ports.iter().enumerate() {
        let named = |name: &String| {
            service
                .ports
                .iter()
                .find(|p| p.name == *name)
                .map(|p| p.port)
        };
        match port.number.or_else(|| port.name.as_ref().and_then(named)) {
            Some(number) => ports.push(number),
            None => {
                let path = path.key("ports").index(n);
                notes.error(
                    &path,
                    Code::UnknownReference,
                    "the service has no such port",
                );
            }
        }
    }
    Some(Part {
        suffix: String::new(),
        selector: service.selector.clone(),
        ports,
        host: Some(host),
    })
}

/// The mode: without peers, nothing was demanded of them.
fn peers(spec: &AuthenticationSpec, ports: &[u16]) -> Value {
    let said = spec.peers.iter().find_map(|peer| peer.mtls.as_ref());
    let permissive = said.and_then(|mtls| mtls.mode.as_deref()) == Some("PERMISSIVE");
    let allow_tls = said.is_some_and(|mtls| mtls.allow_tls);
    let mode = match spec.peers.is_empty() || permissive || allow_tls || spec.peer_is_optional {
        true => "PERMISSIVE",
        false => "STRICT",
    };
    let modes: serde_json::Map<_, _> = ports
        .iter()
        .map(|port| (port.to_string(), json!({"mode": mode})))
        .collect();
    match modes.is_empty() {
        true => json!({"mtls": {"mode": mode}}),
        false => json!({"portLevelMtls": modes}),
    }
}

fn token(jwt: &LegacyJwtSpec) -> Value {
    let mut rule = json!({"issuer": jwt.issuer});
    let mut put = |key: &str, value: Value| {
        if let Some(rule) = rule.as_object_mut() {
            rule.insert(key.to_owned(), value);
        }
    };
    if !jwt.audiences.is_empty() {
        put("audiences", json!(jwt.audiences));
    }
    if let Some(keys) = &jwt.jwks {
        put("jwks", json!(keys));
    }
    if let Some(uri) = &jwt.jwks_uri {
        put("jwksUri", json!(uri));
    }
    if !jwt.jwt_headers.is_empty() {
        let headers = jwt.jwt_headers.iter().map(|name| json!({"name": name}));
        put("fromHeaders", headers.collect());
    }
    if !jwt.jwt_params.is_empty() {
        put("fromParams", json!(jwt.jwt_params));
    }
    // Before, the token always went on to the application.
    put("forwardOriginalToken", json!(true));
    rule
}
