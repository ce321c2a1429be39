//! Transformations on whole proxies: what the application sees, what policies see, and what the caller gets.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use reeve_core::{
    UnixTime,
    model::{
        BodyChange, BodyChanges, Find, Otherwise, Protocol, ProxyConfig, Replacement,
        RequestChanges, ResponseChanges, RouteMatch, StringMatch, Transformation,
    },
};
use serde_json::{Value, json};

use super::{
    edges::gateway,
    mesh::{
        ALLOW_CLIENT, AnyBody, HOST, Mesh, PORT, app, caller, caller_http2, echo_app, fetch, full,
        get, pair, set_policies, set_route,
    },
};

fn rule(name: &str) -> Transformation {
    Transformation {
        name: format!("default/{name}"),
        owner: "team".to_owned(),
        expires: UnixTime::from_secs(u64::from(u32::MAX)),
        when: vec![],
        request: RequestChanges::default(),
        response: ResponseChanges::default(),
    }
}

fn replace(find: &str, with: &str) -> Option<BodyChanges> {
    Some(BodyChanges {
        how: BodyChange::Replace(vec![Replacement {
            find: Find::Text(find.to_owned()),
            with: with.to_owned(),
        }]),
        content_types: vec![],
        otherwise: Otherwise::Refuse,
    })
}

fn patch(operations: &Value) -> Option<BodyChanges> {
    Some(BodyChanges {
        how: BodyChange::JsonPatch(operations.to_string()),
        content_types: vec![],
        otherwise: Otherwise::Refuse,
    })
}

fn with(mut config: ProxyConfig, rules: Vec<Transformation>) -> ProxyConfig {
    Arc::make_mut(&mut config.workload).transformations = rules;
    config
}

fn set(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    let text = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    pairs.iter().map(text).collect()
}

fn post(url: String, media: &str, body: AnyBody) -> Request<AnyBody> {
    let request = Request::post(url).header("host", HOST);
    request.header("content-type", media).body(body).unwrap()
}

