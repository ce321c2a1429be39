use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use reeve_core::model::{
    Generation, MtlsMode, PathNormalization, PathRewrite, Protocol, Redirect, RouteAction,
    ServiceState,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::mesh::{
    ALLOW_CLIENT, HOST, Mesh, PORT, app, caller, caller_http2, echo_app, eventually, fetch, full,
    get, get_bare, pair, set_policies, set_route,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_permitted_request_goes_through_both_sidecars_and_is_recorded() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (server, client) = pair(&mesh, &server, &mesh.client(Protocol::Http)).await;

    let (status, seen) = fetch(&caller(), mesh.url("/a/../reviews?x=1")).await;
    assert_eq!(status, 200, "{seen}");
    assert_eq!(
        seen["target"], "/reviews?x=1",
        "the application sees what was judged"
    );
    assert_eq!(seen["headers"]["host"], HOST);
    assert!(seen["headers"]["x-request-id"].is_string());
    assert!(seen["headers"]["traceparent"].is_string());
    assert!(seen["headers"].get("x-reeve-peer").is_none());

    let line = server.log.wait(|line| line["response_code"] == 200).await;
    assert_eq!(line["peer"], "spiffe://mesh.local/ns/default/sa/client");
    assert_eq!(
        (&line["effect"], &line["reason"]),
        (&"allow".into(), &"permitted".into())
    );
    assert_eq!(
        (&line["raw_path"], &line["path"]),
        (&"/reviews".into(), &"/reviews".into())
    );
    let sent = client.log.wait(|line| line["response_code"] == 200).await;
    assert_eq!(sent["trace_id"], line["trace_id"]);
    assert_eq!(sent["raw_path"], "/a/../reviews");
    // One decision, one outcome.
    eventually(|| (server.wal.status().next_sequence >= 3).then_some(())).await;

    let metrics = server.metrics();
    let labels = r#"reporter="destination",request_protocol="http",response_code="200""#;
    assert!(metrics.contains(labels), "{metrics}");
    assert!(metrics.contains(r#"source_workload="client""#), "{metrics}");
    let metrics = client.metrics();
    assert!(metrics.contains(r#"destination_app="server""#), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_permit_there_is_403_with_a_decision_id_and_the_application_sees_nothing() {
    let mesh = Mesh::new();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    app(mesh.at(2, PORT), move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Response::new(full("")) }
    })
    .await;
    let mut config = mesh.server(Protocol::Http, &[]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;

    let response = caller().request(get(mesh.url("/"))).await.unwrap();
    assert_eq!(response.status(), 403);
    let id = response.headers()["x-reeve-decision-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        body,
        serde_json::json!({"error": "denied", "decision_id": id})
    );
    let line = server.log.wait(|line| line["response_code"] == 403).await;
    assert_eq!(
        (&line["reason"], &line["flags"]),
        (&"no_permit".into(), &"UAEX".into())
    );
    assert_eq!(calls.load(Ordering::SeqCst), 0);

    config.generation = Generation(2);
    set_policies(&mut config, &[ALLOW_CLIENT]);
    server.apply(&config);
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 200);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_grpc_call_gets_permission_denied() {
    let mesh = Mesh::new();
    let server = mesh.server(Protocol::Grpc, &[]);
    let (_server, _client) = pair(&mesh, &server, &mesh.client(Protocol::Grpc)).await;
    let mut request = get_bare(mesh.url("/pkg.S/M"));
    request
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    let response = caller_http2().request(request).await.unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            &response.headers()["grpc-status"]
        ),
        (200, &"7".parse().unwrap())
    );
}

async fn plaintext(mesh: &Mesh) -> Vec<u8> {
    let mut stream = TcpStream::connect(mesh.at(1, PORT)).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // A reset is as good as a close.
    stream.read_to_end(&mut answer).await.ok();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_closes_plaintext_and_permissive_serves_it_as_unauthenticated() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let anyone = "permit(principal, action, resource);";
    let mut config = mesh.server(Protocol::Http, &[anyone]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;

    assert_eq!(plaintext(&mesh).await, b"");
    assert_eq!(
        server.wal.status().next_sequence,
        2,
        "the refusal is recorded"
    );
    assert!(
        server
            .metrics()
            .contains(r#"reeve_decisions_total{effect="deny",reason="plaintext_refused"} 1"#)
    );

    let mut workload = (*config.workload).clone();
    workload.inbound[0].mtls = MtlsMode::Permissive;
    config.workload = Arc::new(workload);
    server.apply(&config);
    let answer = String::from_utf8(plaintext(&mesh).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let line = server.log.wait(|line| line["response_code"] == 200).await;
    assert_eq!(line["peer"], "", "nobody we know");
    assert_eq!(
        fetch(&caller(), mesh.url("/")).await.0,
        200,
        "mesh mTLS goes on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_path_is_refused_before_it_is_judged() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut client = mesh.client(Protocol::Http);
    let mut workload = (*client.workload).clone();
    workload.path_normalization = PathNormalization::None;
    client.workload = Arc::new(workload);
    let (server, _client) = pair(&mesh, &server, &client).await;
    assert_eq!(fetch(&caller(), mesh.url("/admin%2Fx")).await.0, 400);
    assert!(server.metrics().contains(r#"reason="ambiguous_path"} 1"#));
    assert_eq!(fetch(&caller(), mesh.url("/admin/x")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_through_both_sidecars() {
    let mesh = Mesh::new();
    // Echoes the body frame by frame as it comes.
    app(mesh.at(2, PORT), |request| async move {
        let body = request.into_body().map_err(std::io::Error::other);
        Response::new(body.boxed_unsync())
    })
    .await;
    let server = mesh.server(Protocol::Http2, &[ALLOW_CLIENT]);
    let (_server, _client) = pair(&mesh, &server, &mesh.client(Protocol::Http2)).await;
    let (send, frames) = tokio::sync::mpsc::channel::<Bytes>(1);
    let frames = tokio_stream::wrappers::ReceiverStream::new(frames);
    let body = StreamBody::new(frames.map(|data| Ok(Frame::data(data)))).boxed_unsync();
    let request = Request::post(mesh.url("/echo")).body(body).unwrap();
    let response = caller_http2().request(request).await.unwrap();
    let mut body = response.into_body();
    for round in 0..3u8 {
        send.send(Bytes::from(vec![round; 10])).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(
            frame,
            vec![round; 10],
            "each piece comes back before the next is sent"
        );
    }
    // 64 MiB, far beyond every window.
    let sender = tokio::spawn(async move {
        for _ in 0..1024 {
            send.send(Bytes::from(vec![7; 64 << 10])).await.unwrap();
        }
    });
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        received += frame.unwrap().into_data().unwrap().len();
    }
    sender.await.unwrap();
    assert_eq!(received, 64 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_trailers_pass() {
    let mesh = Mesh::new();
    app(
        mesh.at(2, PORT),
        |request: Request<hyper::body::Incoming>| async move {
            assert_eq!(request.headers()["te"], "trailers");
            let trailers = HeaderMap::from_iter([(
                "grpc-status".parse().unwrap(),
                HeaderValue::from_static("5"),
            )]);
            let frames = [
                Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\0"))),
                Ok(Frame::trailers(trailers)),
            ];
            Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync())
        },
    )
    .await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (server, _client) = pair(&mesh, &server, &mesh.client(Protocol::Http)).await;
    let request = Request::post(mesh.url("/pkg.S/M"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(full(Bytes::from_static(b"\0\0\0\0\0")))
        .unwrap();
    let response = caller_http2().request(request).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "5");
    let line = server.log.wait(|line| line["grpc_status"] == 5).await;
    assert_eq!(line["protocol"], "grpc");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_down_is_retried_elsewhere() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut client = mesh.client(Protocol::Http);
    let down = mesh.at(66, PORT);
    mesh.endpoints(
        &mut client,
        &[down, mesh.at(1, PORT)],
        Some(Mesh::id("server")),
    );
    let (_server, side) = pair(&mesh, &server, &client).await;
    for _ in 0..20 {
        assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 200);
    }
    side.log.wait(|line| line["attempts"] == 2).await;

    set_route(&mut client, |route| route.retries.attempts = 0);
    mesh.endpoints(&mut client, &[down], Some(Mesh::id("server")));
    side.apply(&client);
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 503);
    side.log.wait(|line| line["flags"] == "UF").await;
    mesh.endpoints(&mut client, &[], None);
    side.apply(&client);
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 503);
    side.log.wait(|line| line["flags"] == "UH").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_identity_is_not_spoken_to() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut client = mesh.client(Protocol::Http);
    let service = client.services.values_mut().next().unwrap();
    Arc::make_mut(service).identities = vec![Mesh::id("someone-else")];
    let (_server, side) = pair(&mesh, &server, &client).await;
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 503);
    side.log.wait(|line| line["flags"] == "UF,URX").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_out_of_time_is_504() {
    let mesh = Mesh::new();
    app(mesh.at(2, PORT), |_| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Response::new(full(""))
    })
    .await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut client = mesh.client(Protocol::Http);
    set_route(&mut client, |route| {
        route.timeout = Some(Duration::from_millis(100))
    });
    let (_server, side) = pair(&mesh, &server, &client).await;
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 504);
    side.log
        .wait(|line| line["flags"] == "UT" && line["route"] == format!("{HOST}/only"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_rewrite_redirect_and_answer() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let server = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut client = mesh.client(Protocol::Http);
    set_route(&mut client, |route| {
        if let RouteAction::Forward { rewrite, .. } = &mut route.action {
            rewrite.path = Some(PathRewrite::Matched("/new".to_owned()));
            rewrite.authority = Some("other".to_owned());
        }
        route
            .request_headers
            .set
            .insert("x-set".to_owned(), "1".to_owned());
        route.request_headers.remove.push("x-gone".to_owned());
    });
    let (_server, side) = pair(&mesh, &server, &client).await;
    let mut request = get(mesh.url("/old?q=1"));
    request
        .headers_mut()
        .insert("x-gone", HeaderValue::from_static("1"));
    let response = caller().request(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let seen: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&seen["target"], &seen["headers"]["host"]),
        (&"/new?q=1".into(), &"other".into())
    );
    assert_eq!(seen["headers"]["x-set"], "1");
    assert!(seen["headers"].get("x-gone").is_none());

    set_route(&mut client, |route| {
        route.action = RouteAction::Redirect(Redirect {
            path: Some(PathRewrite::Full("/x".into())),
            code: 302,
            ..Redirect::default()
        });
    });
    side.apply(&client);
    let response = caller().request(get(mesh.url("/old"))).await.unwrap();
    assert_eq!(response.status(), 302);
    assert_eq!(response.headers()["location"], format!("http://{HOST}/x"));
    set_route(&mut client, |route| {
        route.action = RouteAction::Respond {
            status: 418,
            body: b"\"tea\"".to_vec(),
        };
    });
    side.apply(&client);
    assert_eq!(fetch(&caller(), mesh.url("/")).await, (418, "tea".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_permit_goes() {
    let mesh = Mesh::new();
    app(mesh.at(2, PORT), |_| async {
        let endless = stream::once(async { Ok(Frame::data(Bytes::from_static(b"hello"))) })
            .chain(stream::pending());
        Response::new(StreamBody::new(endless).boxed_unsync())
    })
    .await;
    let mut config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    let response = caller_http2()
        .request(get_bare(mesh.url("/events")))
        .await
        .unwrap();
    let mut body = response.into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "hello"
    );
    assert_eq!(server.proxy.status().open, 1);

    config.generation = Generation(2);
    server.apply(&config);
    assert_eq!(server.proxy.status().open, 1, "still permitted, still open");
    set_policies(&mut config, &[]);
    server.apply(&config);
    let ended = tokio::time::timeout(Duration::from_secs(1), body.frame()).await;
    assert!(ended.expect("within a second").unwrap().is_err());
    eventually(|| (server.proxy.status().open == 0).then_some(())).await;
    assert!(
        server
            .metrics()
            .contains(r#"reeve_streams_ended_total{cause="not_permitted"} 1"#)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_room_for_the_record_means_no_permit() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let server = mesh.side_with("server", 64 << 10);
    let client = mesh.side("client");
    server.apply(&config);
    client.apply(&mesh.client(Protocol::Http));
    eventually(|| client.proxy.status().ready.then_some(())).await;
    eventually(|| server.proxy.status().ready.then_some(())).await;
    let caller = caller();
    let mut statuses = Vec::new();
    for _ in 0..200 {
        statuses.push(fetch(&caller, mesh.url("/")).await.0);
    }
    let first_refused = statuses
        .iter()
        .position(|s| *s == 503)
        .expect("the log fills up");
    assert!(
        statuses[..first_refused].iter().all(|s| *s == 200),
        "{statuses:?}"
    );
    assert!(
        statuses[first_refused..].iter().all(|s| *s == 503),
        "{statuses:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_is_401_and_a_missing_one_is_for_the_policies() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let mut config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut workload = (*config.workload).clone();
    workload.jwt_rules = vec![reeve_core::model::JwtRule {
        name: "default/jwt/0".to_owned(),
        issuer: "https://issuer".to_owned(),
        leeway: Duration::from_secs(1),
        ..Default::default()
    }];
    config.workload = Arc::new(workload);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 200);
    let mut request = get(mesh.url("/"));
    let token = HeaderValue::from_static("Bearer e30.e30.e30");
    request.headers_mut().insert("authorization", token);
    let response = caller().request(request).await.unwrap();
    assert_eq!(response.status(), 401);
    assert!(response.headers().contains_key("www-authenticate"));
    assert!(server.metrics().contains(r#"reason="invalid_token"} 1"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_outside_the_mesh_is_judged_on_the_callers_side() {
    let mesh = Mesh::new();
    echo_app(mesh.at(66, PORT)).await;
    let mut client = mesh.client(Protocol::Http);
    mesh.endpoints(&mut client, &[mesh.at(66, PORT)], None);
    let server = mesh.server(Protocol::Http, &[]);
    let (_server, side) = pair(&mesh, &server, &client).await;
    assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 403);
    set_policies(
        &mut client,
        &[&format!(
            r#"permit(
        principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
        action, resource == Service::"{HOST}");"#
        )],
    );
    side.apply(&client);
    let (status, seen) = fetch(&caller(), mesh.url("/")).await;
    assert_eq!(status, 200);
    assert!(seen["headers"].get("x-reeve-peer").is_none());
    let line = side.log.wait(|line| line["response_code"] == 200).await;
    assert_eq!(line["effect"], "allow");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_service_lets_everyone_in_and_shadow_records_what_would_be_denied() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let mut config = mesh.server(Protocol::Http, &[]);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;
    for (state, reason) in [
        (ServiceState::Open, "service_open"),
        (ServiceState::Shadow, "service_shadow"),
    ] {
        let mut workload = (*config.workload).clone();
        workload.inbound[0].state = state;
        config.workload = Arc::new(workload);
        server.apply(&config);
        assert_eq!(fetch(&caller(), mesh.url("/")).await.0, 200);
        server.log.wait(|line| line["reason"] == reason).await;
    }
}
