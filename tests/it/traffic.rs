//! Point 1: Istio's own documents, as they stand, do what Istio's proxies would do.

use std::collections::BTreeMap;

use reeve_tests::{
    Call, Connection, Folder, Mesh, Protocol, echo, local_mesh, permit, service, sidecar, strict,
};
use serde_json::json;

use crate::fixture::settings;

const REVIEWS: &str = "\
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts:
  - reviews
  http:
  - route:
    - destination:
        host: reviews
        subset: v1
      weight: 50
    - destination:
        host: reviews
        subset: v2
      weight: 25
    - destination:
        host: reviews
        subset: v3
      weight: 25
";

const REVIEWS_SUBSETS: &str = "\
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata:
  name: reviews
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: v3, labels: {version: v3}}
";

const SIMPLE: &str = "\
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: simple
spec:
  hosts:
  - simple
  http:
  - route:
    - destination:
        host: simple
        subset: v1
      weight: 50
    - destination:
        host: simple
        subset: v2
      weight: 50
---
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata:
  name: simple
spec:
  host: simple
  subsets:
  - name: v1
    labels:
      version: v1
  - name: v2
    labels:
      version: v2
";

const REVIEWS_FOR_JASON: &str = "\
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts:
  - reviews
  http:
  - match:
    - headers:
        end-user:
          exact: jason
    route:
    - destination:
        host: reviews
        subset: v2
  - route:
    - destination:
        host: reviews
        subset: v1
";

const ACCESS: &str = r#"permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
  action == Action::"GET",
  resource in Namespace::"mesh.local/ns/default"
);"#;

const REQUESTS: usize = 4000;
const CONNECTIONS: usize = 8;

fn folder() -> Folder {
    let workloads = [
        sidecar("client"),
        echo("reviews-v1", "reviews", "v1"),
        echo("reviews-v2", "reviews", "v2"),
        echo("reviews-v3", "reviews", "v3"),
        echo("simple-v1", "simple", "v1"),
        echo("simple-v2", "simple", "v2"),
    ];
    Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&workloads))
        .with(
            "services.yaml",
            service("reviews", 9080, "http") + &service("simple", 9080, "http"),
        )
        .with("access.yaml", permit("client", ACCESS))
        .with("reviews.yaml", REVIEWS)
        .with("reviews-subsets.yaml", REVIEWS_SUBSETS)
        .with("simple.yaml", SIMPLE)
}

/// Version → share of `REQUESTS`, in percent.
async fn shares(mesh: &Mesh, host: &'static str, protocol: Protocol) -> BTreeMap<String, f64> {
    let address = mesh.outbound("client-0", host, 9080);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        tasks.spawn(async move {
            let mut counts = BTreeMap::<String, usize>::new();
            let mut connection = Connection::open(address, protocol)
                .await
                .expect("a connection");
            for _ in 0..REQUESTS / CONNECTIONS {
                let answer = connection
                    .send(&Call::get(host, "/0"))
                    .await
                    .expect("an answer");
                assert_eq!(answer.status, 200, "{}", answer.text());
                let version = answer.json()["version"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                *counts.entry(version).or_default() += 1;
            }
            counts
        });
    }
    let mut shares = BTreeMap::new();
    for counts in tasks.join_all().await {
        for (version, count) in counts {
            *shares.entry(version).or_default() += count as f64 * 100.0 / REQUESTS as f64;
        }
    }
    shares
}

