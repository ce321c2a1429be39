use std::{net::SocketAddr, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use reeve_core::model::TrafficPolicy;

use super::*;
use crate::{
    balance::tests::{cluster, clusters},
    cluster::{Cluster, Clusters},
};

const INTERVAL: Duration = Duration::from_secs(10);

fn rules() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: None,
        interval: INTERVAL,
        base_ejection: Duration::from_secs(5),
        max_ejection_percent: 100,
        ..OutlierDetection::default()
    }
}

fn by_success_rate() -> OutlierDetection {
    OutlierDetection {
        success_rate: Some(SuccessRate::default()),
        ..rules()
    }
}

fn by_percentage() -> OutlierDetection {
    OutlierDetection {
        failure_percentage: Some(FailurePercentage::default()),
        ..rules()
    }
}

fn service(rules: OutlierDetection, endpoints: u8) -> Clusters {
    let at: Vec<(u8, &str)> = (1..=endpoints).map(|host| (host, "")).collect();
    let traffic = TrafficPolicy {
        outlier: Some(rules),
        ..TrafficPolicy::default()
    };
    clusters(traffic, &at, "")
}

/// So many answers of each endpoint, of which that many are good; who goes at the end of the interval.
async fn interval(cluster: &Cluster, answers: &[(u32, u32)]) -> Vec<(usize, Cause)> {
    for (hop, (all, good)) in cluster.hops.iter().zip(answers) {
        for n in 0..*all {
            let status = if n < *good { 200 } else { 503 };
            assert_eq!(cluster.saw(hop, Seen::Status(status)), None);
        }
    }
    end(cluster).await
}

async fn end(cluster: &Cluster) -> Vec<(usize, Cause)> {
    tokio::time::advance(INTERVAL).await;
    let place = |address: SocketAddr| {
        let mut hops = cluster.hops.iter();
        hops.position(|hop| hop.address == address).unwrap()
    };
    let out = cluster.sweep().out;
    out.into_iter()
        .map(|(hop, cause)| (place(hop.address), cause))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn who_is_far_below_the_mean_goes_and_comes_back() {
    let all = service(by_success_rate(), 5);
    let cluster = cluster(&all);
    // 100, 100, 100, 100, 50: mean 90, deviation 20, and so 52 is the least.
    let shares = [(100, 100), (100, 100), (100, 100), (100, 100), (100, 50)];
    assert_eq!(interval(&cluster, &shares).await, [(4, Cause::SuccessRate)]);
    let open = all.open_circuits();
    assert_eq!(open[0].cause, "success_rate");
    // Only the four others were asked, and four are too few to compare.
    let shares = [(100, 100), (100, 100), (100, 100), (100, 0), (0, 0)];
    assert!(interval(&cluster, &shares).await.is_empty());
    assert!(
        !cluster.host(&cluster.hops[4]).is_ejected(),
        "its time is over"
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_goes_where_there_is_too_little_to_compare_or_all_fail_alike() {
    for shares in [
        // Asked too seldom.
        [(99, 99), (99, 99), (99, 99), (99, 99), (99, 0)],
        // One of them was: four are too few.
        [(100, 100), (100, 100), (100, 100), (99, 99), (100, 0)],
        // Alike, however bad.
        [(100, 30), (100, 30), (100, 30), (100, 30), (100, 30)],
        // Not far enough below: mean 90, deviation 12.6, least 66.
        [(100, 100), (100, 100), (100, 75), (100, 100), (100, 75)],
    ] {
        let all = service(by_success_rate(), 5);
        let out = interval(&cluster(&all), &shares).await;
        assert!(out.is_empty(), "{shares:?}: {out:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_interval_counts_for_itself() {
    let all = service(by_success_rate(), 5);
    let cluster = cluster(&all);
    let half = [(50, 50), (50, 50), (50, 50), (50, 50), (50, 0)];
    for _ in 0..4 {
        assert!(interval(&cluster, &half).await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn who_fails_as_often_as_said_goes() {
    let all = service(by_percentage(), 5);
    let shares = [(50, 50), (50, 50), (100, 15), (100, 16), (49, 0)];
    assert!(
        interval(&cluster(&all), &shares).await.is_empty(),
        "four are too few"
    );
    let shares = [(50, 50), (50, 50), (100, 15), (100, 16), (50, 50)];
    let out = interval(&cluster(&all), &shares).await;
    assert_eq!(out, [(2, Cause::FailurePercentage)]);
}

#[tokio::test(start_paused = true)]
async fn no_more_go_than_may() {
    let rules = OutlierDetection {
        max_ejection_percent: 40,
        ..by_percentage()
    };
    let all = service(rules, 5);
    let out = interval(&cluster(&all), &[(50, 0); 5]).await;
    assert_eq!(out.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn failures_of_the_proxys_own_are_compared_apart_where_they_are_told_apart() {
    let split = OutlierDetection {
        consecutive_local: Some(0),
        ..by_percentage()
    };
    for (rules, expected) in [
        (split, Cause::LocalFailurePercentage),
        (by_percentage(), Cause::FailurePercentage),
    ] {
        let all = service(rules, 5);
        let cluster = cluster(&all);
        for (at, hop) in cluster.hops.iter().enumerate() {
            for _ in 0..50 {
                let seen = if at == 1 {
                    Seen::Local(503)
                } else {
                    Seen::Status(200)
                };
                assert_eq!(cluster.saw(hop, seen), None);
            }
        }
        assert_eq!(end(&cluster).await, [(1, expected)]);
    }
}

/// Ten endpoints with 200 requests each in an interval, as chance has it: who fails one in five goes, as a rule; who is as good as
/// the others (one in a hundred) hardly ever does, where it takes three deviations.
#[tokio::test(start_paused = true)]
async fn chance_alone_ejects_hardly_anybody_and_a_bad_endpoint_goes() {
    let rules = OutlierDetection {
        success_rate: Some(SuccessRate {
            stdev_factor_permille: 2900,
            ..SuccessRate::default()
        }),
        base_ejection: Duration::from_secs(1),
        ..rules()
    };
    let mut rng = StdRng::seed_from_u64(7);
    let (mut caught, mut wronged) = (0, 0);
    for round in 0..400 {
        let all = service(rules.clone(), 10);
        let is_bad = |at: usize| round % 2 == 0 && at == 9;
        let answers: Vec<(u32, u32)> = (0..10)
            .map(|at| {
                let fails = if is_bad(at) { 0.2 } else { 0.01 };
                let good = (0..200).filter(|_| !rng.random_bool(fails)).count();
                (200, u32::try_from(good).unwrap())
            })
            .collect();
        for (at, _) in interval(&cluster(&all), &answers).await {
            match is_bad(at) {
                true => caught += 1,
                false => wronged += 1,
            }
        }
    }
    assert!(caught >= 190, "{caught} of 200 intervals");
    assert!(wronged <= 8, "{wronged} of 3,800 good shares");
}
