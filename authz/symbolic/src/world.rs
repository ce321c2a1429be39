//! Which worlds can be: what is always true of a request, beyond what the schema says.
//!
//! The solver may put a workload into two namespaces, or say mTLS of a caller without an identity. Conditions against
//! that are stated in Cedar about the entities, paths and parts of paths that the policies name: about all others no
//! policy can tell.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{Policy, RequestEnv};
use reeve_authz::MAX_NAMED_SEGMENTS;
use reeve_core::{Namespace, ServiceName, SpiffeId, TrustDomain};
use serde_json::Value;

use crate::{VerifyError, literals::Literals, policies::Stated};

/// What is known of the mesh whose policies are judged.
#[derive(Clone, Debug)]
pub struct World {
    /// The mesh's trust domain.
    pub home: TrustDomain,
    /// Its services, and the namespace of each.
    pub services: BTreeMap<ServiceName, Namespace>,
    /// Its workloads, for examples that one knows.
    pub identities: BTreeSet<SpiffeId>,
    /// Who is behind a service; a service of which this is not known is not here.
    pub behind: BTreeMap<ServiceName, BTreeSet<SpiffeId>>,
}

/// Some of all requests: each is of one type, and what it asks for is in one namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) world: &'a World,
    pub(crate) env: &'a RequestEnv,
    pub(crate) place: &'a Place,
}

/// Where a request's resource is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Anywhere.
    Any,
    /// In a namespace, its trust domain first.
    Namespace(String),
    /// In none of these.
    Elsewhere(Vec<String>),
}

impl Part<'_> {
    /// Whether the policy may apply to such a request.
    pub(crate) fn concerns(&self, policy: &Stated) -> bool {
        policy.envs.contains(self.env)
            && match (self.place, self.world.namespace(policy)) {
                (Place::Any, _) | (_, None) => true,
                (Place::Elsewhere(_), Some(_)) => false,
                (Place::Namespace(place), Some(own)) => *place == own,
            }
    }
}

impl World {
    /// The only namespace whose resources the policy may concern, its trust domain first, as far as its scope says.
    pub(crate) fn namespace(&self, policy: &Stated) -> Option<String> {
        if let Some(namespace) = &policy.source.scope {
            return Some(format!("{}/ns/{namespace}", self.home));
        }
        match policy.resource()? {
            ("Namespace", id) => Some(id.to_owned()),
            ("Service", id) => self.namespace_of(id),
            _ => None,
        }
    }

    /// Names what the literals belong to: a service account's namespace, a namespace's trust domain.
    pub(crate) fn complete(&self, literals: &mut Literals) {
        literals.add("TrustDomain", self.home.as_str());
        for service in owned(literals, "Service") {
            for id in self.behind(&service).into_iter().flatten() {
                literals.add("Workload", id.as_str());
            }
        }
        for id in owned(literals, "Workload") {
            let Ok(id) = SpiffeId::parse(&id) else {
                continue;
            };
            literals.add("TrustDomain", id.trust_domain().as_str());
            if let Some(account) = account_of(&id) {
                literals.add("ServiceAccount", &account);
            }
        }
        for id in owned(literals, "Service") {
            if let Some(namespace) = self.namespace_of(&id) {
                literals.add("Namespace", &namespace);
            }
        }
        for account in owned(literals, "ServiceAccount") {
            if let Some((namespace, _)) = account.split_once("/sa/") {
                literals.add("Namespace", namespace);
            }
        }
        for namespace in owned(literals, "Namespace") {
            if let Some((domain, _)) = namespace.split_once("/ns/") {
                literals.add("TrustDomain", domain);
            }
        }
    }

    /// The namespace of a service, its trust domain first.
    fn namespace_of(&self, service: &str) -> Option<String> {
        let name = ServiceName::parse(service).ok()?;
        let namespace = self.services.get(&name)?;
        Some(format!("{}/ns/{namespace}", self.home))
    }

    fn behind(&self, service: &str) -> Option<&BTreeSet<SpiffeId>> {
        self.behind.get(&ServiceName::parse(service).ok()?)
    }

    /// The condition, in Cedar's JSON form, that holds in each world that can be.
    pub(crate) fn guard(
        &self,
        (env, place): (&RequestEnv, &Place),
        literals: &Literals,
        apart: &BTreeSet<Apart>,
    ) -> Result<Value, VerifyError> {
        let mut facts: Vec<_> = apart.iter().map(Apart::fact).collect();
        let within = |id| format!("resource in {}", entity("Namespace", id));
        match place {
            Place::Any => {}
            Place::Namespace(id) => facts.push(within(id)),
            Place::Elsewhere(named) => {
                facts.extend(named.iter().map(|id| format!("!({})", within(id))));
            }
        }
        let principal = env.principal().to_string();
        let resource = env.resource().to_string();
        self.principal(&principal, &resource, literals, &mut facts);
        self.resource(&resource, literals, &mut facts);
        circumstances(env.action().id().unescaped(), literals, &mut facts);
        let text = format!(
            "permit(principal, action, resource) when {{ {} }};",
            all(&facts)
        );
        let policy = Policy::parse(None, &text).map_err(VerifyError::cedar)?;
        let json = policy.to_json().map_err(VerifyError::cedar)?;
        let body = json.pointer("/conditions/0/body").cloned();
        body.ok_or(VerifyError::Guard)
    }

