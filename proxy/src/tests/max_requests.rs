//! `connectionPool.http.maxRequestsPerConnection`: how many connections the requests to an endpoint take.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use reeve_core::model::{Generation, Protocol, ProxyConfig, ServiceConfig};
use tokio::net::{TcpListener, TcpStream};

use super::mesh::{
    ALLOW_CLIENT, AppClient, Mesh, PORT, caller, caller_http2, echo_app, eventually, get_bare,
    pair, service,
};

/// A relay in front of `to` that counts connections.
async fn counting_relay(at: SocketAddr, to: SocketAddr) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(at).await.unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            let (mut here, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut there = TcpStream::connect(to).await.unwrap();
                tokio::io::copy_bidirectional(&mut here, &mut there).await
            });
        }
    });
    count
}

fn set_most(config: &mut ProxyConfig, most: u32) {
    let mut of_service = ServiceConfig::clone(&config.services[&service()]);
    of_service.traffic.http.max_requests_per_connection = NonZeroU32::new(most);
    config.services.insert(service(), Arc::new(of_service));
    config.generation = Generation(config.generation.0 + 1);
}

async fn ask(client: &AppClient, mesh: &Mesh) {
    let response = client.request(get_bare(mesh.url("/"))).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_takes_no_more_requests_than_the_rule_says() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let count = counting_relay(mesh.at(3, PORT), mesh.at(1, PORT)).await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut config = mesh.client(Protocol::Http);
    mesh.endpoints(&mut config, &[mesh.at(3, PORT)], Some(Mesh::id("server")));
    let (server, client) = pair(&mesh, &server, &config).await;

    // One caller on one connection of its own: both dialects of the link, requests one after the other.
    for (most, caller, expected) in [
        (1, caller(), 6),
        (1, caller_http2(), 6),
        (3, caller(), 2),
        (3, caller_http2(), 2),
        (4, caller(), 2),
    ] {
        set_most(&mut config, most);
        client.apply(&config);
        let before = count.load(Ordering::SeqCst);
        for _ in 0..6 {
            ask(&caller, &mesh).await;
        }
        let opened = count.load(Ordering::SeqCst) - before;
        assert_eq!(opened, expected, "{most} requests per connection");
    }

    // The last connection took 2 of 4; without a bound it takes the rest.
    set_most(&mut config, 0);
    client.apply(&config);
    let before = count.load(Ordering::SeqCst);
    let unbounded = caller();
    for _ in 0..6 {
        ask(&unbounded, &mesh).await;
    }
    assert_eq!(count.load(Ordering::SeqCst), before);

    // And with one request each, it and all others end.
    set_most(&mut config, 1);
    client.apply(&config);
    ask(&unbounded, &mesh).await;
    let none = "reeve_connections{direction=\"inbound\"} 0";
    eventually(|| server.metrics().contains(none).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_once_share_connections_up_to_the_rule() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let count = counting_relay(mesh.at(3, PORT), mesh.at(1, PORT)).await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut config = mesh.client(Protocol::Http);
    mesh.endpoints(&mut config, &[mesh.at(3, PORT)], Some(Mesh::id("server")));
    set_most(&mut config, 3);
    let (_server, client) = pair(&mesh, &server, &config).await;

    let caller = caller_http2();
    join_all((0..30).map(|_| ask(&caller, &mesh))).await;
    assert_eq!(count.load(Ordering::SeqCst), 10);

    set_most(&mut config, 1);
    client.apply(&config);
    join_all((0..30).map(|_| ask(&caller, &mesh))).await;
    assert_eq!(count.load(Ordering::SeqCst), 40);
}
