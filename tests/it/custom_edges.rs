//! `AuthorizationPolicy` with action `CUSTOM` at a gateway, with the request's body shown and its query changed, and on a TCP
//! port.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use envoy_types::ext_authz::v3::pb::{
    Authorization, AuthorizationServer, CheckRequest, CheckResponse, HttpResponse,
};
use envoy_types::pb::{
    envoy::{config::core::v3::QueryParameter, service::auth::v3::OkHttpResponse},
    google::rpc::Status as RpcStatus,
};
use reeve_tests::{Call, Folder, Mesh, echo, local_mesh, permit, service, sidecar, strict};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::JoinHandle,
};
use tonic::Status;

use crate::fixture::{gateway_workload, istio, settings};

const EDGE_PORT: u16 = 8080;
const ACCESS: &str = r#"
permit (principal, action in Action::"http", resource == Workload::"spiffe://mesh.local/ns/default/sa/edge");
permit (principal, action, resource in Service::"echo.default.svc.cluster.local");
permit (principal, action == Action::"connect", resource in Service::"bytes.default.svc.cluster.local");
permit (principal, action, resource in Service::"opa.default.svc.cluster.local")
when {
  principal == Workload::"spiffe://mesh.local/ns/default/sa/edge" ||
  principal == Workload::"spiffe://mesh.local/ns/default/sa/bytes"
};"#;

/// Allows requests, with another query, unless their body says no; connections as it is told.
#[derive(Clone, Default)]
struct Opa {
    asked: Arc<Mutex<Vec<Value>>>,
    connections: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl Authorization for Opa {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let source = attributes.source.unwrap_or_default().principal;
        let http = attributes.request.and_then(|request| request.http);
        let allowed = match &http {
            Some(http) => http.body != "no",
            None => self.connections.load(Ordering::SeqCst),
        };
        let seen = http.map(|http| {
            let partial = http.headers.get("x-envoy-auth-partial-body");
            json!({"path": http.path, "body": http.body, "partial": partial, "size": http.size})
        });
        self.asked
            .lock()
            .await
            .push(json!({"source": source, "http": seen}));
        let changed = OkHttpResponse {
            query_parameters_to_set: vec![QueryParameter {
                key: "tenant".to_owned(),
                value: "a%20b".to_owned(),
            }],
            query_parameters_to_remove: vec!["secret".to_owned()],
            ..OkHttpResponse::default()
        };
        Ok(tonic::Response::new(CheckResponse {
            status: Some(RpcStatus {
                code: if allowed { 0 } else { 7 },
                ..RpcStatus::default()
            }),
            http_response: allowed.then_some(HttpResponse::OkResponse(changed)),
            ..CheckResponse::default()
        }))
    }
}

impl Opa {
    async fn serve(&self, mesh: &Mesh) -> JoinHandle<()> {
        let at = SocketAddr::from((mesh.instance("opa-0").app_address, 9000));
        let listener = TcpListener::bind(at).await.expect("the provider's port");
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let service = AuthorizationServer::new(self.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(async move { drop(server.serve_with_incoming(incoming).await) })
    }

    async fn last(&self) -> Value {
        self.asked.lock().await.last().cloned().unwrap_or_default()
    }
}

fn custom(app: &str, rules: &Value) -> String {
    let object = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": format!("ask-{app}"), "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": app}}, "action": "CUSTOM",
            "provider": {"name": "opa"}, "rules": rules,
        },
    });
    format!("---\n{object:#}\n")
}

