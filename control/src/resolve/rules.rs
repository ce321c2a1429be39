//! `DestinationRule`.

mod originate;
mod rates;

use std::collections::{BTreeMap, BTreeSet};

use reeve_core::{
    ServiceName,
    model::{Subset, TrafficPolicy},
};

use super::{
    hosts::{Services, advice, full},
    traffic,
    values::Notes,
};
use crate::{
    Code, Fault,
    kinds::{
        ConnectionPoolSpec, DestinationRuleSpec, LoadBalancerSpec, Object, OutlierDetectionSpec,
        PortTrafficSpec, TlsSpec, TrafficPolicySpec,
    },
    mesh::DestinationRule,
    source::path::Path,
};

/// Every rule by its host.
pub(super) type Rules = Vec<(ServiceName, DestinationRule)>;

pub(super) fn resolve(
    objects: &[Object<DestinationRuleSpec>],
    services: &Services,
    faults: &mut Vec<Fault>,
) -> Rules {
    let mut rules = Rules::new();
    let mut patterns: Vec<(String, DestinationRule)> = Vec::new();
    for object in objects {
        let mut notes = Notes { object, faults };
        let path = Path::of(&["spec", "host"]);
        if object.spec.host.is_empty() {
            notes.error(&path, Code::Missing, "the rule has no host");
            continue;
        }
        let host = full(&object.spec.host, &object.namespace);
        if host.contains('*') {
            patterns.extend(pattern(&mut notes, &path, host, &patterns));
            continue;
        }
        let host = match ServiceName::parse(&host) {
            Ok(host) => host,
            Err(error) => {
                notes.error(&path, Code::Invalid, error.to_string());
                continue;
            }
        };
        if !services.contains_key(&host) {
            let text = format!("there is no service {host}");
            notes.warn(
                &path,
                Code::UnknownReference,
                text,
                &advice(host.as_str(), services),
            );
        }
        let rule = rule(&mut notes);
        let same = |known: &(ServiceName, DestinationRule)| {
            known.0 == host && known.1.namespace == rule.namespace
        };
        if rules.iter().any(same) {
            let text = format!("{host} has two rules in namespace {}", rule.namespace);
            let hint = "keep one DestinationRule per host and namespace";
            notes.hint(&path, Code::Conflict, text, hint);
        }
        rules.push((host, rule));
    }
    spread(&mut rules, patterns, services);
    rules.sort_by(|a, b| (&a.0, &a.1.namespace).cmp(&(&b.0, &b.1.namespace)));
    rules
}

/// A rule for every host under a pattern, `*` or `*.suffix`.
fn pattern(
    notes: &mut Notes<'_, DestinationRuleSpec>,
    path: &Path,
    host: String,
    known: &[(String, DestinationRule)],
) -> Option<(String, DestinationRule)> {
    let suffix = host.strip_prefix("*.");
    if host != "*" && suffix.is_none_or(|suffix| ServiceName::parse(suffix).is_err()) {
        let text = format!("{host:?} is not a host, *.suffix or *");
        notes.error(path, Code::Invalid, text);
        return None;
    }
    let rule = rule(notes);
    let same =
        |other: &(String, DestinationRule)| other.0 == host && other.1.namespace == rule.namespace;
    if known.iter().any(same) {
        let text = format!("{host} has two rules in namespace {}", rule.namespace);
        let hint = "keep one DestinationRule per host and namespace";
        notes.hint(path, Code::Conflict, text, hint);
    }
    Some((host, rule))
}

/// Gives the rules of patterns to the services under them. Within a namespace the narrowest rule holds, alone.
fn spread(rules: &mut Rules, mut patterns: Vec<(String, DestinationRule)>, services: &Services) {
    patterns.sort_by_key(|(host, _)| std::cmp::Reverse(host.len()));
    for (pattern, rule) in patterns {
        let under = services.values().filter(|s| s.falls_under(&pattern));
        for host in under.map(|service| &service.host) {
            let narrower = |known: &(ServiceName, DestinationRule)| {
                known.0 == *host && known.1.namespace == rule.namespace
            };
            if !rules.iter().any(narrower) {
                rules.push((host.clone(), rule.clone()));
            }
        }
    }
}

/// Of each host the service's own namespace's rule, else the first.
pub(super) fn unscoped(
    rules: &Rules,
    services: &Services,
) -> BTreeMap<ServiceName, DestinationRule> {
    let mut chosen: BTreeMap<ServiceName, DestinationRule> = BTreeMap::new();
    for (host, rule) in rules {
        let own = services
            .get(host)
            .is_some_and(|s| s.namespace == rule.namespace);
        if own || !chosen.contains_key(host) {
            chosen.insert(host.clone(), rule.clone());
        }
    }
    chosen
}

