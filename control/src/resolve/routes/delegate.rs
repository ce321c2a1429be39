//! Delegates: rules of one `VirtualService` in the place of a rule of another, merged as Istio merges them.

use std::collections::BTreeMap;

use reeve_core::{
    Namespace,
    model::{HeaderMatch, RouteMatch, StringMatch},
};

use crate::{
    Code, Fault,
    kinds::{Object, VirtualServiceSpec},
    mesh::{At, HttpRoute, Match, RouteTo, VirtualService},
    resolve::values::Notes,
    source::path::Path,
};

/// Puts the rules of delegates where roots name them; delegates themselves have no hosts and go.
pub(super) fn merge(
    objects: &[Object<VirtualServiceSpec>],
    all: &mut Vec<VirtualService>,
    faults: &mut Vec<Fault>,
) {
    let is_delegate = |v: &VirtualService| v.hosts.is_empty() && v.gateways.is_empty();
    let (delegates, mut roots): (Vec<_>, Vec<_>) = all.drain(..).partition(is_delegate);
    let delegates: BTreeMap<_, _> = delegates
        .into_iter()
        .map(|d| ((d.namespace.clone(), d.name.clone()), d))
        .collect();
    let mut used = Vec::new();
    for root in &mut roots {
        let same =
            |o: &&Object<VirtualServiceSpec>| o.namespace == root.namespace && o.name == root.name;
        let Some(object) = objects.iter().find(same) else {
            continue;
        };
        let notes = &mut Notes { object, faults };
        let rules = std::mem::take(&mut root.http).into_iter().enumerate();
        for (n, rule) in rules {
            match &rule.to {
                RouteTo::Delegate(namespace, name) => {
                    let key = (namespace.clone(), name.clone());
                    let path = Path::of(&["spec", "http"]).index(n).key("delegate");
                    let found = delegates.get(&key);
                    root.http.extend(expand(notes, &path, &rule, found, &key));
                    used.push(key);
                }
                RouteTo::Forward(_) | RouteTo::Redirect { .. } | RouteTo::Respond { .. } => {
                    root.http.push(rule);
                }
            }
        }
    }
    for object in objects {
        let key = (object.namespace.clone(), object.name.clone());
        if delegates.contains_key(&key) && !used.contains(&key) {
            let notes = &mut Notes { object, faults };
            notes.warn(
                &Path::of(&["spec", "hosts"]),
                Code::Unreachable,
                "there are no hosts, and no VirtualService delegates to this one",
                "name its hosts, or name it as a delegate",
            );
        }
    }
    *all = roots;
}

fn expand(
    notes: &mut Notes<'_, VirtualServiceSpec>,
    path: &Path,
    root: &HttpRoute,
    delegate: Option<&VirtualService>,
    (namespace, name): &(Namespace, String),
) -> Vec<HttpRoute> {
    let Some(delegate) = delegate else {
        let text = format!(
            "there is no VirtualService {namespace}/{name} without hosts; the rule has no effect"
        );
        let hint = "a delegate has http rules and no hosts";
        notes.warn(path, Code::UnknownReference, text, hint);
        return Vec::new();
    };
    let mut rules = Vec::new();
    for (n, rule) in delegate.http.iter().enumerate() {
        match matches(&root.matches, &rule.matches) {
            Some(matches) => rules.push(merged(root, rule, matches)),
            None => {
                let text = format!(
                    "{namespace}/{name} spec.http[{n}] is left out: its match does not lie within this rule's"
                );
                let hint = "each match of a delegate narrows one of the root's";
                notes.warn(path, Code::Conflict, text, hint);
            }
        }
    }
    rules
}

/// What the delegate does not say, its root says.
fn merged(root: &HttpRoute, rule: &HttpRoute, matches: Vec<Match>) -> HttpRoute {
    let name = match (&root.name, &rule.name) {
        (Some(root), Some(rule)) => Some(format!("{root}-{rule}")),
        (root, rule) => rule.clone().or_else(|| root.clone()),
    };
    let forwards = matches!(rule.to, RouteTo::Forward(_));
    let rewrite = rule.rewrite.clone().or_else(|| root.rewrite.clone());
    HttpRoute {
        name,
        matches,
        timeout: rule.timeout.or(root.timeout),
        retries: rule.retries.clone().or_else(|| root.retries.clone()),
        headers: rule.headers.clone().or_else(|| root.headers.clone()),
        fault: rule.fault.clone().or_else(|| root.fault.clone()),
        cors: rule.cors.clone().or_else(|| root.cors.clone()),
        mirrors: rule.mirrors.clone().or_else(|| root.mirrors.clone()),
        rewrite: rewrite.filter(|_| forwards),
        ..rule.clone()
    }
}

