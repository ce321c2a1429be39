//! `AuthorizationPolicy` with action `CUSTOM`: servers of Envoy's `ext_authz` in the mesh are asked, by gRPC and by HTTP,
//! before `DENY` and `ALLOW`; what they say changes requests and answers, and stands in the record.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::{
    Authorization, AuthorizationServer, CheckRequest, CheckResponse, HeaderValueOption,
    HttpResponse,
};
use envoy_types::pb::{
    envoy::{
        config::core::v3::HeaderValue,
        service::auth::v3::{DeniedHttpResponse, OkHttpResponse},
        r#type::v3::HttpStatus,
    },
    google::rpc::Status as RpcStatus,
};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reeve_tests::{
    Answer, Call, Connection, Folder, Mesh, Protocol, echo, local_mesh, permit, service, sidecar,
    strict,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Mutex, task::JoinHandle};
use tonic::Status;

use crate::fixture::{CLIENT, CLIENT_TO_ECHO, ECHO, settings, to_echo};

/// The workload's own proxy asks, and the provider's lets it.
const ECHO_TO_OPA: &str = r#"@id("echo-to-opa")
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/echo",
  action,
  resource in Service::"opa.default.svc.cluster.local"
);"#;

/// What was asked: method, path, who asks for what, and a header.
type Questions = Arc<Mutex<Vec<Value>>>;

/// Does as `x-ask` says; says no without it.
struct Grpc(Questions);

#[tonic::async_trait]
impl Authorization for Grpc {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let http = attributes.request.and_then(|r| r.http).unwrap_or_default();
        let principal = |peer: Option<
            envoy_types::pb::envoy::service::auth::v3::attribute_context::Peer,
        >| { peer.unwrap_or_default().principal };
        let header = |name: &str| http.headers.get(name).cloned().unwrap_or_default();
        let (ask, secret) = (header("x-ask"), header("x-secret"));
        self.0.lock().await.push(json!({
            "method": http.method, "path": http.path, "host": http.host, "secret": secret,
            "source": principal(attributes.source), "destination": principal(attributes.destination),
        }));
        match ask.as_str() {
            "allow" => Ok(tonic::Response::new(allowed())),
            "fail" => Err(Status::unavailable("not now")),
            "hang" => std::future::pending().await,
            _ => Ok(tonic::Response::new(denied())),
        }
    }
}

fn option(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        ..HeaderValueOption::default()
    }
}

fn allowed() -> CheckResponse {
    CheckResponse {
        status: Some(RpcStatus::default()),
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: vec![
                option("x-user", "ada"),
                // Which only the mesh may say.
                option("x-reeve-peer", "forged"),
                option("host", "elsewhere"),
            ],
            headers_to_remove: vec!["x-secret".to_owned()],
            response_headers_to_add: vec![option("x-told", "by opa")],
            ..OkHttpResponse::default()
        })),
        ..CheckResponse::default()
    }
}

fn denied() -> CheckResponse {
    CheckResponse {
        status: Some(RpcStatus {
            code: 7,
            ..RpcStatus::default()
        }),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code: 401 }),
            headers: vec![option("www-authenticate", "Login")],
            body: "log in first".to_owned(),
        })),
        ..CheckResponse::default()
    }
}

/// A server of each form where the application of `opa` would be.
async fn providers(mesh: &Mesh, questions: &Questions) -> Vec<JoinHandle<()>> {
    let address = mesh.instance("opa-0").app_address;
    let listen = async |port| {
        let at = SocketAddr::from((address, port));
        TcpListener::bind(at).await.expect("the provider's port")
    };
    let (grpc, http) = (listen(9000).await, listen(9001).await);
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(grpc);
    let service = AuthorizationServer::new(Grpc(questions.clone()));
    let server = tonic::transport::Server::builder().add_service(service);
    let served = async move { drop(server.serve_with_incoming(incoming).await) };
    let questions = questions.clone();
    let by_http = async move {
        loop {
            let Ok((stream, _)) = http.accept().await else {
                return;
            };
            let questions = questions.clone();
            let answer = service_fn(move |request| answer(request, questions.clone()));
            let connection = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move {
                drop(
                    connection
                        .serve_connection(TokioIo::new(stream), answer)
                        .await,
                );
            });
        }
    };
    vec![tokio::spawn(served), tokio::spawn(by_http)]
}

/// The same by HTTP.
async fn answer(
    request: Request<Incoming>,
    questions: Questions,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|v| v.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let path = request.uri().path_and_query().map(ToString::to_string);
    questions.lock().await.push(json!({
        "method": request.method().as_str(), "path": path, "host": header("host"),
        "secret": header("x-secret"), "fixed": header("x-fixed"),
    }));
    let (status, name, value) = match header("x-ask").as_str() {
        "allow" => (200, "x-user", "bob"),
        "fail" => (500, "x-user", "nobody"),
        _ => (302, "location", "/login"),
    };
    let response = Response::builder().status(status).header(name, value);
    let response = response.header("x-other", "not handed on");
    Ok(response
        .body(Full::from("go and log in"))
        .expect("a response"))
}

