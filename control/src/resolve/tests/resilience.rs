//! `DestinationRule`'s traffic policies, `VirtualService`'s faults and retries: field by field, with Istio's defaults.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use reeve_core::{
    UnixTime,
    model::{
        Abort, AbortFault, ConsistentHash, DelayFault, Distribute, H2Upgrade, HashKey, HashTable,
        HttpPool, LoadBalancer, LocalityPolicy, Millionths, OutlierDetection, RateKey, RetryBudget,
        RetryPolicy, StringMatch, TcpKeepalive, TcpPool, TrafficPolicy, Warmup,
    },
};

use super::*;
use crate::mesh::DestinationRule;

const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{port: 9080, name: http}, {port: 9081, name: http-2}]}
---
";

fn rule(spec: &str) -> DestinationRule {
    let yaml = format!("{SERVICE}{}", document("DestinationRule", "reviews", spec));
    let mesh = mesh(&yaml);
    mesh.rules.into_values().next().unwrap()
}

fn policy(spec: &str) -> TrafficPolicy {
    rule(&format!("  host: reviews\n  trafficPolicy: {spec}")).traffic
}

fn n(value: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(value)
}

fn s(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[test]
fn every_field_of_a_connection_pool_arrives() {
    let found = policy(
        "{connectionPool: {tcp: {maxConnections: 100, connectTimeout: 30ms, maxConnectionDuration: 1h, idleTimeout: 0s,
           tcpKeepalive: {probes: 3, time: 7200s, interval: 75s}},
         http: {http1MaxPendingRequests: 10, http2MaxRequests: 1000, maxRequestsPerConnection: 5, maxRetries: 2,
           idleTimeout: 9s, h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 7}}}",
    );
    let expected = TrafficPolicy {
        connect_timeout: Duration::from_millis(30),
        tcp: TcpPool {
            max_connections: n(100),
            keepalive: Some(TcpKeepalive {
                probes: Some(3),
                time: s(7200),
                interval: s(75),
            }),
            max_duration: s(3600),
            idle_timeout: s(0),
        },
        http: HttpPool {
            max_pending: n(10),
            max_requests: n(1000),
            max_requests_per_connection: n(5),
            max_retries: n(2),
            idle_timeout: s(9),
            upgrade: H2Upgrade::Upgrade,
            max_streams: n(7),
        },
        ..TrafficPolicy::default()
    };
    assert_eq!(found, expected);
    let found =
        policy("{connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}");
    assert_eq!(found.http.upgrade, H2Upgrade::UseClientProtocol);
    assert_eq!(policy("{connectionPool: {}}"), TrafficPolicy::default());
}

#[test]
fn outlier_detection_has_istios_defaults() {
    let outlier = |spec: &str| {
        policy(&format!("{{outlierDetection: {spec}}}"))
            .outlier
            .unwrap()
    };
    assert_eq!(outlier("{}"), OutlierDetection::default());
    assert_eq!(
        outlier("{consecutive5xxErrors: 7, interval: 5m, baseEjectionTime: 15m}"),
        OutlierDetection {
            consecutive_5xx: n(7),
            interval: Duration::from_secs(300),
            base_ejection: Duration::from_secs(900),
            ..OutlierDetection::default()
        }
    );
    let all = outlier(
        "{consecutive5xxErrors: 0, consecutiveGatewayErrors: 3, splitExternalLocalOriginErrors: true,
          consecutiveLocalOriginFailures: 4, maxEjectionPercent: 50, minHealthPercent: 30}",
    );
    assert_eq!((all.consecutive_5xx, all.consecutive_gateway), (None, n(3)));
    assert_eq!(all.consecutive_local, Some(4));
    assert_eq!((all.max_ejection_percent, all.min_health_percent), (50, 30));
    assert_eq!(
        outlier("{splitExternalLocalOriginErrors: true}").consecutive_local,
        Some(5)
    );
}

