use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{Extensions, Request, StatusCode},
};
use futures_util::future::{BoxFuture, FutureExt};
use http_body_util::BodyExt;
use reeve_core::{UnixTime, model::Generation};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;

struct Fixed;

impl MeshView for Fixed {
    fn status(&self) -> Status {
        Status {
            generation: Generation(7),
            policy_hash: "abc".into(),
            mesh: MeshFacts {
                trust_domain: "mesh.local".parse().unwrap(),
                root_namespace: "reeve-system".parse().unwrap(),
                started_at: UnixTime::from_secs(1),
                version: "0.1.0".into(),
                isolates_processes: false,
                unprotected: Vec::new(),
            },
            circuits: Vec::new(),
            token_keys: Vec::new(),
            jobs: Vec::new(),
            proxies: vec![json!({"instance": "reviews-v1-0"})],
            config: ConfigFacts::default(),
            ca: CaFacts::default(),
            audit: AuditFacts::default(),
        }
    }

    fn instances(&self) -> Option<Value> {
        None
    }

    fn chaos(&self) -> Value {
        json!({"off": false, "faults": []})
    }

    fn entries(&self) -> Value {
        Value::Array(Vec::new())
    }

    fn members(&self) -> Value {
        json!([])
    }

    fn mtls(&self) -> BoxFuture<'_, Result<Value, String>> {
        async { Ok(json!({"ports": []})) }.boxed()
    }

    fn revoked(&self) -> Value {
        json!([{"serial": "0a"}])
    }

    fn graph(&self) -> BoxFuture<'_, Graph> {
        async { Graph::default() }.boxed()
    }

    fn metrics(&self) -> String {
        "reeve_generation 7\n".into()
    }
}

#[derive(Clone)]
struct Operator;

impl AdminView for Fixed {
    fn admit<'a>(&'a self, caller: &'a Extensions) -> BoxFuture<'a, Result<(), TokenRefused>> {
        async {
            match caller.get::<Operator>() {
                Some(_) => Ok(()),
                None => Err(TokenRefused::Caller("not an operator".into())),
            }
        }
        .boxed()
    }

    fn switch_chaos(&self, request: &ChaosRequest) -> Result<(), TokenRefused> {
        match request.off {
            true => Ok(()),
            false => Err(TokenRefused::Ourselves("the disk is full".into())),
        }
    }

    fn rotate(&self, request: &RotateRequest) -> Result<(), TokenRefused> {
        match request.what.as_str() {
            "root" => Ok(()),
            other => Err(TokenRefused::Request(other.to_owned())),
        }
    }

    fn revoke(&self, request: &RevokeRequest) -> Result<(), TokenRefused> {
        match request.take_back {
            false => Ok(()),
            true => Err(TokenRefused::Request("it is not revoked".into())),
        }
    }

    fn note_drill(&self, caller: &Extensions, note: &DrillNote) -> Result<(), TokenRefused> {
        assert!(caller.get::<Operator>().is_some(), "whoever notes is told");
        match note.phase.as_str() {
            "began" => Ok(()),
            other => Err(TokenRefused::Request(other.to_owned())),
        }
    }

    fn note_migration(
        &self,
        caller: &Extensions,
        note: &MigrationNote,
    ) -> Result<(), TokenRefused> {
        assert!(caller.get::<Operator>().is_some(), "whoever notes is told");
        match note.phase.as_str() {
            "began" => Ok(()),
            other => Err(TokenRefused::Request(other.to_owned())),
        }
    }

    fn lock_mtls(&self, _: &Extensions, request: &LockRequest) -> Result<Value, TokenRefused> {
        Ok(serde_json::json!({"namespace": request.namespace}))
    }

    fn unlock_mtls(&self, _: &Extensions, request: &UnlockRequest) -> Result<Value, TokenRefused> {
        Err(TokenRefused::Request(request.approval.clone()))
    }

    fn fault(&self, caller: &Extensions, request: &FaultRequest) -> Result<(), TokenRefused> {
        assert!(caller.get::<Operator>().is_some(), "whoever asks is told");
        match request.lease_ms {
            0 => Ok(()),
            _ => Err(TokenRefused::Request("no".to_owned())),
        }
    }

    fn trail_was_read(&self, caller: &Extensions, read: &TrailRead) -> Result<(), TokenRefused> {
        match (caller.get::<Operator>(), read.shown) {
            (Some(_), 7) => Ok(()),
            _ => Err(TokenRefused::Ourselves("the disk is full".into())),
        }
    }

    fn create_token(&self, request: &TokenRequest) -> Result<CreatedToken, TokenRefused> {
        Ok(CreatedToken {
            token: "secret".into(),
            identity: request.identity.clone(),
            expires_at: UnixTime::from_secs(request.ttl_seconds),
            bundle: String::new(),
        })
    }
}

async fn ask(router: Router, request: Request<Body>) -> (StatusCode, String) {
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn get(path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    ask(api(Arc::new(Fixed)), request).await
}

#[tokio::test]
async fn the_status_has_the_agreed_members() {
    let (code, body) = get("/status").await;
    assert_eq!(code, StatusCode::OK);
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["generation"], 7);
    assert_eq!(status["mesh"]["trust_domain"], "mesh.local");
    assert_eq!(status["proxies"][0]["instance"], "reviews-v1-0");
    assert_eq!(status["config"]["faults"], json!([]));
    assert_eq!(status["audit"]["tree_size"], 0);
    assert_eq!(status["ca"]["issued"], 0);
}

