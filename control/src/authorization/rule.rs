//! One rule of an `AuthorizationPolicy`: its `from`, `to` and `when` as conditions.

use super::{
    cedar::{Expr, Match, matches, quoted, strings},
    paths,
    sources::{self, Exactly, Home},
};
use crate::{
    Code,
    kinds::{AuthorizationPolicySpec, AuthorizationRuleSpec, OperationSpec, SourceSpec},
    resolve::Notes,
    source::path::Path,
};

/// Methods that are actions of their own.
const METHODS: [&str; 8] = [
    "GET", "HEAD", "OPTIONS", "TRACE", "POST", "PUT", "PATCH", "DELETE",
];

/// What a rule demands.
#[derive(Debug)]
pub(super) struct Rule {
    /// One of these.
    from: Vec<Vec<Clause>>,
    /// And one of these.
    to: Vec<Vec<Clause>>,
    /// And all of these.
    when: Vec<Clause>,
}

/// One demand.
#[derive(Clone, Debug)]
struct Clause {
    /// Whether only HTTP has what it looks at.
    http: bool,
    expr: Expr,
    /// The same as part of a policy's head.
    head: Option<Head>,
}

/// A part of a policy's head.
#[derive(Clone, Debug)]
enum Head {
    Principal(String),
    Action(String),
}

/// A policy's head and condition.
#[derive(Debug)]
pub(super) struct Judgement {
    pub(super) principal: String,
    pub(super) action: String,
    pub(super) when: Expr,
}

/// What a rule is read with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    pub(super) home: Home<'a>,
    /// Whether what matches is denied: then what cannot be said exactly is said too widely.
    pub(super) denies: bool,
    /// Whether it says whom to ask: then tokens are not verified yet.
    pub(super) asks: bool,
}

impl Rule {
    /// Reads a rule; what cannot be translated is a fault with its place.
    pub(super) fn read(
        notes: &mut Notes<'_, AuthorizationPolicySpec>,
        reading: Reading<'_>,
        path: &Path,
        spec: &AuthorizationRuleSpec,
    ) -> Self {
        let mut from = Vec::new();
        for (n, one) in spec.from.iter().flatten().enumerate() {
            let path = path.key("from").index(n).key("source");
            match &one.source {
                Some(source) => from.push(read_source(notes, reading, &path, source)),
                None => notes.error(&path, Code::Missing, "there is no source"),
            }
        }
        let mut to = Vec::new();
        for (n, one) in spec.to.iter().flatten().enumerate() {
            let path = path.key("to").index(n).key("operation");
            match &one.operation {
                Some(operation) => to.push(read_operation(notes, &path, operation)),
                None => notes.error(&path, Code::Missing, "there is no operation"),
            }
        }
        for (key, empty) in [
            ("from", spec.from.as_ref().is_some_and(Vec::is_empty)),
            ("to", spec.to.as_ref().is_some_and(Vec::is_empty)),
        ] {
            if empty {
                notes.error(
                    &path.key(key),
                    Code::Invalid,
                    "the list is empty: leave it out for any",
                );
            }
        }
        let mut when = Vec::new();
        for (n, condition) in spec.when.iter().enumerate() {
            let path = path.key("when").index(n);
            if condition.values.is_empty() && condition.not_values.is_empty() {
                notes.error(
                    &path,
                    Code::Missing,
                    "there are neither values nor notValues",
                );
            }
            let sides = [
                ("values", &condition.values, false),
                ("notValues", &condition.not_values, true),
            ];
            for (side, values, negated) in sides {
                if !values.is_empty() {
                    let place = (&path, side);
                    when.extend(read_condition(
                        notes,
                        reading,
                        place,
                        (&condition.key, values, negated),
                    ));
                }
            }
        }
        Self { from, to, when }
    }

    /// Whether anything of it is there for HTTP alone.
    pub(super) fn looks_at_http(&self) -> bool {
        let sides = self.from.iter().chain(&self.to).flatten();
        sides.chain(&self.when).any(|clause| clause.http)
    }

    /// For HTTP requests, and where nothing of it is HTTP's, for connections too.
    pub(super) fn judgement(&self) -> Judgement {
        let action = match self.looks_at_http() {
            true => "action in Action::\"http\"",
            false => "action",
        };
        self.told(action, |_| true)
    }

    /// For connections, without what only HTTP has.
    pub(super) fn of_connections(&self) -> Judgement {
        self.told("action == Action::\"connect\"", |clause| !clause.http)
    }

