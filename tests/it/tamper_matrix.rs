//! Ways to tamper with a whole trail, with the real binary: the tail of a write-ahead log is deleted; logs are forked and shown
//! to two auditors, swapped, dropped, and signed by another key. Each is found, and its place named. One byte anywhere is
//! `tamper.rs`, columns are `columns.rs`, and what is forged at ingestion is `forgery.rs`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use reeve_tests::{Mesh, Outcome, binary, eventually, run};
use serde_json::{Value, json};

use crate::{
    fixture::{client_and_echo, get, to_echo},
    tamper::{at_rest, copy_tree, verify},
};

const LIMIT: Duration = Duration::from_secs(60);

async fn ask(mesh: &Mesh, name: &str, count: usize) {
    for number in 0..count {
        let call = get("/").header("x-request-id", &format!("{name}-{number}"));
        assert_eq!(call.status(to_echo(mesh)).await, Ok(200));
    }
}

/// The same, and the log has them.
async fn ask_logged(mesh: &Mesh, name: &str) {
    ask(mesh, name, 5).await;
    let last = format!("{name}-4");
    mesh.decision_on(&last, "echo-v1-0").await;
    at_rest(&mesh.state.join("audit/checkpoint")).await;
}

/// Fails, and names the place and the fault.
fn names(outcome: &Outcome, parts: &[&str]) {
    assert_eq!(outcome.code, Some(1), "{parts:?}: {}", outcome.text());
    for part in parts {
        assert!(outcome.text().contains(part), "{part}: {}", outcome.text());
    }
}

/// Where each frame of a segment begins, its header's first; the last is where they end.
pub(crate) fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut at = 0;
    let mut frames = vec![0];
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        if length == 0 || bytes.len() < at + length + 40 {
            break;
        }
        at += length + 40;
        frames.push(at);
    }
    frames
}

