//! Gateway, own ports, drain, explain, spans.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use futures_util::future::join_all;
use http::{HeaderValue, Response};
use http_body_util::BodyExt as _;
use reeve_audit::Direction;
use reeve_core::{
    SpiffeId, UnixTime,
    model::{
        DescriptorEntry, DescriptorRule, DescriptorValue, Destination, Generation, GlobalRateLimit,
        JwtRule, LimitServer, MtlsMode, OnFailure, Protocol, ProxyConfig, ProxyRole, RateKey,
        RateLimit, RouteMatch, SniRoute, StringMatch, TracingConfig,
    },
};

use super::mesh::{
    ALLOW_CLIENT, HOST, Mesh, PORT, app, caller, echo_app, eventually, fetch, full, get, pair,
    service, set_policies, set_route,
};
use crate::{ApplyError, ExplainRequest, Snapshot, explain::explain};

pub(super) fn gateway(mesh: &Mesh) -> ProxyConfig {
    let mut config = mesh.client(Protocol::Http);
    let mut workload = (*config.workload).clone();
    workload.role = ProxyRole::Gateway;
    workload.outbound[0].service = None;
    config.workload = Arc::new(workload);
    set_route(&mut config, |route| {
        route.matches = vec![RouteMatch {
            uri: Some(StringMatch::Prefix("/shop".to_owned())),
            ..RouteMatch::default()
        }];
    });
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_judges_strangers_and_forwards_as_itself() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut config = gateway(&mesh);
    let (server, edge) = pair(&mesh, &server, &config).await;
    assert_eq!(fetch(&caller(), mesh.url("/shop/1")).await.0, 403);
    edge.log.wait(|line| line["reason"] == "no_permit").await;

    let strangers = r#"permit(
        principal == Unauthenticated::"unauthenticated", action,
        resource == Workload::"spiffe://mesh.local/ns/default/sa/client");"#;
    set_policies(&mut config, &[strangers]);
    edge.apply(&config);
    let mut request = get(mesh.url("/shop/1"));
    for name in ["x-reeve-peer", "x-forwarded-client-cert"] {
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static("forged"));
    }
    let response = caller().request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("x-reeve-peer"));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let seen: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert!(seen["headers"].get("x-forwarded-client-cert").is_none());
    let line = server.log.wait(|line| line["response_code"] == 200).await;
    assert_eq!(line["peer"], "spiffe://mesh.local/ns/default/sa/client");
    assert_eq!(fetch(&caller(), mesh.url("/other")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_keeps_the_limits_of_its_own_and_of_a_server() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let limits = crate::global_limit::tests::Server::default();
    let at = limits.start().await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut config = gateway(&mesh);
    let workload = Arc::make_mut(&mut config.workload);
    workload.rate_limits = vec![RateLimit {
        name: "default/own/0".to_owned(),
        when: RouteMatch::default(),
        per: RateKey::All,
        requests: std::num::NonZeroU32::new(2).unwrap(),
        every: Duration::from_secs(3600),
    }];
    workload.global_rate_limits = vec![shared_limit(at)];
    set_policies(
        &mut config,
        &[r#"permit(principal, action,
            resource == Workload::"spiffe://mesh.local/ns/default/sa/client");"#],
    );
    let (_server, _edge) = pair(&mesh, &server, &config).await;
    let ask = async || {
        let response = caller().request(get(mesh.url("/shop/1"))).await.unwrap();
        let left = response.headers().get("x-ratelimit-remaining").cloned();
        (response.status().as_u16(), left)
    };
    limits.answers(Code::Ok, 5);
    assert_eq!(ask().await, (200, Some(HeaderValue::from(5))));
    limits.answers(Code::OverLimit, 0);
    assert_eq!(ask().await, (429, Some(HeaderValue::from(0))));
    // Its own limit is reached first now.
    limits.answers(Code::Ok, 7);
    assert_eq!(ask().await, (429, Some(HeaderValue::from(0))));
}

/// A limit that a server keeps by address.
fn shared_limit(at: SocketAddr) -> GlobalRateLimit {
    GlobalRateLimit {
        name: "default/shared".to_owned(),
        server: LimitServer::At(at),
        domain: "mesh".to_owned(),
        timeout: Duration::from_secs(5),
        on_failure: OnFailure::Deny,
        descriptors: vec![DescriptorRule {
            when: RouteMatch::default(),
            entries: vec![DescriptorEntry {
                key: "from".to_owned(),
                value: DescriptorValue::Address,
                optional: false,
            }],
        }],
        service: service(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_permitted_no_longer_once_its_limit_is_known_goes_no_further() {
    const CALLS: usize = 12;
    let mesh = Mesh::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    app(mesh.at(2, PORT), move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Response::new(full("")) }
    })
    .await;
    let limits = crate::global_limit::tests::Server::slow(Duration::from_secs(1));
    limits.answers(Code::Ok, 5);
    let at = limits.start().await;
    let mut config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    // Connections to the application that a request would go out on at once.
    let warm = (0..CALLS).map(|_| async { fetch(&caller(), mesh.url("/")).await.0 });
    assert!(join_all(warm).await.iter().all(|status| *status == 200));
    let before = calls.load(Ordering::SeqCst);

    Arc::make_mut(&mut config.workload).global_rate_limits = vec![shared_limit(at)];
    config.generation = Generation(2);
    server.apply(&config);
    let asking = (0..CALLS).map(|_| {
        let url = mesh.url("/");
        tokio::spawn(async move { fetch(&caller(), url).await.0 })
    });
    let asking: Vec<_> = asking.collect();
    let mut asked = 0;
    while asked < CALLS {
        asked += limits.asked().len();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    config.generation = Generation(3);
    set_policies(&mut config, &[]);
    server.apply(&config);
    for call in asking {
        assert_eq!(call.await.unwrap(), 403);
    }
    assert_eq!(calls.load(Ordering::SeqCst), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn own_ports_tell_readiness_and_metrics() {
    let mesh = Mesh::new();
    let side = mesh.side("server");
    let credentials = side.credentials.send_replace(None);
    side.apply(&mesh.server(Protocol::Http, &[]));
    let (metrics, health) = side.proxy.own_addresses().unwrap();
    side.credentials.send_replace(credentials);
    eventually(|| side.proxy.status().ready.then_some(())).await;
    let ready = caller()
        .request(get(format!("http://{health}/healthz/ready")))
        .await
        .unwrap();
    assert_eq!(ready.status(), 200);
    let stats = caller()
        .request(get(format!("http://{metrics}/stats/prometheus")))
        .await
        .unwrap();
    let text = stats.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains("reeve_config_generation 1"), "{text}");
    let missing = caller()
        .request(get(format!("http://{metrics}/x")))
        .await
        .unwrap();
    assert_eq!(missing.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_changes_nothing() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let mut config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let taken = mesh.at(3, PORT);
    let _holder = std::net::TcpListener::bind(taken).unwrap();
    let mut workload = (*config.workload).clone();
    workload.inbound.push(workload.inbound[0].clone());
    workload.inbound[1].bind = taken;
    config.workload = Arc::new(workload);
    config.generation = Generation(2);
    let refused = server
        .proxy
        .apply(Snapshot::compile(Arc::new(config)).unwrap());
    assert!(matches!(refused, Err(ApplyError::Bind { address, .. }) if address == taken));
    assert_eq!(server.proxy.status().generation, Some(Generation(1)));
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_in_flight() {
    let mesh = Mesh::new();
    let started = Arc::new(AtomicBool::new(false));
    let seen = started.clone();
    app(mesh.at(2, PORT), move |_| {
        seen.store(true, Ordering::SeqCst);
        async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Response::new(full("{}"))
        }
    })
    .await;
    let config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let url = mesh.url("/");
    let request = tokio::spawn(async move { fetch(&caller(), url).await.0 });
    eventually(|| started.load(Ordering::SeqCst).then_some(())).await;
    server.proxy.drain(Duration::from_secs(5)).await;
    assert_eq!(request.await.unwrap(), 200);
    let late = server
        .proxy
        .apply(Snapshot::compile(Arc::new(config)).unwrap());
    assert!(matches!(late, Err(ApplyError::Draining)));
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sampled_request_is_exported_as_a_span() {
    let mesh = Mesh::new();
    let received = Arc::new(Mutex::new(Vec::new()));
    let collected = received.clone();
    let collector = mesh.at(50, 4317);
    app(collector, move |request| {
        let collected = collected.clone();
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            collected.lock().unwrap().extend_from_slice(&body);
            let mut response = Response::new(full(""));
            let headers = response.headers_mut();
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static("0"));
            response
        }
    })
    .await;
    echo_app(mesh.at(2, PORT)).await;
    let mut config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut workload = (*config.workload).clone();
    workload.tracing = Some(TracingConfig {
        otlp_endpoint: format!("http://{collector}"),
        sampling_per_10k: 0,
    });
    config.workload = Arc::new(workload);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let mut request = get(mesh.url("/"));
    let parent =
        HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    request.headers_mut().insert("traceparent", parent);
    let response = caller().request(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let seen: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let passed = seen["headers"]["traceparent"].as_str().unwrap();
    assert!(passed.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && passed.ends_with("-01"));
    assert!(
        !passed.contains("00f067aa0ba902b7"),
        "the application's parent is our span"
    );
    server.log.wait(|line| line["response_code"] == 200).await;
    server.proxy.drain(Duration::from_secs(2)).await;
    let bytes = received.lock().unwrap().clone();
    let text = String::from_utf8_lossy(&bytes);
    for name in [
        "reeve.decision.id",
        "reeve.decision.policies",
        "reeve.peer.spiffe_id",
        "http.request.method",
        "http.response.status_code",
        "url.path",
        "server.address",
    ] {
        assert!(text.contains(name), "{name}: {text}");
    }
}

fn question(direction: Direction, path: &str) -> ExplainRequest {
    ExplainRequest {
        direction,
        address: None,
        port: PORT,
        sni: None,
        method: "GET".to_owned(),
        authority: HOST.to_owned(),
        path: path.to_owned(),
        headers: BTreeMap::new(),
        peer: None,
        remote_ip: None,
        source_ip: None,
        user: None,
        time: UnixTime::from_secs(1),
    }
}

#[test]
fn explain_tells_where_tls_goes_by_its_server_name() {
    let mesh = Mesh::new();
    let mut config = mesh.client(Protocol::Tls);
    let straight = explain(&config, &question(Direction::Outbound, "/")).unwrap();
    assert_eq!(straight.destinations[0].service, HOST);
    let mut workload = (*config.workload).clone();
    workload.outbound[0].sni = vec![SniRoute {
        name: "default/shop".to_owned(),
        hosts: vec!["*.example.org".to_owned()],
        destinations: vec![Destination::new(service(), PORT)],
        to_mesh: false,
    }];
    config.workload = Arc::new(workload);
    let mut asked = question(Direction::Outbound, "/");
    asked.sni = Some("A.example.org".to_owned());
    let told = explain(&config, &asked).unwrap();
    assert_eq!(told.route.as_deref(), Some("default/shop"));
    assert_eq!(told.destinations[0].endpoints, [mesh.at(1, PORT)]);
    for sni in [None, Some("example.org".to_owned())] {
        asked.sni = sni;
        let told = explain(&config, &asked).unwrap();
        assert!(told.refused.is_some() && told.destinations.is_empty());
    }
}

#[test]
fn explain_tells_what_the_proxy_would_do() {
    let mesh = Mesh::new();
    let inbound = question(Direction::Inbound, "/a/../b?x=1");
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let strict = explain(&server, &inbound).unwrap();
    assert!(strict.refused.unwrap().contains("STRICT"));
    let peer = Some(Mesh::id("client"));
    let told = explain(
        &server,
        &ExplainRequest {
            peer,
            ..inbound.clone()
        },
    )
    .unwrap();
    assert_eq!(told.path.as_deref(), Some("/b"));
    assert!(told.decision.unwrap().decision.is_allow());
    let peer = Some(Mesh::id("other"));
    let told = explain(
        &server,
        &ExplainRequest {
            peer,
            ..inbound.clone()
        },
    )
    .unwrap();
    assert!(!told.decision.unwrap().decision.is_allow());
    let ambiguous = question(Direction::Inbound, "/a//b");
    assert!(
        explain(&server, &ambiguous)
            .unwrap()
            .refused
            .unwrap()
            .contains("slashes")
    );
    let mut open = server;
    let mut workload = (*open.workload).clone();
    workload.inbound[0].mtls = MtlsMode::Permissive;
    open.workload = Arc::new(workload);
    assert_eq!(explain(&open, &inbound).unwrap().refused, None);

    let config = gateway(&mesh);
    let told = explain(&config, &question(Direction::Outbound, "/shop")).unwrap();
    assert_eq!(
        (told.virtual_host.as_deref(), told.route.as_deref()),
        (Some(HOST), Some("only"))
    );
    assert_eq!(told.destinations[0].endpoints, [mesh.at(1, PORT)]);
    assert!(!told.decision.unwrap().decision.is_allow());
    let told = explain(&config, &question(Direction::Outbound, "/x")).unwrap();
    assert_eq!((told.answer, told.route), (Some(404), None));
    let mut elsewhere = question(Direction::Outbound, "/shop");
    elsewhere.port = 1;
    assert!(explain(&config, &elsewhere).unwrap().refused.is_some());
}

#[test]
fn a_generation_keeps_what_an_earlier_one_compiled_of_the_same() {
    let mesh = Mesh::new();
    let mut config = mesh.server(Protocol::Http, &["permit (principal, action, resource);"]);
    let first = Snapshot::compile(Arc::new(config.clone())).unwrap();
    config.generation = Generation(2);
    config.policies = Arc::new((*config.policies).clone());
    let clock = crate::snapshot::Surroundings::default();
    let second = Snapshot::compile_after(Arc::new(config.clone()), Some(&first), &clock).unwrap();
    assert!(Arc::ptr_eq(&first.engine, &second.engine) && Arc::ptr_eq(&first.jwt, &second.jwt));
    assert_eq!(first.projection_hash, second.projection_hash);

    set_policies(&mut config, &["forbid (principal, action, resource);"]);
    let mut workload = (*config.workload).clone();
    workload.jwt_rules = vec![JwtRule {
        name: "rule".to_owned(),
        issuer: "issuer".to_owned(),
        ..JwtRule::default()
    }];
    config.workload = Arc::new(workload);
    let third = Snapshot::compile_after(Arc::new(config.clone()), Some(&second), &clock).unwrap();
    assert!(!Arc::ptr_eq(&second.engine, &third.engine) && !Arc::ptr_eq(&second.jwt, &third.jwt));
    assert_eq!(third.policy_hash(), config.policies.mesh_hash);
    assert_ne!(second.projection_hash, third.projection_hash);

    let mut workload = (*config.workload).clone();
    workload.identity = SpiffeId::parse("spiffe://other.example/ns/default/sa/server").unwrap();
    config.workload = Arc::new(workload);
    let fourth = Snapshot::compile_after(Arc::new(config), Some(&third), &clock).unwrap();
    assert!(
        !Arc::ptr_eq(&third.engine, &fourth.engine),
        "the trust domain is another"
    );
}
