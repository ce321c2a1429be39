//! Point 8: one flipped byte anywhere in the record of what happened, and `reeve audit verify` names the place.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use reeve_tests::{Mesh, binary, eventually, run};
use serde_json::json;

use crate::fixture::{client_and_echo, get, to_echo};

/// Files tried of each kind; in each, its first, middle and last byte are flipped in turn.
const FILES_OF_A_KIND: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_flipped_byte_anywhere_in_the_record_is_found_and_named() {
    let mut mesh = Mesh::start(client_and_echo(json!({}))).await;
    for number in 0..300 {
        let call = get("/").header("x-request-id", &format!("shipped-{number}"));
        assert_eq!(call.status(to_echo(&mesh)).await, Ok(200));
    }
    mesh.decision_on("shipped-299", "echo-v1-0").await;
    at_rest(&mesh.state.join("audit/checkpoint")).await;
    // Then records that stay in the write-ahead log: there is nobody to ship them to.
    let held = crate::mesh_outage::hold_down(&mesh).await;
    for number in 0..20 {
        let call = get("/").header("x-request-id", &format!("kept-{number}"));
        assert_eq!(call.status(to_echo(&mesh)).await, Ok(200));
    }
    mesh.kill().await;
    drop(held);

    let copy = mesh.state.with_extension("copy");
    copy_tree(&mesh.state, &copy);
    let clean = verify(&copy).await;
    assert_eq!(clean.code, Some(0), "untouched: {}", clean.text());

    let kinds: [(&str, &[&str]); 5] = [
        ("tile", &["audit/tile"]),
        ("batch", &["audit/batches"]),
        ("checkpoint", &["audit/checkpoint"]),
        ("stored policy set", &["audit/blobs"]),
        ("write-ahead log", &["wal/echo-v1-0", "wal/client-0"]),
    ];
    for (kind, places) in kinds {
        let files: Vec<PathBuf> = places
            .iter()
            .flat_map(|place| files_below(&copy.join(place)))
            // The mesh was running when it was copied: what it had not put in place yet is no part of the log.
            .filter(|file| file.extension().is_none_or(|ending| ending != "tmp"))
            .collect();
        assert!(!files.is_empty(), "no file of kind {kind} below {places:?}");
        for file in spread(&files) {
            flip_each(kind, file, &copy).await;
        }
    }

    for authorities in ["roots.pem", "bundle.pem"] {
        fs::remove_file(copy.join(authorities)).expect("the authorities");
    }
    let unsigned = verify(&copy).await;
    assert_eq!(
        unsigned.code,
        Some(2),
        "signatures cannot be checked: {}",
        unsigned.text()
    );
    assert!(unsigned.text().contains("--bundle"), "{}", unsigned.text());
    drop(fs::remove_dir_all(&copy));
}

/// A mesh process that is killed while it takes records in leaves files that no checkpoint covers yet, in which nothing
/// can be found.
pub(crate) async fn at_rest(checkpoint: &Path) {
    eventually("the log is at rest", Duration::from_secs(30), async || {
        let before = fs::read(checkpoint).map_err(|e| e.to_string())?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let after = fs::read(checkpoint).map_err(|e| e.to_string())?;
        (before == after)
            .then_some(())
            .ok_or_else(|| "it grows".to_owned())
    })
    .await;
}

async fn flip_each(kind: &str, file: &Path, copy: &Path) {
    let good = fs::read(file).expect("a file");
    let Some(end) = good.iter().rposition(|byte| *byte != 0) else {
        return;
    };
    for at in [0, end / 2, end] {
        let mut bad = good.clone();
        bad[at] ^= 0x01;
        fs::write(file, &bad).expect("the altered file");
        let outcome = verify(copy).await;
        let place = file
            .strip_prefix(copy)
            .unwrap_or(file)
            .display()
            .to_string();
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let seen = format!("byte {at} of the {kind} {place}: {}", outcome.text());
        assert_eq!(outcome.code, Some(1), "{seen}");
        assert!(
            outcome.text().contains(&name),
            "the place is not named; {seen}"
        );
    }
    fs::write(file, &good).expect("the good file back");
}

pub(crate) async fn verify(state: &Path) -> reeve_tests::Outcome {
    let state = state.display().to_string();
    run(
        &binary("reeve"),
        &["audit", "verify"],
        &[("REEVE_STATE", &state)],
        Duration::from_secs(60),
    )
    .await
}

/// A few of them: the first, the last, and some between.
fn spread(files: &[PathBuf]) -> impl Iterator<Item = &PathBuf> {
    let step = files.len().div_ceil(FILES_OF_A_KIND).max(1);
    files.iter().step_by(step)
}

/// Every file there, in order.
pub(crate) fn files_below(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .flat_map(|entry| files_below(&entry.path()))
        .collect();
    files.sort();
    files
}

pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    fs::set_permissions(to, fs::metadata(from).expect("its metadata").permissions())
        .expect("its mode");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => copy_tree(&source, &target),
            Ok(kind) if kind.is_file() => drop(fs::copy(&source, &target).expect("a copy")),
            _ => {}
        }
    }
}
