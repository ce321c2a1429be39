//! The sections of a `DestinationRule`'s traffic policy.

use std::{num::NonZeroU32, time::Duration};

use reeve_core::model::{
    ConsistentHash, Distribute, H2Upgrade, HashKey, HashTable, HttpPool, LoadBalancer,
    LocalityPolicy, OutlierDetection, RetryBudget, TcpKeepalive, TcpPool, TrafficPolicy, Warmup,
};

use super::{routes::millionths, values::Notes};
use crate::{
    Code,
    kinds::{
        ConnectionPoolSpec, ConsistentHashSpec, DestinationRuleSpec, HttpPoolSpec,
        LoadBalancerSpec, LocalityLbSpec, OutlierDetectionSpec, RetryBudgetSpec, TcpPoolSpec,
        WarmupSpec,
    },
    source::path::Path,
};

/// The most requests that Istio lets anyone configure for one connection.
const MAX_REQUESTS_SETTING: u32 = 1 << 29;
/// Points of a ring, at least (Envoy's default).
const DEFAULT_RING_SIZE: u32 = 1024;
/// The most that may be asked for: a ring is held by every proxy that calls the service.
const MAX_RING_SIZE: u32 = 1 << 20;
/// Slots of a Maglev table (Envoy's default).
const DEFAULT_MAGLEV_SIZE: u32 = 65_537;
/// Envoy's bound.
const MAX_MAGLEV_SIZE: u32 = 5_000_011;

type RuleNotes<'a> = Notes<'a, DestinationRuleSpec>;

/// `loadBalancer`.
pub(super) fn load_balancer(
    notes: &mut RuleNotes<'_>,
    path: &Path,
    spec: &LoadBalancerSpec,
    policy: &mut TrafficPolicy,
) {
    let defaults = TrafficPolicy::default();
    if spec.simple.is_some() && spec.consistent_hash.is_some() {
        notes.error(
            path,
            Code::Conflict,
            "give one of simple and consistentHash",
        );
    }
    let simple = spec.simple.as_deref();
    policy.load_balancer = simple
        .and_then(|text| simple_balancer(notes, &path.key("simple"), text))
        .unwrap_or_default();
    policy.hash = spec
        .consistent_hash
        .as_ref()
        .and_then(|spec| consistent_hash(notes, &path.key("consistentHash"), spec));
    policy.locality = match &spec.locality_lb_setting {
        None => defaults.locality,
        Some(spec) if spec.enabled == Some(false) => None,
        Some(spec) => Some(locality(notes, &path.key("localityLbSetting"), spec)),
    };
    policy.warmup = warmup(notes, path, spec);
    let warms = matches!(
        policy.load_balancer,
        LoadBalancer::RoundRobin | LoadBalancer::LeastRequest
    );
    if policy.warmup.is_some() && (!warms || policy.hash.is_some()) {
        let text = "only ROUND_ROBIN and LEAST_REQUEST warm endpoints up; it has no effect here";
        let hint = "leave it out, or take another load balancer";
        notes.warn(&path.key("warmup"), Code::Conflict, text, hint);
        policy.warmup = None;
    }
}

fn simple_balancer(notes: &mut RuleNotes<'_>, path: &Path, text: &str) -> Option<LoadBalancer> {
    let words = [
        ("UNSPECIFIED", LoadBalancer::default()),
        ("ROUND_ROBIN", LoadBalancer::RoundRobin),
        ("LEAST_REQUEST", LoadBalancer::LeastRequest),
        ("LEAST_CONN", LoadBalancer::LeastRequest),
        ("RANDOM", LoadBalancer::Random),
        ("PASSTHROUGH", LoadBalancer::Passthrough),
    ];
    notes.word(path, text, &words)
}

