//! Routing on Bookinfo: a dark launch, mirrored requests whose onward calls meet a stub, a stub for a service that is not
//! there, and pages of another origin.

use std::{net::SocketAddr, time::Duration};

use reeve_tests::{Answer, Call, Connection, Folder, Mesh, Protocol, eventually, permit};

const DOORS: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: bookinfo-gateway}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bookinfo}
spec:
  hosts: ['*']
  gateways: [bookinfo-gateway]
  http:
    - match: [{uri: {prefix: /api/v1/products}}]
      corsPolicy:
        allowOrigins: [{exact: 'https://shop.example'}]
        allowMethods: [GET]
        allowHeaders: [content-type]
        maxAge: 1h
      route: [{destination: {host: productpage, port: {number: 9080}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
    - {name: v3, labels: {version: v3}}
---
";

const DARK: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
    - name: dark
      match:
        - headers: {x-test-automation: {exact: 'true'}}
        - headers: {end-user: {prefix: beta-}}
      route: [{destination: {host: reviews, subset: v3}}]
    - name: public
      route: [{destination: {host: reviews, subset: v1}}]
";

const MIRRORED: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
    - route: [{destination: {host: reviews, subset: v1}}]
      mirrors: [{destination: {host: reviews, subset: v3}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec:
  hosts: [ratings]
  http:
    - name: for-copies
      match: [{headers: {x-reeve-shadow: {exact: 'true'}}}]
      directResponse: {status: 200, body: {string: '{\"id\": 0, \"ratings\": {\"Reviewer1\": 1}}'}}
    - name: production
      route: [{destination: {host: ratings}}]
";

const STUB: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: details}
spec:
  hosts: [details]
  http:
    - directResponse: {status: 200, body: {string: '{\"id\": 0, \"author\": \"unknown\"}'}}
      headers: {response: {set: {content-type: application/json}}}
";

const PREFLIGHTS: &str = r#"@id("preflights")
permit (principal, action == Action::"OPTIONS", resource == Workload::"spiffe://mesh.local/ns/default/sa/ingress");"#;

/// Bookinfo with these documents on top of its doors, and without the workload `details-v1`.
fn folder(traffic: &str) -> Folder {
    let folder = Folder::bookinfo();
    let workloads = folder.read("workloads.yaml");
    let (before, rest) = workloads
        .split_once("    - name: details-v1")
        .expect("details");
    let (_, after) = rest.split_once("    - name: reviews-v1").expect("reviews");
    folder
        .with(
            "workloads.yaml",
            format!("{before}    - name: reviews-v1{after}"),
        )
        .with("traffic.yaml", DOORS)
        .with("more.yaml", traffic)
        .with("preflights.yaml", permit("preflights", PREFLIGHTS))
}

async fn ask(to: SocketAddr, call: &Call) -> Answer {
    let mut connection = Connection::open(to, Protocol::Http1)
        .await
        .expect("a connection");
    connection.send(call).await.expect("an answer")
}

async fn metrics(mesh: &Mesh, instance: &str) -> String {
    let call = Call::get("metrics", "/stats/prometheus");
    let scraped = call.send(mesh.inbound(instance, 15020)).await;
    scraped.expect("metrics").text()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dark_launch_is_seen_by_testers_alone_and_a_stub_answers_for_what_is_missing() {
    let mesh = Mesh::start(folder(&format!("{DARK}---\n{STUB}"))).await;
    let reviews = mesh.outbound("productpage-v1-0", "reviews", 9080);
    for (name, value, version) in [
        ("x-test-automation", "true", "reviews-v3-0"),
        ("x-test-automation", "false", "reviews-v1-0"),
        ("end-user", "beta-ann", "reviews-v3-0"),
        ("end-user", "ann-beta-", "reviews-v1-0"),
        ("x-other", "true", "reviews-v1-0"),
    ] {
        for _ in 0..20 {
            let call = Call::get("reviews:9080", "/reviews/0").header(name, value);
            let answer = ask(reviews, &call).await;
            assert_eq!(answer.json()["podname"], version, "{name}: {value}");
        }
    }
    let details = mesh.outbound("productpage-v1-0", "details", 9080);
    let answer = ask(details, &Call::get("details:9080", "/details/0")).await;
    assert_eq!(answer.json()["author"], "unknown");
    assert_eq!(answer.header("content-type"), Some("application/json"));

    let door = mesh.inbound("ingress-0", 8080);
    let preflight = |origin: &str| {
        let call = Call::get("shop", "/api/v1/products").method("OPTIONS");
        call.header("origin", origin)
            .header("access-control-request-method", "GET")
    };
    let answer = ask(door, &preflight("https://shop.example")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://shop.example")
    );
    assert_eq!(answer.header("access-control-max-age"), Some("3600"));
    let answer = ask(door, &preflight("https://evil.example")).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    let call = Call::get("shop", "/api/v1/products").header("origin", "https://shop.example");
    let answer = ask(door, &call).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://shop.example")
    );
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_reach_the_candidate_and_what_it_asks_for_in_turn_meets_the_stub() {
    let mesh = Mesh::start(folder(MIRRORED)).await;
    let reviews = mesh.outbound("productpage-v1-0", "reviews", 9080);
    let mut connection = Connection::open(reviews, Protocol::Http1)
        .await
        .expect("a connection");
    for _ in 0..50 {
        let answer = connection
            .send(&Call::get("reviews:9080", "/reviews/0"))
            .await;
        assert_eq!(answer.expect("an answer").json()["podname"], "reviews-v1-0");
    }
    let limit = Duration::from_secs(20);
    eventually("fifty answered copies", limit, async || {
        let text = metrics(&mesh, "productpage-v1-0").await;
        let line = "reeve_mirrored_requests_total{result=\"answered\"} 50";
        text.contains(line).then_some(()).ok_or(text)
    })
    .await;
    // The candidate's own calls went to the stub: nothing of them reached production.
    let candidate = metrics(&mesh, "reviews-v3-0").await;
    let of_ratings =
        |line: &&str| line.starts_with("istio_requests_total") && line.contains("ratings.default");
    let sent: Vec<_> = candidate.lines().filter(of_ratings).collect();
    assert!(sent.is_empty(), "{sent:?}");
    for instance in ["ratings-v1-0", "ratings-v2-0"] {
        let seen = metrics(&mesh, instance).await;
        let any = seen
            .lines()
            .any(|line| line.starts_with("istio_requests_total"));
        assert!(!any, "{instance}: {seen}");
    }
    // Who is no copy reaches production.
    let ratings = mesh.outbound("reviews-v3-0", "ratings", 9080);
    let answer = ask(ratings, &Call::get("ratings:9080", "/ratings/0")).await;
    assert_eq!(
        answer.json()["ratings"]["Reviewer1"],
        5,
        "{}",
        answer.text()
    );
    mesh.verify_audit().await;
}

const GATEWAY_API: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  gatewayClassName: reeve
  listeners: [{name: web, port: 8080, protocol: HTTP, hostname: '*.example'}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: shop, sectionName: web}]
  hostnames: [shop.example]
  rules:
    - matches: [{path: {type: PathPrefix, value: /api}}]
      backendRefs: [{name: productpage, port: 9080}]
    - matches: [{path: {type: PathPrefix, value: /api/old}}]
      filters:
        - type: RequestRedirect
          requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /api/v1}, statusCode: 301}
---
apiVersion: v1
kind: Service
metadata: {name: reviews-v1}
spec: {selector: {app: reviews, version: v1}, ports: [{port: 9080, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: reviews-v3}
spec: {selector: {app: reviews, version: v3}, ports: [{port: 9080, name: http}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews}]
  rules:
    - backendRefs: [{name: reviews-v1, port: 9080, weight: 1}, {name: reviews-v3, port: 9080, weight: 1}]
    - matches: [{headers: [{name: x-beta, value: 'on'}]}]
      backendRefs: [{name: reviews-v3, port: 9080}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_of_gateway_api_are_taken_at_a_gateway_and_in_the_mesh() {
    let folder = Folder::bookinfo();
    let label = "istio: ingressgateway";
    let workloads = folder.read("workloads.yaml");
    let named = format!("{label}, gateway.networking.k8s.io/gateway-name: shop");
    assert!(workloads.contains(label));
    let folder = folder
        .with("workloads.yaml", workloads.replace(label, &named))
        .with("traffic.yaml", GATEWAY_API);
    let mesh = Mesh::start(folder).await;
    let reviews = mesh.outbound("productpage-v1-0", "reviews", 9080);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..60 {
        let answer = ask(reviews, &Call::get("reviews:9080", "/reviews/0")).await;
        seen.insert(answer.json()["podname"].to_string());
        let call = Call::get("reviews:9080", "/reviews/0").header("x-beta", "on");
        let answer = ask(reviews, &call).await;
        assert_eq!(answer.json()["podname"], "reviews-v3-0");
    }
    let seen: Vec<_> = seen.iter().map(String::as_str).collect();
    assert_eq!(seen, ["\"reviews-v1-0\"", "\"reviews-v3-0\""]);

    let door = mesh.inbound("ingress-0", 8080);
    let answer = ask(door, &Call::get("shop.example", "/api/v1/products")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let permitted = "/api/v1/products";
    let moved = ask(door, &Call::get("other.example", permitted)).await;
    assert_eq!(moved.status, 404, "{}", moved.text());
    let explained = mesh
        .reeve(&[
            "route",
            "explain",
            "-f",
            &mesh.folder.path().display().to_string(),
            "--instance",
            "ingress-0",
            "--port",
            "8080",
            "--authority",
            "shop.example:8080",
            "--path",
            "/api/old/products",
        ])
        .await;
    assert!(
        explained
            .text()
            .contains("http://shop.example:8080/api/v1/products"),
        "{}",
        explained.text()
    );
    mesh.verify_audit().await;
}