/// Every match of the delegate that lies within one of the root's, narrowed by it; `None` if one lies in none.
fn matches(root: &[Match], delegate: &[Match]) -> Option<Vec<Match>> {
    if root.is_empty() || delegate.is_empty() {
        let given = if root.is_empty() { delegate } else { root };
        return Some(given.to_vec());
    }
    let mut all = Vec::new();
    for own in delegate {
        let before = all.len();
        let within = root.iter().filter(|r| lies_within(own, r));
        all.extend(within.map(|r| narrowed(r, own)));
        if all.len() == before {
            return None;
        }
    }
    Some(all)
}

fn narrowed(root: &Match, own: &Match) -> Match {
    let (from, to) = (&root.request, &own.request);
    let text = |own: &Option<StringMatch>, root: &Option<StringMatch>| {
        own.clone().or_else(|| root.clone())
    };
    let gateways = own.at.in_mesh || !own.at.gateways.is_empty();
    let place = if gateways { &own.at } else { &root.at };
    Match {
        request: RouteMatch {
            uri: text(&to.uri, &from.uri),
            ignore_uri_case: to.ignore_uri_case,
            scheme: text(&to.scheme, &from.scheme),
            method: text(&to.method, &from.method),
            authority: text(&to.authority, &from.authority),
            headers: both(&from.headers, &to.headers),
            without_headers: both(&from.without_headers, &to.without_headers),
            query_params: both(&from.query_params, &to.query_params),
            claims: both(&from.claims, &to.claims),
            without_claims: both(&from.without_claims, &to.without_claims),
            stat_prefix: to.stat_prefix.clone().or_else(|| from.stat_prefix.clone()),
        },
        at: At {
            port: own.at.port.or(root.at.port),
            in_mesh: place.in_mesh,
            gateways: place.gateways.clone(),
            source_labels: both(&root.at.source_labels, &own.at.source_labels),
            source_namespace: own
                .at
                .source_namespace
                .clone()
                .or_else(|| root.at.source_namespace.clone()),
            destination_subnets: Vec::new(),
        },
    }
}

fn both<V: Clone>(root: &BTreeMap<String, V>, own: &BTreeMap<String, V>) -> BTreeMap<String, V> {
    let mut all = root.clone();
    all.extend(own.clone());
    all
}

fn lies_within(own: &Match, root: &Match) -> bool {
    let (o, r) = (&own.request, &root.request);
    let texts = [
        (&o.uri, &r.uri),
        (&o.scheme, &r.scheme),
        (&o.method, &r.method),
        (&o.authority, &r.authority),
    ];
    let maps = [
        (&o.headers, &r.headers),
        (&o.without_headers, &r.without_headers),
        (&o.query_params, &r.query_params),
        (&o.claims, &r.claims),
        (&o.without_claims, &r.without_claims),
    ];
    texts
        .iter()
        .all(|(own, root)| text_within(own.as_ref(), root.as_ref()))
        && maps.iter().all(|(own, root)| {
            let mut each = own.iter();
            each.all(|(name, own)| value_within(own, root.get(name)))
        })
        && o.ignore_uri_case == r.ignore_uri_case
        && place_within(&own.at, &root.at)
}

fn value_within(own: &HeaderMatch, root: Option<&HeaderMatch>) -> bool {
    match (own, root) {
        (HeaderMatch::Value(own), Some(HeaderMatch::Value(root))) => {
            text_within(Some(own), Some(root))
        }
        // Istio compares presence with presence, or with a value, as unequal.
        (_, Some(_)) => false,
        (_, None) => true,
    }
}

/// As Istio compares them: an expression lies in nothing, and nothing lies in one.
fn text_within(own: Option<&StringMatch>, root: Option<&StringMatch>) -> bool {
    use StringMatch::{Exact, PathPrefix, Prefix, Regex};
    let (Some(own), Some(root)) = (own, root) else {
        return true;
    };
    match (own, root) {
        (Exact(own), Exact(root)) => own == root,
        (Exact(own) | Prefix(own), Prefix(root)) => own.starts_with(root.as_str()),
        (Exact(_) | Prefix(_) | PathPrefix(_) | Regex(_), _) => false,
    }
}

fn place_within(own: &At, root: &At) -> bool {
    let same_port = own.port.is_none() || root.port.is_none() || own.port == root.port;
    let namespace =
        root.source_namespace.is_none() || own.source_namespace == root.source_namespace;
    let labels = own.source_labels.iter().all(|(key, value)| {
        let root = root.source_labels.get(key);
        root.is_none_or(|root| root == value)
    });
    let named = |at: &At| at.in_mesh || !at.gateways.is_empty();
    let gateways = !named(own)
        || !named(root)
        || ((root.in_mesh || !own.in_mesh)
            && own.gateways.iter().all(|g| root.gateways.contains(g)));
    same_port && namespace && labels && gateways
}
