//! Refusals of strangers: answered and recorded one by one up to a rate, beyond it counted.

use http::HeaderValue;
use http_body_util::BodyExt as _;
use reeve_core::model::{MtlsMode, PathNormalization, Protocol};

use super::mesh::{ALLOW_CLIENT, Mesh, PORT, caller, echo_app, fetch, get, pair};
use crate::tests::token::token;

/// Status, body and `retry-after` of a plaintext request with this `authorization`.
async fn ask(mesh: &Mesh, path: &str, authorization: Option<&'static str>) -> (u16, String, bool) {
    let mut request = get(format!("http://{}{path}", mesh.at(1, PORT)));
    if let Some(value) = authorization {
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert("authorization", value);
    }
    let response = caller().request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let (status, later) = (
        head.status.as_u16(),
        head.headers.contains_key("retry-after"),
    );
    (status, text, later)
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_strangers_beyond_a_rate_are_counted_and_take_no_permits_room() {
    let mesh = Mesh::new();
    echo_app(mesh.at(2, PORT)).await;
    let mut config = mesh.server(Protocol::Http, &[ALLOW_CLIENT]);
    let mut workload = (*config.workload).clone();
    workload.inbound[0].mtls = MtlsMode::Permissive;
    workload.path_normalization = PathNormalization::RefuseAmbiguous;
    workload.jwt_rules = vec![token(60).1];
    config.workload = std::sync::Arc::new(workload);
    let (server, _client) = pair(&mesh, &config, &mesh.client(Protocol::Http)).await;

    let refused = [
        ("/", None, 403, "denied"),
        ("/", Some("Bearer a.b.c"), 401, "invalid_token"),
        ("/a//b", None, 400, "ambiguous_path"),
    ];
    for (path, authorization, status, error) in refused {
        let before = server.wal.status().next_sequence;
        let (found, text, _) = ask(&mesh, path, authorization).await;
        assert_eq!(
            (found, text.contains(error)),
            (status, true),
            "{path}: {text}"
        );
        assert!(
            server.wal.status().next_sequence > before,
            "{path} is recorded"
        );
    }
    for (path, authorization, status, _) in refused {
        // The rate is one of seconds of the clock: a new one may begin between using it up and asking.
        let mut answers = Vec::new();
        while answers.len() < 50 && answers.last().is_none_or(|(found, _, _)| *found == status) {
            while server.proxy.shared().strangers.request_refused() {}
            answers.push(ask(&mesh, path, authorization).await);
        }
        let counted = (429, "{\"error\":\"too_many_refusals\"}\n".to_owned(), true);
        assert_eq!(answers.last(), Some(&counted), "{path}");
    }
    while server.proxy.shared().strangers.request_refused() {}
    assert_eq!(
        fetch(&caller(), mesh.url("/")).await.0,
        200,
        "who has an identity is served"
    );
    let metrics = server.metrics();
    assert!(
        metrics.contains(r#"reeve_limit_hits_total{limit="refused_requests_per_second"}"#),
        "{metrics}"
    );
}
