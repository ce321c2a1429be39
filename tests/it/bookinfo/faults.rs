//! Faults: what Istio's tasks "fault injection" and "request timeouts" show, and a caller whose retries heal both delays
//! and aborts.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use reeve_tests::{Mesh, eventually};
use serde_json::{Value, json};

use super::{ingress, page, reviews, routes, to, visitor};
use crate::fixture::istio;

const LIMIT: Duration = Duration::from_secs(10);
/// Visits beside each other.
const VISITS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delays_and_aborts_are_seen_by_whom_they_are_for_and_healed_by_a_caller_that_tries_again() {
    let folder = super::folder().with(
        "VirtualService-reviews.yaml",
        routes("reviews", &json!([{"route": to("reviews", "v2")}])),
    );
    let mut mesh = Mesh::start(folder).await;
    for_jason(&mesh).await;
    timed_out(&mesh).await;
    aborts_are_healed(&mesh).await;
    delays_are_healed(&mesh).await;
    mesh.verify_audit().await;
    mesh.stop().await;
}

fn jason_alone(fault: &Value) -> String {
    let him = json!([{"headers": {"end-user": {"exact": "jason"}}}]);
    let rules = json!([
        {"match": him, "fault": fault, "route": to("ratings", "v1")},
        {"route": to("ratings", "v1")},
    ]);
    routes("ratings", &rules)
}

async fn for_jason(mesh: &Mesh) {
    let mut connection = visitor(mesh).await;
    let his = |id: &str| {
        page()
            .header("cookie", "user=jason")
            .header("x-request-id", id)
    };

    let delay = json!({"delay": {"percentage": {"value": 100}, "fixedDelay": "700ms"}});
    mesh.apply("VirtualService-ratings.yaml", jason_alone(&delay))
        .await;
    let begun = Instant::now();
    let text = connection.send(&his("late")).await.expect("a page").text();
    assert!(begun.elapsed() >= Duration::from_millis(700));
    assert!(text.contains("stars black"), "{text}");
    let others = page().header("x-request-id", "in-time");
    let text = connection.send(&others).await.expect("a page").text();
    assert!(text.contains("stars black"), "{text}");
    assert_eq!(flags(mesh, "late").await, "DI");
    assert_eq!(flags(mesh, "in-time").await, "");

    // Longer than those who ask wait: Istio's task finds the page's own timeout by this.
    let delay = json!({"delay": {"percentage": {"value": 100}, "fixedDelay": "7s"}});
    mesh.apply("VirtualService-ratings.yaml", jason_alone(&delay))
        .await;
    let answer = connection.send(&his("too-late")).await.expect("a page");
    assert_eq!(answer.status, 200);
    assert!(
        answer.text().contains("currently unavailable"),
        "{}",
        answer.text()
    );

    let abort = json!({"abort": {"percentage": {"value": 100}, "httpStatus": 500}});
    mesh.apply("VirtualService-ratings.yaml", jason_alone(&abort))
        .await;
    let text = connection
        .send(&his("aborted"))
        .await
        .expect("a page")
        .text();
    assert!(
        text.contains("Ratings service is currently unavailable"),
        "{text}"
    );
    assert_eq!(flags(mesh, "aborted").await, "FI");
    let text = connection.send(&page()).await.expect("a page").text();
    assert!(text.contains("stars black"), "{text}");
}

/// Istio's task "request timeouts": reviews wait for slow ratings, and the page does not wait for reviews.
async fn timed_out(mesh: &Mesh) {
    let slow = json!({"delay": {"percentage": {"value": 100}, "fixedDelay": "2s"}});
    let ratings = json!([{"fault": slow, "route": to("ratings", "v1")}]);
    let hasty = json!([{"timeout": "500ms", "route": to("reviews", "v2")}]);
    mesh.folder
        .write("VirtualService-ratings.yaml", routes("ratings", &ratings));
    mesh.apply("VirtualService-reviews.yaml", routes("reviews", &hasty))
        .await;
    let answer = visitor(mesh).await.send(&reviews()).await;
    assert_eq!(answer.expect("an answer").status, 504);
}