fn policy(name: &str, dry: bool, spec: &Value) -> String {
    let mut spec = spec.clone();
    spec["selector"] = json!({"matchLabels": {"app": "echo"}});
    let object = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {
            "name": name, "namespace": "default", "annotations": {"istio.io/dry-run": dry.to_string()},
        },
        "spec": spec,
    });
    format!("---\n{object:#}\n")
}

fn custom(name: &str, dry: bool, provider: &str, path: &str) -> String {
    policy(
        name,
        dry,
        &json!({
            "action": "CUSTOM", "provider": {"name": provider},
            "rules": [{"to": [{"operation": {"paths": [path]}}]}],
        }),
    )
}

fn config(fail_open: bool) -> String {
    settings(json!({"extensionProviders": [
        {"name": "opa", "envoyExtAuthzGrpc": {
            "service": "opa.default.svc.cluster.local", "port": 9000, "timeout": "1s",
            "failOpen": fail_open, "statusOnError": "503",
        }},
        {"name": "login", "envoyExtAuthzHttp": {
            "service": "opa", "port": 9001, "timeout": "30s", "pathPrefix": "/check",
            "includeRequestHeadersInCheck": ["x-ask"],
            "includeAdditionalHeadersInCheck": {"x-fixed": "always"},
            "headersToUpstreamOnAllow": ["x-user"],
            "headersToDownstreamOnDeny": ["x-none"],
        }},
    ]}))
}

fn folder() -> Folder {
    let ports = json!([{"port": 9000, "name": "grpc"}, {"port": 9001, "name": "http-login"}]);
    let mut opa = sidecar("opa");
    opa["ports"] = ports.clone();
    let opa_service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "opa", "namespace": "default"},
        "spec": {"selector": {"app": "opa"}, "ports": ports},
    });
    let services = service("echo", 9080, "http") + &format!("---\n{opa_service:#}\n");
    let deny = json!({"action": "DENY", "rules": [{
        "to": [{"operation": {"paths": ["/opa/no-ada"]}}],
        "when": [{"key": "request.headers[x-user]", "values": ["ada"]}],
    }]});
    let custom = custom("by-grpc", false, "opa", "/opa*")
        + &custom("by-http", false, "login", "/web*")
        + &custom("dry", true, "opa", "/dry*")
        + &policy("no-ada", false, &deny);
    Folder::new()
        .with("mesh.yaml", config(false))
        .with("strict.yaml", strict())
        .with(
            "workloads.yaml",
            local_mesh(&[sidecar("client"), echo("echo-v1", "echo", "v1"), opa]),
        )
        .with("services.yaml", services)
        .with(
            "access.yaml",
            permit("echo", CLIENT_TO_ECHO) + &permit("opa", ECHO_TO_OPA),
        )
        .with("custom.yaml", custom)
}

struct Stage {
    mesh: Mesh,
    questions: Questions,
    sent: u32,
}

impl Stage {
    /// Sends a request; its answer and what is on record of it.
    async fn ask(&mut self, path: &str, ask: &str, protocol: Protocol) -> (Answer, Value) {
        self.sent += 1;
        let id = format!("ask-{}", self.sent);
        let call = Call::get("echo:9080", path)
            .header("x-ask", ask)
            .header("x-secret", "s3cret")
            .header("x-user", "eve")
            .header("x-request-id", &id);
        let mut connection = Connection::open(to_echo(&self.mesh), protocol)
            .await
            .expect("a way in");
        let answer = connection.send(&call).await.expect("an answer");
        let record = self.mesh.decision_on(&id, "echo-v1-0").await;
        (answer, record["decision"].clone())
    }