    fn told(&self, action: &str, counts: impl Fn(&Clause) -> bool) -> Judgement {
        let mut told = Judgement {
            principal: "principal".to_owned(),
            action: action.to_owned(),
            when: Expr::ALWAYS,
        };
        let mut parts = Vec::new();
        for side in [&self.from, &self.to] {
            if let [only] = side.as_slice() {
                parts.push(head_of(only.iter().filter(|c| counts(c)), &mut told));
            } else if !side.is_empty() {
                let alternatives = side.iter().map(|clauses| {
                    let counted = clauses.iter().filter(|c| counts(c));
                    Expr::all(counted.map(|c| c.expr.clone()))
                });
                parts.push(Expr::any(alternatives));
            }
        }
        parts.push(head_of(self.when.iter().filter(|c| counts(c)), &mut told));
        told.when = Expr::all(parts);
        told
    }
}

/// Puts into the head what may stand there, and answers the rest.
fn head_of<'c>(clauses: impl Iterator<Item = &'c Clause>, told: &mut Judgement) -> Expr {
    let mut rest = Vec::new();
    for clause in clauses {
        match &clause.head {
            Some(Head::Principal(text)) if told.principal == "principal" => {
                told.principal.clone_from(text);
            }
            Some(Head::Action(text)) if told.action == "action in Action::\"http\"" => {
                told.action.clone_from(text);
            }
            _ => rest.push(clause.expr.clone()),
        }
    }
    Expr::all(rest)
}

impl Clause {
    fn new(http: bool, expr: Expr, negated: bool) -> Self {
        let head = expr.as_test().filter(|text| !negated && is_head(text));
        let head = head.map(|text| Head::Principal(text.to_owned()));
        Self {
            http,
            expr: if negated { expr.negated() } else { expr },
            head,
        }
    }
}

/// Whether a test may stand in a policy's head.
fn is_head(text: &str) -> bool {
    text == "principal is Workload"
        || text.starts_with("principal == ")
        || (text.starts_with("principal in ") && !text.starts_with("principal in ["))
}

/// The condition, or which value is wrong and why.
type Told = Result<Expr, (usize, String)>;

/// A field and its opposite: (values' key, values, negated).
type Field<'v> = (&'static str, &'v [String], bool);