/// What the sidecar of reviews says of a request to ratings.
async fn flags(mesh: &Mesh, id: &str) -> String {
    eventually("the access log has the request", LIMIT, async || {
        let log = mesh.log("reviews-v2-0.sidecar.log");
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut of_call = lines.filter(|l| l["request_id"] == id && l["direction"] == "outbound");
        let line = of_call.next().ok_or("no line yet")?;
        Ok(line["flags"].as_str().unwrap_or("-").to_owned())
    })
    .await
}

/// The gateway's rule for the shop's API, with these retries.
fn gate(retries: &Value) -> String {
    let productpage = json!([{"destination": {"host": "productpage", "port": {"number": 9080}}}]);
    istio(
        "VirtualService",
        "bookinfo",
        &json!({
            "hosts": ["*"], "gateways": ["bookinfo-gateway"],
            "http": [{
                "match": [{"uri": {"prefix": "/api/v1/products"}}],
                "route": productpage, "timeout": "30s", "retries": retries,
            }],
        }),
    )
}

/// The statuses of visits beside each other.
async fn visits(mesh: &Mesh, name: &str) -> Vec<u16> {
    let to = ingress(mesh);
    let visit = async |number: usize| {
        let call = reviews().header("x-request-id", &format!("{name}-{number}"));
        call.status(to).await.expect("an answer")
    };
    join_all((0..VISITS).map(visit)).await
}

/// How many decisions there are on these visits at the page: one for each try.
async fn tries(mesh: &Mesh, name: &str) -> usize {
    let own = |record: &&Value| {
        record["id"]
            .as_str()
            .is_some_and(|id| id.starts_with("productpage-v1-0/"))
            && record["request_id"]
                .as_str()
                .is_some_and(|id| id.starts_with(name))
    };
    let seen = |records: &[Value]| reeve_tests::decisions(records).filter(own).count();
    eventually("all visits are on record", LIMIT, async || {
        let records = mesh.records(&[]).await;
        let ids = reeve_tests::request_ids(&records, "productpage-v1-0");
        let ids: BTreeSet<_> = ids.iter().filter(|id| id.starts_with(name)).collect();
        (ids.len() == VISITS)
            .then(|| seen(&records))
            .ok_or_else(|| format!("{ids:?}"))
    })
    .await
}

/// A try fails with 40 %: all of 12 for one visit of 16 with 0.03 %, and none at all of the 16 with as little.
async fn aborts_are_healed(mesh: &Mesh) {
    let fault = json!({"abort": {"percentage": {"value": 40}, "httpStatus": 503}});
    let rule = json!([{"fault": fault, "route": to("reviews", "v1")}]);
    mesh.folder.write(
        "VirtualService-bookinfo.yaml",
        gate(&json!({"attempts": 0})),
    );
    mesh.apply("VirtualService-reviews.yaml", routes("reviews", &rule))
        .await;
    let statuses = visits(mesh, "hurt").await;
    assert!(statuses.contains(&503), "{statuses:?}");
    assert!(statuses.contains(&200), "{statuses:?}");
    assert_eq!(tries(mesh, "hurt").await, VISITS);

    let retries = json!({"attempts": 11, "retryOn": "gateway-error", "backoff": "5ms"});
    mesh.apply("VirtualService-bookinfo.yaml", gate(&retries))
        .await;
    assert_eq!(visits(mesh, "healed").await, [200; VISITS]);
    let tried = tries(mesh, "healed").await;
    println!("aborts: {VISITS} visits, {tried} tries");
    assert!(tried > VISITS);
}

async fn delays_are_healed(mesh: &Mesh) {
    let fault = json!({"delay": {"percentage": {"value": 40}, "fixedDelay": "20s"}});
    let rule = json!([{"fault": fault, "route": to("reviews", "v1")}]);
    let retries = json!({
        "attempts": 11, "perTryTimeout": "700ms", "retryOn": "gateway-error", "backoff": "5ms",
    });
    mesh.folder
        .write("VirtualService-bookinfo.yaml", gate(&retries));
    mesh.apply("VirtualService-reviews.yaml", routes("reviews", &rule))
        .await;
    let begun = Instant::now();
    assert_eq!(visits(mesh, "in-the-end").await, [200; VISITS]);
    let tried = tries(mesh, "in-the-end").await;
    println!("delays: {VISITS} visits, {tried} tries");
    assert!(tried > VISITS);
    assert!(
        begun.elapsed() >= Duration::from_millis(700),
        "nobody was late"
    );
}