fn consistent_hash(
    notes: &mut RuleNotes<'_>,
    path: &Path,
    spec: &ConsistentHashSpec,
) -> Option<ConsistentHash> {
    let mut keys = Vec::new();
    if let Some(name) = &spec.http_header_name {
        notes.header_name(&path.key("httpHeaderName"), name);
        keys.push(HashKey::Header(name.to_ascii_lowercase()));
    }
    if let Some(cookie) = &spec.http_cookie {
        let path = path.key("httpCookie");
        if !is_cookie_name(&cookie.name) {
            let text = format!("{:?} is not the name of a cookie", cookie.name);
            notes.error(&path.key("name"), Code::Invalid, text);
        }
        let ttl = cookie.ttl.as_deref();
        keys.push(HashKey::Cookie {
            name: cookie.name.clone(),
            path: cookie.path.clone().unwrap_or_default(),
            ttl: ttl.and_then(|text| notes.any_duration(&path.key("ttl"), text)),
        });
    }
    if spec.use_source_ip == Some(true) {
        keys.push(HashKey::SourceIp);
    }
    if let Some(name) = &spec.http_query_parameter_name {
        keys.push(HashKey::QueryParameter(name.clone()));
    }
    if keys.len() != 1 {
        notes.hint(
            path,
            Code::Invalid,
            "a consistent hash has exactly one key",
            "use one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName",
        );
    }
    let key = keys.pop()?;
    let table = hash_table(notes, path, spec)?;
    Some(ConsistentHash { key, table })
}

/// RFC 6265 section 4.1.1: a token.
fn is_cookie_name(name: &str) -> bool {
    http::HeaderName::from_bytes(name.as_bytes()).is_ok()
}

fn hash_table(
    notes: &mut RuleNotes<'_>,
    path: &Path,
    spec: &ConsistentHashSpec,
) -> Option<HashTable> {
    if let Some(maglev) = &spec.maglev {
        let path = path.key("maglev").key("tableSize");
        let size = maglev.table_size.unwrap_or(u64::from(DEFAULT_MAGLEV_SIZE));
        let legal = u32::try_from(size).ok();
        let legal = legal.filter(|size| *size <= MAX_MAGLEV_SIZE && is_prime(*size));
        if legal.is_none() {
            let text = format!("a table's size is a prime up to {MAX_MAGLEV_SIZE}");
            notes.error(&path, Code::Invalid, text);
        }
        return legal.map(HashTable::Maglev);
    }
    let asked = spec.ring_hash.as_ref();
    let asked = asked.map_or(spec.minimum_ring_size, |ring| ring.minimum_ring_size);
    let size = asked.filter(|size| *size > 0);
    let size = u32::try_from(size.unwrap_or(u64::from(DEFAULT_RING_SIZE))).ok();
    let legal = size.filter(|size| *size <= MAX_RING_SIZE);
    if legal.is_none() {
        let text = format!("a ring has at most {MAX_RING_SIZE} points");
        notes.error(&path.key("minimumRingSize"), Code::TooLarge, text);
    }
    legal.map(HashTable::Ring)
}

fn is_prime(number: u32) -> bool {
    number > 1
        && (2..)
            .take_while(|d| d * d <= number)
            .all(|d| !number.is_multiple_of(d))
}

fn locality(notes: &mut RuleNotes<'_>, path: &Path, spec: &LocalityLbSpec) -> LocalityPolicy {
    let fails_over = !spec.failover.is_empty() || !spec.failover_priority.is_empty();
    if !spec.distribute.is_empty() && fails_over {
        let text = "give one of distribute and failover, failoverPriority";
        notes.error(path, Code::Conflict, text);
    }
    for (n, entry) in spec.distribute.iter().enumerate() {
        let path = path.key("distribute").index(n);
        if entry.from.is_empty() {
            notes.error(&path.key("from"), Code::Missing, "it says no locality");
        }
        let sum: u64 = entry.to.values().map(|w| u64::from(*w)).sum();
        if sum != 100 || entry.to.values().any(|w| *w == 0) {
            let text = format!("the weights are above 0 and sum up to 100, not {sum}");
            notes.error(&path.key("to"), Code::Invalid, text);
        }
    }
    for (n, entry) in spec.failover.iter().enumerate() {
        let path = path.key("failover").index(n);
        if entry.from.is_empty() || entry.to.is_empty() || entry.from == entry.to {
            let text = "a failover goes from one region to another";
            notes.error(&path, Code::Invalid, text);
        }
        if [&entry.from, &entry.to]
            .iter()
            .any(|r| r.contains(['/', '*']))
        {
            let text = "a failover names regions, without zones";
            notes.error(&path, Code::Invalid, text);
        }
    }
    LocalityPolicy {
        distribute: spec
            .distribute
            .iter()
            .map(|entry| Distribute {
                from: entry.from.clone(),
                to: entry.to.clone(),
            })
            .collect(),
        failover: spec
            .failover
            .iter()
            .map(|entry| (entry.from.clone(), entry.to.clone()))
            .collect(),
        failover_priority: spec.failover_priority.clone(),
    }
}

