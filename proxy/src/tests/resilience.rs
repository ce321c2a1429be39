//! Faults, retries, circuit breakers and ejection, each once through both sidecars on real sockets.

use std::{
    num::{NonZeroU32, NonZeroU64},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use reeve_core::model::{
    Abort, AbortFault, BandwidthFault, DelayFault, Fault, H2Upgrade, Millionths, OutlierDetection,
    Protocol, ProxyConfig, RetryBudget, RetryPolicy,
};
use tokio::sync::Semaphore;

use super::mesh::{
    ALLOW_CLIENT, HOST, Mesh, PORT, app, caller, echo_app, eventually, fetch, full, get, pair,
    set_policies, set_route, set_traffic,
};

fn retries(attempts: u32, on: &[&str]) -> RetryPolicy {
    RetryPolicy {
        attempts,
        on: on.iter().map(|word| (*word).to_owned()).collect(),
        backoff: Some(Duration::from_millis(1)),
        explicit: true,
        ..RetryPolicy::default()
    }
}

fn post(url: String, body: &str) -> Request<super::mesh::AnyBody> {
    let request = Request::post(url).header("host", HOST);
    request.body(full(body.to_owned())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_comes_before_an_abort_and_the_server_sees_neither() {
    let mesh = Mesh::new();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    app(mesh.at(2, PORT), move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Response::new(full("")) }
    })
    .await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut client = mesh.client(Protocol::Http);
    let fault = |abort, until| Fault {
        delay: Some(DelayFault {
            fixed: Duration::from_millis(200),
            share: Millionths::ALL,
        }),
        abort: Some(AbortFault {
            how: Abort::Http(418),
            share: abort,
        }),
        until,
        ..Fault::default()
    };
    set_route(&mut client, |route| {
        route.fault = Some(Box::new(fault(Millionths::ALL, None)));
    });
    let (_server, side) = pair(&mesh, &server, &client).await;
    let begun = Instant::now();
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 418);
    assert!(begun.elapsed() >= Duration::from_millis(200));
    side.log.wait(|line| line["flags"] == "DI,FI").await;
    assert_eq!(calls.load(Ordering::SeqCst), 0);

    set_route(&mut client, |route| {
        route.fault = Some(Box::new(fault(Millionths(0), None)));
    });
    side.apply(&client);
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 200);
    side.log.wait(|line| line["flags"] == "DI").await;

    let past = Some(reeve_core::UnixTime::from_secs(1));
    set_route(&mut client, |route| {
        route.fault = Some(Box::new(fault(Millionths::ALL, past)));
    });
    side.apply(&client);
    let begun = Instant::now();
    assert_eq!(
        fetch(&caller(), mesh.url("/")).await.0,
        200,
        "its time is over"
    );
    assert!(begun.elapsed() < Duration::from_millis(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_sent_again_whole_when_a_response_asks_for_it() {
    let mesh = Mesh::new();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    app(mesh.at(2, PORT), move |request: Request<Incoming>| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut response = Response::new(full(body));
            if call % 3 < 2 {
                *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            }
            response
        }
    })
    .await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut client = mesh.client(Protocol::Http);
    set_route(&mut client, |route| route.retries = retries(2, &["5xx"]));
    let (_server, side) = pair(&mesh, &server, &client).await;
    let body = "x".repeat(300_000);
    for _ in 0..3 {
        let response = caller().request(post(mesh.url("/"), &body)).await.unwrap();
        assert_eq!(response.status(), 200);
        let echoed = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(echoed, body.as_bytes());
    }
    side.log.wait(|line| line["attempts"] == 3).await;

    // What is too long to be kept is tried once.
    calls.store(0, Ordering::SeqCst);
    let long = "y".repeat(3 << 20);
    let response = caller().request(post(mesh.url("/"), &long)).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(calls.load(Ordering::SeqCst), 1);

    calls.store(0, Ordering::SeqCst);
    set_route(&mut client, |route| route.retries = retries(1, &["5xx"]));
    side.apply(&client);
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 503);
    side.log.wait(|line| line["flags"] == "URX").await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_done_is_not_done_again_unless_it_is_idempotent() {
    let mesh = Mesh::new();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    app(mesh.at(2, PORT), move |request: Request<Incoming>| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let slow = request.uri().path() == "/slow" && call == 0;
            if slow {
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
            Response::new(full("done"))
        }
    })
    .await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut client = mesh.client(Protocol::Http);
    set_route(&mut client, |route| {
        route.retries = RetryPolicy {
            per_try_timeout: Some(Duration::from_millis(200)),
            ..retries(3, &["5xx", "reset"])
        };
    });
    let (_server, _client) = pair(&mesh, &server, &client).await;
    assert_eq!(fetch(&caller(), mesh.url("/slow")).await.0, 200);
    assert_eq!(calls.swap(0, Ordering::SeqCst), 2, "GET is tried again");
    let response = caller()
        .request(post(mesh.url("/slow"), "pay"))
        .await
        .unwrap();
    assert_eq!(response.status(), 504, "unknown, and so failed");
    assert_eq!(calls.load(Ordering::SeqCst), 1, "POST is not");
}

