//! Gateway API's `GRPCRoute`, `TLSRoute` and `TCPRoute` on a running mesh, for a gateway's listeners and for the callers of
//! a service. The test plays the applications.

use std::{net::SocketAddr, time::Duration};

use reeve_tests::{Folder, Mesh, local_mesh, permit, sidecar, strict};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    fixture::{CLIENT, gateway_workload, settings},
    protocols::greeter,
    tls_passthrough::{Shopper, is_connect, server},
};

const TLS: u16 = 8443;
const BYTES: u16 = 7000;
const CLOSED: u16 = 7001;
const GRPC: u16 = 9082;
const LIMIT: Duration = Duration::from_secs(10);

/// Nothing runs behind the service `a`; its callers' connections and calls are `b`'s by routes alone.
const ROUTES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: own}
spec: {controllerName: reeve.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: own
  listeners:
    - {name: tls, port: 8443, protocol: TLS, hostname: '*.shop.example', tls: {mode: Passthrough}}
    - {name: tcp, port: 7000, protocol: TCP}
    - {name: closed, port: 7001, protocol: TCP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: greeter}
spec:
  parentRefs: [{group: '', kind: Service, name: a, port: 9082}]
  rules:
    - matches: [{method: {service: test.Greeter, method: Unary}}]
      backendRefs: [{name: b, port: 9082}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: edge, sectionName: tls}, {group: '', kind: Service, name: a}]
  hostnames: [b.shop.example]
  rules: [{backendRefs: [{name: b, port: 8443}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: bytes}
spec:
  parentRefs: [{name: edge, sectionName: tcp}, {group: '', kind: Service, name: a, port: 7000}]
  rules: [{backendRefs: [{name: b, port: 7000}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: not-granted}
spec:
  parentRefs: [{name: edge, sectionName: closed}]
  rules: [{backendRefs: [{name: b, namespace: other, port: 7000}]}]
";

fn folder() -> Folder {
    let ports = json!([
        {"port": TLS, "name": "tls"}, {"port": BYTES, "name": "tcp"}, {"port": GRPC, "name": "grpc"},
    ]);
    let mut b = sidecar("b");
    b["ports"] = ports.clone();
    let mut edge = gateway_workload("edge");
    edge["labels"]["gateway.networking.k8s.io/gateway-name"] = json!("edge");
    let service = |name: &str| {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"app": name}, "ports": ports},
        });
        service.to_string()
    };
    let cedar = r#"
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client", action in [Action::"connect", Action::"POST"],
  resource in Service::"b.default.svc.cluster.local"
);
permit (principal, action == Action::"connect", resource == Workload::"spiffe://mesh.local/ns/default/sa/edge");
permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/edge", action == Action::"connect",
  resource in Service::"b.default.svc.cluster.local"
);"#;
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&[sidecar("client"), b, edge]))
        .with("a.yaml", service("a"))
        .with("b.yaml", service("b"))
        .with("routes.yaml", ROUTES)
        .with("access.yaml", permit("streams", cedar))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_tls_and_tcp_routes_lead_to_their_backends_and_nowhere_else() {
    let mut mesh = Mesh::start(folder()).await;
    let app = |port| SocketAddr::from((mesh.instance("b-0").app_address, port));
    let shopper = Shopper::new(&[server(app(TLS), "b").await]);
    greeter::serve(app(GRPC)).await;
    echo(app(BYTES)).await;

    let calls = mesh.outbound("client-0", "a", GRPC);
    let origin = format!("http://a:{GRPC}");
    let answer = greeter::call(calls, &origin, "Unary").await;
    assert_eq!(answer.expect("an answer"), "hello Reeve");
    let refused = greeter::call(calls, &origin, "Other").await;
    let code = refused.expect_err("no rule has this method").code();
    assert_eq!(code, tonic::Code::Unimplemented);

    for (to, other) in [
        (mesh.outbound("client-0", "a", TLS), "x.shop.example"),
        (mesh.inbound("edge-0", TLS), "x.shop.example"),
    ] {
        let answer = shopper.asks(to, "b.shop.example").await;
        assert_eq!(answer, "b as b.shop.example");
        shopper.is_turned_away(to, other).await;
    }

    for to in [
        mesh.outbound("client-0", "a", BYTES),
        mesh.inbound("edge-0", BYTES),
    ] {
        assert_eq!(sent(to).await, b"ping");
    }
    let closed = mesh.inbound("edge-0", CLOSED);
    assert_eq!(sent(closed).await, b"", "another namespace's backend");

    let edge = "spiffe://mesh.local/ns/default/sa/edge";
    for (instance, principal) in [
        ("b-0", CLIENT),
        ("b-0", edge),
        ("edge-0", "unauthenticated"),
    ] {
        let what = format!("{instance} decided on {principal}");
        mesh.record(&what, |record| {
            is_connect(record, principal, instance) && record["decision"]["effect"] == "allow"
        })
        .await;
    }
    mesh.verify_audit().await;
    mesh.stop().await;
}

/// Sends back what it gets.
async fn echo(at: SocketAddr) {
    let listener = TcpListener::bind(at).await.expect("the application's port");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                drop(tokio::io::copy(&mut read, &mut write).await);
            });
        }
    });
}

/// What comes back for `ping`; nothing if the connection is closed.
async fn sent(to: SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.expect("the proxy");
    let mut back = Vec::new();
    let talk = async {
        stream.write_all(b"ping").await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut back).await
    };
    drop(timeout(LIMIT, talk).await.expect("an end"));
    back
}
