//! A sidecar's configuration as tables and as JSON, whole or what has a text in its name.

use reeve_core::{
    UnixTime,
    model::{Destination, ProxyConfig, Route, RouteAction, RouteMatch, StringMatch},
};
use serde_json::{Value, json};

use crate::{output::plain_table, supervisor::logfile::timestamp};

/// The answer as JSON and as a table.
type Shown = serde_json::Result<(Value, String)>;

pub(super) fn listeners(config: &ProxyConfig, name: &str) -> Shown {
    let workload = &config.workload;
    let mut table = plain_table([
        "ADDRESS",
        "DIRECTION",
        "PROTOCOL",
        "MTLS",
        "STATE",
        "PATHS",
        "TO",
    ]);
    let mut all = Vec::new();
    let inbound = workload.inbound.iter();
    for listener in inbound.filter(|l| l.bind.to_string().contains(name)) {
        let value = serde_json::to_value(listener)?;
        table.add_row([
            listener.bind.to_string(),
            "inbound".to_owned(),
            text(&value, "protocol"),
            text(&value, "mtls"),
            text(&value, "state"),
            text(&value, "path_normalization"),
            format!("application {}", listener.app),
        ]);
        all.push(with("direction", "inbound", value));
    }
    let outbound = workload.outbound.iter();
    for listener in outbound.filter(|l| l.bind.to_string().contains(name)) {
        let value = serde_json::to_value(listener)?;
        let service = listener.service.as_ref();
        let service = service.map(|(service, port)| format!(", else {service}:{port}"));
        table.add_row([
            listener.bind.to_string(),
            "outbound".to_owned(),
            text(&value, "protocol"),
            "-".to_owned(),
            "-".to_owned(),
            text(&value, "path_normalization"),
            format!("routes {}{}", listener.routes, service.unwrap_or_default()),
        ]);
        all.push(with("direction", "outbound", value));
    }
    Ok((Value::Array(all), table.trim_fmt()))
}

pub(super) fn routes(config: &ProxyConfig, name: &str) -> Shown {
    let mut table = plain_table([
        "TABLE", "HOST", "DOMAINS", "ROUTE", "MATCH", "TO", "TIMEOUT", "RETRIES", "PATHS",
    ]);
    let mut all = Vec::new();
    for routes in config.routes.values() {
        let wanted = routes.name.0.contains(name);
        let host_wanted = |domains: &[String]| domains.iter().any(|d| d.contains(name));
        let mut hosts = routes.virtual_hosts.values();
        if !wanted && !hosts.any(|host| host_wanted(&host.domains)) {
            continue;
        }
        for host in routes.virtual_hosts.values() {
            if !wanted && !host_wanted(&host.domains) {
                continue;
            }
            let paths = match host.path_normalization {
                Some(mode) => text(&json!({"mode": mode}), "mode"),
                None => "-".to_owned(),
            };
            for (index, route) in host.routes.iter().enumerate() {
                table.add_row([
                    routes.name.to_string(),
                    host.name.clone(),
                    shortened(&host.domains),
                    route.name.clone().unwrap_or_else(|| index.to_string()),
                    matches(&route.matches),
                    action(route),
                    route.timeout.map_or("-".to_owned(), |t| format!("{t:?}")),
                    route.retries.attempts.to_string(),
                    paths.clone(),
                ]);
            }
        }
        all.push(serde_json::to_value(routes)?);
    }
    Ok((Value::Array(all), table.trim_fmt()))
}

pub(super) fn clusters(config: &ProxyConfig, name: &str) -> Shown {
    let mut table = plain_table([
        "SERVICE",
        "PORT",
        "SUBSET",
        "PROTOCOL",
        "TLS",
        "BALANCER",
        "CONNECT",
        "ENDPOINTS",
        "IDENTITIES",
    ]);
    let mut all = Vec::new();
    let services = config.services.values();
    for service in services.filter(|s| s.name.as_str().contains(name)) {
        let endpoints = config.endpoints.get(&service.name);
        let whole = std::iter::once(("-", None, &service.traffic));
        let subsets = service.subsets.iter();
        let subsets = subsets.map(|s| (s.name.as_str(), Some(&s.labels), &s.traffic));
        for (subset, labels, traffic) in whole.chain(subsets) {
            let value = serde_json::to_value(traffic)?;
            for port in &service.ports {
                let count = endpoints.map_or(0, |set| {
                    let within = set.endpoints.iter().filter(|e| {
                        e.ports.contains_key(&port.port)
                            && labels.is_none_or(|labels| {
                                labels.iter().all(|(k, v)| e.labels.get(k) == Some(v))
                            })
                    });
                    within.count()
                });
                table.add_row([
                    service.name.to_string(),
                    port.port.to_string(),
                    subset.to_owned(),
                    text(&serde_json::to_value(port)?, "protocol"),
                    text(&value, "tls"),
                    text(&value, "load_balancer"),
                    format!("{:?}", traffic.connect_timeout),
                    count.to_string(),
                    joined(&service.identities),
                ]);
            }
        }
        all.push(serde_json::to_value(service)?);
    }
    Ok((Value::Array(all), table.trim_fmt()))
}

pub(super) fn endpoints(config: &ProxyConfig, name: &str) -> Shown {
    let mut table = plain_table(["ENDPOINT", "SERVICE", "PORT", "INSTANCE", "IDENTITY"]);
    let mut all = Vec::new();
    for set in config.endpoints.values() {
        for endpoint in &set.endpoints {
            let service = set.service.as_str();
            let instance = endpoint.instance.as_str();
            let address = endpoint.address.to_string();
            if ![service, instance, &address]
                .iter()
                .any(|t| t.contains(name))
            {
                continue;
            }
            for (port, target) in &endpoint.ports {
                let identity = endpoint.identity.as_ref();
                table.add_row([
                    std::net::SocketAddr::new(endpoint.address, *target).to_string(),
                    service.to_owned(),
                    port.to_string(),
                    instance.to_owned(),
                    identity.map_or("none: plaintext".to_owned(), ToString::to_string),
                ]);
            }
            all.push(with("service", service, serde_json::to_value(endpoint)?));
        }
    }
    Ok((Value::Array(all), table.trim_fmt()))
}