/// An application that holds requests until it is let go.
async fn holding_app(mesh: &Mesh) -> (Arc<Semaphore>, Arc<AtomicUsize>) {
    let (gate, inside) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (held, counted) = (gate.clone(), inside.clone());
    app(mesh.at(2, PORT), move |_| {
        let (gate, inside) = (held.clone(), counted.clone());
        async move {
            inside.fetch_add(1, Ordering::SeqCst);
            let _through = gate.acquire().await.unwrap();
            Response::new(full("ok"))
        }
    })
    .await;
    (gate, inside)
}

async fn statuses(url: &str, count: usize) -> Vec<u16> {
    let caller = caller();
    let calls = (0..count).map(|_| async {
        let response = caller.request(get(url.to_owned())).await.unwrap();
        let overloaded = response.headers().contains_key("x-envoy-overloaded");
        assert_eq!(overloaded, response.status() == 503);
        response.status().as_u16()
    });
    join_all(calls).await
}

fn count_of(statuses: &[u16], status: u16) -> usize {
    statuses.iter().filter(|found| **found == status).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_those_who_wait_for_one_are_bounded_exactly() {
    let mesh = Mesh::new();
    let (gate, inside) = holding_app(&mesh).await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut client = mesh.client(Protocol::Http);
    set_traffic(&mut client, |traffic| {
        traffic.tcp.max_connections = NonZeroU32::new(3);
        traffic.http.max_pending = NonZeroU32::new(2);
    });
    let (_server, side) = pair(&mesh, &server, &client).await;
    // Connections are made one at a time here: each counts as pending until it is.
    let mut first = Vec::new();
    for n in 1..=3 {
        let (caller, url) = (caller(), mesh.url("/"));
        first.push(tokio::spawn(async move { fetch(&caller, url).await.0 }));
        eventually(|| (inside.load(Ordering::SeqCst) == n).then_some(())).await;
    }
    let rest = tokio::spawn({
        let url = mesh.url("/");
        async move { statuses(&url, 8).await }
    });
    let cluster = r#"limit="cluster_max_pending_requests"} 6"#;
    eventually(|| side.metrics().contains(cluster).then_some(())).await;
    gate.add_permits(1000);
    let rest = rest.await.unwrap();
    assert_eq!((count_of(&rest, 200), count_of(&rest, 503)), (2, 6));
    for call in first {
        assert_eq!(call.await.unwrap(), 200);
    }
    side.log.wait(|line| line["flags"] == "UO").await;
    assert_eq!(inside.load(Ordering::SeqCst), 5);
    // And it heals.
    assert_eq!(statuses(&mesh.url("/"), 3).await, [200, 200, 200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_bounded_exactly_whatever_carries_them() {
    for upgrade in [
        H2Upgrade::Default,
        H2Upgrade::Upgrade,
        H2Upgrade::DoNotUpgrade,
    ] {
        let mesh = Mesh::new();
        let (gate, inside) = holding_app(&mesh).await;
        let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
        let mut client = mesh.client(Protocol::Http);
        set_traffic(&mut client, |traffic| {
            traffic.http.max_requests = NonZeroU32::new(7);
            traffic.http.max_streams = NonZeroU32::new(2);
            traffic.http.upgrade = upgrade;
        });
        let (_server, side) = pair(&mesh, &server, &client).await;
        let all = tokio::spawn({
            let url = mesh.url("/");
            async move { statuses(&url, 20).await }
        });
        let hits = r#"limit="cluster_max_requests"} 13"#;
        eventually(|| side.metrics().contains(hits).then_some(())).await;
        eventually(|| (inside.load(Ordering::SeqCst) == 7).then_some(())).await;
        gate.add_permits(1000);
        let all = all.await.unwrap();
        assert_eq!(
            (count_of(&all, 200), count_of(&all, 503)),
            (7, 13),
            "{upgrade:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_never_exceed_their_budget() {
    let mesh = Mesh::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    app(mesh.at(2, PORT), move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut response = Response::new(full(""));
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            response
        }
    })
    .await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut client = mesh.client(Protocol::Http);
    set_route(&mut client, |route| route.retries = retries(1, &["5xx"]));
    set_traffic(&mut client, |traffic| {
        traffic.retry_budget = Some(RetryBudget {
            percent: Millionths(200_000),
            min_concurrency: 3,
        });
    });
    let (_server, side) = pair(&mesh, &server, &client).await;
    let caller = caller();
    let all = (0..40).map(|_| fetch(&caller, mesh.url("/")));
    let all = join_all(all).await;
    assert!(all.iter().all(|(status, _)| *status == 503));
    let retried = calls.load(Ordering::SeqCst) - 40;
    // 20 % of at most 40 in flight.
    assert!((3..=8).contains(&retried), "{retried} retries");
    side.log.wait(|line| line["flags"] == "UO").await;
}

fn two_endpoints(mesh: &Mesh) -> ProxyConfig {
    let mut client = mesh.client(Protocol::Http);
    mesh.endpoints(&mut client, &[mesh.at(66, PORT), mesh.at(67, PORT)], None);
    set_policies(
        &mut client,
        &[&format!(
            r#"permit(
        principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
        action, resource == Service::"{HOST}");"#
        )],
    );
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_is_ejected_and_comes_back() {
    let mesh = Mesh::new();
    let bad = Arc::new(AtomicU64::new(0));
    echo_app(mesh.at(66, PORT)).await;
    let counted = bad.clone();
    app(mesh.at(67, PORT), move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async {
            let mut response = Response::new(full(""));
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    })
    .await;
    let mut client = two_endpoints(&mesh);
    set_traffic(&mut client, |traffic| {
        traffic.outlier = Some(OutlierDetection {
            consecutive_5xx: NonZeroU32::new(7),
            interval: Duration::from_millis(100),
            base_ejection: Duration::from_secs(2),
            ..OutlierDetection::default()
        });
    });
    let server = mesh.server(Protocol::Http, &[]);
    let (_server, side) = pair(&mesh, &server, &client).await;
    let caller = caller();
    let mut failed = 0;
    for _ in 0..200 {
        failed += usize::from(fetch(&caller, mesh.url("/")).await.0 == 500);
    }
    assert_eq!(
        (failed, bad.load(Ordering::SeqCst)),
        (7, 7),
        "out after the seventh"
    );
    assert_eq!(side.sum_of("reeve_endpoint_ejections_total"), 1);

    // A new generation does not let it in.
    side.apply(&client);
    for _ in 0..20 {
        assert_eq!(fetch(&caller, mesh.url("/")).await.0, 200);
    }
    tokio::time::timeout(Duration::from_secs(10), async {
        while bad.load(Ordering::SeqCst) == 7 {
            fetch(&caller, mesh.url("/")).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it comes back");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_one_key_stay_with_one_endpoint() {
    use reeve_core::model::{ConsistentHash, HashKey, HashTable};
    let mesh = Mesh::new();
    for host in [66, 67] {
        app(mesh.at(host, PORT), move |_| async move {
            Response::new(full(host.to_string()))
        })
        .await;
    }
    let mut client = two_endpoints(&mesh);
    let hash = |key, table| ConsistentHash { key, table };
    set_traffic(&mut client, |traffic| {
        let key = HashKey::Header("end-user".to_owned());
        traffic.hash = Some(hash(key, HashTable::Ring(1024)));
    });
    let server = mesh.server(Protocol::Http, &[]);
    let (_server, side) = pair(&mesh, &server, &client).await;
    let caller = caller();
    let ask = |user: usize| {
        let mut request = get(mesh.url("/"));
        let user = user.to_string().parse().unwrap();
        request.headers_mut().insert("end-user", user);
        caller.request(request)
    };
    let mut homes = Vec::new();
    for user in 0..40 {
        let mut bodies = Vec::new();
        for _ in 0..3 {
            let response = ask(user).await.unwrap();
            bodies.push(response.into_body().collect().await.unwrap().to_bytes());
        }
        assert!(bodies.iter().all(|body| *body == bodies[0]), "{user}");
        homes.push(bodies.remove(0));
    }
    let first = homes.iter().filter(|home| **home == homes[0]).count();
    assert!((5..=35).contains(&first), "both have some: {first}");

    set_traffic(&mut client, |traffic| {
        let key = HashKey::Cookie {
            name: "home".to_owned(),
            path: "/".to_owned(),
            ttl: Some(Duration::from_secs(60)),
        };
        traffic.hash = Some(hash(key, HashTable::Maglev(65_537)));
    });
    side.apply(&client);
    let response = caller.request(get(mesh.url("/"))).await.unwrap();
    let cookie = response.headers()["set-cookie"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        cookie.ends_with("; Max-Age=60; Path=/; HttpOnly"),
        "{cookie}"
    );
    let home = response.into_body().collect().await.unwrap().to_bytes();
    for _ in 0..20 {
        let mut request = get(mesh.url("/"));
        let value = cookie.split(';').next().unwrap().parse().unwrap();
        request.headers_mut().insert("cookie", value);
        let response = caller.request(request).await.unwrap();
        assert!(!response.headers().contains_key("set-cookie"));
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            home
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_takes_no_more_of_a_caller_than_its_limit() {
    use reeve_core::model::{RateKey, RateLimit, RouteMatch, StringMatch};
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let mut server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let workload = Arc::make_mut(&mut server.workload);
    workload.rate_limits = vec![RateLimit {
        name: "default/server/0".to_owned(),
        when: RouteMatch {
            uri: Some(StringMatch::Prefix("/pay".to_owned())),
            ..RouteMatch::default()
        },
        per: RateKey::Identity,
        requests: NonZeroU32::new(3).unwrap(),
        every: Duration::from_secs(3600),
    }];
    let mut client = mesh.client(Protocol::Http);
    set_route(&mut client, |route| {
        route.retries = retries(2, &["5xx", "envoy-ratelimited"])
    });
    let (side, _client) = pair(&mesh, &server, &client).await;
    let caller = caller();
    for _ in 0..3 {
        assert_eq!(fetch(&caller, mesh.url("/pay")).await.0, 200);
    }
    let refused = caller.request(get(mesh.url("/pay"))).await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["x-ratelimit-limit"], "3");
    assert_eq!(refused.headers()["x-ratelimit-remaining"], "0");
    assert_eq!(refused.headers()["x-ratelimit-reset"], "1200");
    assert_eq!(fetch(&caller, mesh.url("/other")).await.0, 200);
    let line = side.log.wait(|line| line["flags"] == "RL").await;
    assert_eq!(line["effect"], "allow", "permitted, and too much");
    let next = side.proxy.compile(Arc::new(server)).unwrap();
    side.proxy.apply(next).unwrap();
    assert_eq!(
        fetch(&caller, mesh.url("/pay")).await.0,
        429,
        "a generation gives nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_reset_and_a_response_goes_slowly_on_purpose() {
    let mesh = Mesh::new();
    app(mesh.at(2, PORT), |_| async {
        Response::new(full("x".repeat(30_000)))
    })
    .await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut client = mesh.client(Protocol::Http);
    set_route(&mut client, |route| {
        route.fault = Some(Box::new(Fault {
            abort: Some(AbortFault {
                how: Abort::Reset,
                share: Millionths::ALL,
            }),
            ..Fault::default()
        }));
    });
    let (_server, side) = pair(&mesh, &server, &client).await;
    assert!(
        caller().request(get(mesh.url("/"))).await.is_err(),
        "no answer at all"
    );
    assert!(
        super::mesh::caller_http2()
            .request(super::mesh::get_bare(mesh.url("/")))
            .await
            .is_err()
    );
    side.log.wait(|line| line["flags"] == "FI").await;

    set_route(&mut client, |route| {
        route.fault = Some(Box::new(Fault {
            bandwidth: Some(BandwidthFault {
                bytes_per_second: NonZeroU64::new(30_000).unwrap(),
                share: Millionths::ALL,
            }),
            ..Fault::default()
        }));
    });
    side.apply(&client);
    let begun = Instant::now();
    let response = caller().request(get(mesh.url("/"))).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), 30_000);
    assert!(
        begun.elapsed() >= Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
}