fn read_source(
    notes: &mut Notes<'_, AuthorizationPolicySpec>,
    reading: Reading<'_>,
    path: &Path,
    spec: &SourceSpec,
) -> Vec<Clause> {
    let mut clauses = Vec::new();
    let kinds: [(&str, [Field<'_>; 2]); 6] = [
        (
            "source.principal",
            [
                ("principals", &spec.principals, false),
                ("notPrincipals", &spec.not_principals, true),
            ],
        ),
        (
            "source.namespace",
            [
                ("namespaces", &spec.namespaces, false),
                ("notNamespaces", &spec.not_namespaces, true),
            ],
        ),
        (
            "source.serviceAccount",
            [
                ("serviceAccounts", &spec.service_accounts, false),
                ("notServiceAccounts", &spec.not_service_accounts, true),
            ],
        ),
        (
            "request.auth.principal",
            [
                ("requestPrincipals", &spec.request_principals, false),
                ("notRequestPrincipals", &spec.not_request_principals, true),
            ],
        ),
        (
            "source.ip",
            [
                ("ipBlocks", &spec.ip_blocks, false),
                ("notIpBlocks", &spec.not_ip_blocks, true),
            ],
        ),
        (
            "remote.ip",
            [
                ("remoteIpBlocks", &spec.remote_ip_blocks, false),
                ("notRemoteIpBlocks", &spec.not_remote_ip_blocks, true),
            ],
        ),
    ];
    for (key, sides) in kinds {
        for (field, values, negated) in sides {
            if !values.is_empty() {
                clauses.extend(read_condition(
                    notes,
                    reading,
                    (path, field),
                    (key, values, negated),
                ));
            }
        }
    }
    clauses
}

fn read_operation(
    notes: &mut Notes<'_, AuthorizationPolicySpec>,
    path: &Path,
    spec: &OperationSpec,
) -> Vec<Clause> {
    let mut clauses = Vec::new();
    let hosts: [Field<'_>; 2] = [
        ("hosts", &spec.hosts, false),
        ("notHosts", &spec.not_hosts, true),
    ];
    let methods: [Field<'_>; 2] = [
        ("methods", &spec.methods, false),
        ("notMethods", &spec.not_methods, true),
    ];
    let paths: [Field<'_>; 2] = [
        ("paths", &spec.paths, false),
        ("notPaths", &spec.not_paths, true),
    ];
    let ports: [Field<'_>; 2] = [
        ("ports", &spec.ports, false),
        ("notPorts", &spec.not_ports, true),
    ];
    let mut add = |http: bool, kind: fn(&[String]) -> Told, fields: [Field<'_>; 2]| {
        for (field, values, negated) in fields
            .into_iter()
            .filter(|(_, values, _)| !values.is_empty())
        {
            match kind(values) {
                Ok(expr) => clauses.push(Clause::new(http, expr, negated)),
                Err((n, text)) => notes.error(&path.key(field).index(n), Code::Invalid, text),
            }
        }
    };
    add(true, read_hosts, hosts);
    add(true, |values| Ok(read_methods(values)), methods);
    add(true, paths::paths, paths);
    add(false, read_ports, ports);
    if let Some(head) = methods_head(&spec.methods) {
        // `GET` and the like stand in the policy's head.
        let expr = read_methods(&spec.methods);
        if let Some(clause) = clauses.iter_mut().find(|c| c.expr == expr) {
            clause.head = Some(Head::Action(head));
        }
    }
    clauses
}

fn methods_head(methods: &[String]) -> Option<String> {
    let known = methods.iter().all(|m| METHODS.contains(&m.as_str()));
    let actions: Vec<String> = methods
        .iter()
        .map(|m| format!("Action::{}", quoted(m)))
        .collect();
    match (known, actions.as_slice()) {
        (false, _) | (_, []) => None,
        (true, [only]) => Some(format!("action == {only}")),
        (true, many) => Some(format!("action in [{}]", many.join(", "))),
    }
}

fn read_methods(values: &[String]) -> Expr {
    match values.iter().any(|value| value == "*") {
        true => Expr::ALWAYS,
        false => matches("context.method", values),
    }
}

/// The port in a host is not looked at: `example.com`, `example.com:*`.
fn read_hosts(values: &[String]) -> Result<Expr, (usize, String)> {
    let mut hosts: Vec<String> = Vec::new();
    for (n, value) in values.iter().enumerate() {
        let value = value.to_ascii_lowercase();
        let host = value.strip_suffix(":*").unwrap_or(&value).to_owned();
        let numbered = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if numbered && !host.ends_with(']') {
            return Err((
                n,
                format!("{value:?} has a port: name the host alone, and the port as ports"),
            ));
        }
        if host == "*" {
            return Ok(Expr::ALWAYS);
        }
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    Ok(matches("context.host", &hosts))
}

fn read_ports(values: &[String]) -> Result<Expr, (usize, String)> {
    let mut ports = Vec::new();
    for (n, value) in values.iter().enumerate() {
        let port: u16 = value
            .parse()
            .map_err(|_| (n, format!("{value:?} is not a port")))?;
        ports.push(port.to_string());
    }
    Ok(Expr::test(match ports.as_slice() {
        [only] => format!("context.port == {only}"),
        many => format!("[{}].contains(context.port)", many.join(", ")),
    }))
}

/// One key of `when`, or the field of `source` that is the same.
fn read_condition(
    notes: &mut Notes<'_, AuthorizationPolicySpec>,
    reading: Reading<'_>,
    (path, field): (&Path, &str),
    (key, values, negated): (&str, &[String], bool),
) -> Option<Clause> {
    let home = reading.home;
    let exactly = match reading.denies != negated {
        true => Exactly::EveryDomain,
        false => Exactly::OwnDomain,
    };
    if reading.asks && key.starts_with("request.auth.") {
        let place = match field {
            "values" | "notValues" => path.key("key"),
            field => path.key(field),
        };
        let text = "a provider is asked before tokens are verified, as in Istio";
        let hint = "let the provider look at the token, or say it in an ALLOW or DENY policy";
        notes.hint(&place, Code::Unsupported, text, hint);
        return None;
    }
    let mut http = false;
    let read = match key {
        "source.principal" => sources::principals(home, values),
        "source.namespace" => sources::namespaces(home, values, exactly),
        "source.serviceAccount" => sources::accounts(home, values, exactly),
        "source.ip" => sources::addresses("context.source_ip", values),
        "remote.ip" => sources::addresses("context.remote_ip", values),
        "destination.ip" => {
            let has = Expr::test("context has destination_ip");
            let known = sources::addresses("context.destination_ip", values);
            // SECURITY: where nobody knows the address yet, what allows is narrower and what denies is wider.
            return match (known, negated && !reading.denies) {
                (Err((n, text)), _) => {
                    notes.error(&path.key(field).index(n), Code::Invalid, text);
                    None
                }
                (Ok(block), true) => {
                    let other = Expr::all([has, block.negated()]);
                    Some(Clause::new(false, other, false))
                }
                (Ok(block), false) => {
                    let within = Expr::all([has, block]);
                    Some(Clause::new(false, within, negated))
                }
            };
        }
        "connection.sni" => Ok(sources::server_names(values)),
        "destination.port" => read_ports(values),
        _ => {
            http = true;
            match read_request(reading, key, values, negated) {
                Some(read) => read,
                None => {
                    refuse(notes, path, field, key);
                    return None;
                }
            }
        }
    };
    match read {
        Ok(expr) => Some(Clause::new(http, expr, negated)),
        Err((n, text)) => {
            notes.error(&path.key(field).index(n), Code::Invalid, text);
            None
        }
    }
}

/// Keys that only HTTP has; `None` for one that is not known here.
fn read_request(
    reading: Reading<'_>,
    key: &str,
    values: &[String],
    negated: bool,
) -> Option<Result<Expr, (usize, String)>> {
    let expr = match key {
        "request.auth.principal" => sources::request_principals(values),
        "request.auth.audiences" => sources::claim("aud", values),
        "request.auth.presenter" => sources::claim("azp", values),
        _ => {
            if let Some(name) = bracketed(key, "request.headers") {
                header(&name, values, reading.denies != negated)
            } else {
                sources::claim(&bracketed(key, "request.auth.claims")?, values)
            }
        }
    };
    Some(Ok(expr))
}

/// `a[b][c]` → `b.c`.
fn bracketed(key: &str, before: &str) -> Option<String> {
    let inner = key
        .strip_prefix(before)?
        .strip_prefix('[')?
        .strip_suffix(']')?;
    let names: Vec<&str> = inner.split("][").collect();
    let legal = names
        .iter()
        .all(|name| !name.is_empty() && !name.contains(['[', ']']));
    legal.then(|| names.join("."))
}

/// SECURITY: where matching denies, none of several lines hides another; where it allows, the whole header counts.
fn header(name: &str, values: &[String], widely: bool) -> Expr {
    let tag = quoted(&name.to_ascii_lowercase());
    let has = Expr::test(format!("context.headers.hasTag({tag})"));
    if values
        .iter()
        .any(|value| Match::of(value) == Match::Present)
    {
        return has;
    }
    let (exact, rest): (Vec<String>, Vec<String>) = values
        .iter()
        .cloned()
        .partition(|value| widely && matches!(Match::of(value), Match::Exact(_)));
    let mut tests = Vec::new();
    if !exact.is_empty() {
        let held = match exact.as_slice() {
            [only] => format!("contains({})", quoted(only)),
            many => format!("containsAny({})", strings(many.iter().map(String::as_str))),
        };
        let held = Expr::test(format!("context.headers.getTag({tag}).{held}"));
        tests.push(Expr::all([has, held]));
    }
    if !rest.is_empty() {
        let has = Expr::test(format!("context.header_text.hasTag({tag})"));
        let subject = format!("context.header_text.getTag({tag})");
        tests.push(Expr::all([has, matches(&subject, &rest)]));
    }
    Expr::any(tests)
}

fn refuse(notes: &mut Notes<'_, AuthorizationPolicySpec>, path: &Path, field: &str, key: &str) {
    let place = match field {
        "values" | "notValues" => path.key("key"),
        field => path.key(field),
    };
    let (code, text, hint) = match key.strip_prefix("experimental.envoy.filters.") {
        Some(filter) => {
            let filter = filter.split('[').next().unwrap_or_default();
            let text = format!(
                "{key} asks for what Envoy's filter envoy.filters.{filter} tells, and there is none here: nothing would ever match it"
            );
            let hint = "remove the condition, or say what it is for by principals and ports: what flows in a connection is not read";
            return notes.hint(&place, Code::Unsupported, text, hint);
        }
        None => (
            Code::Invalid,
            format!("{key:?} is no attribute"),
            "see https://istio.io/latest/docs/reference/config/security/conditions/",
        ),
    };
    notes.hint(&place, code, text, hint);
}