pub(super) fn policies(config: &ProxyConfig, name: &str) -> Shown {
    let slice = &config.policies;
    let mut table = plain_table(["POLICY", "SCOPE", "MODE", "CEDAR"]);
    let mut all = Vec::new();
    let policies = slice.policies.iter();
    for policy in policies.filter(|p| p.id.to_string().contains(name)) {
        let value = serde_json::to_value(policy)?;
        let words: Vec<&str> = policy.text.split_whitespace().collect();
        table.add_row([
            policy.id.to_string(),
            policy
                .scope
                .as_ref()
                .map_or("mesh".to_owned(), ToString::to_string),
            text(&value, "mode"),
            words.join(" "),
        ]);
        all.push(value);
    }
    let head = format!(
        "policy set {}, generation {}\n",
        slice.mesh_hash, config.generation
    );
    Ok((Value::Array(all), head + &table.trim_fmt()))
}

pub(super) fn secrets(value: &Value) -> String {
    let mut table = plain_table([
        "NAME",
        "TYPE",
        "VALID",
        "SERIAL",
        "NOT AFTER",
        "NOT BEFORE",
        "FOR",
    ]);
    for secret in value["secrets"].as_array().into_iter().flatten() {
        let time = |key: &str| {
            let time = serde_json::from_value::<UnixTime>(secret[key].clone());
            time.map_or("-".to_owned(), timestamp)
        };
        let whom = secret
            .pointer("/uris/0")
            .and_then(Value::as_str)
            .or(secret["subject"].as_str());
        table.add_row([
            text(secret, "name"),
            text(secret, "type"),
            text(secret, "valid"),
            text(secret, "serial"),
            time("not_after"),
            time("not_before"),
            whom.unwrap_or("-").to_owned(),
        ]);
    }
    table.trim_fmt()
}

/// `NAME  VALUE` lines of a flat object.
pub(super) fn members(value: &Value) -> String {
    let mut table = plain_table(["NAME", "VALUE"]);
    for (name, member) in value.as_object().into_iter().flatten() {
        let time = serde_json::from_value::<UnixTime>(member.clone()).ok();
        let shown = match time.filter(|_| name == "started") {
            Some(time) => timestamp(time),
            None => text(value, name),
        };
        table.add_row([name.clone(), shown]);
    }
    table.trim_fmt()
}

fn text(value: &Value, key: &str) -> String {
    let value = &value[key];
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_null() => "-".to_owned(),
        None => value.to_string(),
    }
}

fn with(key: &str, text: &str, mut value: Value) -> Value {
    if let Some(members) = value.as_object_mut() {
        members.insert(key.to_owned(), json!(text));
    }
    value
}

fn joined<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    if items.is_empty() {
        "-".to_owned()
    } else {
        items.join(", ")
    }
}

/// The first two, and how many more.
fn shortened(items: &[String]) -> String {
    let first: Vec<&str> = items.iter().take(2).map(String::as_str).collect();
    match items.len().saturating_sub(2) {
        0 => first.join(", "),
        more => format!("{}, +{more}", first.join(", ")),
    }
}

fn matches(alternatives: &[RouteMatch]) -> String {
    if alternatives.is_empty() {
        return "*".to_owned();
    }
    let all: Vec<String> = alternatives.iter().map(one_match).collect();
    all.join(" or ")
}

fn one_match(found: &RouteMatch) -> String {
    let of =
        |what: &str, m: &Option<StringMatch>| m.as_ref().map(|m| format!("{what}{}", pattern(m)));
    let mut parts: Vec<String> = [
        of("", &found.uri),
        of("scheme ", &found.scheme),
        of("method ", &found.method),
        of("authority ", &found.authority),
    ]
    .into_iter()
    .flatten()
    .collect();
    for (what, fields) in [
        ("header ", &found.headers),
        ("without header ", &found.without_headers),
        ("query ", &found.query_params),
    ] {
        parts.extend(fields.keys().map(|name| format!("{what}{name}")));
    }
    if parts.is_empty() {
        "*".to_owned()
    } else {
        parts.join(" and ")
    }
}

fn pattern(found: &StringMatch) -> String {
    match found {
        StringMatch::Exact(text) => text.clone(),
        StringMatch::Prefix(text) => format!("{text}*"),
        StringMatch::PathPrefix(text) => format!("{text}/*"),
        StringMatch::Regex(text) => format!("~{text}"),
    }
}

fn action(route: &Route) -> String {
    match &route.action {
        RouteAction::Forward { destinations, .. } => {
            let total: u32 = destinations
                .iter()
                .map(|d| d.weight)
                .fold(0, u32::saturating_add);
            let all: Vec<String> = destinations.iter().map(|d| destination(d, total)).collect();
            all.join(", ")
        }
        RouteAction::Redirect(redirect) => format!("redirect {}", redirect.code),
        RouteAction::Respond { status, .. } => format!("answer {status}"),
    }
}

fn destination(to: &Destination, total: u32) -> String {
    let subset = to
        .subset
        .as_ref()
        .map(|s| format!(" {s}"))
        .unwrap_or_default();
    let share = match u64::from(to.weight) * 100 / u64::from(total.max(1)) {
        100 => String::new(),
        percent => format!(" {percent}%"),
    };
    format!("{}:{}{subset}{share}", to.service, to.port)
}
