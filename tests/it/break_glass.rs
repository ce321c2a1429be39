//! Break-glass: a signed permit opens what is denied while the mesh process is dead, and nobody can overlook it.

use std::{fs, time::Duration};

use reeve_tests::{Mesh, assert_gapless, decisions, eventually};
use serde_json::{Value, json};

use crate::{
    fixture::{CLIENT, client_and_echo, get, settings, to_echo},
    mesh_outage::hold_down,
};

const SOON: Duration = Duration::from_secs(20);
const GRANT: &str = "echo-admin";

/// `client` and `echo`, which nobody may reach, and a signed grant that lets `client` read from it.
async fn mesh_with_a_grant() -> (Mesh, String) {
    let mut mesh = Mesh::start(client_and_echo(json!({}))).await;
    mesh.withdraw("access.yaml").await;
    let place = |name: &str| mesh.state.join(name).display().to_string();
    let (key, grant) = (place("signer.key"), place("echo.grant"));
    let public = mesh
        .reeve_ok(&["break-glass", "keygen", "--out", &key])
        .await;
    let again = mesh.reeve(&["break-glass", "keygen", "--out", &key]).await;
    assert_eq!(
        again.code,
        Some(2),
        "a key was overwritten: {}",
        again.text()
    );
    let sign = [
        "break-glass",
        "sign",
        "--key",
        &key,
        "--id",
        GRANT,
        "--namespace",
        "default",
        "--issuer",
        "on-call lead",
        "--reason",
        "read from echo",
        "--from",
        CLIENT,
        "--to",
        "echo",
        "--action",
        "GET",
        "--longest",
        "10m",
        "--out",
        &grant,
    ];
    mesh.reeve_ok(&sign).await;

    // Before the key is trusted, the grant is worth nothing.
    let early = mesh.reeve(&use_it(&grant, "1m")).await;
    assert_eq!(early.code, Some(1), "{}", early.text());
    assert!(early.text().contains("names no signer"), "{}", early.text());

    let trust = settings(json!({"breakGlass": {"publicKeys": [public.stdout]}}));
    mesh.apply("mesh.yaml", trust).await;
    mesh.wait_ready(SOON).await;
    (mesh, grant)
}

fn use_it<'a>(grant: &'a str, lasting: &'a str) -> [&'a str; 9] {
    [
        "break-glass",
        "use",
        grant,
        "--for",
        lasting,
        "--reason",
        "INC-4711",
        "--instance",
        "echo-v1-0",
    ]
}

