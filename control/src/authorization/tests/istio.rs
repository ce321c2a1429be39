//! Istio's semantics, straight from its documents, on the policies as they are written.
//! <https://istio.io/latest/docs/reference/config/security/authorization-policy/>,
//! <https://istio.io/latest/docs/reference/config/security/conditions/>

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::Value;

pub(super) type Labels = &'static [(&'static str, &'static str)];

/// A request or connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) principal: Option<String>,
    pub(super) ip: String,
    /// The client's address, if proxies that are trusted say another one.
    pub(super) client: Option<String>,
    pub(super) destination: String,
    pub(super) sni: Option<String>,
    pub(super) port: u16,
    pub(super) http: Option<Http>,
    pub(super) user: Option<Token>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Http {
    pub(super) method: String,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Token {
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) claims: BTreeMap<String, Vec<String>>,
}

impl Asked {
    pub(super) fn http(method: &str, path: &str) -> Self {
        Self {
            ip: "10.0.0.1".to_owned(),
            destination: "10.0.0.9".to_owned(),
            port: 8000,
            http: Some(Http {
                method: method.to_owned(),
                host: "httpbin".to_owned(),
                path: path.to_owned(),
                headers: BTreeMap::new(),
            }),
            ..Self::default()
        }
    }

    pub(super) fn tcp(port: u16) -> Self {
        Self {
            ip: "10.0.0.1".to_owned(),
            destination: "10.0.0.9".to_owned(),
            port,
            ..Self::default()
        }
    }

    pub(super) fn from(mut self, principal: &str) -> Self {
        self.principal = Some(principal.to_owned());
        self
    }

    pub(super) fn at(mut self, ip: &str) -> Self {
        self.ip = ip.to_owned();
        self
    }

    pub(super) fn user(mut self, issuer: &str, subject: &str) -> Self {
        let mut claims = BTreeMap::new();
        claims.insert("iss".to_owned(), vec![issuer.to_owned()]);
        claims.insert("sub".to_owned(), vec![subject.to_owned()]);
        self.user = Some(Token {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            claims,
        });
        self
    }
}

/// Whether the workload with these labels is allowed to be asked. Where no policy is enforced for it, Istio allows and we
/// do not; the tests leave that out.
pub(super) fn allows(policies: &[Value], labels: Labels, asked: &Asked) -> bool {
    let holding: Vec<&Value> = policies.iter().filter(|p| holds(p, labels)).collect();
    let of = |action: &str| {
        let mine = move |p: &&&Value| p["spec"]["action"].as_str().unwrap_or("ALLOW") == action;
        holding.iter().filter(mine).copied().collect::<Vec<_>>()
    };
    let matches = |policy: &Value, deny: bool| {
        let rules = policy["spec"]["rules"].as_array();
        rules.is_some_and(|rules| rules.iter().any(|rule| matches(rule, asked, deny)))
    };
    if of("DENY").into_iter().any(|p| matches(p, true)) {
        return false;
    }
    let allow = of("ALLOW");
    allow.is_empty() || allow.into_iter().any(|p| matches(p, false))
}

fn holds(policy: &Value, labels: Labels) -> bool {
    let dry = &policy["metadata"]["annotations"]["istio.io/dry-run"];
    let wanted = policy["spec"]["selector"]["matchLabels"].as_object();
    let has = |(key, value): (&String, &Value)| {
        labels
            .iter()
            .any(|(k, v)| k == key && Some(*v) == value.as_str())
    };
    dry != "true" && wanted.is_none_or(|wanted| wanted.iter().all(has))
}

fn matches(rule: &Value, asked: &Asked, deny: bool) -> bool {
    // An ALLOW rule with anything of HTTP's is no rule for a connection.
    if asked.http.is_none() && !deny && has_http(rule) {
        return false;
    }
    let each = |name: &str, inner: &str, test: &dyn Fn(&Value) -> bool| match rule[name].as_array()
    {
        None => true,
        Some(list) => list.iter().any(|one| test(&one[inner])),
    };
    each("from", "source", &|source| {
        SOURCE
            .iter()
            .all(|(key, field, not)| condition(key, list(source, field), list(source, not), asked))
    }) && each("to", "operation", &|operation| {
        OPERATION.iter().all(|(key, field, not)| {
            condition(key, list(operation, field), list(operation, not), asked)
        })
    }) && list_of(&rule["when"]).iter().all(|when| {
        let key = when["key"].as_str().expect("a key");
        condition(key, list(when, "values"), list(when, "notValues"), asked)
    })
}