#[test]
fn every_way_to_balance_arrives() {
    let lb = |spec: &str| policy(&format!("{{loadBalancer: {spec}}}"));
    for (word, expected) in [
        ("UNSPECIFIED", LoadBalancer::LeastRequest),
        ("LEAST_CONN", LoadBalancer::LeastRequest),
        ("LEAST_REQUEST", LoadBalancer::LeastRequest),
        ("ROUND_ROBIN", LoadBalancer::RoundRobin),
        ("RANDOM", LoadBalancer::Random),
        ("PASSTHROUGH", LoadBalancer::Passthrough),
    ] {
        assert_eq!(lb(&format!("{{simple: {word}}}")).load_balancer, expected);
    }
    let cookie = HashKey::Cookie {
        name: "user".to_owned(),
        path: "/a".to_owned(),
        ttl: s(0),
    };
    for (spec, key, table) in [
        (
            "httpHeaderName: X-User",
            HashKey::Header("x-user".to_owned()),
            HashTable::Ring(1024),
        ),
        (
            "httpCookie: {name: user, path: /a, ttl: 0s}, minimumRingSize: 64",
            cookie,
            HashTable::Ring(64),
        ),
        (
            "useSourceIp: true, ringHash: {minimumRingSize: 2000}",
            HashKey::SourceIp,
            HashTable::Ring(2000),
        ),
        (
            "httpQueryParameterName: u, maglev: {}",
            HashKey::QueryParameter("u".to_owned()),
            HashTable::Maglev(65_537),
        ),
        (
            "useSourceIp: true, maglev: {tableSize: 11}",
            HashKey::SourceIp,
            HashTable::Maglev(11),
        ),
    ] {
        let found = lb(&format!("{{consistentHash: {{{spec}}}}}"));
        assert_eq!(found.hash, Some(ConsistentHash { key, table }), "{spec}");
    }
    let found = lb(
        "{simple: ROUND_ROBIN, warmup: {duration: 60s, minimumPercent: 20, aggression: 1.5},
        localityLbSetting: {failover: [{from: eu, to: us}], failoverPriority: [a, b=c]}}",
    );
    assert_eq!(
        found.warmup,
        Some(Warmup {
            duration: Duration::from_secs(60),
            minimum_percent: 20,
            aggression_permille: 1500,
        })
    );
    let failover = LocalityPolicy {
        failover: vec![("eu".to_owned(), "us".to_owned())],
        failover_priority: vec!["a".to_owned(), "b=c".to_owned()],
        ..LocalityPolicy::default()
    };
    assert_eq!(found.locality, Some(failover));
    let found = lb("{localityLbSetting: {distribute: [{from: eu/*, to: {eu/*: 80, us/*: 20}}]}}");
    let distribute = Distribute {
        from: "eu/*".to_owned(),
        to: BTreeMap::from([("eu/*".to_owned(), 80), ("us/*".to_owned(), 20)]),
    };
    assert_eq!(found.locality.unwrap().distribute, [distribute]);
    assert_eq!(lb("{localityLbSetting: {enabled: false}}").locality, None);
    assert_eq!(
        lb("{warmupDurationSecs: 30s}").warmup.unwrap().duration,
        Duration::from_secs(30)
    );
}

