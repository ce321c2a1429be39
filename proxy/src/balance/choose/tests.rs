use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use rand::{SeedableRng as _, rngs::StdRng};
use reeve_core::model::{
    Endpoint, EndpointSet, Generation, OutlierDetection, Protocol, ProxyConfig, ServiceConfig,
    ServicePort, TrafficPolicy, Warmup,
};

use super::*;
use crate::{
    breaker::States,
    cluster::{ClusterKey, Clusters},
    outlier::{Cause, Seen},
    snapshot::Snapshot,
};

const HOST: &str = "reviews.default.svc.cluster.local";

fn address(host: u8) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, host), 9080).into()
}

/// A service with endpoints at these addresses, in these localities.
pub(crate) fn clusters(traffic: TrafficPolicy, at: &[(u8, &str)], own: &str) -> Clusters {
    weighted(traffic, at, own, &[])
}

fn weighted(
    traffic: TrafficPolicy,
    at: &[(u8, &str)],
    own: &str,
    weights: &[(u8, u32)],
) -> Clusters {
    let weight = |host: u8| {
        weights
            .iter()
            .find(|(h, _)| *h == host)
            .map_or(1, |(_, w)| *w)
    };
    let name: reeve_core::ServiceName = HOST.parse().unwrap();
    let label = |text: &str| BTreeMap::from([("istio-locality".to_owned(), text.to_owned())]);
    let mut workload = crate::tests::workload();
    workload.labels = label(own);
    let service = ServiceConfig {
        name: name.clone(),
        namespace: "default".parse().unwrap(),
        ports: vec![ServicePort {
            port: 80,
            name: "http".to_owned(),
            protocol: Protocol::Http,
        }],
        patterns: Vec::new(),
        identities: vec![],
        traffic,
        port_traffic: BTreeMap::new(),
        subsets: vec![],
    };
    let endpoint = |(host, locality): &(u8, &str)| Endpoint {
        instance: format!("reviews-{host}").parse().unwrap(),
        address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, *host)),
        ports: BTreeMap::from([(80, 9080)]),
        labels: label(locality),
        identity: None,
        weight: weight(*host),
    };
    let set = EndpointSet {
        service: name.clone(),
        endpoints: at.iter().map(endpoint).collect(),
        names: vec![],
    };
    let config = ProxyConfig {
        generation: Generation(1),
        workload: Arc::new(workload),
        services: BTreeMap::from([(name.clone(), Arc::new(service))]),
        endpoints: BTreeMap::from([(name, Arc::new(set))]),
        routes: BTreeMap::new(),
        policies: Arc::default(),
        secrets: BTreeMap::new(),
    };
    Snapshot::compile(Arc::new(config)).unwrap().clusters
}

pub(crate) fn cluster(clusters: &Clusters) -> Arc<Cluster> {
    clusters.get(&key()).unwrap().clone()
}

pub(crate) fn key() -> ClusterKey {
    (HOST.parse().unwrap(), None, 80)
}

/// How often each endpoint is chosen.
pub(crate) fn picks(cluster: &Cluster, picks: usize) -> BTreeMap<u8, usize> {
    counts(cluster, &Wish::default(), picks)
}

pub(crate) fn outlier(max: u8, min: u8) -> TrafficPolicy {
    TrafficPolicy {
        outlier: Some(OutlierDetection {
            consecutive_5xx: NonZeroU32::new(1),
            max_ejection_percent: max,
            min_health_percent: min,
            ..OutlierDetection::default()
        }),
        ..TrafficPolicy::default()
    }
}

fn counts(cluster: &Cluster, wish: &Wish<'_>, picks: usize) -> BTreeMap<u8, usize> {
    let mut rng = StdRng::seed_from_u64(11);
    let mut counts = BTreeMap::new();
    for _ in 0..picks {
        let Some(hop) = cluster.choose(wish, &mut rng) else {
            *counts.entry(0).or_default() += 1;
            continue;
        };
        let IpAddr::V4(ip) = hop.address.ip() else {
            panic!("IPv4 only");
        };
        *counts.entry(ip.octets()[3]).or_default() += 1;
    }
    counts
}