const SOURCE: &[(&str, &str, &str)] = &[
    ("source.principal", "principals", "notPrincipals"),
    ("source.namespace", "namespaces", "notNamespaces"),
    (
        "source.serviceAccount",
        "serviceAccounts",
        "notServiceAccounts",
    ),
    (
        "request.auth.principal",
        "requestPrincipals",
        "notRequestPrincipals",
    ),
    ("source.ip", "ipBlocks", "notIpBlocks"),
    ("remote.ip", "remoteIpBlocks", "notRemoteIpBlocks"),
];
const OPERATION: &[(&str, &str, &str)] = &[
    ("host", "hosts", "notHosts"),
    ("method", "methods", "notMethods"),
    ("path", "paths", "notPaths"),
    ("destination.port", "ports", "notPorts"),
];

fn is_http(key: &str) -> bool {
    key.starts_with("request.") || matches!(key, "host" | "method" | "path")
}

fn has_http(rule: &Value) -> bool {
    let field = |name: &str, inner: &str, table: &[(&str, &str, &str)]| {
        list_of(&rule[name]).iter().any(|one| {
            table.iter().any(|(key, field, not)| {
                is_http(key)
                    && !(list(&one[inner], field).is_empty() && list(&one[inner], not).is_empty())
            })
        })
    };
    field("from", "source", SOURCE)
        || field("to", "operation", OPERATION)
        || list_of(&rule["when"])
            .iter()
            .any(|w| is_http(w["key"].as_str().unwrap_or_default()))
}

/// Both sides of a demand; what only HTTP has is no demand on a connection.
fn condition(key: &str, values: Vec<String>, not: Vec<String>, asked: &Asked) -> bool {
    if is_http(key) && asked.http.is_none() {
        return true;
    }
    let one = |values: &[String]| values.iter().any(|value| holds_one(key, value, asked));
    (values.is_empty() || one(&values)) && !one(&not)
}

fn holds_one(key: &str, value: &str, asked: &Asked) -> bool {
    let id = asked.principal.as_deref();
    let http = asked.http.as_ref();
    let parts: Option<(&str, &str)> = id.and_then(|id| id.split_once("/ns/")?.1.split_once("/sa/"));
    match key {
        "source.principal" => id.is_some_and(|id| {
            let name = id.strip_prefix("spiffe://").expect("an identity");
            // `cluster.local` stands for the mesh's own trust domain.
            let value = match value.strip_prefix("cluster.local/") {
                Some(rest) => format!("mesh.local/{rest}"),
                None => value.to_owned(),
            };
            text(name, &value)
        }),
        "source.namespace" => parts.is_some_and(|(namespace, _)| glob(namespace, value)),
        "source.serviceAccount" => parts.is_some_and(|(namespace, account)| {
            let (wanted, name) = value.split_once('/').unwrap_or(("default", value));
            (namespace, account) == (wanted, name)
        }),
        "source.ip" => block(&asked.ip, value),
        "remote.ip" => block(asked.client.as_ref().unwrap_or(&asked.ip), value),
        "destination.ip" => block(&asked.destination, value),
        // Without a server name, Envoy compares nothing.
        "connection.sni" => asked.sni.as_ref().is_some_and(|sni| text(sni, value)),
        "destination.port" => value == asked.port.to_string(),
        "host" => http.is_some_and(|h| text(&h.host.to_lowercase(), &value.to_lowercase())),
        "method" => http.is_some_and(|h| text(&h.method, value)),
        "path" => http.is_some_and(|h| path(&h.path, value)),
        "request.auth.principal" => asked
            .user
            .as_ref()
            .is_some_and(|user| request_principal(&user.issuer, &user.subject, value)),
        "request.auth.audiences" => claim(asked, "aud", value),
        "request.auth.presenter" => claim(asked, "azp", value),
        _ => {
            let name = |before: &str| {
                let inner = key
                    .strip_prefix(before)?
                    .strip_prefix('[')?
                    .strip_suffix(']')?;
                Some(inner.replace("][", "."))
            };
            if let Some(name) = name("request.headers") {
                let held = http.and_then(|h| {
                    h.headers
                        .iter()
                        .find(|(n, _)| n.eq_ignore_ascii_case(&name))
                });
                held.is_some_and(|(_, held)| value == "*" || text(held, value))
            } else {
                claim(
                    asked,
                    &name("request.auth.claims").expect("a known key"),
                    value,
                )
            }
        }
    }
}