#[test]
fn a_section_of_a_subset_or_port_replaces_the_whole_section() {
    let rule = rule(
        "  host: reviews
  trafficPolicy:
    loadBalancer: {simple: RANDOM}
    connectionPool: {tcp: {connectTimeout: 2s}, http: {http2MaxRequests: 9}}
    retryBudget: {percent: 12.5, minRetryConcurrency: 1}
    portLevelSettings:
      - {port: {number: 9081}, outlierDetection: {consecutive5xxErrors: 2}}
  subsets:
    - name: v1
      labels: {version: v1}
      trafficPolicy:
        connectionPool: {http: {maxRetries: 4}}
        portLevelSettings:
          - {port: {number: 9080}, loadBalancer: {simple: ROUND_ROBIN}}
    - {name: v2, labels: {version: v2}}",
    );
    let budget = Some(RetryBudget {
        percent: Millionths(125_000),
        min_concurrency: 1,
    });
    assert_eq!(rule.traffic.retry_budget, budget);
    let outlier = Some(OutlierDetection {
        consecutive_5xx: n(2),
        ..OutlierDetection::default()
    });
    // A port inherits nothing but what it cannot have.
    let port = TrafficPolicy {
        outlier: outlier.clone(),
        retry_budget: budget,
        ..TrafficPolicy::default()
    };
    assert_eq!(rule.port_traffic, BTreeMap::from([(9081, port.clone())]));

    let [v1, v2] = rule.subsets.as_slice() else {
        panic!("two subsets");
    };
    let pool = HttpPool {
        max_retries: n(4),
        ..HttpPool::default()
    };
    assert_eq!(v1.traffic.load_balancer, LoadBalancer::Random);
    assert_eq!(v1.traffic.http, pool);
    assert_eq!(
        v1.traffic.connect_timeout,
        Duration::from_secs(10),
        "replaced as a whole"
    );
    let at_9080 = &v1.port_traffic[&9080];
    assert_eq!(at_9080.load_balancer, LoadBalancer::RoundRobin);
    assert_eq!(at_9080.http, HttpPool::default());
    let at_9081 = &v1.port_traffic[&9081];
    assert_eq!((&at_9081.http, &at_9081.outlier), (&pool, &outlier));
    assert_eq!(v2.traffic, rule.traffic);
    assert_eq!(v2.port_traffic, rule.port_traffic);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let rule = |policy: &str| {
        let spec = format!("  host: reviews\n  trafficPolicy: {policy}");
        let yaml = format!("{}{SERVICE}", document("DestinationRule", "reviews", &spec));
        findings(&yaml)
    };
    for (policy, expected) in [
        (
            "{loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}",
            "loadBalancer conflict",
        ),
        (
            "{loadBalancer: {consistentHash: {maglev: {}}}}",
            "loadBalancer.consistentHash invalid",
        ),
        (
            "{loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: a}}}",
            "loadBalancer.consistentHash invalid",
        ),
        (
            "{loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 12}}}}",
            "loadBalancer.consistentHash.maglev.tableSize invalid",
        ),
        (
            "{loadBalancer: {localityLbSetting: {distribute: [{from: eu/*, to: {us/*: 90}}]}}}",
            "loadBalancer.localityLbSetting.distribute[0].to invalid",
        ),
        (
            "{loadBalancer: {localityLbSetting: {failover: [{from: eu/a, to: us}]}}}",
            "loadBalancer.localityLbSetting.failover[0] invalid",
        ),
        (
            "{loadBalancer: {simple: RANDOM, warmup: {duration: 5s}}}",
            "loadBalancer.warmup conflict?",
        ),
        (
            "{loadBalancer: {warmup: {}}}",
            "loadBalancer.warmup.duration missing",
        ),
        (
            "{outlierDetection: {maxEjectionPercent: 101}}",
            "outlierDetection.maxEjectionPercent invalid",
        ),
        (
            "{outlierDetection: {consecutiveErrors: 3}}",
            "outlierDetection.consecutiveErrors unsupported",
        ),
        (
            "{outlierDetection: {interval: 0s}}",
            "outlierDetection.interval invalid",
        ),
        (
            "{outlierDetection: {consecutiveLocalOriginFailures: 3}}",
            "outlierDetection.consecutiveLocalOriginFailures conflict?",
        ),
        (
            "{connectionPool: {tcp: {maxConnections: -1}}}",
            "connectionPool.tcp.maxConnections invalid",
        ),
        (
            "{connectionPool: {http: {h2UpgradePolicy: MAYBE}}}",
            "connectionPool.http.h2UpgradePolicy invalid",
        ),
        (
            "{retryBudget: {percent: 101}}",
            "retryBudget.percent invalid",
        ),
        (
            "{portLevelSettings: [{port: {number: 0}}]}",
            "portLevelSettings[0].port.number invalid",
        ),
    ] {
        assert_eq!(
            rule(policy),
            [format!("7 spec.trafficPolicy.{expected}")],
            "{policy}"
        );
    }
}

fn route(spec: &str) -> String {
    let spec = format!(
        "  hosts: [reviews]\n  http:\n    - {{{spec}, route: [{{destination: {{host: reviews}}}}]}}"
    );
    format!("{}{SERVICE}", document("VirtualService", "reviews", &spec))
}

#[test]
fn faults_and_retries_arrive_and_a_fault_ends_when_it_says() {
    let yaml = route(
        "fault: {delay: {fixedDelay: 7s, percentage: {value: 0.1}}, abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}},
         retries: {attempts: 3, perTryTimeout: 2s, retryOn: 'gateway-error,retriable-headers', backoff: 10ms,
           retryIgnorePreviousHosts: false, retryRemoteLocalities: true}",
    );
    let yaml = yaml.replacen(
        "name: reviews\n",
        "name: reviews\n  annotations: {reeve.dev/fault-until: '2026-01-31T12:00:00Z'}\n",
        1,
    );
    let mesh = mesh(&yaml);
    let route = &mesh.virtual_services[0].http[0];
    let fault = route.fault.as_ref().unwrap();
    let delay = DelayFault {
        fixed: Duration::from_secs(7),
        share: Millionths(1000),
    };
    let abort = AbortFault {
        how: Abort::Grpc(14),
        share: Millionths::ALL,
    };
    assert_eq!((&fault.delay, &fault.abort), (&Some(delay), &Some(abort)));
    assert_eq!(fault.until, Some(UnixTime::from_secs(1_769_860_800)));
    assert_eq!(fault.origin, "VirtualService default/reviews");
    let expected = RetryPolicy {
        attempts: 3,
        per_try_timeout: s(2),
        on: vec!["gateway-error".to_owned(), "retriable-headers".to_owned()],
        backoff: Some(Duration::from_millis(10)),
        ignore_previous: Some(false),
        remote_localities: true,
        explicit: true,
    };
    assert_eq!(route.retries, Some(expected));
}

