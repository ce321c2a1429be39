//! How a proxy comes and goes: readiness, and connections that take their leave.

use std::{net::SocketAddr, time::Duration};

use http_body_util::BodyExt as _;
use reeve_core::model::Protocol;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::mesh::*;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: server.default.svc.cluster.local\r\n\r\n";

async fn health(at: SocketAddr, path: &str) -> (u16, String) {
    let answer = caller().request(get(format!("http://{at}{path}"))).await;
    let answer = answer.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// Reads up to the end of the echo's JSON.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"}") {
        let mut part = [0; 4096];
        let read = timeout(Duration::from_secs(5), stream.read(&mut part)).await;
        let length = read.unwrap().unwrap();
        assert!(
            length > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&text)
        );
        text.extend_from_slice(&part[..length]);
    }
    String::from_utf8(text).unwrap()
}

async fn meshed(mesh: &Mesh) -> (Side, Side) {
    echo_app(mesh.at(2, PORT)).await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    pair(mesh, &server, &mesh.client(Protocol::Http)).await
}

fn outbound(mesh: &Mesh) -> SocketAddr {
    let url: http::Uri = mesh.url("/").parse().unwrap();
    url.authority().unwrap().as_str().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_means_certificate_and_configuration_and_says_what_is_missing() {
    let mesh = Mesh::new();
    let side = mesh.side_without_certificate("server");
    let config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    side.proxy.serve_own_ports(config.workload.address).unwrap();
    let (_, at) = side.proxy.own_addresses().unwrap();
    let (status, why) = health(at, "/healthz/ready").await;
    assert!(status == 503 && why.contains("certificate"), "{why}");
    assert_eq!(health(at, "/healthz/live").await.0, 200);
    side.credentials.send_replace(Some(mesh.issue("server")));
    let held = || (side.proxy.status().credentials_epoch > 0).then_some(());
    eventually(held).await;
    let (status, why) = health(at, "/healthz/ready").await;
    assert!(status == 503 && why.contains("configuration"), "{why}");
    side.apply(&config);
    assert_eq!(side.proxy.own_addresses().unwrap().1, at, "the ports stay");
    assert_eq!(health(at, "/healthz/ready").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_about_to_go_says_so_and_goes_on_serving() {
    let mesh = Mesh::new();
    let (server, client) = meshed(&mesh).await;
    client.proxy.leave();
    server.proxy.leave();
    let (_, at) = server.proxy.own_addresses().unwrap();
    let (status, why) = health(at, "/healthz/ready").await;
    assert!(
        status == 503 && why.contains("shutting down"),
        "{status} {why}"
    );
    assert_eq!(health(at, "/healthz/live").await.0, 200);
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_is_told_to_close_with_its_next_answer() {
    let mesh = Mesh::new();
    let (_server, client) = meshed(&mesh).await;
    let mut kept = TcpStream::connect(outbound(&mesh)).await.unwrap();
    let mut silent = TcpStream::connect(outbound(&mesh)).await.unwrap();
    kept.write_all(REQUEST).await.unwrap();
    let before = answer(&mut kept).await.to_ascii_lowercase();
    assert!(!before.contains("connection: close"), "{before}");
    let draining = tokio::spawn({
        let proxy = client.proxy.clone();
        async move { proxy.drain(Duration::from_secs(5)).await }
    });
    let refused = || {
        std::net::TcpStream::connect(outbound(&mesh))
            .is_err()
            .then_some(())
    };
    eventually(refused).await;
    for stream in [&mut kept, &mut silent] {
        stream.write_all(REQUEST).await.unwrap();
        let last = answer(stream).await;
        assert!(last.starts_with("HTTP/1.1 200"), "{last}");
        let last = last.to_ascii_lowercase();
        assert!(last.contains("connection: close"), "{last}");
        let end = stream.read(&mut [0; 16]).await.unwrap();
        assert_eq!(end, 0, "it is closed");
    }
    draining.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_ends_soon_after_the_drain_began() {
    let mesh = Mesh::new();
    let (_server, client) = meshed(&mesh).await;
    let mut idle = TcpStream::connect(outbound(&mesh)).await.unwrap();
    idle.write_all(REQUEST).await.unwrap();
    answer(&mut idle).await;
    let drained = timeout(
        Duration::from_secs(8),
        client.proxy.drain(Duration::from_secs(30)),
    );
    drained.await.expect("long before the deadline");
    assert_eq!(idle.read(&mut [0; 16]).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_were_handed_over_serve_the_new_proxy_alone() {
    let mesh = Mesh::new();
    let (_server, old) = meshed(&mesh).await;
    let config = mesh.client(Protocol::Http);
    let new = mesh.side_in("client", "client-next");
    new.proxy
        .inherit(old.proxy.listening_sockets().unwrap())
        .unwrap();
    new.apply(&config);
    eventually(|| new.proxy.status().ready.then_some(())).await;
    let through = |side: &Side| {
        let lines = side.log.lines();
        lines
            .iter()
            .filter(|line| line["response_code"] == 200)
            .count()
    };
    old.proxy.hand_over();
    old.proxy.drain(Duration::from_secs(5)).await;
    let before = through(&old);
    for _ in 0..5 {
        assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 200);
    }
    eventually(|| (through(&new) == 5).then_some(())).await;
    assert_eq!(through(&old), before);
}
