//! A record proved to somebody who has the log's public key and nothing else of ours.

use std::{fs, path::Path, time::Duration};

use reeve_tests::{Mesh, Outcome, binary, run, test_tool};
use serde_json::{Value, json};

use crate::fixture::{client_and_echo, get, to_echo};

/// Longest run of one command.
const LIMIT: Duration = Duration::from_secs(60);

async fn audit(verb: &[&str]) -> Outcome {
    let args = [&["audit"], verb].concat();
    run(&binary("reeve"), &args, &[], LIMIT).await
}

/// The verifier made of the Go project's code.
async fn tlog(args: &[&str]) -> Outcome {
    run(&test_tool("tlog"), args, &[], LIMIT).await
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_proved_to_whoever_has_the_public_key_and_to_foreign_tools() {
    let mut mesh = Mesh::start(client_and_echo(json!({}))).await;
    for number in 0..40 {
        let call = get("/").header("x-request-id", &format!("call-{number}"));
        assert_eq!(call.status(to_echo(&mesh)).await, Ok(200));
    }
    let record = mesh.decision_on("call-17", "echo-v1-0").await;
    let id = record["decision_id"].as_str().expect("an id").to_owned();
    crate::tamper::at_rest(&mesh.state.join("audit/checkpoint")).await;
    mesh.kill().await;

    // Away from the mesh: the proof, the key and the authorities are all that is taken along.
    let away = mesh.state.with_extension("away");
    fs::create_dir_all(&away).expect("a folder");
    let (log, file) = (mesh.state.join("audit"), away.join("proof.json"));
    let made = audit(&["prove", &id, "--dir", path(&log), "--out", path(&file)]).await;
    assert_eq!(made.code, Some(0), "{}", made.text());
    let (key, bundle) = (away.join("log.vkey"), away.join("bundle.pem"));
    fs::copy(log.join("log.vkey"), &key).expect("the public key");
    fs::copy(mesh.state.join("bundle.pem"), &bundle).expect("the authorities");
    let args = [
        "check-proof",
        path(&file),
        "--key",
        path(&key),
        "--bundle",
        path(&bundle),
        "-o",
        "json",
    ];
    let checked = audit(&args).await;
    assert_eq!(checked.code, Some(0), "{}", checked.text());
    let checked: Value = serde_json::from_str(&checked.stdout).expect("JSON");
    assert_eq!(checked["id"], record["id"]);
    assert_eq!(checked["signer"], "spiffe://mesh.local/ns/default/sa/echo");

    let paths = away.join("paths.json");
    fs::write(&paths, checked["paths"].to_string()).expect("the paths");
    let bare = audit(&["verify-inclusion", path(&paths), "-o", "json"]).await;
    assert_eq!(bare.code, Some(0), "{}", bare.text());
    assert_eq!(bare.stdout.lines().count(), 2, "{}", bare.text());

    let vkey = fs::read_to_string(&key).expect("the public key");
    let theirs = tlog(&["tree", path(&log), &vkey]).await;
    assert_eq!(theirs.code, Some(0), "{}", theirs.text());
    let theirs = tlog(&["proof", path(&file), &vkey]).await;
    assert_eq!(theirs.code, Some(0), "{}", theirs.text());

    let good = fs::read_to_string(&file).expect("the proof");
    let bad = good.replacen("call-17", "call-18", 1);
    assert_ne!(good, bad, "the proof holds the record");
    fs::write(&file, bad).expect("another proof");
    let checked = audit(&["check-proof", path(&file), "--key", path(&key)]).await;
    assert_eq!(checked.code, Some(1), "{}", checked.text());
    assert!(
        checked.text().contains("record_in_batch"),
        "{}",
        checked.text()
    );
    let theirs = tlog(&["proof", path(&file), &vkey]).await;
    assert_eq!(theirs.code, Some(1), "{}", theirs.text());
    drop(fs::remove_dir_all(&away));
}