    /// A provider by gRPC allows, with changes, and denies.
    async fn by_grpc(&mut self, protocol: Protocol) {
        let (answer, decision) = self.ask("/opa/a/../b?c=d", "allow", protocol).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        assert_eq!(answer.header("x-told"), Some("by opa"));
        let seen = &answer.json()["headers"];
        assert_eq!(
            seen["x-user"],
            json!(["ada"]),
            "the caller's own is replaced: {seen}"
        );
        assert_eq!(
            (&seen["x-secret"], &seen["x-reeve-peer"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(
            asked(&decision),
            ("opa", "allowed", "default/by-grpc#rule-1"),
            "{decision}"
        );
        assert_eq!(decision["reason"], "permitted");
        assert_eq!(
            self.last_question().await,
            json!({
                "method": "GET", "path": "/opa/b?c=d", "host": "echo:9080", "secret": "s3cret",
                "source": CLIENT, "destination": ECHO,
            })
        );

        let (answer, decision) = self.ask("/opa/x", "deny", protocol).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text().as_str()),
            (401, "log in first")
        );
        assert_eq!(answer.header("www-authenticate"), Some("Login"));
        assert!(answer.header("x-reeve-decision-id").is_some());
        assert_eq!(decision["reason"], "externally_denied", "{decision}");
        assert_eq!(
            asked(&decision),
            ("opa", "denied", "default/by-grpc#rule-1")
        );
    }

    /// The same by HTTP.
    async fn by_http(&mut self, protocol: Protocol) {
        let (answer, decision) = self.ask("/web/x?y", "allow", protocol).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        let seen = &answer.json()["headers"];
        assert_eq!(
            (&seen["x-user"], &seen["x-other"]),
            (&json!(["bob"]), &Value::Null)
        );
        assert_eq!(
            asked(&decision),
            ("login", "allowed", "default/by-http#rule-1")
        );
        assert_eq!(
            self.last_question().await,
            json!({
                "method": "GET", "path": "/check/web/x?y", "host": "echo:9080", "secret": "", "fixed": "always",
            })
        );

        let (answer, decision) = self.ask("/web/x", "deny", protocol).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("location")),
            (302, Some("/login"))
        );
        assert_eq!(
            (answer.text().as_str(), answer.header("x-other")),
            ("go and log in", None)
        );
        assert_eq!(decision["reason"], "externally_denied");
    }

    /// DENY is judged by what the provider made of the request; then ALLOW.
    async fn then_policies(&mut self) {
        let (answer, decision) = self.ask("/opa/no-ada", "allow", Protocol::Http1).await;
        assert_eq!(
            (answer.status.as_u16(), &decision["reason"]),
            (403, &json!("forbidden"))
        );
        assert_eq!(asked(&decision).1, "allowed");
    }

    /// Neither what no rule matches, nor what one in a dry run does, is asked about.
    async fn not_asked(&mut self) {
        let before = self.questions.lock().await.len();
        let (answer, decision) = self.ask("/other", "deny", Protocol::Http1).await;
        assert_eq!(
            (answer.status.as_u16(), &decision["asked"]),
            (200, &Value::Null)
        );
        let (answer, decision) = self.ask("/dry", "deny", Protocol::Http1).await;
        assert_eq!(answer.status.as_u16(), 200);
        assert_eq!(asked(&decision), ("opa", "not_asked", "default/dry#rule-1"));
        assert_eq!(self.questions.lock().await.len(), before);
    }

    /// What fails or hangs has not answered.
    async fn unanswered(&mut self) {
        for (path, ask, status) in [
            ("/opa", "fail", 503),
            ("/opa", "hang", 503),
            ("/web", "fail", 403),
        ] {
            let (answer, decision) = self.ask(path, ask, Protocol::Http1).await;
            assert_eq!(
                (answer.status.as_u16(), &decision["reason"]),
                (status, &json!("externally_unanswered")),
                "{ask}"
            );
            assert_eq!(asked(&decision).1, "unanswered");
        }
    }

    async fn last_question(&self) -> Value {
        self.questions
            .lock()
            .await
            .last()
            .cloned()
            .unwrap_or_default()
    }
}

fn asked(decision: &Value) -> (&str, &str, &str) {
    let asked = &decision["asked"][0];
    let [provider, answer, policy] = [&asked["provider"], &asked["answer"], &asked["policies"][0]]
        .map(|value| value.as_str().unwrap_or_default());
    (provider, answer, policy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_are_asked_before_policies_and_their_silence_is_a_refusal() {
    let mesh = Mesh::start(folder()).await;
    let questions = Questions::default();
    let served = providers(&mesh, &questions).await;
    let mut stage = Stage {
        mesh,
        questions,
        sent: 0,
    };

    for protocol in [Protocol::Http1, Protocol::Http2] {
        stage.by_grpc(protocol).await;
        stage.by_http(protocol).await;
    }
    stage.then_policies().await;
    stage.not_asked().await;
    stage.unanswered().await;
    // The provider's own policies decide who may ask it.
    let access = permit("echo", CLIENT_TO_ECHO);
    stage.mesh.apply("access.yaml", access).await;
    let (answer, _) = stage.ask("/opa", "allow", Protocol::Http1).await;
    assert_eq!(answer.status.as_u16(), 503);

    stage.mesh.apply("mesh.yaml", config(true)).await;
    let (answer, decision) = stage.ask("/opa", "allow", Protocol::Http1).await;
    assert_eq!(
        (answer.status.as_u16(), asked(&decision).1),
        (200, "failed_open")
    );
    stage.mesh.verify_audit().await;
    served.iter().for_each(JoinHandle::abort);
}