fn claim(asked: &Asked, name: &str, value: &str) -> bool {
    let user = asked.user.as_ref();
    let held = user.and_then(|user| user.claims.get(name));
    held.is_some_and(|held| held.iter().any(|one| text(one, value)))
}

/// Exact, `prefix*`, `*suffix`, `*` for anything but nothing.
fn text(held: &str, value: &str) -> bool {
    match (value, value.strip_prefix('*'), value.strip_suffix('*')) {
        ("*", _, _) => !held.is_empty(),
        (_, Some(suffix), _) => held.ends_with(suffix),
        (_, None, Some(prefix)) => held.starts_with(prefix),
        _ => held == value,
    }
}

/// Issuer and subject, cut at the last slash.
fn request_principal(issuer: &str, subject: &str, value: &str) -> bool {
    match (value, value.rsplit_once('/')) {
        ("*", _) => !issuer.is_empty() && !subject.is_empty(),
        (v, Some((iss, sub))) if v.starts_with('*') => text(issuer, iss) && subject == sub,
        (v, None) if v.starts_with('*') => !issuer.is_empty() && text(subject, v),
        (v, Some((iss, sub))) if v.ends_with('*') => issuer == iss && text(subject, sub),
        (v, None) if v.ends_with('*') => text(issuer, v) && !subject.is_empty(),
        (_, Some((iss, sub))) => issuer == iss && subject == sub,
        (v, None) => issuer == v && subject.is_empty(),
    }
}

fn glob(held: &str, value: &str) -> bool {
    match value.split_once('*') {
        None => held == value,
        Some((before, after)) => held.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|n| rest.get(n..).is_some_and(|rest| glob(rest, after)))
        }),
    }
}

fn block(ip: &str, value: &str) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let (network, length) = value
        .split_once('/')
        .map_or((value, None), |(n, l)| (n, Some(l)));
    let (ip, network): (IpAddr, IpAddr) = (
        ip.parse().expect("an address"),
        network.parse().expect("a block"),
    );
    let ((ip, width), (network, other)) = (bits(ip), bits(network));
    let length: u32 = length.map_or(width, |l| l.parse().expect("a length"));
    width == other && (length == 0 || (ip ^ network) >> (128 - length) == 0)
}

/// `{*}` is one segment, `{**}` any number of characters and slashes.
fn path(held: &str, value: &str) -> bool {
    if !value.contains("{*}") && !value.contains("{**}") {
        return text(held, value);
    }
    template(held, value)
}

fn template(held: &str, value: &str) -> bool {
    if let Some(rest) = value.strip_prefix("{**}") {
        return (0..=held.len()).any(|n| held.get(n..).is_some_and(|held| template(held, rest)));
    }
    if let Some(rest) = value.strip_prefix("{*}") {
        let end = held.find('/').unwrap_or(held.len());
        return (1..=end).any(|n| held.get(n..).is_some_and(|held| template(held, rest)));
    }
    let (mut held, mut value) = (held.chars(), value.chars());
    match (held.next(), value.next()) {
        (None, None) => true,
        (Some(a), Some(b)) if a == b => template(held.as_str(), value.as_str()),
        _ => false,
    }
}

fn list(of: &Value, key: &str) -> Vec<String> {
    let texts = list_of(&of[key]).into_iter();
    texts
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

fn list_of(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}
