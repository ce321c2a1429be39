use std::sync::Arc;

use futures_util::future::join_all;
use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use reeve_core::{
    decision::Principal,
    model::{MtlsMode, Protocol},
};
use tokio::sync::watch;

use super::mesh::{
    Mesh, PORT, app, caller, caller_http2, echo_app, eventually, full, get, get_bare, pair,
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