fn warmup(notes: &mut RuleNotes<'_>, path: &Path, spec: &LoadBalancerSpec) -> Option<Warmup> {
    let old = WarmupSpec {
        duration: spec.warmup_duration_secs.clone(),
        ..WarmupSpec::default()
    };
    let (path, spec) = match (&spec.warmup, &spec.warmup_duration_secs) {
        (None, None) => return None,
        (Some(spec), _) => (path.key("warmup"), spec),
        (None, Some(_)) => (path.key("warmupDurationSecs"), &old),
    };
    let Some(text) = &spec.duration else {
        notes.error(&path.key("duration"), Code::Missing, "it says no duration");
        return None;
    };
    let duration = notes.duration(&path, text)?;
    let least = spec.minimum_percent.unwrap_or(10.0);
    if !(0.0..=100.0).contains(&least) {
        let text = "a percentage is 0 to 100";
        notes.error(&path.key("minimumPercent"), Code::Invalid, text);
    }
    let aggression = spec.aggression.unwrap_or(1.0);
    if !(1.0..=1000.0).contains(&aggression) {
        let text = "an aggression is 1 to 1000";
        notes.error(&path.key("aggression"), Code::Invalid, text);
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in bounds, or refused just now"
    )]
    let (minimum_percent, aggression_permille) =
        (least.round() as u8, (aggression * 1000.0).round() as u32);
    Some(Warmup {
        duration,
        minimum_percent,
        aggression_permille,
    })
}

/// `connectionPool`.
pub(super) fn connection_pool<S>(
    notes: &mut Notes<'_, S>,
    path: &Path,
    spec: &ConnectionPoolSpec,
    policy: &mut TrafficPolicy,
) {
    let defaults = TrafficPolicy::default();
    policy.connect_timeout = defaults.connect_timeout;
    policy.tcp = TcpPool::default();
    policy.http = HttpPool::default();
    if let Some(spec) = &spec.tcp {
        let path = path.key("tcp");
        if let Some(text) = &spec.connect_timeout {
            let wanted = notes.duration(&path.key("connectTimeout"), text);
            policy.connect_timeout = wanted.unwrap_or(policy.connect_timeout);
        }
        policy.tcp = tcp_pool(notes, &path, spec);
    }
    if let Some(spec) = &spec.http {
        policy.http = http_pool(notes, &path.key("http"), spec);
    }
}

fn tcp_pool<S>(notes: &mut Notes<'_, S>, path: &Path, spec: &TcpPoolSpec) -> TcpPool {
    let max_connections = notes.bound(&path.key("maxConnections"), spec.max_connections);
    let mut time = |key: &str, text: &Option<String>| {
        let text = text.as_deref()?;
        notes.duration(&path.key(key), text)
    };
    let max_duration = time("maxConnectionDuration", &spec.max_connection_duration);
    let keepalive = path.key("tcpKeepalive");
    let keepalive = spec.tcp_keepalive.as_ref().map(|spec| TcpKeepalive {
        probes: spec.probes.filter(|n| *n > 0),
        time: spec
            .time
            .as_deref()
            .and_then(|text| notes.duration(&keepalive.key("time"), text)),
        interval: spec
            .interval
            .as_deref()
            .and_then(|text| notes.duration(&keepalive.key("interval"), text)),
    });
    let idle = spec.idle_timeout.as_deref();
    TcpPool {
        max_connections,
        keepalive,
        max_duration,
        idle_timeout: idle.and_then(|text| notes.any_duration(&path.key("idleTimeout"), text)),
    }
}