    fn principal(&self, kind: &str, resource: &str, literals: &Literals, facts: &mut Vec<String>) {
        if kind != "Workload" {
            facts.push("!context.mtls".to_owned());
            return;
        }
        identity("principal", literals, facts);
        if resource != "Workload" {
            return;
        }
        // What a workload is behind counts when it is asked for, not when it asks.
        facts.push("context.mtls".to_owned());
        for service in literals.of("Service") {
            facts.push(format!(
                "(!(principal in {}) || principal == resource)",
                entity("Service", service)
            ));
        }
    }

    fn resource(&self, kind: &str, literals: &Literals, facts: &mut Vec<String>) {
        if kind == "Workload" {
            identity("resource", literals, facts);
        }
        facts.push(format!(
            "resource in {}",
            entity("TrustDomain", self.home.as_str())
        ));
        for domain in literals.of("TrustDomain") {
            if domain != self.home.as_str() {
                facts.push(format!("!(resource in {})", entity("TrustDomain", domain)));
            }
        }
        for service in literals.of("Service") {
            if let Some(namespace) = self.namespace_of(service) {
                facts.push(format!(
                    "(!(resource in {}) || resource in {})",
                    entity("Service", service),
                    entity("Namespace", &namespace)
                ));
            }
        }
        for name in literals.of("Service") {
            let service = entity("Service", name);
            // A service is in none but itself; a workload, in those that it is behind.
            let members = match (kind, self.behind(name)) {
                ("Service", _) => vec![service.clone()],
                (_, Some(ids)) => ids
                    .iter()
                    .map(|id| entity("Workload", id.as_str()))
                    .collect(),
                (_, None) => continue,
            };
            let members: Vec<_> = members
                .iter()
                .map(|id| format!("resource == {id}"))
                .collect();
            facts.push(format!(
                "(!(resource in {service}) || {})",
                members.join(" || ")
            ));
        }
    }
}

/// What a SPIFFE ID of the form `/ns/<namespace>/sa/<account>` says.
fn identity(who: &str, literals: &Literals, facts: &mut Vec<String>) {
    for id in literals.of("Workload") {
        let workload = entity("Workload", id);
        let account = SpiffeId::parse(id).ok().and_then(|id| account_of(&id));
        match account {
            Some(account) => facts.push(format!(
                "({who} == {workload}) == ({who} in {})",
                entity("ServiceAccount", &account)
            )),
            None => {
                let kinds = ["ServiceAccount", "Namespace"];
                let others = kinds.into_iter().flat_map(|kind| {
                    let ids = literals.of(kind);
                    ids.map(move |other| format!("!({who} in {})", entity(kind, other)))
                });
                let domain = id.strip_prefix("spiffe://").unwrap_or(id);
                let domain = domain.split('/').next().unwrap_or_default();
                let own = format!("{who} in {}", entity("TrustDomain", domain));
                let facts_of = all(&others.chain([own]).collect::<Vec<_>>());
                facts.push(format!("(!({who} == {workload}) || {facts_of})"));
            }
        }
    }
    for account in literals.of("ServiceAccount") {
        above(who, "ServiceAccount", account, "/sa/", "Namespace", facts);
    }
    for namespace in literals.of("Namespace") {
        above(who, "Namespace", namespace, "/ns/", "TrustDomain", facts);
    }
}

/// Whoever is in `id` is in what its name begins with.
fn above(who: &str, kind: &str, id: &str, mark: &str, parent: &str, facts: &mut Vec<String>) {
    if let Some((name, _)) = id.split_once(mark) {
        let (own, parent) = (entity(kind, id), entity(parent, name));
        facts.push(format!("(!({who} in {own}) || {who} in {parent})"));
    }
}

/// Two of which nobody and nothing is both, or in both: two namespaces, say. There are so many of these that only those are
/// stated that a model has disregarded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Apart {
    pub(crate) who: Side,
    pub(crate) kind: &'static str,
    pub(crate) ids: (String, String),
}

/// Who asks, or what is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Principal,
    Resource,
}

/// The types of what one thing is in one of at most.
pub(crate) const EXCLUSIVE: [&str; 3] = ["TrustDomain", "Namespace", "ServiceAccount"];

impl Apart {
    fn fact(&self) -> String {
        let who = match self.who {
            Side::Principal => "principal",
            Side::Resource => "resource",
        };
        let in_both = [&self.ids.0, &self.ids.1]
            .map(|id| format!("{who} in {}", entity(self.kind, id)))
            .join(" && ");
        format!("!({in_both})")
    }
}

/// The account of an identity of the mesh's form, its trust domain first.
fn account_of(id: &SpiffeId) -> Option<String> {
    let (namespace, account) = id.namespace_and_account()?;
    Some(format!("{}/ns/{namespace}/sa/{account}", id.trust_domain()))
}