#[tokio::test]
async fn reading_works_and_writing_does_not_exist() {
    assert_eq!(get("/healthz").await, (StatusCode::OK, "ok\n".into()));
    assert_eq!(get("/instances").await.0, StatusCode::NOT_FOUND);
    assert_eq!(get("/api/revoked").await.1, r#"[{"serial":"0a"}]"#);
    assert_eq!(get("/metrics").await.1, "reeve_generation 7\n");
    let (_, graph) = get("/api/graph").await;
    assert_eq!(graph, r#"{"nodes":[],"edges":[]}"#);
    for path in ["/admin/join-tokens", "/status"] {
        let request = Request::post(path).body(Body::empty()).unwrap();
        let (code, _) = ask(api(Arc::new(Fixed)), request).await;
        assert!(code.is_client_error(), "{path}: {code}");
    }
}

#[tokio::test]
async fn faults_are_listed_to_all_and_switched_by_operators() {
    let (code, text) = get("/api/chaos").await;
    let listed: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &listed["off"]), (StatusCode::OK, &json!(false)));
    let switch = |body: &str| {
        Request::post("/admin/chaos")
            .header("content-type", "application/json")
            .body(Body::from(body.to_owned()))
            .unwrap()
    };
    let (code, _) = ask(admin(Arc::new(Fixed)), switch(r#"{"off":true}"#)).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    for (body, expected) in [
        (r#"{"off":true}"#, StatusCode::NO_CONTENT),
        (r#"{"off":false}"#, StatusCode::INTERNAL_SERVER_ERROR),
        ("{}", StatusCode::BAD_REQUEST),
    ] {
        let mut request = switch(body);
        request.extensions_mut().insert(Operator);
        assert_eq!(
            ask(admin(Arc::new(Fixed)), request).await.0,
            expected,
            "{body}"
        );
    }
}

#[tokio::test]
async fn drills_and_their_faults_are_for_operators() {
    let post = |path: &str, body: &str| {
        Request::post(path)
            .header("content-type", "application/json")
            .body(Body::from(body.to_owned()))
            .unwrap()
    };
    let began = r#"{"drill":"a","name":"rotate-root","phase":"began"}"#;
    let out = r#"{"drill":"a","fault":"away","lease_ms":0}"#;
    for (path, body, expected) in [
        (
            "/admin/revoke",
            r#"{"serial":"0a"}"#,
            StatusCode::NO_CONTENT,
        ),
        (
            "/admin/revoke",
            r#"{"serial":"0a","take_back":true}"#,
            StatusCode::BAD_REQUEST,
        ),
        ("/admin/drill", began, StatusCode::NO_CONTENT),
        (
            "/admin/drill",
            r#"{"drill":"a","name":"b","phase":"c"}"#,
            StatusCode::BAD_REQUEST,
        ),
        ("/admin/drill", "{}", StatusCode::BAD_REQUEST),
        ("/admin/fault", out, StatusCode::NO_CONTENT),
        (
            "/admin/fault",
            r#"{"drill":"a","fault":"away"}"#,
            StatusCode::BAD_REQUEST,
        ),
    ] {
        let (code, _) = ask(admin(Arc::new(Fixed)), post(path, body)).await;
        assert_eq!(code, StatusCode::FORBIDDEN, "{path} {body}");
        let mut request = post(path, body);
        request.extensions_mut().insert(Operator);
        let (code, _) = ask(admin(Arc::new(Fixed)), request).await;
        assert_eq!(code, expected, "{path} {body}");
    }
}

fn token_request(body: &str) -> Request<Body> {
    Request::post("/admin/join-tokens")
        .header("content-type", "application/json")
        .body(Body::from(body.to_owned()))
        .unwrap()
}

#[tokio::test]
async fn tokens_are_for_operators() {
    let body = r#"{"identity":"spiffe://mesh.local/ns/default/sa/vm","ttl_seconds":60}"#;
    let stranger = token_request(body);
    let (code, text) = ask(admin(Arc::new(Fixed)), stranger).await;
    assert_eq!(
        (code, text.as_str()),
        (StatusCode::FORBIDDEN, "not an operator\n")
    );
    let mut operator = token_request(body);
    operator.extensions_mut().insert(Operator);
    let (code, text) = ask(admin(Arc::new(Fixed)), operator).await;
    assert_eq!(code, StatusCode::OK);
    let created: CreatedToken = serde_json::from_str(&text).unwrap();
    assert_eq!(created.token, "secret");
    assert!(!format!("{created:?}").contains("secret"));
}

#[tokio::test]
async fn a_bad_request_is_said_to_be() {
    for bad in [
        r#"{"identity":"not an id"}"#,
        "{",
        r#"{"identity":"spiffe://a","x":1}"#,
    ] {
        let mut request = token_request(bad);
        request.extensions_mut().insert(Operator);
        let (code, _) = ask(admin(Arc::new(Fixed)), request).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{bad}");
    }
}
