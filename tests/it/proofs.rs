//! A record proved to somebody who has the log's public key and nothing else of ours.

use std::{fs, path::Path, time::Duration};

use reeve_tests::{Mesh, Outcome, binary, run, test_tool};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

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
    let first_key = fs::read_to_string(mesh.state.join("audit/log.vkey")).expect("the public key");
    new_key(&mesh).await;
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

    let known = [
        "verify",
        "--dir",
        path(&log),
        "--bundle",
        path(&bundle),
        "--key",
        first_key.trim(),
    ];
    let led = audit(&known).await;
    assert_eq!(
        led.code,
        Some(0),
        "the old key leads to the new: {}",
        led.text()
    );
    checked_by(&file, first_key.trim()).await;
    witnessed(&log, &bundle, &vkey, &away).await;

    altered(&file, &key, &vkey).await;
    drop(fs::remove_dir_all(&away));
}

/// A key of before leads to the one that signed.
async fn checked_by(file: &Path, key: &str) {
    let checked = audit(&["check-proof", path(file), "--key", key]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.text());
}

/// Neither we nor the foreign tool believe a proof of a record that was changed.
async fn altered(file: &Path, key: &Path, vkey: &str) {
    let good = fs::read_to_string(file).expect("the proof");
    let bad = good.replacen("call-17", "call-18", 1);
    assert_ne!(good, bad, "the proof holds the record");
    fs::write(file, bad).expect("another proof");
    let checked = audit(&["check-proof", path(file), "--key", path(key)]).await;
    assert_eq!(checked.code, Some(1), "{}", checked.text());
    assert!(
        checked.text().contains("record_in_batch"),
        "{}",
        checked.text()
    );
    let theirs = tlog(&["proof", path(file), vkey]).await;
    assert_eq!(theirs.code, Some(1), "{}", theirs.text());
}

/// The log gets another key while the mesh runs.
async fn new_key(mesh: &Mesh) {
    mesh.reeve_ok(&["audit", "rotate-key"]).await;
}

/// A witness of its own: the process, its address and its key.
pub(crate) async fn witness(dir: &Path, log_key: &str, listen: &str) -> (Child, String, String) {
    let args = [
        "witness",
        "--listen",
        listen,
        "--name",
        "witness.example/w1",
        "--dir",
        path(dir),
    ];
    let mut child = Command::new(binary("reeve"))
        .args(args)
        .args(["--log", log_key.trim()])
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a witness");
    let mut said = BufReader::new(child.stderr.take().expect("its stderr")).lines();
    let mut line = async || {
        said.next_line()
            .await
            .expect("a line")
            .expect("what it says")
    };
    let (serves, key) = (line().await, line().await);
    let (_, address) = serves.rsplit_once("http://").expect("its address");
    (child, address.to_owned(), key)
}

/// A witness cosigns the log, which its operator cannot rewrite any more.
async fn witnessed(log: &Path, bundle: &Path, vkey: &str, away: &Path) {
    let (_process, address, key) = witness(&away.join("witness"), vkey, "127.0.0.1:0").await;
    let demand = [
        "verify",
        "--dir",
        path(log),
        "--bundle",
        path(bundle),
        "--witness",
        &key,
    ];
    let before = audit(&demand).await;
    assert_eq!(
        before.code,
        Some(1),
        "nobody has cosigned: {}",
        before.text()
    );
    let ask = [
        "cosign",
        "--dir",
        path(log),
        "--witness",
        &address,
        "--witness-key",
        &key,
    ];
    for _ in 0..2 {
        let cosigned = audit(&ask).await;
        assert_eq!(cosigned.code, Some(0), "{}", cosigned.text());
    }
    let after = audit(&demand).await;
    assert_eq!(after.code, Some(0), "{}", after.text());
    let theirs = tlog(&["tree", path(log), vkey, &key]).await;
    assert_eq!(theirs.code, Some(0), "{}", theirs.text());
    assert!(theirs.stdout.contains("1 witnesses"), "{}", theirs.text());
}
