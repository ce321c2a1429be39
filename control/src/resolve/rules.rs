//! `DestinationRule`.

mod originate;

use std::{collections::BTreeMap, num::NonZeroU32};

use reeve_core::{
    ServiceName,
    model::{LoadBalancer, Subset, TrafficPolicy},
};

use super::{
    hosts::{Services, advice, full},
    values::Notes,
};
use crate::{
    Code, Fault,
    kinds::{ConnectionPoolSpec, DestinationRuleSpec, Object, TrafficPolicySpec},
    mesh::DestinationRule,
    source::path::Path,
};

/// The most that Istio lets anyone configure for `maxRequestsPerConnection`.
const MOST_REQUESTS: u32 = 1 << 29;

pub(super) fn resolve(
    objects: &[Object<DestinationRuleSpec>],
    services: &Services,
    faults: &mut Vec<Fault>,
) -> BTreeMap<ServiceName, DestinationRule> {
    let mut rules = BTreeMap::new();
    for object in objects {
        let mut notes = Notes { object, faults };
        let path = Path::of(&["spec", "host"]);
        if object.spec.host.is_empty() {
            notes.error(&path, Code::Missing, "the rule has no host");
            continue;
        }
        let host = full(&object.spec.host, &object.namespace);
        if host.contains('*') {
            notes.error(
                &path,
                Code::Unsupported,
                "a rule for a wildcard host is not supported in this version",
            );
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
        if rules.insert(host.clone(), rule).is_some() {
            notes.hint(
                &path,
                Code::Conflict,
                format!("{host} has two rules"),
                "keep one DestinationRule per host",
            );
        }
    }
    rules
}

fn rule(notes: &mut Notes<'_, DestinationRuleSpec>) -> DestinationRule {
    let spec = &notes.object.spec;
    let base = TrafficPolicy::default();
    let traffic = traffic(
        notes,
        &Path::of(&["spec", "trafficPolicy"]),
        spec.traffic_policy.as_ref(),
        &base,
    );
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
        let own = path.key("trafficPolicy");
        subsets.push(Subset {
            name: subset.name.clone(),
            labels: subset.labels.clone(),
            traffic: self::traffic(notes, &own, subset.traffic_policy.as_ref(), &traffic),
        });
    }
    DestinationRule { traffic, subsets }
}

/// `spec` over `base`.
fn traffic(
    notes: &mut Notes<'_, DestinationRuleSpec>,
    path: &Path,
    spec: Option<&TrafficPolicySpec>,
    base: &TrafficPolicy,
) -> TrafficPolicy {
    let mut policy = base.clone();
    let Some(spec) = spec else {
        return policy;
    };
    if let Some(text) = spec
        .load_balancer
        .as_ref()
        .and_then(|l| l.simple.as_deref())
    {
        policy.load_balancer = load_balancer(notes, &path.key("loadBalancer").key("simple"), text);
    }
    if let Some(pool) = &spec.connection_pool {
        connection_pool(notes, &path.key("connectionPool"), pool, &mut policy);
    }
    if let Some(tls) = &spec.tls {
        policy.tls = originate::client_tls(notes, &path.key("tls"), tls);
    }
    policy
}

fn connection_pool(
    notes: &mut Notes<'_, DestinationRuleSpec>,
    path: &Path,
    spec: &ConnectionPoolSpec,
    policy: &mut TrafficPolicy,
) {
    let connect = spec.tcp.as_ref().and_then(|p| p.connect_timeout.as_deref());
    if let Some(text) = connect {
        let path = path.key("tcp").key("connectTimeout");
        policy.connect_timeout = notes
            .duration(&path, text)
            .unwrap_or(policy.connect_timeout);
    }
    let http = spec.http.as_ref();
    if let Some(most) = http.and_then(|p| p.max_requests_per_connection) {
        let path = path.key("http").key("maxRequestsPerConnection");
        policy.http.max_requests_per_connection = max_requests(notes, &path, most);
    }
}

/// 0 stands for any number; the bound is Istio's.
fn max_requests(
    notes: &mut Notes<'_, DestinationRuleSpec>,
    path: &Path,
    most: i32,
) -> Option<NonZeroU32> {
    match u32::try_from(most) {
        Ok(most) if most <= MOST_REQUESTS => NonZeroU32::new(most),
        Ok(_) | Err(_) => {
            let text = format!("a number of requests is 0 (any number) to {MOST_REQUESTS}");
            notes.error(path, Code::Invalid, text);
            None
        }
    }
}

fn load_balancer(
    notes: &mut Notes<'_, DestinationRuleSpec>,
    path: &Path,
    text: &str,
) -> LoadBalancer {
    if text == "PASSTHROUGH" {
        notes.error(
            path,
            Code::Unsupported,
            "PASSTHROUGH is known, but not supported in this version",
        );
        return LoadBalancer::default();
    }
    let words = [
        ("UNSPECIFIED", LoadBalancer::default()),
        ("ROUND_ROBIN", LoadBalancer::RoundRobin),
        ("LEAST_REQUEST", LoadBalancer::LeastRequest),
        ("LEAST_CONN", LoadBalancer::LeastRequest),
        ("RANDOM", LoadBalancer::Random),
    ];
    notes.word(path, text, &words).unwrap_or_default()
}
