//! Where requests go: weights, by who asks, a dark launch (`dark.rs`), a stub for a service that is not there, shadow traffic.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use reeve_tests::{Call, Mesh, eventually, permit, sidecar};
use serde_json::json;

use super::{page, reviews, routes, to, version, visitor};

const LIMIT: Duration = Duration::from_secs(15);
/// Of 500, one in ten: 50 ± 6.7; five times that to either side.
const VISITS: usize = 500;

/// Bookinfo without the details, with test automation beside it, and reviews v3 under an identity of its own.
fn folder() -> reeve_tests::Folder {
    let folder = super::folder();
    let workloads = folder.read("workloads.yaml");
    let (before, rest) = workloads
        .split_once("    - name: details-v1")
        .expect("details");
    let after = rest.find("    - name:").expect("the next workload");
    let (head, v3) = rest[after..]
        .split_once("    - name: reviews-v3\n")
        .expect("v3");
    let v3 = v3.replacen("bookinfo-reviews", "bookinfo-reviews-v3", 1);
    let automation = sidecar("test-automation");
    let text = format!("{before}    - {automation}\n{head}    - name: reviews-v3\n{v3}");
    let ratings = r#"permit (
      principal == Workload::"spiffe://mesh.local/ns/default/sa/bookinfo-reviews-v3",
      action == Action::"GET", resource in Service::"ratings.default.svc.cluster.local"
    );"#;
    folder
        .with("workloads.yaml", text)
        .with("v3.yaml", permit("reviews-v3-to-ratings", ratings))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visitors_go_where_weights_headers_tokens_and_stubs_send_them() {
    let mut mesh = Mesh::start(folder()).await;
    a_tenth_by_weight(&mesh).await;
    by_who_asks(&mesh).await;
    super::dark::launch(&mesh).await;
    stub_for_what_is_not_there(&mesh).await;
    copies_touch_nothing(&mesh).await;
    mesh.verify_audit().await;
    mesh.stop().await;
}

async fn a_tenth_by_weight(mesh: &Mesh) {
    let rule = json!([{"route": [
        {"destination": {"host": "reviews", "subset": "v1"}, "weight": 90},
        {"destination": {"host": "reviews", "subset": "v3"}, "weight": 10},
    ]}]);
    mesh.apply("VirtualService-reviews.yaml", routes("reviews", &rule))
        .await;
    let mut seen = BTreeMap::<String, usize>::new();
    let mut connection = visitor(mesh).await;
    for _ in 0..VISITS {
        let answer = connection.send(&reviews()).await.expect("an answer");
        *seen.entry(version(&answer)).or_default() += 1;
    }
    println!("90 to 10 of {VISITS}: {seen:?}");
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["v1", "v3"], "{seen:?}");
    assert!((17..84).contains(&seen["v3"]), "{seen:?}");
}

/// Istio's task "request routing": jason is shown v2, everybody else v1.
async fn by_who_asks(mesh: &Mesh) {
    let rules = json!([
        {"match": [{"headers": {"end-user": {"exact": "jason"}}}], "route": to("reviews", "v2")},
        {"route": to("reviews", "v1")},
    ]);
    mesh.apply("VirtualService-reviews.yaml", routes("reviews", &rules))
        .await;
    let mut connection = visitor(mesh).await;
    for _ in 0..10 {
        for (user, expected) in [("jason", "v2"), ("jasonx", "v1")] {
            // He signed in with his name, which the page keeps in a cookie.
            let call = reviews().header("cookie", &format!("user={user}"));
            let answer = connection.send(&call).await.expect("an answer");
            assert_eq!(version(&answer), expected, "{user}");
        }
    }
    let signed_in = page().header("cookie", "user=jason");
    let text = connection.send(&signed_in).await.expect("a page").text();
    assert!(text.contains("stars black"), "{text}");
    let text = connection.send(&page()).await.expect("a page").text();
    assert!(!text.contains("stars"), "{text}");
}

