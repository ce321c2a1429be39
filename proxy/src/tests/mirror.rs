//! Copies of requests: what they carry, and that nobody waits for them.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use reeve_core::model::{CorsPolicy, Destination, HeaderMatch, Mirror, Protocol, StringMatch};

use super::mesh::{
    ALLOW_CLIENT, AnyBody, HOST, Mesh, PORT, Side, app, caller, eventually, full, get, pair,
    service, set_route,
};

const ALL: u32 = 1_000_000;

/// (authority, tracestate, body) of each request that the application saw.
type Seen = Arc<Mutex<Vec<(String, String, String)>>>;

fn text(request: &Request<Incoming>, name: &str) -> String {
    let value = request.headers().get(name).map(|v| v.to_str().unwrap());
    value.unwrap_or_default().to_owned()
}

/// An application that notes what it sees; copies are answered, and read, as late as `copies` says.
async fn noting_app(mesh: &Mesh, copies: Duration) -> Seen {
    let seen = Seen::default();
    let noted = seen.clone();
    app(mesh.at(2, PORT), move |request| {
        let noted = noted.clone();
        async move {
            let (host, state) = (text(&request, "host"), text(&request, "tracestate"));
            if host.contains("-shadow") {
                tokio::time::sleep(copies).await;
            }
            let read = request.into_body().collect().await;
            let body = read
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default();
            let body = String::from_utf8_lossy(&body).into_owned();
            noted.lock().unwrap().push((host, state, body));
            Response::new(full("original"))
        }
    })
    .await;
    seen
}

/// Both sidecars, the client's with a mirror to the service itself on `port`.
async fn mirrored(mesh: &Mesh, per_million: u32, port: u16) -> (Side, Side) {
    let mut client = mesh.client(Protocol::Http);
    set_route(&mut client, |route| {
        let to = Destination::new(service(), port);
        route.mirrors = vec![Mirror {
            to,
            per_million,
            headers: Default::default(),
            remove_headers: vec![],
        }];
    });
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    pair(mesh, &server, &client).await
}

fn counted(side: &Side, result: &str) -> Option<()> {
    let line = format!("reeve_mirrored_requests_total{{result=\"{result}\"}}");
    side.metrics().contains(&line).then_some(())
}