#[test]
fn annotations_reset_connections_and_slow_responses() {
    let annotated = |annotations: &str| {
        let yaml = route("name: x");
        let metadata = format!("name: reviews\n  annotations: {{{annotations}}}\n");
        yaml.replacen("name: reviews\n", &metadata, 1)
    };
    let both = "reeve.dev/fault-reset: '12.5', reeve.dev/fault-bandwidth: '4096'";
    let mesh = mesh(&annotated(both));
    let fault = mesh.virtual_services[0].http[0].fault.as_ref().unwrap();
    let expected = ["reset for 12.5 %", "4096 bytes a second for 100 %"];
    assert_eq!(fault.describe(), expected);
    for (annotation, name) in [
        ("reeve.dev/fault-reset: often", "fault-reset"),
        ("reeve.dev/fault-bandwidth: '0'", "fault-bandwidth"),
        ("reeve.dev/fault-until: soon", "fault-until"),
    ] {
        let found = findings(&annotated(
            &format!("{annotation}, reeve.dev/fault-reset: '1'")
                .replace("often, reeve.dev/fault-reset: '1'", "often"),
        ));
        assert!(
            found
                .iter()
                .any(|f| f.contains(name) && f.ends_with(" invalid")),
            "{found:?}"
        );
    }
}

#[test]
fn faults_and_retries_that_make_no_sense_are_refused() {
    for (spec, expected) in [
        ("fault: {}", "fault missing"),
        (
            "fault: {delay: {percentage: {value: 1}}}",
            "fault.delay.fixedDelay missing",
        ),
        (
            "fault: {abort: {httpStatus: 500}}",
            "fault.abort.percentage missing?",
        ),
        (
            "fault: {abort: {httpStatus: 99, percentage: {value: 1}}}",
            "fault.abort.httpStatus invalid",
        ),
        (
            "fault: {abort: {grpcStatus: SICK, percentage: {value: 1}}}",
            "fault.abort.grpcStatus invalid",
        ),
        (
            "fault: {abort: {httpStatus: 500, percentage: {value: 101}}}",
            "fault.abort.percentage.value invalid",
        ),
        (
            "fault: {abort: {percentage: {value: 1}}}",
            "fault.abort invalid",
        ),
        ("retries: {perTryTimeout: 2s}", "retries.attempts conflict"),
        (
            "retries: {attempts: 1, retryOn: http3-post-connect-failure}",
            "retries.retryOn unsupported",
        ),
        (
            "retries: {attempts: 1, backoff: 0s}",
            "retries.backoff invalid",
        ),
    ] {
        assert_eq!(
            findings(&route(spec)),
            [format!("8 spec.http[0].{expected}")],
            "{spec}"
        );
    }
}

#[test]
fn rate_limits_arrive_and_stay_in_their_namespace() {
    let limit = |spec: &str| document("RateLimit", "reviews", spec);
    let yaml = limit(
        "  service: reviews
  limits:
    - {requests: 5, every: 1m}
    - match: {uri: {prefix: /pay}, method: {exact: POST}}
      per: claim:sub
      requests: 100
      every: 10s
    - {per: identity, requests: 7, every: 1s}",
    );
    let found = mesh(&format!("{yaml}{SERVICE}")).rate_limits;
    let per: Vec<_> = found
        .iter()
        .map(|(_, l)| (l.per.clone(), l.requests.get()))
        .collect();
    let claim = RateKey::Claim("sub".to_owned());
    assert_eq!(
        per,
        [(RateKey::All, 5), (claim, 100), (RateKey::Identity, 7)]
    );
    assert_eq!(found[0].1.every, Duration::from_secs(60));
    assert_eq!(found[1].1.name, "default/reviews/1");
    assert_eq!(
        found[1].1.when.uri,
        Some(StringMatch::Prefix("/pay".to_owned()))
    );

    for (spec, expected) in [
        (
            "  service: nobody\n  limits: [{requests: 1, every: 1s}]",
            "6 spec.service unknown-reference",
        ),
        ("  service: reviews", "5 spec.limits missing"),
        (
            "  service: reviews\n  limits: [{every: 1s}]",
            "7 spec.limits[0].requests invalid",
        ),
        (
            "  service: reviews\n  limits: [{requests: 1}]",
            "7 spec.limits[0].every missing",
        ),
        (
            "  service: reviews\n  limits: [{requests: 1, every: 1s, per: user}]",
            "7 spec.limits[0].per invalid",
        ),
    ] {
        let found = findings(&format!("{}{SERVICE}", limit(spec)));
        assert_eq!(found, [expected], "{spec}");
    }
    let elsewhere =
        limit("  service: reviews.default.svc.cluster.local\n  limits: [{requests: 1, every: 1s}]");
    let elsewhere = elsewhere.replacen("name: reviews\n", "name: reviews\n  namespace: other\n", 1);
    assert_eq!(
        findings(&format!("{elsewhere}{SERVICE}")),
        ["7 spec.service invalid"]
    );
}
