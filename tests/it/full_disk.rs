//! A full disk under the write-ahead log: requests are denied, none is forwarded, and with room again they pass.
//!
//! Needs `unshare` to mount a small file system of its own: as root, or where user namespaces are allowed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use reeve_tests::{
    Folder, Load, Mesh, Protocol, Start, Target, echo, eventually, local_mesh, permit, service,
    sidecar, strict,
};
use serde_json::json;

use crate::fixture::{CLIENT_TO_ECHO, get, settings, to_echo};

const LIMIT: Duration = Duration::from_secs(20);

/// `reeve up` with a tmpfs of 24 MB where its write-ahead logs are (8 for that of the mesh process, 1 for a sidecar's segment).
const SMALL_DISK: &str = r#"
for word; do case "$previous" in --state) state=$word;; esac; previous=$word; done
mkdir -m 700 "$state/wal" && mount -t tmpfs -o size=24m,mode=700 none "$state/wal" && exec "$@"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_the_write_ahead_log_denies_and_forwards_nothing() {
    let seen = std::env::temp_dir().join(format!("rv-{}-full", std::process::id()));
    drop(fs::remove_file(&seen));
    let folder = folder(&seen);
    let wrapper = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        SMALL_DISK,
        "sh",
    ];
    let how = Start {
        wrapper: wrapper.map(str::to_owned).to_vec(),
        ..Start::default()
    };
    let mesh = Mesh::start_with(folder, &how).await;
    let address = to_echo(&mesh);
    assert_eq!(get("/").status(address).await, Ok(200));

    // Nothing can be shipped, so nothing makes room; then the disk is filled.
    let held = crate::mesh_outage::hold_down(&mesh).await;
    let inside = PathBuf::from(format!("/proc/{}/root", mesh.supervisor_pid()));
    let wal = inside
        .join(mesh.state.strip_prefix("/").expect("an absolute path"))
        .join("wal");
    fill(&wal.join("filler"));

    // What is reserved must be written full first, by each worker.
    let target = Target {
        address,
        protocol: Protocol::Http1,
        call: get("/"),
        bad_text: None,
    };
    let load = Load::start("full", vec![target; 4], Duration::from_millis(1));
    eventually("requests are denied", LIMIT, async || {
        let (before, _) = load.so_far();
        tokio::time::sleep(Duration::from_secs(1)).await;
        match load.so_far() {
            (served, denied) if served == before && denied > 0 => Ok(()),
            (served, denied) => Err(format!("{served} served, {denied} denied")),
        }
    })
    .await;
    let denied = load.stop().await.failures;
    for extra in 0..50 {
        let call = get("/").header("x-request-id", &format!("denied-{extra}"));
        assert_ne!(call.status(address).await, Ok(200));
    }
    let reached = fs::read_to_string(&seen).expect("what the application saw");
    assert!(
        !reached.contains("denied-"),
        "a request passed without a record"
    );
    for failure in denied {
        let refused = failure.what.starts_with("403") || failure.what.starts_with("503");
        assert!(refused, "{failure:?}");
        let forwarded = reached.contains(&format!("{} ", failure.id));
        assert!(!forwarded, "a denied request was forwarded: {failure:?}");
    }

    fs::remove_file(wal.join("filler")).expect("room again");
    drop(held);
    eventually("requests pass again", LIMIT, async || {
        match get("/").status(address).await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    drop(fs::remove_file(&seen));
    // The write-ahead logs themselves are out of sight here: what the log has of them is whole.
    mesh.verify_audit().await;
}

fn folder(seen: &Path) -> Folder {
    let mut backend = echo("echo-v1", "echo", "v1");
    backend["env"]["ECHO_LOG"] = json!(seen.display().to_string());
    Folder::new()
        .with(
            "mesh.yaml",
            settings(json!({"audit": {"recordedHeaders": [], "walMaxBytes": 4_194_304}})),
        )
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&[sidecar("client"), backend]))
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", CLIENT_TO_ECHO))
}

/// Writes until the file system is full.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).expect("the filler");
    for block in [65_536, 4096, 512, 1] {
        let block = vec![1_u8; block];
        while file.write_all(&block).is_ok() {}
    }
}