fn folder() -> Folder {
    let mut opa = sidecar("opa");
    opa["ports"] = json!([{"port": 9000, "name": "grpc"}]);
    let bytes = json!({
        "name": "bytes", "serviceAccount": "bytes", "labels": {"app": "bytes"},
        "command": ["${bookinfo}", "tcp-echo"], "ports": [{"port": 9090, "name": "tcp"}],
        "health": {"tcp": {"port": 9090}},
    });
    let gateway = json!({"selector": {"app": "edge"}, "servers": [{
        "port": {"number": EDGE_PORT, "name": "http", "protocol": "HTTP"}, "hosts": ["*"],
    }]});
    let routes = json!({"hosts": ["*"], "gateways": ["edge"], "http": [
        {"route": [{"destination": {"host": "echo", "port": {"number": 9080}}}]},
    ]});
    let workloads = [
        sidecar("client"),
        gateway_workload("edge"),
        echo("echo-v1", "echo", "v1"),
        bytes,
        opa,
    ];
    let services = service("echo", 9080, "http")
        + &service("bytes", 9090, "tcp")
        + &service("opa", 9000, "grpc");
    let asked = json!([{"to": [{"operation": {"notPaths": ["/free"]}}]}]);
    Folder::new()
        .with(
            "mesh.yaml",
            settings(json!({"extensionProviders": [{
                "name": "opa", "envoyExtAuthzGrpc": {
                    "service": "opa.default.svc.cluster.local", "port": 9000, "timeout": "30s",
                    "includeRequestBodyInCheck": {"maxRequestBytes": 8},
                },
            }]})),
        )
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&workloads))
        .with("services.yaml", services)
        .with("gateway.yaml", istio("Gateway", "edge", &gateway))
        .with("routes.yaml", istio("VirtualService", "echo", &routes))
        .with("access.yaml", permit("access", ACCESS))
        .with(
            "custom.yaml",
            custom("edge", &asked) + &custom("bytes", &json!([{}])),
        )
}

async fn at_the_gateway(mesh: &Mesh, opa: &Opa) {
    let edge = mesh.inbound("edge-0", EDGE_PORT);
    // It is shown the body, which goes on unchanged, with the query that it wants.
    let call = Call::post("shop.example", "/body?secret=1&x=2", "hello");
    let answer = call.send(edge).await.expect("an answer");
    assert_eq!(
        (answer.status.as_u16(), answer.text().as_str()),
        (200, "hello")
    );
    assert_eq!(
        opa.last().await,
        json!({"source": "", "http": {
            "path": "/body?secret=1&x=2", "body": "hello", "partial": "false", "size": 5,
        }})
    );
    let answer = Call::get("shop.example", "/x?secret=1&x=2")
        .send(edge)
        .await;
    let seen = answer.expect("an answer").json();
    assert!(seen.to_string().contains("x=2&tenant=a%20b"), "{seen}");
    assert!(!seen.to_string().contains("secret"), "{seen}");
    let denied = Call::post("shop.example", "/body", "no").status(edge).await;
    assert_eq!(denied, Ok(403));
    // About a longer one nobody is asked.
    let before = opa.asked.lock().await.len();
    let long = Call::post("shop.example", "/body", "nine byte")
        .status(edge)
        .await;
    assert_eq!(long, Ok(413));
    let free = Call::post("shop.example", "/free", "nine byte")
        .status(edge)
        .await;
    assert_eq!(free, Ok(200));
    assert_eq!(opa.asked.lock().await.len(), before);
    let command = format!(
        "route explain -f {} --instance edge-0 --direction outbound --port {EDGE_PORT} --authority shop.example --path /x",
        mesh.folder.path().display()
    );
    let words: Vec<&str> = command.split(' ').collect();
    let explained = mesh.reeve_ok(&words).await;
    assert!(
        explained
            .stdout
            .contains("opa (opa.default.svc.cluster.local:9000)"),
        "{}",
        explained.stdout
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_and_a_tcp_port_ask_their_provider() {
    let mesh = Mesh::start(folder()).await;
    let opa = Opa::default();
    let served = opa.serve(&mesh).await;
    at_the_gateway(&mesh, &opa).await;
    let bytes = mesh.outbound("client-0", "bytes", 9090);
    for allowed in [true, false] {
        opa.connections.store(allowed, Ordering::SeqCst);
        assert_eq!(echoes(bytes).await, allowed);
        let source = "spiffe://mesh.local/ns/default/sa/client";
        assert_eq!(opa.last().await, json!({"source": source, "http": null}));
    }
    let answer = |answer: &'static str| {
        move |record: &Value| {
            record["request"]["action"] == "connect"
                && record["decision"]["asked"][0]["answer"] == answer
        }
    };
    mesh.record("the connection that was allowed", answer("allowed"))
        .await;
    mesh.record("the connection that was denied", answer("denied"))
        .await;
    served.abort();
}

/// Whether what is sent comes back.
async fn echoes(at: SocketAddr) -> bool {
    let talking = async {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(b"hello").await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(&answer == b"hello")
    };
    talking.await.unwrap_or_default()
}