fn http_pool<S>(notes: &mut Notes<'_, S>, path: &Path, spec: &HttpPoolSpec) -> HttpPool {
    let words = [
        ("DEFAULT", H2Upgrade::Default),
        ("DO_NOT_UPGRADE", H2Upgrade::DoNotUpgrade),
        ("UPGRADE", H2Upgrade::Upgrade),
    ];
    let upgrade = spec.h2_upgrade_policy.as_deref();
    let upgrade = upgrade.and_then(|text| notes.word(&path.key("h2UpgradePolicy"), text, &words));
    let idle = spec.idle_timeout.as_deref();
    let most = path.key("maxRequestsPerConnection");
    let per_connection = notes.bound(&most, spec.max_requests_per_connection);
    if per_connection.is_some_and(|n| n.get() > MAX_REQUESTS_SETTING) {
        let text = format!("a number of requests is 0 (any number) to {MAX_REQUESTS_SETTING}");
        notes.error(&most, Code::Invalid, text);
    }
    HttpPool {
        max_requests_per_connection: per_connection,
        max_pending: notes.bound(
            &path.key("http1MaxPendingRequests"),
            spec.http1_max_pending_requests,
        ),
        max_requests: notes.bound(&path.key("http2MaxRequests"), spec.http2_max_requests),
        max_retries: notes.bound(&path.key("maxRetries"), spec.max_retries),
        idle_timeout: idle.and_then(|text| notes.any_duration(&path.key("idleTimeout"), text)),
        upgrade: match spec.use_client_protocol {
            // As in Istio, it makes `h2UpgradePolicy` ineffective.
            Some(true) => H2Upgrade::UseClientProtocol,
            Some(false) | None => upgrade.unwrap_or_default(),
        },
        max_streams: notes.bound(
            &path.key("maxConcurrentStreams"),
            spec.max_concurrent_streams,
        ),
    }
}

/// `outlierDetection`.
pub(super) fn outlier(
    notes: &mut RuleNotes<'_>,
    path: &Path,
    spec: &OutlierDetectionSpec,
) -> OutlierDetection {
    let defaults = OutlierDetection::default();
    let local = spec.consecutive_local_origin_failures;
    if local.is_some() && !spec.split_external_local_origin_errors {
        notes.warn(
            &path.key("consecutiveLocalOriginFailures"),
            Code::Conflict,
            "it has an effect only with splitExternalLocalOriginErrors",
            "set splitExternalLocalOriginErrors: true, or leave it out",
        );
    }
    if spec.consecutive_errors.is_some() {
        let hint = "use consecutive5xxErrors or consecutiveGatewayErrors";
        let text = "consecutiveErrors is no longer supported, as in Istio";
        notes.hint(
            &path.key("consecutiveErrors"),
            Code::Unsupported,
            text,
            hint,
        );
    }
    let percent = |notes: &mut RuleNotes<'_>, key: &str, value: Option<i32>| match value {
        None | Some(0) => None,
        Some(value) => {
            let legal = u8::try_from(value).ok().filter(|p| *p <= 100);
            if legal.is_none() {
                notes.error(&path.key(key), Code::Invalid, "a percentage is 0 to 100");
            }
            legal
        }
    };
    let max = percent(notes, "maxEjectionPercent", spec.max_ejection_percent);
    let min = percent(notes, "minHealthPercent", spec.min_health_percent);
    let mut time = |key: &str, text: &Option<String>, default: Duration| {
        let wanted = text
            .as_deref()
            .and_then(|t| notes.duration(&path.key(key), t));
        wanted.unwrap_or(default)
    };
    OutlierDetection {
        consecutive_5xx: spec
            .consecutive_5xx_errors
            .map_or(defaults.consecutive_5xx, NonZeroU32::new),
        consecutive_gateway: spec.consecutive_gateway_errors.and_then(NonZeroU32::new),
        consecutive_local: spec
            .split_external_local_origin_errors
            .then(|| local.filter(|most| *most > 0).unwrap_or(5)),
        interval: time("interval", &spec.interval, defaults.interval),
        base_ejection: time(
            "baseEjectionTime",
            &spec.base_ejection_time,
            defaults.base_ejection,
        ),
        max_ejection_percent: max.unwrap_or(defaults.max_ejection_percent),
        min_health_percent: min.unwrap_or(defaults.min_health_percent),
        // Of the rule's annotations, for all of its sections.
        success_rate: None,
        failure_percentage: None,
    }
}

/// `retryBudget`.
pub(super) fn retry_budget(
    notes: &mut RuleNotes<'_>,
    path: &Path,
    spec: &RetryBudgetSpec,
) -> RetryBudget {
    let mut budget = RetryBudget::default();
    if let Some(percent) = spec.percent {
        match millionths(percent) {
            Some(share) => budget.percent = share,
            None => notes.error(
                &path.key("percent"),
                Code::Invalid,
                "a percentage is 0 to 100",
            ),
        }
    }
    budget.min_concurrency = spec.min_retry_concurrency.unwrap_or(budget.min_concurrency);
    budget
}
