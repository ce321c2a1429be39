//! Istio's task "HTTP traffic" of its authorization guide, with its policies as they stand there
//! (<https://istio.io/latest/docs/tasks/security/authorization/authz-http/>).

use std::time::Duration;

use reeve_tests::{Call, Mesh, eventually};
use serde_json::{Value, json};

use super::{folder, ingress, page, reviews, version};

fn policy(name: &str, spec: &Value) -> String {
    let object = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    });
    format!("---\n{object:#}\n")
}

/// `GET` to the workloads with that label, from that account if one is named.
fn viewer(app: &str, account: Option<&str>) -> String {
    let mut rule = json!({"to": [{"operation": {"methods": ["GET"]}}]});
    if let Some(account) = account {
        let principal = format!("cluster.local/ns/default/sa/{account}");
        rule["from"] = json!([{"source": {"principals": [principal]}}]);
    }
    let spec = json!({
        "selector": {"matchLabels": {"app": app}}, "action": "ALLOW", "rules": [rule],
    });
    policy(&format!("{app}-viewer"), &spec)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn istios_own_policies_open_the_shop_step_by_step() {
    let folder = folder();
    folder.remove("access.yaml");
    // In Istio, a gateway without a policy lets everybody in.
    let door = json!({"selector": {"matchLabels": {"istio": "ingressgateway"}}, "rules": [{}]});
    folder.write("door.yaml", policy("door", &door));
    folder.write("nothing.yaml", policy("allow-nothing", &json!({})));
    let mesh = Mesh::start(folder).await;
    let details = Call::get("bookinfo.example", "/api/v1/products/0");
    let ratings = Call::get("bookinfo.example", "/api/v1/products/0/ratings");
    let check = async |expected: [u16; 4]| {
        let mut got = Vec::new();
        for call in [&page(), &details, &reviews(), &ratings] {
            got.push(call.status(ingress(&mesh)).await.expect("an answer"));
        }
        assert_eq!(got, expected);
    };
    check([403; 4]).await;

    mesh.apply("productpage.yaml", viewer("productpage", None))
        .await;
    check([200, 403, 403, 403]).await;
    assert_eq!(page().method("POST").status(ingress(&mesh)).await, Ok(403));

    let productpage = Some("bookinfo-productpage");
    mesh.apply("details.yaml", viewer("details", productpage))
        .await;
    check([200, 200, 403, 403]).await;

    mesh.apply("reviews.yaml", viewer("reviews", productpage))
        .await;
    mesh.apply("ratings.yaml", viewer("ratings", Some("bookinfo-reviews")))
        .await;
    // The product page itself may not ask for ratings: only reviews may.
    check([200, 200, 200, 403]).await;

    // The first version of reviews asks for none.
    eventually(
        "another version answers",
        Duration::from_secs(10),
        async || {
            let answer = reviews().send(ingress(&mesh)).await;
            match version(&answer.map_err(|e| e.to_string())?).as_str() {
                "v1" => Err("v1".to_owned()),
                _ => Ok(()),
            }
        },
    )
    .await;
    mesh.record("reviews asked for ratings", |record| {
        record["decision"]["policies"] == json!(["default/ratings-viewer#rule-1"])
            && record["request"]["principal"]
                == json!({"workload": "spiffe://mesh.local/ns/default/sa/bookinfo-reviews"})
    })
    .await;

    // A denial comes first; one that is tried is recorded alone.
    let deny = json!({
        "selector": {"matchLabels": {"app": "details"}}, "action": "DENY",
        "rules": [{"to": [{"operation": {"paths": ["/details/{*}"]}}]}],
    });
    let dry = policy("tried", &deny).replace(
        "\"name\": \"tried\"",
        "\"name\": \"tried\", \"annotations\": {\"istio.io/dry-run\": \"true\"}",
    );
    mesh.apply("deny.yaml", dry).await;
    check([200, 200, 200, 403]).await;
    mesh.record("what the trial would have denied", |record| {
        record["decision"]["effect"] == "allow"
            && record["decision"]["shadow"]["policies"] == json!(["default/tried#rule-1"])
    })
    .await;
    mesh.apply("deny.yaml", policy("tried", &deny)).await;
    check([200, 403, 200, 403]).await;
    mesh.verify_audit().await;
}
