//! Bookinfo end to end: each task of Istio's sample as its users know it, on the demo's own mesh.

mod authorization;
mod dark;
mod edges;
mod faults;
mod overload;
mod rollouts;
mod routes;

use std::net::SocketAddr;

use reeve_tests::{Answer, Call, Connection, Folder, Mesh, Protocol};
use serde_json::{Value, json};

use crate::fixture::istio;

/// Where visitors reach the shop.
const INGRESS: u16 = 8080;

/// The demo's folder, with each of its traffic objects in a file of its own (`VirtualService-reviews.yaml`).
fn folder() -> Folder {
    let folder = Folder::bookinfo();
    let traffic = folder.read("traffic.yaml");
    folder.remove("traffic.yaml");
    for document in traffic.split("\n---\n") {
        let after = |key: &str| {
            let line = document.lines().find_map(|l| l.trim().strip_prefix(key));
            line.unwrap_or_else(|| panic!("no {key} in {document}"))
                .to_owned()
        };
        let file = format!("{}-{}.yaml", after("kind: "), after("name: "));
        folder.write(&file, document);
    }
    folder
}

/// A `VirtualService` of a service of the mesh, with these HTTP rules.
fn routes(service: &str, http: &Value) -> String {
    istio(
        "VirtualService",
        service,
        &json!({"hosts": [service], "http": http}),
    )
}

/// A destination among the versions of a service.
fn to(service: &str, version: &str) -> Value {
    json!([{"destination": {"host": service, "subset": version}}])
}

/// What the shop's API says of the book's reviews.
fn reviews() -> Call {
    Call::get("bookinfo.example", "/api/v1/products/0/reviews")
}

/// The shop's page.
fn page() -> Call {
    Call::get("bookinfo.example", "/productpage")
}

fn ingress(mesh: &Mesh) -> SocketAddr {
    mesh.inbound("ingress-0", INGRESS)
}

/// One visitor's connection to the gateway.
async fn visitor(mesh: &Mesh) -> Connection {
    let connection = Connection::open(ingress(mesh), Protocol::Http1).await;
    connection.expect("a connection to the gateway")
}

/// Which version of reviews an answer of the API is from.
fn version(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let reviews = answer.json();
    let name = reviews["podname"].as_str().unwrap_or_default();
    name.trim_start_matches("reviews-")
        .trim_end_matches("-0")
        .to_owned()
}