async fn until_status(mesh: &Mesh, status: u16) {
    eventually(
        &format!("echo answers {status}"),
        SOON,
        async || match get("/").status(to_echo(mesh)).await {
            Ok(got) if got == status => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_opens_what_is_denied_while_the_mesh_process_is_dead() {
    let (mut mesh, grant) = mesh_with_a_grant().await;
    until_status(&mesh, 403).await;
    let held = hold_down(&mesh).await;

    // A grant that was altered is none.
    let text = fs::read_to_string(&grant).expect("the grant");
    let forged = mesh.state.join("forged.grant").display().to_string();
    fs::write(
        &forged,
        text.replace("Action::\\\"GET\\\"", "Action::\\\"PUT\\\""),
    )
    .expect("a file");
    let refused = mesh.reeve(&use_it(&forged, "1m")).await;
    assert_eq!(refused.code, Some(1), "{}", refused.text());
    assert!(
        refused.text().contains("signature does not verify"),
        "{}",
        refused.text()
    );
    let long = mesh.reeve(&use_it(&grant, "11m")).await;
    assert!(long.text().contains("600 s at once"), "{}", long.text());
    until_status(&mesh, 403).await;

    // The true one binds at once, for what it says and no more.
    mesh.reeve_ok(&use_it(&grant, "5m")).await;
    let call = get("/opened").header("x-request-id", "opened-1");
    assert_eq!(call.status(to_echo(&mesh)).await.ok(), Some(200));
    let other = get("/").method("POST").status(to_echo(&mesh)).await;
    assert_eq!(other.ok(), Some(403));
    let twice = mesh.reeve(&use_it(&grant, "5m")).await;
    assert!(
        twice.text().contains("in force already"),
        "{}",
        twice.text()
    );

    // It shouts.
    let listed = mesh
        .reeve_ok(&["break-glass", "list", "-o", "json"])
        .await
        .json();
    assert_eq!(
        listed["grants"].as_array().map(Vec::len),
        Some(1),
        "{listed}"
    );
    assert_eq!(listed["grants"][0]["instance"], "echo-v1-0");
    assert_eq!(listed["grants"][0]["reason"], "INC-4711");
    assert_eq!(
        mesh.metric("echo-v1-0", "reeve_break_glass_active", &[])
            .await,
        1.0
    );
    let counted = "reeve_break_glass_requests_total";
    assert!(mesh.metric("echo-v1-0", counted, &[]).await >= 1.0);

    // Ended by hand; used once more, it ends by itself.
    mesh.reeve_ok(&["break-glass", "end", GRANT]).await;
    until_status(&mesh, 403).await;
    mesh.reeve_ok(&use_it(&grant, "2s")).await;
    until_status(&mesh, 403).await;
    eventually("nothing is in force", SOON, async || {
        match mesh
            .metric("echo-v1-0", "reeve_break_glass_active", &[])
            .await
        {
            0.0 => Ok(()),
            active => Err(format!("{active} are")),
        }
    })
    .await;

    drop(held);
    mesh.wait_ready(Duration::from_secs(30)).await;
    the_trail_tells_all_of_it(&mesh).await;
}

/// The trail, once the mesh process is back.
async fn the_trail_tells_all_of_it(mesh: &Mesh) {
    let decision = mesh.decision_on("opened-1", "echo-v1-0").await;
    assert_eq!(decision["decision"]["effect"], "allow", "{decision}");
    assert_eq!(
        decision["decision"]["policies"],
        json!([format!("break-glass/{GRANT}")])
    );
    let ended = |record: &Value| {
        record["event"] == "break_glass_ended" && record["detail"]["cause"] == "its time was over"
    };
    let last = mesh.record("the end of break-glass", ended).await;
    assert_eq!(last["detail"]["grant"], GRANT, "{last}");
    let records = mesh.records(&[]).await;
    let count = |event: &str| {
        records
            .iter()
            .filter(|record| record["event"] == event)
            .count()
    };
    assert_eq!(count("break_glass_started"), 2);
    assert_eq!(count("break_glass_ended"), 2);
    assert!(
        count("break_glass_refused") >= 4,
        "{}",
        count("break_glass_refused")
    );
    let began = records
        .iter()
        .find(|record| record["event"] == "break_glass_started");
    let detail = &began.expect("its beginning")["detail"];
    assert_eq!(
        (&detail["reason"], &detail["issuer"]),
        (&json!("INC-4711"), &json!("on-call lead"))
    );
    assert!(
        detail["cedar"]
            .as_str()
            .is_some_and(|text| text.contains("permit")),
        "{detail}"
    );
    assert!(
        detail["uid"].as_str().is_some_and(|uid| !uid.is_empty()),
        "{detail}"
    );
    assert!(decisions(&records).count() > 0);
    assert_gapless(&records);
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_configuration_keeps_a_grant_and_a_revocation_ends_it() {
    let (mesh, grant) = mesh_with_a_grant().await;
    mesh.reeve_ok(&use_it(&grant, "5m")).await;
    until_status(&mesh, 200).await;
    let status = mesh.reeve_ok(&["status", "-o", "json"]).await.json();
    assert_eq!(status["break_glass"][0]["id"], GRANT, "{status}");
    let told = mesh.reeve_ok(&["status"]).await.stdout;
    assert!(
        told.contains("BREAK-GLASS") && told.contains("INC-4711"),
        "{told}"
    );

    let text = fs::read_to_string(mesh.folder.path().join("mesh.yaml")).expect("the settings");
    let changed = text.replace("x-request-id", "x-other-id");
    assert_ne!(changed, text);
    mesh.apply("mesh.yaml", &changed).await;
    until_status(&mesh, 200).await;

    let mut config: Value =
        serde_json::from_str(changed.trim_start_matches("---\n")).expect("the settings");
    config["spec"]["breakGlass"]["revoked"] = json!([GRANT]);
    mesh.apply("mesh.yaml", config.to_string()).await;
    until_status(&mesh, 403).await;
    let again = mesh.reeve(&use_it(&grant, "1m")).await;
    assert!(again.text().contains("is revoked"), "{}", again.text());
    let withdrawn = |record: &Value| {
        record["event"] == "break_glass_ended"
            && record["detail"]["cause"] == "withdrawn by configuration"
    };
    mesh.record("the end of break-glass", withdrawn).await;
}

/// A grant that lets everybody read everything everywhere: its signer's public key, and where it is.
async fn sign_for_all(mesh: &Mesh) -> (String, String) {
    let place = |name: &str| mesh.state.join(name).display().to_string();
    let (key, grant, policy) = (
        place("highest.key"),
        place("all.grant"),
        place("read.cedar"),
    );
    fs::write(
        &policy,
        "permit (principal, action in Action::\"read\", resource);",
    )
    .expect("a file");
    let public = mesh
        .reeve_ok(&["break-glass", "keygen", "--out", &key])
        .await
        .stdout;
    let sign = [
        "break-glass",
        "sign",
        "--key",
        &key,
        "--id",
        "all-read",
        "--mesh-wide",
        "--issuer",
        "head of operations",
        "--reason",
        "find what is broken",
        "--policy",
        &policy,
        "--out",
        &grant,
    ];
    mesh.reeve_ok(&sign).await;
    (public, grant)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_wide_grant_takes_a_signer_and_a_word_of_its_own_and_is_told_loudly() {
    let mesh = Mesh::start(client_and_echo(json!({}))).await;
    mesh.withdraw("access.yaml").await;
    let (public, grant) = sign_for_all(&mesh).await;
    let signer_of = |member: &str| settings(json!({"breakGlass": {member: [&public]}}));
    mesh.apply("mesh.yaml", signer_of("publicKeys")).await;
    let wanted = [
        "break-glass",
        "use",
        &grant,
        "--for",
        "5m",
        "--reason",
        "INC-4711",
    ];
    let silent = mesh.reeve(&wanted).await;
    assert_eq!(silent.code, Some(1), "{}", silent.text());
    assert!(
        silent.text().contains("opens every namespace"),
        "{}",
        silent.text()
    );
    let wide = [&wanted[..], &["--mesh-wide"]].concat();
    let lesser = mesh.reeve(&wide).await;
    assert_eq!(lesser.code, Some(1), "{}", lesser.text());
    assert!(
        lesser.text().contains("meshPublicKeys"),
        "{}",
        lesser.text()
    );
    until_status(&mesh, 403).await;

    mesh.apply("mesh.yaml", signer_of("meshPublicKeys")).await;
    mesh.reeve_ok(&wide).await;
    until_status(&mesh, 200).await;
    let status = mesh.reeve_ok(&["status"]).await.stdout;
    assert!(
        status.starts_with("!!! MESH-WIDE BREAK-GLASS: all-read opens EVERY namespace !!!\n"),
        "{status}"
    );
    let listed = mesh
        .reeve_ok(&["break-glass", "list", "-o", "json"])
        .await
        .json();
    let where_from = |grant: &Value| grant["namespace"] == "*";
    let grants = listed["grants"].as_array().expect("grants");
    assert!(
        grants.len() == 2 && grants.iter().all(where_from),
        "{listed}"
    );
    let counted = "reeve_break_glass_mesh_wide_active";
    assert_eq!(mesh.metric("echo-v1-0", counted, &[]).await, 1.0);
    mesh.reeve_ok(&["break-glass", "end", "all-read"]).await;
    until_status(&mesh, 403).await;
    let began = |record: &Value| {
        record["event"] == "break_glass_started" && record["detail"]["namespace"] == "*"
    };
    mesh.record("the beginning of break-glass", began).await;
}
