use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
};

use futures_util::future::join_all;
use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use reeve_core::{
    decision::Principal,
    model::{Generation, MtlsMode, Protocol, ProxyConfig},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    sync::watch,
};

use super::edges::gateway;
use super::mesh::{
    HOST, Mesh, PORT, app, caller, caller_http2, echo_app, eventually, full, get, get_bare, pair,
    set_policies,
};
use crate::{
    callers::Held,
    judge::Peer,
    limits::{
        MAX_PLAINTEXT_STREAMS, MAX_REQUESTS_PER_CALLER, MAX_REQUESTS_PER_CONNECTION,
        MAX_STREAMS_PER_LINK,
    },
};

const ANYONE: &str = "permit(principal, action, resource);";

async fn ask(url: String) -> (u16, HeaderMap, String) {
    let response = caller().request(get(url)).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    (parts.status.as_u16(), parts.headers, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_its_whole_share_gets_429_and_others_are_served() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let mut config = mesh.server(Protocol::Http, &[ANYONE]);
    let mut workload = (*config.workload).clone();
    workload.inbound[0].mtls = MtlsMode::Permissive;
    config.workload = Arc::new(workload);
    let (server, client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;

    let peer = Peer {
        principal: Principal::Workload(Mesh::id("client")),
        ..Peer::stranger(mesh.at(101, 0).ip())
    };
    let connections = MAX_REQUESTS_PER_CALLER / MAX_REQUESTS_PER_CONNECTION;
    let held: Vec<Held> = (0..connections)
        .map(|_| server.proxy.callers().connected(mesh.at(1, PORT), &peer))
        .flat_map(|share| (0..MAX_REQUESTS_PER_CONNECTION).map(move |_| share.hold().unwrap()))
        .collect();

    let (status, headers, text) = ask(mesh.url("/")).await;
    assert_eq!(
        (status, text.as_str()),
        (429, "{\"error\":\"too_many_requests\"}\n")
    );
    assert_eq!(headers["retry-after"], "1");
    let line = server.log.wait(|line| line["response_code"] == 429).await;
    assert_eq!(line["flags"], "UO");
    let bitten = r#"reeve_limit_hits_total{limit="max_requests_per_caller"} 1"#;
    assert!(server.metrics().contains(bitten), "{}", server.metrics());
    assert!(!client.metrics().contains("max_requests_per_caller"));

    let stranger = format!("http://{}/", mesh.at(1, PORT));
    assert_eq!(
        ask(stranger).await.0,
        200,
        "another caller has its own share"
    );
    drop(held);
    assert_eq!(ask(mesh.url("/")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_are_spread_over_several_links() {
    let mesh = Mesh::new();
    let (go, gone) = watch::channel(false);
    app(mesh.at(2, PORT), move |_| {
        let mut gone = gone.clone();
        async move {
            gone.wait_for(|go| *go).await.unwrap();
            Response::new(full("late"))
        }
    })
    .await;
    let config = mesh.server(Protocol::Http, &[ANYONE]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;

    // As many streams as one plaintext connection may have, on enough connections.
    let asked = MAX_STREAMS_PER_LINK + 40;
    let most = MAX_PLAINTEXT_STREAMS as usize;
    let callers: Vec<_> = (0..asked.div_ceil(most)).map(|_| caller_http2()).collect();
    let asking = join_all((0..asked).map(|number| {
        let caller = callers[number / most].clone();
        let request = get_bare(mesh.url("/"));
        tokio::spawn(async move { caller.request(request).await.unwrap().status() })
    }));
    let in_flight = || server.wal.status().next_sequence > asked as u64;
    eventually(|| in_flight().then_some(())).await;
    let links = server
        .metrics()
        .lines()
        .find_map(|line| line.strip_prefix("reeve_connections{direction=\"inbound\"} "))
        .map(|count| count.parse::<usize>().unwrap());
    assert_eq!(links, Some(2), "{}", server.metrics());
    go.send(true).unwrap();
    for status in asking.await {
        assert_eq!(status.unwrap(), 200);
    }
}

/// A GET of `/shop` from `source`, which says that it speaks for `client`; the status.
async fn shop(mesh: &Mesh, source: IpAddr, client: &str) -> u16 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source, 0)).unwrap();
    let mut stream = socket.connect(mesh.at(110, PORT)).await.unwrap();
    let head = format!(
        "GET /shop HTTP/1.1\r\nhost: {HOST}\r\nx-forwarded-for: {client}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn with_shares(config: &mut ProxyConfig, per_caller: u32, trusted_proxies: u32) {
    let mut workload = (*config.workload).clone();
    workload.caller_shares.per_caller = NonZeroU32::new(per_caller);
    workload.topology.trusted_proxies = trusted_proxies;
    config.workload = Arc::new(workload);
    config.generation = Generation(config.generation.0 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_gateway_each_client_address_has_a_share_also_behind_trusted_proxies() {
    let mesh = Arc::new(Mesh::new());
    let (go, gone) = watch::channel(false);
    app(mesh.at(2, PORT), move |_| {
        let mut gone = gone.clone();
        async move {
            gone.wait_for(|go| *go).await.unwrap();
            Response::new(full("late"))
        }
    })
    .await;
    let server = mesh.server(Protocol::Http, &[ANYONE]);
    let mut config = gateway(&mesh);
    set_policies(&mut config, &[ANYONE]);
    with_shares(&mut config, 2, 0);
    let (server, edge) = pair(&mesh, &server, &config).await;

    let (near, far) = (mesh.at(201, 0).ip(), mesh.at(202, 0).ip());
    let spawn = |source, client: &'static str| {
        let mesh = mesh.clone();
        tokio::spawn(async move { shop(&mesh, source, client).await })
    };
    let waiting = [(near, "192.0.2.1"), (near, "192.0.2.2"), (far, "192.0.2.1")];
    let waiting = waiting.map(|(source, client)| spawn(source, client));
    let in_flight = |count| {
        let requests = server.wal.status().next_sequence - 1;
        (requests >= count).then_some(())
    };
    eventually(|| in_flight(3)).await;
    // What a client says of itself is nothing to go by.
    assert_eq!(shop(&mesh, near, "192.0.2.3").await, 429);
    let line = edge.log.wait(|line| line["response_code"] == 429).await;
    assert_eq!(line["flags"], "UO");
    let bitten = r#"reeve_limit_hits_total{limit="max_requests_per_caller"} 1"#;
    assert!(edge.metrics().contains(bitten), "{}", edge.metrics());
    go.send(true).unwrap();
    for status in waiting {
        assert_eq!(status.await.unwrap(), 200);
    }

    // Behind one trusted proxy it is: the connection's address is the proxy's, and many clients'.
    go.send(false).unwrap();
    with_shares(&mut config, 1, 1);
    edge.apply(&config);
    let before = server.wal.status().next_sequence - 1;
    let waiting = ["192.0.2.1", "192.0.2.2"].map(|client| spawn(near, client));
    eventually(|| in_flight(before + 2)).await;
    assert_eq!(shop(&mesh, far, "192.0.2.1").await, 429);
    go.send(true).unwrap();
    assert_eq!(shop(&mesh, near, "192.0.2.3").await, 200);
    for status in waiting {
        assert_eq!(status.await.unwrap(), 200);
    }
    assert_eq!(shop(&mesh, far, "192.0.2.1").await, 200);
}