async fn told(response: Response<hyper::body::Incoming>) -> Value {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_sees_what_was_judged_and_the_caller_what_was_made_of_it() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let mut change = rule("change");
    change.request.headers.set = set(&[("x-api", "2")]);
    change.request.query.set = set(&[("v", "2")]);
    change.request.body = replace("colour", "color");
    change.response.status = Some(201);
    change.response.body = patch(&json!([{"op": "add", "path": "/added", "value": [1.5, null]}]));
    let server = with(mesh.server(Protocol::Http, &[ALLOW_CLIENT]), vec![change]);
    let (server, _client) = pair(&mesh, &server, &mesh.client(Protocol::Http)).await;

    let request = post(mesh.url("/a?v=1"), "text/plain", full("colour, colour"));
    let response = caller().request(request).await.unwrap();
    assert_eq!(response.status(), 201);
    let length = response.headers()["content-length"].to_str().unwrap();
    let length: usize = length.parse().unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), length);
    let seen: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(seen["target"], "/a?v=2");
    assert_eq!(seen["headers"]["x-api"], "2");
    assert_eq!(seen["body"], "color, color");
    assert_eq!(seen["headers"]["content-length"], "12");
    assert_eq!(seen["added"], json!([1.5, null]));
    // In pieces of a length that nobody knows, and over HTTP/2.
    let pieces = ["col", "our", " x"].map(|p| Ok(Frame::data(Bytes::from_static(p.as_bytes()))));
    let body = StreamBody::new(stream::iter(pieces)).boxed_unsync();
    let mut request = post(mesh.url("/b"), "text/plain", body);
    request.headers_mut().remove("host");
    let response = caller_http2().request(request).await.unwrap();
    assert_eq!(told(response).await["body"], "color x");
    assert_eq!(server.sum_of("reeve_transformations_total"), 2 * 4);
    let line = server.log.wait(|line| line["response_code"] == 201).await;
    assert_eq!(line["bytes_received"], 14, "what came, not what it became");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_transformation_lets_anything_through() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let mut make = rule("make");
    make.request.headers.set = set(&[("x-role", "admin")]);
    let only_admins = r#"permit(principal, action in Action::"http", resource)
        when { context.headers.hasTag("x-role")
               && context.headers.getTag("x-role").contains("admin") };"#;
    let config = with(
        mesh.server(Protocol::Http, &[only_admins]),
        vec![make.clone()],
    );
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let role = |role: &'static str| {
        let mut request = get(mesh.url("/"));
        request
            .headers_mut()
            .insert("x-role", role.parse().unwrap());
        request
    };
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 403);
    assert_eq!(caller().request(role("admin")).await.unwrap().status(), 200);
    // Nor does one make a request that is not permitted as it would be sent.
    make.request.headers.set = set(&[("x-role", "guest")]);
    server.apply(&with(
        mesh.server(Protocol::Http, &[only_admins]),
        vec![make],
    ));
    assert_eq!(caller().request(role("admin")).await.unwrap().status(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_changed_is_refused_and_what_is_over_does_nothing() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let mut strict = rule("strict");
    strict.request.body = patch(&json!([{"op": "remove", "path": "/secret"}]));
    let mut over = rule("over");
    over.expires = UnixTime::from_secs(1);
    over.request.headers.set = set(&[("x-over", "1")]);
    let server = with(
        mesh.server(Protocol::Http, &[ALLOW_CLIENT]),
        vec![strict, over],
    );
    let (server, _client) = pair(&mesh, &server, &mesh.client(Protocol::Http)).await;
    let send = async |media: &str, body: &str, encoding: Option<&str>| {
        let mut request = post(mesh.url("/"), media, full(body.to_owned()));
        if let Some(encoding) = encoding {
            let headers = request.headers_mut();
            headers.insert("content-encoding", encoding.parse().unwrap());
        }
        let response = caller().request(request).await.unwrap();
        (response.status().as_u16(), told(response).await)
    };
    let json = "application/json";
    let (status, seen) = send(json, r#"{"secret":1,"a":2}"#, None).await;
    assert_eq!((status, &seen["body"]), (200, &json!(r#"{"a":2}"#)));
    assert!(seen["headers"].get("x-over").is_none(), "{seen}");
    for (status, body, encoding) in [
        (422, "no json", None),
        (422, r#"{"a":2}"#, None),
        (415, "zzz", Some("gzip")),
    ] {
        let (found, told) = send(json, body, encoding).await;
        assert_eq!(
            (found, &told["error"]),
            (status, &json!("request_not_transformed"))
        );
    }
    // What is not meant passes, however it looks.
    assert_eq!(send("image/png", "x", Some("gzip")).await.0, 200);
    // The answer comes before the body is read, and gets through.
    let long = format!("[{}]", "1,".repeat(600_000));
    let request = post(mesh.url("/"), json, full(long));
    assert_eq!(caller().request(request).await.unwrap().status(), 413);
    server.log.wait(|line| line["response_code"] == 413).await;
    assert!(server.sum_of("reeve_limit_hits_total") >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_cannot_be_changed_is_withheld() {
    let mesh = Mesh::new();
    app(mesh.at(2, PORT), |request| async move {
        let zipped = request.uri().path() == "/zipped";
        let asked = request.headers().get("accept-encoding").cloned();
        let mut response = Response::new(full(r#"{"secret":1,"b":1}"#));
        let headers = response.headers_mut();
        headers.insert("content-type", "application/json".parse().unwrap());
        headers.insert("etag", "\"1\"".parse().unwrap());
        headers.insert("x-asked", asked.unwrap());
        if zipped {
            headers.insert("content-encoding", "gzip".parse().unwrap());
        }
        response
    })
    .await;
    let mut redact = rule("redact");
    redact.response.body = patch(&json!([{"op": "remove", "path": "/secret"}]));
    let server = with(mesh.server(Protocol::Http, &[ALLOW_CLIENT]), vec![redact]);
    let (server, _client) = pair(&mesh, &server, &mesh.client(Protocol::Http)).await;
    let mut request = get(mesh.url("/"));
    let headers = request.headers_mut();
    headers.insert("accept-encoding", "gzip, br".parse().unwrap());
    let response = caller().request(request).await.unwrap();
    assert_eq!(response.headers()["x-asked"], "identity");
    assert!(!response.headers().contains_key("etag"));
    assert_eq!(told(response).await, json!({"b": 1}));
    let refused = caller().request(get(mesh.url("/zipped"))).await.unwrap();
    assert_eq!(refused.status(), 502);
    assert_eq!(told(refused).await["error"], "response_not_transformed");
    server.log.wait(|line| line["flags"] == "UPE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_transforms_before_it_routes_and_not_what_it_answers_itself() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let strangers = r#"permit(principal, action, resource);"#;
    let mut change = rule("change");
    change.request.headers.set = set(&[("x-route", "shop")]);
    change.request.body = replace("a", "b");
    change.response.status = Some(299);
    let mut config = with(gateway(&mesh), vec![change]);
    set_route(&mut config, |route| {
        route.matches = vec![RouteMatch {
            headers: [(
                "x-route".to_owned(),
                reeve_core::model::HeaderMatch::Value(StringMatch::Exact("shop".to_owned())),
            )]
            .into(),
            uri: Some(StringMatch::Prefix("/shop".to_owned())),
            ..RouteMatch::default()
        }];
    });
    set_policies(&mut config, &[strangers]);
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (_server, _edge) = pair(&mesh, &server, &config).await;
    let request = post(mesh.url("/shop"), "text/plain", full("aaa"));
    let response = caller().request(request).await.unwrap();
    assert_eq!(response.status(), 299);
    let seen = told(response).await;
    assert_eq!(
        (&seen["body"], &seen["headers"]["x-route"]),
        (&json!("bbb"), &json!("shop"))
    );
    assert_eq!(fetch(&caller(), mesh.url("/else")).await.0, 404);
}