pub(crate) fn eject(cluster: &Cluster, host: u8) -> Option<Cause> {
    let hop = cluster.hops.iter().find(|h| h.address == address(host));
    cluster.saw(hop.unwrap(), Seen::Status(500))
}

const FOUR: [(u8, &str); 4] = [(1, ""), (2, ""), (3, ""), (4, "")];

#[tokio::test(start_paused = true)]
async fn who_is_ejected_gets_nothing_and_no_more_are_than_may_be() {
    let all = clusters(outlier(50, 0), &FOUR, "");
    let cluster = cluster(&all);
    assert_eq!(eject(&cluster, 2), Some(Cause::Errors));
    assert_eq!(eject(&cluster, 2), None, "out already");
    assert_eq!(counts(&cluster, &Wish::default(), 900).len(), 3);
    assert_eq!(eject(&cluster, 3), Some(Cause::Errors));
    assert_eq!(eject(&cluster, 4), None, "half of them are out");
    let left = counts(&cluster, &Wish::default(), 1000);
    assert!(left.keys().eq([&1, &4]) && left.values().all(|n| (400..600).contains(n)));

    tokio::time::advance(Duration::from_secs(29)).await;
    assert!(cluster.sweep().back.is_empty());
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(cluster.sweep().back.len(), 2);
    assert_eq!(counts(&cluster, &Wish::default(), 400).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_small_percentage_lets_one_of_several_go_and_the_only_one_never() {
    let all = clusters(outlier(10, 0), &FOUR, "");
    let several = cluster(&all);
    assert_eq!(eject(&several, 1), Some(Cause::Errors));
    assert_eq!(eject(&several, 2), None);
    let all = clusters(outlier(10, 0), &[(1, "")], "");
    assert_eq!(eject(&cluster(&all), 1), None);
    let all = clusters(outlier(100, 0), &[(1, "")], "");
    let only = cluster(&all);
    assert_eq!(eject(&only, 1), Some(Cause::Errors));
    assert_eq!(
        counts(&only, &Wish::default(), 3),
        BTreeMap::from([(0, 3)]),
        "nobody is in"
    );
}

#[tokio::test(start_paused = true)]
async fn below_the_panic_threshold_all_are_used() {
    let all = clusters(outlier(100, 50), &FOUR, "");
    let cluster = cluster(&all);
    for host in [1, 2] {
        eject(&cluster, host);
    }
    assert_eq!(
        counts(&cluster, &Wish::default(), 400).len(),
        2,
        "half are in"
    );
    eject(&cluster, 3);
    assert_eq!(
        counts(&cluster, &Wish::default(), 400).len(),
        4,
        "too few are"
    );
}

#[tokio::test(start_paused = true)]
async fn ejections_outlast_a_change_of_endpoints_and_end_with_the_rule() {
    let states = States::default();
    let before = clusters(outlier(50, 0), &FOUR, "");
    states.count_on(&before);
    eject(&cluster(&before), 2);
    let after = clusters(outlier(50, 0), &[(2, ""), (5, ""), (1, "")], "");
    states.count_on(&after);
    let now = counts(&cluster(&after), &Wish::default(), 300);
    assert!(now.keys().eq([&1, &5]), "{now:?}");
    let without = clusters(TrafficPolicy::default(), &[(2, ""), (5, "")], "");
    states.count_on(&without);
    assert_eq!(counts(&cluster(&without), &Wish::default(), 300).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_elsewhere_unless_it_may_stay() {
    let all = clusters(TrafficPolicy::default(), &FOUR, "");
    let cluster = cluster(&all);
    let tried = [address(1), address(2), address(3)];
    let wish = Wish {
        tried: &tried,
        ..Wish::default()
    };
    assert_eq!(counts(&cluster, &wish, 100), BTreeMap::from([(4, 100)]));
    let again = Wish {
        again: true,
        ..wish
    };
    assert_eq!(counts(&cluster, &again, 400).len(), 4);
    let all_tried = [address(1), address(2), address(3), address(4)];
    let wish = Wish {
        tried: &all_tried,
        ..Wish::default()
    };
    assert_eq!(counts(&cluster, &wish, 400).len(), 4, "none left: any");
}

#[tokio::test(start_paused = true)]
async fn localities_fail_over_and_retries_may_leave_theirs() {
    let at = [(1, "eu.a.a"), (2, "eu.a.a"), (3, "us.a.a")];
    let all = clusters(outlier(100, 0), &at, "eu.a.a");
    let cluster = cluster(&all);
    assert_eq!(
        counts(&cluster, &Wish::default(), 100).len(),
        2,
        "the near ones"
    );
    let tried = [address(1), address(2)];
    let elsewhere = Wish {
        tried: &tried,
        elsewhere: true,
        ..Wish::default()
    };
    assert_eq!(counts(&cluster, &elsewhere, 50), BTreeMap::from([(3, 50)]));
    eject(&cluster, 1);
    eject(&cluster, 2);
    assert_eq!(
        counts(&cluster, &Wish::default(), 50),
        BTreeMap::from([(3, 50)])
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_warms_up() {
    let traffic = TrafficPolicy {
        load_balancer: LoadBalancer::RoundRobin,
        warmup: Some(Warmup {
            duration: Duration::from_secs(100),
            minimum_percent: 10,
            aggression_permille: 1000,
        }),
        ..TrafficPolicy::default()
    };
    let states = States::default();
    let before = clusters(traffic.clone(), &FOUR[..3], "");
    states.count_on(&before);
    tokio::time::advance(Duration::from_secs(200)).await;
    let after = clusters(traffic, &FOUR, "");
    states.count_on(&after);
    let cluster = cluster(&after);
    let cold = counts(&cluster, &Wish::default(), 3100)[&4];
    assert!((60..150).contains(&cold), "{cold}");
    tokio::time::advance(Duration::from_secs(50)).await;
    let warm = counts(&cluster, &Wish::default(), 3500)[&4];
    assert!((420..580).contains(&warm), "{warm}");
    tokio::time::advance(Duration::from_secs(60)).await;
    let hot = counts(&cluster, &Wish::default(), 4000);
    assert_eq!(hot[&4], 1000, "in turn");
}

#[tokio::test(start_paused = true)]
async fn passthrough_goes_where_the_caller_wanted_and_nowhere_else() {
    let traffic = TrafficPolicy {
        load_balancer: LoadBalancer::Passthrough,
        ..TrafficPolicy::default()
    };
    let all = clusters(traffic, &FOUR, "");
    let to = |host| Wish {
        original: Some(address(host)),
        ..Wish::default()
    };
    let cluster = cluster(&all);
    assert_eq!(counts(&cluster, &to(3), 5), BTreeMap::from([(3, 5)]));
    assert_eq!(counts(&cluster, &to(9), 5), BTreeMap::from([(0, 5)]));
}

#[test]
fn endpoints_are_chosen_by_their_weights() {
    for how in [
        LoadBalancer::RoundRobin,
        LoadBalancer::Random,
        LoadBalancer::LeastRequest,
    ] {
        let traffic = TrafficPolicy {
            load_balancer: how,
            ..TrafficPolicy::default()
        };
        let all = weighted(traffic, &[(1, ""), (2, ""), (3, "")], "", &[(1, 8), (2, 1)]);
        let found = counts(&cluster(&all), &Wish::default(), 10_000);
        // By chance alone, one of the heaviest in ten is a tenth; least request takes the better of two.
        assert!(found[&1] > 7_000, "{how:?}: {found:?}");
        assert!(found[&2] > 100 && found[&3] > 100, "{how:?}: {found:?}");
        let even = weighted(
            TrafficPolicy::default(),
            &[(1, ""), (2, "")],
            "",
            &[(1, 5), (2, 5)],
        );
        assert!(cluster(&even).is_plain, "equal weights are none");
    }
}