fn post(mesh: &Mesh, body: AnyBody) -> Request<AnyBody> {
    let request = Request::post(mesh.url("/x?q=1")).header("host", HOST);
    request.body(body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_marked_and_has_the_whole_body() {
    let mesh = Mesh::new();
    let seen = noting_app(&mesh, Duration::ZERO).await;
    let (server, client) = mirrored(&mesh, ALL, PORT).await;
    let response = caller().request(post(&mesh, full("hello"))).await.unwrap();
    assert_eq!(response.status(), 200);
    eventually(|| (seen.lock().unwrap().len() == 2).then_some(())).await;
    let mut all = seen.lock().unwrap().clone();
    all.sort();
    let (original, copy) = (&all[0], &all[1]);
    assert_eq!((original.0.as_str(), original.2.as_str()), (HOST, "hello"));
    assert!(!original.1.contains("shadow"), "{original:?}");
    assert_eq!(copy.0, format!("{HOST}-shadow"));
    assert_eq!(
        (copy.1.as_str(), copy.2.as_str()),
        ("reeve=shadow", "hello")
    );
    eventually(|| counted(&client, "answered")).await;
    // The receiver judged and recorded both; the caller's side counts one request.
    let of_copy = |line: &serde_json::Value| line["authority"] == format!("{HOST}-shadow");
    let line = server.log.wait(of_copy).await;
    assert_eq!(line["effect"], "allow");
    client.log.wait(|line| line["authority"] == HOST).await;
    assert_eq!(client.log.lines().len(), 1, "{:?}", client.log.lines());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_share_there_is_no_copy() {
    let mesh = Mesh::new();
    let seen = noting_app(&mesh, Duration::ZERO).await;
    let (_server, client) = mirrored(&mesh, 0, PORT).await;
    for _ in 0..20 {
        caller().request(get(mesh.url("/"))).await.unwrap();
    }
    assert_eq!(seen.lock().unwrap().len(), 20);
    assert!(counted(&client, "answered").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_made_of_what_its_filter_lets_through_and_goes_without_what_it_names() {
    let mesh = Mesh::new();
    let seen = noting_app(&mesh, Duration::ZERO).await;
    let mut client = mesh.client(Protocol::Http);
    set_route(&mut client, |route| {
        let wanted = HeaderMatch::Value(StringMatch::Exact("on".to_owned()));
        route.mirrors = vec![Mirror {
            to: Destination::new(service(), PORT),
            per_million: ALL,
            headers: [("x-beta".to_owned(), wanted)].into(),
            remove_headers: vec!["tracestate".to_owned()],
        }];
    });
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (_server, client) = pair(&mesh, &server, &client).await;
    for beta in ["off", "on"] {
        let mut request = post(&mesh, full(beta));
        let headers = request.headers_mut();
        headers.insert("x-beta", beta.parse().unwrap());
        headers.insert("tracestate", "vendor=1".parse().unwrap());
        caller().request(request).await.unwrap();
    }
    eventually(|| (seen.lock().unwrap().len() == 3).then_some(())).await;
    eventually(|| counted(&client, "answered")).await;
    let all = seen.lock().unwrap().clone();
    let copies = all.iter().filter(|(host, ..)| host.contains("-shadow"));
    let copies: Vec<_> = copies.map(|(_, state, body)| (&**state, &**body)).collect();
    // The mark is put in after that.
    assert_eq!(copies, [("reeve=shadow", "on")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_or_absent_mirror_delays_nobody() {
    let mesh = Mesh::new();
    noting_app(&mesh, Duration::from_secs(20)).await;
    let (_server, _client) = mirrored(&mesh, ALL, PORT).await;
    let began = Instant::now();
    // Many more frames than may wait for the copy.
    let frames = (0..500).map(|_| Ok(Frame::data(Bytes::from(vec![b'x'; 16 * 1024]))));
    let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
    let response = caller().request(post(&mesh, body)).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "original"
    );
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );

    let mesh = Mesh::new();
    noting_app(&mesh, Duration::ZERO).await;
    let (_server, client) = mirrored(&mesh, ALL, 1).await;
    let response = caller().request(get(mesh.url("/"))).await.unwrap();
    assert_eq!(response.status(), 200);
    eventually(|| counted(&client, "failed")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_not_taken_in_time_is_given_up_and_the_original_is_whole() {
    let mesh = Mesh::new();
    let seen = noting_app(&mesh, Duration::from_secs(3)).await;
    let (_server, client) = mirrored(&mesh, ALL, PORT).await;
    let frames = (0..4000).map(|_| Ok(Frame::data(Bytes::from(vec![b'x'; 16 * 1024]))));
    let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
    let response = caller().request(post(&mesh, body)).await.unwrap();
    assert_eq!(response.status(), 200);
    let whole =
        |(host, _, body): &(String, String, String)| host == HOST && body.len() == 4000 * 16 * 1024;
    assert!(seen.lock().unwrap().iter().any(whole));
    eventually(|| counted(&client, "dropped")).await;
    assert!(
        client
            .metrics()
            .contains(r#"reeve_limit_hits_total{limit="max_mirror_frames"} 1"#)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn preflights_are_answered_here_and_every_answer_is_readable() {
    let mesh = Mesh::new();
    let seen = noting_app(&mesh, Duration::ZERO).await;
    let mut client = mesh.client(Protocol::Http);
    set_route(&mut client, |route| {
        route.cors = Some(CorsPolicy {
            allow_origins: vec![StringMatch::Exact("https://shop.example".to_owned())],
            allow_methods: vec!["GET".to_owned()],
            ..CorsPolicy::default()
        });
    });
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (_server, side) = pair(&mesh, &server, &client).await;
    let ask = |method: &str, origin: &str| {
        let request = Request::builder().method(method).uri(mesh.url("/"));
        let request = request.header("host", HOST).header("origin", origin);
        let request = request.header("access-control-request-method", "GET");
        caller().request(request.body(full("")).unwrap())
    };
    let preflight = ask("OPTIONS", "https://shop.example").await.unwrap();
    assert_eq!(preflight.status(), 200);
    assert_eq!(preflight.headers()["access-control-allow-methods"], "GET");
    assert_eq!(seen.lock().unwrap().len(), 0, "no application was asked");
    let stranger = ask("OPTIONS", "https://evil.example").await.unwrap();
    assert!(
        stranger
            .headers()
            .get("access-control-allow-origin")
            .is_none()
    );
    assert_eq!(seen.lock().unwrap().len(), 1, "forwarded");
    let answer = ask("GET", "https://shop.example").await.unwrap();
    assert_eq!(
        answer.headers()["access-control-allow-origin"],
        "https://shop.example"
    );
    // An answer of the proxy's own, too, or the page could not tell what is wrong.
    let mut broken = client.clone();
    mesh.endpoints(&mut broken, &[], None);
    side.apply(&broken);
    let failed = ask("GET", "https://shop.example").await.unwrap();
    assert_eq!(failed.status(), 503);
    assert_eq!(
        failed.headers()["access-control-allow-origin"],
        "https://shop.example"
    );
}