/// `details` has a service and no workload.
async fn stub_for_what_is_not_there(mesh: &Mesh) {
    let details = Call::get("bookinfo.example", "/api/v1/products/0");
    let mut connection = visitor(mesh).await;
    let answer = connection.send(&details).await.expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.text());

    let book = json!({
        "id": 0, "author": "unknown", "type": "stub", "pages": 0, "publisher": "-",
        "language": "-", "ISBN-10": "-", "ISBN-13": "-",
    });
    let rule = json!([{
        "directResponse": {"status": 200, "body": {"string": book.to_string()}},
        "headers": {"response": {"set": {"content-type": "application/json"}}},
    }]);
    mesh.apply("VirtualService-details.yaml", routes("details", &rule))
        .await;
    let answer = connection.send(&details).await.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.json()), (200, book));
}

/// Copies go to v3, which asks for ratings in turn: a stub answers those, and visitors see v1 alone.
async fn copies_touch_nothing(mesh: &Mesh) {
    let mirrored = json!([{
        "route": to("reviews", "v1"),
        "mirrors": [{"destination": {"host": "reviews", "subset": "v3"}, "percentage": {"value": 100}}],
    }]);
    let stub = json!({"id": 0, "ratings": {"Reviewer1": 1, "Reviewer2": 1}});
    let for_copies = json!({
        "match": [{"headers": {"x-reeve-shadow": {"exact": "true"}}}],
        "directResponse": {"status": 200, "body": {"string": stub.to_string()}},
    });
    let for_all = json!({"route": to("ratings", "v1")});
    mesh.folder
        .write("VirtualService-reviews.yaml", routes("reviews", &mirrored));
    mesh.apply(
        "VirtualService-ratings.yaml",
        routes("ratings", &json!([for_copies, for_all])),
    )
    .await;
    visits_are_copied(mesh, "stubbed").await;
    let asked = asked_of_ratings(mesh, "stubbed-").await;
    assert!(asked.is_empty(), "{asked:?}");

    // Without the stub, copies would ask production.
    mesh.apply(
        "VirtualService-ratings.yaml",
        routes("ratings", &json!([for_all])),
    )
    .await;
    visits_are_copied(mesh, "open").await;
    eventually("ratings are asked by copies", LIMIT, async || {
        let asked = asked_of_ratings(mesh, "open-").await;
        (asked.len() == 10)
            .then_some(())
            .ok_or_else(|| format!("{asked:?}"))
    })
    .await;
}

/// Ten visits are answered by v1, and their copies are known at v3.
async fn visits_are_copied(mesh: &Mesh, name: &str) {
    let mut connection = visitor(mesh).await;
    for number in 0..10 {
        let call = reviews().header("x-request-id", &format!("{name}-{number}"));
        let answer = connection.send(&call).await.expect("an answer");
        assert_eq!(version(&answer), "v1");
    }
    eventually(
        "all copies are on record at v3, with their outcome",
        LIMIT,
        async || {
            let records = mesh.records(&[]).await;
            let copies: BTreeSet<_> = reeve_tests::request_ids(&records, "reviews-v3-0")
                .into_iter()
                .filter(|id| id.starts_with(&format!("{name}-")))
                .collect();
            let answered = records.iter().filter(|record| record["kind"] == "outcome");
            let answered: BTreeSet<_> = answered.filter_map(|r| r["decision"].as_str()).collect();
            let done = reeve_tests::decisions(&records)
                .filter(|r| {
                    r["id"]
                        .as_str()
                        .is_some_and(|id| id.starts_with("reviews-v3-0/") && answered.contains(id))
                })
                .filter(|r| {
                    r["request_id"]
                        .as_str()
                        .is_some_and(|id| copies.contains(id))
                })
                .count();
            (done == 10)
                .then_some(())
                .ok_or_else(|| format!("{copies:?}, {done} answered"))
        },
    )
    .await;
}

/// The requests with such ids that any of the ratings decided on.
async fn asked_of_ratings(mesh: &Mesh, prefix: &str) -> BTreeSet<String> {
    let records = mesh.records(&[]).await;
    let mut asked = reeve_tests::request_ids(&records, "ratings-v1-0");
    asked.extend(reeve_tests::request_ids(&records, "ratings-v2-0"));
    asked.retain(|id| id.starts_with(prefix));
    asked
}