fn rule(notes: &mut Notes<'_, DestinationRuleSpec>) -> DestinationRule {
    let spec = &notes.object.spec;
    let base = TrafficPolicy::default();
    let path = Path::of(&["spec", "trafficPolicy"]);
    let all = spec.traffic_policy.as_ref();
    let traffic = policy(notes, &path, all, &base);
    let port_traffic = by_port(notes, &path, all, &traffic, &BTreeMap::new());
    let mut subsets: Vec<Subset> = Vec::new();
    for (n, subset) in spec.subsets.iter().enumerate() {
        let path = Path::of(&["spec", "subsets"]).index(n);
        if subset.name.is_empty() {
            notes.error(&path.key("name"), Code::Missing, "the subset has no name");
        }
        if subsets.iter().any(|s| s.name == subset.name) {
            notes.error(
                &path.key("name"),
                Code::Conflict,
                format!("there are two subsets {:?}", subset.name),
            );
        }
        let (own, spec) = (path.key("trafficPolicy"), subset.traffic_policy.as_ref());
        subsets.push(Subset {
            name: subset.name.clone(),
            labels: subset.labels.clone(),
            traffic: policy(notes, &own, spec, &traffic),
            port_traffic: by_port(notes, &own, spec, &traffic, &port_traffic),
        });
    }
    let mut rule = DestinationRule {
        namespace: notes.object.namespace.clone(),
        export_to: super::exports(notes, &spec.export_to),
        traffic,
        port_traffic,
        subsets,
    };
    rates::apply(notes, &mut rule);
    rule
}

/// `spec` over `base`: a section that is there replaces the whole section of `base`, as in Istio.
fn policy(
    notes: &mut Notes<'_, DestinationRuleSpec>,
    path: &Path,
    spec: Option<&TrafficPolicySpec>,
    base: &TrafficPolicy,
) -> TrafficPolicy {
    let Some(spec) = spec else {
        return base.clone();
    };
    let mut policy = sections(notes, path, &Sections::of(spec), base);
    if let Some(budget) = &spec.retry_budget {
        let path = path.key("retryBudget");
        policy.retry_budget = Some(traffic::retry_budget(notes, &path, budget));
    }
    policy
}

/// The sections that a port may have of its own.
struct Sections<'a> {
    load_balancer: Option<&'a LoadBalancerSpec>,
    connection_pool: Option<&'a ConnectionPoolSpec>,
    outlier_detection: Option<&'a OutlierDetectionSpec>,
    tls: Option<&'a TlsSpec>,
}

impl<'a> Sections<'a> {
    fn of(spec: &'a TrafficPolicySpec) -> Self {
        Self {
            load_balancer: spec.load_balancer.as_ref(),
            connection_pool: spec.connection_pool.as_ref(),
            outlier_detection: spec.outlier_detection.as_ref(),
            tls: spec.tls.as_ref(),
        }
    }

    fn of_port(spec: &'a PortTrafficSpec) -> Self {
        Self {
            load_balancer: spec.load_balancer.as_ref(),
            connection_pool: spec.connection_pool.as_ref(),
            outlier_detection: spec.outlier_detection.as_ref(),
            tls: spec.tls.as_ref(),
        }
    }
}

fn sections(
    notes: &mut Notes<'_, DestinationRuleSpec>,
    path: &Path,
    spec: &Sections<'_>,
    base: &TrafficPolicy,
) -> TrafficPolicy {
    let mut policy = base.clone();
    if let Some(spec) = spec.load_balancer {
        traffic::load_balancer(notes, &path.key("loadBalancer"), spec, &mut policy);
    }
    if let Some(spec) = spec.connection_pool {
        traffic::connection_pool(notes, &path.key("connectionPool"), spec, &mut policy);
    }
    if let Some(spec) = spec.outlier_detection {
        let path = path.key("outlierDetection");
        policy.outlier = Some(traffic::outlier(notes, &path, spec));
    }
    if let Some(tls) = spec.tls {
        policy.tls = originate::client_tls(notes, &path.key("tls"), tls);
    }
    policy
}

/// Settings by port. They inherit nothing from the service's; a subset's sections stand over the port's of its service.
fn by_port(
    notes: &mut Notes<'_, DestinationRuleSpec>,
    path: &Path,
    spec: Option<&TrafficPolicySpec>,
    base: &TrafficPolicy,
    base_ports: &BTreeMap<u16, TrafficPolicy>,
) -> BTreeMap<u16, TrafficPolicy> {
    // What was noted of `spec` is noted already.
    let (mut mute, object) = (Vec::new(), notes.object);
    let mut quiet = Notes {
        object,
        faults: &mut mute,
    };
    let inherited = base_ports.iter();
    let mut ports: BTreeMap<u16, TrafficPolicy> = inherited
        .map(|(port, base)| (*port, policy(&mut quiet, path, spec, base)))
        .collect();
    let own = spec.map(|s| s.port_level_settings.as_slice());
    let mut seen = BTreeSet::new();
    for (n, spec) in own.unwrap_or_default().iter().enumerate() {
        let path = path.key("portLevelSettings").index(n);
        let port_path = path.key("port").key("number");
        let port = spec.port.as_ref().map_or(0, |p| p.number);
        if port == 0 {
            notes.error(&port_path, Code::Invalid, "a port is 1 to 65535");
        }
        if !seen.insert(port) {
            let text = format!("the port {port} stands here twice");
            notes.error(&port_path, Code::Conflict, text);
        }
        let fresh = TrafficPolicy {
            retry_budget: base.retry_budget,
            ..TrafficPolicy::default()
        };
        let settings = sections(notes, &path, &Sections::of_port(spec), &fresh);
        ports.insert(port, settings);
    }
    ports
}
