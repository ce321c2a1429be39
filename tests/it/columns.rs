//! The trail as columns: what the running mesh keeps beside its tree answers as the tree's batches do, DuckDB reads it, and an
//! edit of it shows.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use reeve_tests::{Mesh, Outcome, binary, eventually, run, test_tool};
use serde_json::json;

use crate::fixture::{client_and_echo, get, to_echo};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_are_kept_answer_as_batches_do_and_an_edit_is_named() {
    let spec = json!({"audit": {"columnsAfter": "1s"}});
    let mut mesh = Mesh::start(client_and_echo(spec)).await;
    for number in 0..40 {
        let call = get("/").header("x-request-id", &format!("asked-{number}"));
        assert_eq!(call.status(to_echo(&mesh)).await, Ok(200));
    }
    mesh.decision_on("asked-39", "echo-v1-0").await;
    let audit = mesh.state.join("audit");
    let kept = "columns with the decisions";
    eventually(kept, Duration::from_secs(60), async || {
        let found = segments(&audit);
        (!found.is_empty())
            .then_some(())
            .ok_or_else(|| "none yet".to_owned())
    })
    .await;
    // Two logs of the same tree: one with columns, one without.
    mesh.stop().await;
    let copy = mesh.state.with_extension("batches");
    copy_tree(&audit, &copy.join("audit"));
    fs::copy(mesh.state.join("bundle.pem"), copy.join("bundle.pem")).expect("the authorities");
    fs::remove_dir_all(copy.join("audit/parquet")).expect("columns");
    let without = copy.join("audit");
    for asked in [
        &["--limit", "5"][..],
        &["--service", "echo", "--effect", "allow", "--limit", "1000"],
        &["--kind", "event", "--limit", "1000"],
        &["--since", "1h", "--path", "/", "--limit", "1000"],
    ] {
        let lines = |outcome: Outcome| {
            outcome.text().replace(
                &*without.display().to_string(),
                &audit.display().to_string(),
            )
        };
        let columns = lines(query(&audit, asked).await);
        assert!(columns.lines().count() >= 5, "{columns}");
        assert_eq!(columns, lines(query(&without, asked).await), "{asked:?}");
    }

    duckdb_reads_them(&audit).await;

    let missing = reeve(&["audit", "verify", "--dir", &without.display().to_string()]).await;
    assert_eq!(
        missing.code,
        Some(1),
        "columns that are gone: {}",
        missing.text()
    );
    let dir = audit.display().to_string();
    let clean = reeve(&["audit", "verify", "--dir", &dir]).await;
    assert_eq!(clean.code, Some(0), "{}", clean.text());
    let segment = segments(&audit).remove(0);
    let mut bytes = fs::read(&segment).expect("a segment");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).expect("an edited segment");
    let edited = reeve(&["audit", "verify", "--dir", &dir]).await;
    assert_eq!(edited.code, Some(1), "{}", edited.text());
    let name = segment.file_name().unwrap_or_default().to_string_lossy();
    assert!(edited.text().contains(&*name), "{}", edited.text());
    drop(fs::remove_dir_all(&copy));
}

/// DuckDB finds nothing in the segments that the log has not, and all of it in an export.
async fn duckdb_reads_them(audit: &Path) {
    let all = query(audit, &["--limit", "100000"]).await.json_lines();
    let all = all.iter().filter_map(|record| record["id"].as_str());
    let all: BTreeSet<String> = all.map(str::to_owned).collect();
    let kept = ids_by_duckdb(&segments(audit)).await;
    assert!(!kept.is_empty() && kept.is_subset(&all), "{kept:?}");
    let export = audit.with_file_name("export.parquet");
    let (dir, file) = (audit.display().to_string(), export.display().to_string());
    let exported = [
        "audit", "export", "--to", "parquet", "--out", &file, "--dir", &dir,
    ];
    let exported = reeve(&exported).await;
    assert_eq!(exported.code, Some(0), "{}", exported.text());
    assert_eq!(ids_by_duckdb(&[export]).await, all);
}

async fn ids_by_duckdb(files: &[PathBuf]) -> BTreeSet<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/it/peers/duckdb_ids.py");
    let files = files.iter().map(|file| file.display().to_string());
    let args: Vec<String> = std::iter::once(script.to_owned()).chain(files).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let read = run(&test_tool("python3"), &args, &[], Duration::from_secs(60)).await;
    assert_eq!(read.code, Some(0), "{}", read.text());
    read.stdout.lines().map(str::to_owned).collect()
}

async fn query(dir: &Path, asked: &[&str]) -> Outcome {
    let dir = dir.display().to_string();
    let mut args = vec!["audit", "query", "--dir", &dir, "-o", "json"];
    args.extend_from_slice(asked);
    reeve(&args).await
}

async fn reeve(args: &[&str]) -> Outcome {
    run(&binary("reeve"), args, &[], Duration::from_secs(60)).await
}

fn segments(audit: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(audit.join("parquet")).into_iter().flatten();
    let paths = listed.flatten().map(|entry| entry.path());
    let mut found: Vec<_> = paths
        .filter(|p| p.extension().is_some_and(|e| e == "parquet"))
        .collect();
    found.sort();
    found
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        match entry.path() {
            path if path.is_dir() => copy_tree(&path, &target),
            path => drop(fs::copy(path, target).expect("a copy")),
        }
    }
}