fn circumstances(action: &str, literals: &Literals, facts: &mut Vec<String>) {
    facts.push("context.port >= 1 && context.port <= 65535".to_owned());
    if literals.attributes.contains("time") {
        facts.push(
            "context.time >= datetime(\"1970-01-01\") && context.time < datetime(\"9999-01-01\")"
                .to_owned(),
        );
    }
    if literals.attributes.contains("sni") {
        facts.push("(!(context has sni) || context.sni != \"\")".to_owned());
    }
    if action == "connect" {
        return;
    }
    if literals.attributes.contains("method") {
        facts.push(match action {
            "other" => {
                "!([\"GET\", \"HEAD\", \"OPTIONS\", \"TRACE\", \"POST\", \"PUT\", \"PATCH\", \"DELETE\"]\
                 .contains(context.method)) && context.method != \"\""
                    .to_owned()
            }
            declared => format!("context.method == {declared:?}"),
        });
    }
    if literals.attributes.contains("path") {
        facts.push("(context.path like \"/*\" || context.path == \"*\")".to_owned());
    }
    if literals.attributes.contains("path_segments") {
        segments(literals, facts);
    }
}

/// What the parts of a path say of each other, and of the path as far as that is named.
fn segments(literals: &Literals, facts: &mut Vec<String>) {
    facts.push("context.path_segments.count >= 0".to_owned());
    for number in 1..=MAX_NAMED_SEGMENTS {
        facts.push(format!(
            "(context.path_segments has s{number}) == (context.path_segments.count >= {number})"
        ));
    }
    if literals.both_forms_of_path() {
        path_and_segments(literals, facts);
    }
}

fn path_and_segments(literals: &Literals, facts: &mut Vec<String>) {
    let star = with_parts(&["*"], "context.path_segments.count == 1".to_owned());
    facts.push(format!("(!(context.path == \"*\") || {})", all(&star)));
    for path in &literals.paths {
        let Some(parts) = parts(path) else { continue };
        if parts.len() <= MAX_NAMED_SEGMENTS {
            let count = format!("context.path_segments.count == {}", parts.len());
            facts.push(format!(
                "(context.path == {}) == ({})",
                quoted(path),
                all(&with_parts(&parts, count))
            ));
        }
    }
    for (front, only) in &literals.path_patterns {
        let Some(mut parts) = parts(front) else {
            continue;
        };
        let open = parts.pop().unwrap_or_default();
        let number = parts.len() + 1;
        if number > MAX_NAMED_SEGMENTS {
            continue;
        }
        let mut wanted = with_parts(&parts, format!("context.path_segments.count >= {number}"));
        wanted.push(format!(
            "context.path_segments has s{number} && context.path_segments.s{number} like {}",
            pattern(open)
        ));
        let like = format!("context.path like {}", pattern(front));
        // The root has no part, and begins with a slash.
        let wanted = match front.as_str() {
            "/" => "true".to_owned(),
            _ => all(&wanted),
        };
        facts.push(match only {
            true if front != "/" => format!("({like}) == ({wanted})"),
            _ => format!("(!({like}) || {wanted})"),
        });
    }
    for (number, values) in &literals.segments {
        for value in values {
            let seen = format!(
                "context.path_segments has s{number} && context.path_segments.s{number} == {}",
                quoted(value)
            );
            let front = if *number == 1 { "/" } else { "/*/" };
            let value = literal(value);
            facts.push(format!(
                "(!({seen}) || context.path like \"{front}{value}\" || context.path like \"{front}{value}/*\")"
            ));
        }
    }
}

fn with_parts(parts: &[&str], count: String) -> Vec<String> {
    let named = parts.iter().enumerate().map(|(index, part)| {
        let name = format!("context.path_segments.s{}", index + 1);
        format!(
            "context.path_segments has s{} && {name} == {}",
            index + 1,
            quoted(part)
        )
    });
    [count].into_iter().chain(named).collect()
}

/// The parts of a path between its slashes; none of what is no path.
fn parts(path: &str) -> Option<Vec<&str>> {
    let rest = path.strip_prefix('/')?;
    Some(match rest {
        "" => Vec::new(),
        rest => rest.split('/').collect(),
    })
}

/// A conjunction, nested no deeper than need be.
fn all(facts: &[String]) -> String {
    match facts {
        [] => "true".to_owned(),
        [one] => format!("({one})"),
        more => {
            let (left, right) = more.split_at(more.len() / 2);
            format!("({} && {})", all(left), all(right))
        }
    }
}

fn owned(literals: &Literals, kind: &str) -> Vec<String> {
    literals.of(kind).map(str::to_owned).collect()
}

fn entity(kind: &str, id: &str) -> String {
    format!("{kind}::{}", quoted(id))
}

/// A Cedar string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_default())
}

/// A Cedar pattern: the text, then anything.
fn pattern(front: &str) -> String {
    format!("\"{}*\"", literal(front))
}

/// A text within a Cedar pattern.
fn literal(text: &str) -> String {
    text.escape_default().to_string().replace('*', "\\*")
}
