//! Transformations on the running mesh: what is changed on the wire, who is named for it, and that it ends.

use std::time::Duration;

use reeve_tests::{Call, Mesh, eventually};
use serde_json::{Value, json};

use crate::fixture::{client_and_echo, get, to_echo};

const LIMIT: Duration = Duration::from_secs(20);

/// The answer of `echo` describes the request, so that it shows what became of both.
const CHANGES: &str = r#"
apiVersion: reeve.dev/v1alpha1
kind: Transformation
metadata: {name: new-api}
spec:
  owner: team-echo
  expires: 2099-12-31
  targetRefs: [{kind: Service, name: echo}]
  match: [{uri: {prefix: /old}}]
  request:
    headers: {set: {x-api-version: "2"}, remove: [x-debug]}
    queryParams: {set: {format: full}, remove: [verbose]}
  response:
    status: 203
    headers: {add: {x-served-by: new-api}}
    body:
      jsonPatch:
        - {op: replace, path: /instance, value: somebody}
        - {op: add, path: /tags, value: [1, 2.5, true, null, {a: "b"}]}
---
apiVersion: reeve.dev/v1alpha1
kind: Transformation
metadata: {name: spelling}
spec:
  owner: team-words
  expires: 2099-12-31T18:00:00Z
  selector: {matchLabels: {app: echo}}
  match: [{uri: {exact: /body}}]
  request:
    body:
      replace:
        - {text: colour, with: color}
        - {regex: '(\d+) metres', with: '\1 m'}
"#;

/// One that lives for `seconds` from now on.
fn short_lived(seconds: u64) -> String {
    let end = jiff::Timestamp::now() + Duration::from_secs(seconds);
    format!(
        "apiVersion: reeve.dev/v1alpha1\nkind: Transformation\nmetadata: {{name: brief}}\nspec:\n  owner: me\n  \
         expires: {end}\n  match: [{{uri: {{exact: /brief}}}}]\n  response: {{headers: {{set: {{x-brief: on}}}}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_the_wire_is_changed_and_the_record_names_who_changed_it() {
    let folder = client_and_echo(json!({})).with("changes.yaml", CHANGES);
    let mesh = Mesh::start(folder.with("brief.yaml", short_lived(3600))).await;
    let to = to_echo(&mesh);

    let call = get("/old/1?verbose=1&x=1")
        .header("x-debug", "on")
        .header("x-request-id", "changed-1");
    let answer = call.send(to).await.expect("an answer");
    assert_eq!(answer.status, 203, "{}", answer.text());
    assert_eq!(answer.header("x-served-by"), Some("new-api"));
    let seen = answer.json();
    assert_eq!(seen["instance"], "somebody");
    assert_eq!(seen["tags"], json!([1, 2.5, true, null, {"a": "b"}]));
    assert_eq!(seen["headers"]["x-api-version"], json!(["2"]), "{seen}");
    assert!(seen["headers"].get("x-debug").is_none(), "{seen}");
    assert!(seen.to_string().contains("x=1&format=full"), "{seen}");

    let body = "the colour of 12 metres";
    let posted = Call::post("echo:9080", "/body", body)
        .header("content-type", "text/plain")
        .header("x-request-id", "changed-2");
    let answer = posted.send(to).await.expect("an answer");
    assert_eq!(answer.text(), "the color of 12 m");

    let untouched = get("/new?verbose=1").header("x-request-id", "same-1");
    let answer = untouched.send(to).await.expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["instance"], "echo-v1-0");

    let decided = mesh.decision_on("changed-1", "echo-v1-0").await;
    assert_eq!(decided["transformations"], json!(["default/new-api"]));
    let id = decided["id"].as_str().expect("an id").to_owned();
    let outcome = mesh
        .record("its outcome", |record| record["decision"] == id.as_str())
        .await;
    assert_eq!(outcome["transformations"], json!(["default/new-api"]));
    assert_eq!(outcome["status"], 203);
    let decided = mesh.decision_on("changed-2", "echo-v1-0").await;
    assert!(decided.get("transformations").is_none(), "{decided}");
    let id = decided["id"].as_str().expect("an id").to_owned();
    let outcome = mesh
        .record("its outcome", |record| record["decision"] == id.as_str())
        .await;
    assert_eq!(outcome["transformations"], json!(["default/spelling"]));
    let decided = mesh.decision_on("same-1", "echo-v1-0").await;
    assert!(decided.get("transformations").is_none(), "{decided}");
    let explained = mesh.reeve_ok(&["audit", "explain", &id]).await;
    assert!(explained.stdout.contains("/body"), "{}", explained.stdout);

    its_end_makes_it_inert(&mesh).await;
    mesh.verify_audit().await;
}

async fn its_end_makes_it_inert(mesh: &Mesh) {
    let to = to_echo(mesh);
    let brief = async || {
        let answer = get("/brief").send(to).await.expect("an answer");
        answer.header("x-brief").map(str::to_owned)
    };
    assert_eq!(brief().await.as_deref(), Some("on"));
    // Nothing is published when its time comes: the proxy itself looks at the clock.
    mesh.apply("brief.yaml", short_lived(3)).await;
    eventually("it is over", LIMIT, async || match brief().await {
        None => Ok(()),
        Some(_) => Err("it still acts".to_owned()),
    })
    .await;
    let folder = mesh.folder.path().display().to_string();
    let listed = mesh
        .reeve(&["config", "transforms", &folder, "-o", "json"])
        .await;
    assert_eq!(listed.code, Some(1), "one is over: {}", listed.text());
    let all = listed.json_lines();
    let states: Vec<_> = all
        .iter()
        .map(|one| (&one["name"], &one["state"]))
        .collect();
    let state = |name: &str, state: &str| (Value::from(name), Value::from(state));
    let wanted = [
        state("default/brief", "expired"),
        state("default/new-api", "active"),
        state("default/spelling", "active"),
    ];
    let wanted: Vec<_> = wanted.iter().map(|(name, state)| (name, state)).collect();
    assert_eq!(states, wanted);
    assert_eq!(all[1]["owner"], "team-echo");
    assert_eq!(all[1]["workloads"], json!(["default/echo-v1"]));
    let checked = mesh.reeve_ok(&["config", "check", "-f", &folder]).await;
    assert!(
        checked.stdout.contains("warning[expired]"),
        "{}",
        checked.stdout
    );
}