fn assert_near(shares: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    assert_eq!(shares.len(), expected.len(), "{shares:?}");
    for (version, percent) in expected {
        let got = shares.get(*version).copied().unwrap_or_default();
        assert!(
            (got - percent).abs() <= 3.0,
            "{version} should get {percent} %: {shares:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weighted_routes_get_their_shares_and_a_matched_header_its_version() {
    let mesh = Mesh::start(folder()).await;

    let reviews = shares(&mesh, "reviews", Protocol::Http1).await;
    assert_near(&reviews, &[("v1", 50.0), ("v2", 25.0), ("v3", 25.0)]);
    let simple = shares(&mesh, "simple", Protocol::Http2).await;
    assert_near(&simple, &[("v1", 50.0), ("v2", 50.0)]);

    mesh.apply("reviews.yaml", REVIEWS_FOR_JASON).await;
    let address = mesh.outbound("client-0", "reviews", 9080);
    let mut connection = Connection::open(address, Protocol::Http1)
        .await
        .expect("a connection");
    for number in 0..200 {
        let (user, version) = if number % 2 == 0 {
            ("jason", "v2")
        } else {
            ("jasonx", "v1")
        };
        let call = Call::get("reviews", "/0").header("end-user", user);
        let answer = connection.send(&call).await.expect("an answer");
        assert_eq!(answer.json()["version"], version, "{user}");
    }
    mesh.verify_audit().await;
}

const ONE_EACH: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: echo
spec:
  host: echo
  trafficPolicy:
    connectionPool:
      http:
        maxRequestsPerConnection: 1
";

/// Connections that the sidecar of `echo` has open from the mesh.
async fn inbound_connections(mesh: &Mesh) -> u64 {
    let metrics = mesh.inbound("echo-v1-0", 15020);
    let mut connection = Connection::open(metrics, Protocol::Http1)
        .await
        .expect("a connection");
    let call = Call::get("metrics", "/stats/prometheus");
    let page = connection.send(&call).await.expect("an answer").text();
    let line = page
        .lines()
        .find_map(|l| l.strip_prefix("reeve_connections{direction=\"inbound\"} "))
        .expect("the gauge");
    line.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_of_one_request_per_connection_keeps_none_open() {
    let mesh = Mesh::start(crate::fixture::client_and_echo(json!({}))).await;
    let address = crate::fixture::to_echo(&mesh);
    let mut kept = Connection::open(address, Protocol::Http1)
        .await
        .expect("a connection");
    let call = crate::fixture::get("/");
    assert_eq!(kept.send(&call).await.expect("an answer").status, 200);
    assert!(inbound_connections(&mesh).await > 0);

    mesh.apply("one-each.yaml", ONE_EACH).await;
    // The one that was kept is not used again; it ends when it has been idle.
    let before = inbound_connections(&mesh).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut connection = Connection::open(address, protocol)
            .await
            .expect("a connection");
        for _ in 0..5 {
            assert_eq!(connection.send(&call).await.expect("an answer").status, 200);
        }
    }
    let limit = std::time::Duration::from_secs(5);
    reeve_tests::eventually("they end", limit, async || {
        match inbound_connections(&mesh).await {
            open if open <= before => Ok(()),
            open => Err(format!("{open} connections, {before} before")),
        }
    })
    .await;
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_trailers_and_streamed_bodies_pass_through_a_sidecar_pair() {
    let mesh = Mesh::start(crate::fixture::client_and_echo(json!({}))).await;
    let address = crate::fixture::to_echo(&mesh);

    let mut connection = Connection::open(address, Protocol::Http2)
        .await
        .expect("a connection");
    let call = Call::post("echo:9080", "/grpc/pkg.Service/Method", "five!")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let answer = connection.send(&call).await.expect("an answer");
    assert_eq!(answer.text(), "five!");
    assert_eq!(
        answer.trailers.get("grpc-status").map(|v| v.as_bytes()),
        Some(&b"0"[..])
    );

    let body: Vec<u8> = (0..8_000_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut connection = Connection::open(address, protocol)
            .await
            .expect("a connection");
        let call = Call::post("echo:9080", "/body", body.clone());
        let answer = connection.send(&call).await.expect("an answer");
        assert!(
            answer.body == body,
            "{protocol:?}: {} bytes came back",
            answer.body.len()
        );
    }
}

/// A port of bytes, dealt out over versions for `client` alone.
const DEALT_OUT: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: bytes
spec:
  host: bytes
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: bytes
spec:
  hosts: [bytes]
  tcp:
  - match: [{port: 9080, destinationSubnets: [192.0.2.0/24]}, {sourceNamespace: elsewhere}]
    route: [{destination: {host: nowhere}}]
  - match: [{port: 9080, sourceLabels: {app: client}, destinationSubnets: [127.0.0.0/8]}]
    route:
    - {destination: {host: bytes, subset: v1}, weight: 25}
    - {destination: {host: bytes, subset: v2}, weight: 75}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_routes_deal_connections_out_over_subsets_where_they_match() {
    let connect = r#"permit (
      principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
      action == Action::"connect",
      resource in Service::"bytes.default.svc.cluster.local"
    );"#;
    let workloads = [
        sidecar("client"),
        echo("bytes-v1", "bytes", "v1"),
        echo("bytes-v2", "bytes", "v2"),
    ];
    let folder = Folder::new()
        .with("mesh.yaml", settings(json!({})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&workloads))
        .with("services.yaml", service("bytes", 9080, "tcp"))
        .with("access.yaml", permit("client", connect))
        .with("routes.yaml", DEALT_OUT);
    let mesh = Mesh::start(folder).await;
    let address = mesh.outbound("client-0", "bytes", 9080);
    let mut counts = BTreeMap::<String, usize>::new();
    for _ in 0..400 {
        // The proxies read none of it: each connection goes where its first byte went.
        let answer = Call::get("bytes", "/0").send(address).await;
        let version = answer.expect("an answer").json()["version"].clone();
        let version = version.as_str().unwrap_or_default().to_owned();
        *counts.entry(version).or_default() += 1;
    }
    let shares = counts.iter().map(|(v, n)| (v.clone(), *n as f64 / 4.0));
    let shares: BTreeMap<String, f64> = shares.collect();
    let v1 = shares.get("v1").copied().unwrap_or_default();
    assert!(
        shares.len() == 2 && (15.0..35.0).contains(&v1),
        "{shares:?}"
    );

    let folder = mesh.folder.path().display().to_string();
    let words = "route explain --instance client-0 --port 9080 --authority bytes -o json -f";
    let words: Vec<_> = words.split(' ').chain([folder.as_str()]).collect();
    let explained = mesh.reeve_ok(&words).await.json();
    let destinations = &explained["destinations"];
    assert_eq!(destinations[1]["subset"], "v2", "{explained}");
    assert_eq!(destinations[1]["weight"], 75, "{explained}");
    mesh.verify_audit().await;
}