/// The last segment of the worker that has written most, once its mark has come up with it.
async fn marked_segment(wal: &Path) -> PathBuf {
    eventually("a mark has come up with its log", LIMIT, async || {
        let mut folders = vec![wal.to_path_buf()];
        let entries = fs::read_dir(wal).map_err(|e| e.to_string())?.flatten();
        folders.extend(entries.map(|e| e.path()).filter(|path| path.is_dir()));
        let mut last: Vec<(usize, PathBuf)> = Vec::new();
        for folder in folders {
            let entries = fs::read_dir(&folder).map_err(|e| e.to_string())?.flatten();
            let mut segments: Vec<_> = entries
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|end| end == "wal"))
                .collect();
            segments.sort();
            let Some(segment) = segments.pop() else {
                continue;
            };
            let bytes = fs::read(&segment).map_err(|e| e.to_string())?;
            last.push((frames(&bytes).len(), segment));
        }
        let (frames, segment) = last.into_iter().max().ok_or("no segment")?;
        let name = segment.file_stem().unwrap_or_default().to_string_lossy();
        let first = name.rsplit('-').next().and_then(|n| n.parse::<u64>().ok());
        let written = first.ok_or("no number")? + frames as u64 - 3;
        let mark = fs::read(segment.with_file_name("mark")).map_err(|e| e.to_string())?;
        let mark: Value = serde_json::from_slice(&mark).map_err(|e| e.to_string())?;
        match mark["sequence"].as_u64() >= Some(written) {
            true => Ok(segment),
            false => Err(format!("{written} written, {mark}")),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_tail_is_named_before_its_proxy_comes_back_and_after() {
    let mut mesh = Mesh::start(client_and_echo(json!({}))).await;
    ask_logged(&mesh, "shipped").await;
    // What is asked now stays in the write-ahead log: there is nobody to ship it to.
    let held = crate::mesh_outage::hold_down(&mesh).await;
    ask(&mesh, "kept", 20).await;
    let segment = marked_segment(&mesh.state.join("wal/echo-v1-0")).await;
    mesh.kill().await;
    drop(held);
    let clean = verify(&mesh.state).await;
    assert_eq!(clean.code, Some(0), "untouched: {}", clean.text());

    let bytes = fs::read(&segment).expect("a segment");
    let frames = frames(&bytes);
    let cut = frames[frames.len() - 4];
    fs::write(&segment, &bytes[..cut]).expect("a shorter segment");
    let found = verify(&mesh.state).await;
    names(&found, &["wal/echo-v1-0", "the tail is missing"]);

    // Its proxy comes back, says so itself, and the log keeps that.
    mesh.start_again().await;
    mesh.record("what is missing", |record| {
        record["event"] == "records_missing" && record["logged"] == true
    })
    .await;
    let found = verify(&mesh.state).await;
    names(
        &found,
        &["record echo-v1-0/", "ends before its mark", "was written"],
    );
}

/// Verifies the log of `state` alone, with arguments.
async fn verify_log(state: &Path, args: &[&str]) -> Outcome {
    let (dir, bundle) = (state.join("audit"), state.join("bundle.pem"));
    let (dir, bundle) = (dir.display().to_string(), bundle.display().to_string());
    let all = [
        &["audit", "verify", "--dir", &dir, "--bundle", &bundle],
        args,
    ]
    .concat();
    run(&binary("reeve"), &all, &[], LIMIT).await
}

fn restore(from: &Path, mesh: &Mesh) {
    fs::remove_dir_all(&mesh.state).expect("the state's end");
    copy_tree(from, &mesh.state);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_that_are_forked_swapped_dropped_or_signed_by_another_key_are_named() {
    let mut mesh = Mesh::start(client_and_echo(json!({}))).await;
    ask_logged(&mesh, "both").await;
    mesh.stop().await;
    let [base, one] = ["base", "one"].map(|name| mesh.state.with_extension(name));
    copy_tree(&mesh.state, &base);

    // Two auditors are shown two trees that grew from the same beginning, under the log's own key.
    mesh.start_again().await;
    ask_logged(&mesh, "one").await;
    mesh.stop().await;
    copy_tree(&mesh.state, &one);
    restore(&base, &mesh);
    mesh.start_again().await;
    ask_logged(&mesh, "two").await;
    mesh.stop().await;
    for state in [&one, &mesh.state] {
        let alone = verify(state).await;
        assert_eq!(
            alone.code,
            Some(0),
            "neither sees anything: {}",
            alone.text()
        );
    }
    let monday = one.join("audit/checkpoint").display().to_string();
    let compared = verify_log(&mesh.state, &["--checkpoint", &monday]).await;
    names(&compared, &["checkpoint", &monday]);

    // The whole log is dropped, and another begun in its place: proxies and whoever knew the log know better.
    let key = fs::read_to_string(one.join("audit/log.vkey")).expect("the log's key");
    restore(&one, &mesh);
    fs::remove_dir_all(mesh.state.join("audit")).expect("the log's end");
    let gone = verify(&mesh.state).await;
    assert_eq!(gone.code, Some(2), "{}", gone.text());
    mesh.start_again().await;
    ask_logged(&mesh, "anew").await;
    mesh.stop().await;
    let anew = verify(&mesh.state).await;
    names(
        &anew,
        &[
            "(echo-v1-0): begins with record",
            "what came before is not in this log",
        ],
    );

    // It is another log, whoever's place it takes: by the key that is known, and by what proxies hold.
    let swapped = verify_log(&mesh.state, &["--key", key.trim()]).await;
    names(&swapped, &["log.vkey: is not the key that was given"]);
    fs::rename(one.join("audit"), one.join("good")).expect("the log aside");
    copy_tree(&mesh.state.join("audit"), &one.join("audit"));
    names(
        &verify(&one).await,
        &["batches/", "what came before is not in this log"],
    );
    fs::remove_dir_all(one.join("audit")).expect("the other log's end");
    fs::rename(one.join("good"), one.join("audit")).expect("the log back");

    // A key is forged: it has signed nothing, and the change of key that would lead to it is not signed by the one before.
    let other = fs::read_to_string(mesh.state.join("audit/log.vkey")).expect("another key");
    fs::write(one.join("audit/log.vkey"), &other).expect("a forged key");
    names(&verify(&one).await, &["checkpoint (or log.vkey)"]);
    forge_change(&one.join("audit"), key.trim(), other.trim());
    let forged = verify_log(&one, &["--key", key.trim()]).await;
    names(&forged, &["keys/000001: the old key has not signed it"]);
    for copy in [base, one] {
        drop(fs::remove_dir_all(copy));
    }
}

/// A change to another key, with a signature that says it is the old key's.
fn forge_change(audit: &Path, old: &str, new: &str) {
    let checkpoint = fs::read_to_string(audit.join("checkpoint")).expect("a checkpoint");
    let lines: Vec<_> = checkpoint.lines().collect();
    let (name, size, root) = (lines[0], lines[1], lines[2]);
    // The log's own signature, of another text.
    let signature = lines.last().expect("a signature");
    let note =
        format!("reeve.dev/log-key/v1\n{name}\n{size} {root}\n{old}\n{new}\n\n{signature}\n");
    fs::create_dir_all(audit.join("keys")).expect("a folder");
    fs::write(audit.join("keys/000001"), note).expect("a change of key");
}
