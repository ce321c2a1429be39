//! A disk that fails (EIO, ENOSPC) or is slow under the write-ahead log: no permit without a record, it is counted, and
//! it heals.
//!
//! Needs `cc` for a library that fails on demand, and `unshare` to load it through a private `/etc/ld.so.preload`: as
//! root, or where user namespaces are allowed.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use futures_util::future::join_all;
use reeve_tests::{
    Call, Folder, Load, Mesh, Protocol, Start, Target, assert_gapless, echo, eventually,
    local_mesh, permit, service, sidecar, strict,
};
use serde_json::json;

use crate::fixture::{CLIENT_TO_ECHO, get, settings, to_echo};

const LIMIT: Duration = Duration::from_secs(20);
/// Requests at once while the fault lasts.
const REQUESTS: usize = 24;

/// `reeve up`, all of whose processes load the library that `PRELOAD` lists; the system's own `/etc` is untouched.
const PRELOADED: &str = r#"
folder=$1; shift
mkdir "$folder/etc" && { cp -a /etc/. "$folder/etc" 2>/dev/null || true; }
cp "$folder/ld.so.preload" "$folder/etc/" && mount --bind "$folder/etc" /etc && exec "$@"
"#;

/// What is there of a disk that fails on demand, and of a clock that jumps.
pub(crate) struct Disk {
    folder: PathBuf,
}

impl Disk {
    fn new(name: &str) -> Self {
        Self::under(name, "/wal/echo-v1-0", ".wal")
    }

    /// One that fails under the files in whose path both parts are.
    pub(crate) fn under(name: &str, part: &str, other: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("rv-{}-{name}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        fs::create_dir(&folder).expect("a folder");
        let library = folder.join("shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("it/faulty_disk/shim.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&library, &source])
            .arg(format!("-DFAULTY=\"{part}\""))
            .arg(format!("-DALSO=\"{other}\""))
            .arg(format!("-DCONTROL=\"{}\"", folder.join("fault").display()))
            .arg(format!("-DCLOCK=\"{}\"", folder.join("clock").display()))
            .status();
        assert!(built.expect("cc").success());
        let list = format!("{}\n", library.display());
        fs::write(folder.join("ld.so.preload"), list).expect("the list");
        Self { folder }
    }

    pub(crate) fn wrapper(&self) -> Vec<String> {
        let unshare = ["unshare", "--user", "--map-root-user", "--mount"];
        let script = ["sh", "-c", PRELOADED, "sh"];
        let words = unshare.into_iter().chain(script).map(str::to_owned);
        words.chain([self.folder.display().to_string()]).collect()
    }

    /// What the application says that it saw.
    pub(crate) fn seen(&self) -> String {
        fs::read_to_string(self.folder.join("seen")).unwrap_or_default()
    }

    /// Where the application says what it saw.
    pub(crate) fn seen_file(&self) -> PathBuf {
        self.folder.join("seen")
    }

    pub(crate) fn fail(&self, how: &str) {
        self.say("fault", how);
    }

    /// Everybody's clock goes so many seconds ahead.
    pub(crate) fn clock_ahead(&self, seconds: i64) {
        self.say("clock", &seconds.to_string());
    }

    fn say(&self, file: &str, what: &str) {
        let unfinished = self.folder.join(format!("{file}.tmp"));
        fs::write(&unfinished, what).expect("the fault");
        fs::rename(unfinished, self.folder.join(file)).expect("the fault");
    }

    pub(crate) fn heal(&self) {
        fs::remove_file(self.folder.join("fault")).expect("the fault's end");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.folder));
    }
}

async fn start(disk: &Disk, level: &str) -> Mesh {
    let mut backend = echo("echo-v1", "echo", "v1");
    backend["env"]["ECHO_LOG"] = json!(disk.seen_file());
    // Without health checks every request that the application sees is one of the test's.
    let audit = json!({"level": level, "recordedHeaders": ["x-request-id"]});
    let folder = Folder::new()
        .with("mesh.yaml", settings(json!({"audit": audit})))
        .with("strict.yaml", strict())
        .with("workloads.yaml", local_mesh(&[sidecar("client"), backend]))
        .with("services.yaml", service("echo", 9080, "http"))
        .with("access.yaml", permit("echo", CLIENT_TO_ECHO));
    let how = Start {
        wrapper: disk.wrapper(),
        ..Start::default()
    };
    Mesh::start_with(folder, &how).await
}

/// A counter of the echo server's sidecar, all series together.
async fn counted(mesh: &Mesh, series: &str) -> u64 {
    let metrics = mesh.inbound("echo-v1-0", 15020);
    let page = Call::get("metrics", "/stats/prometheus")
        .send(metrics)
        .await;
    let page = page.expect("metrics").text();
    let values = page.lines().filter_map(|l| l.strip_prefix(series));
    values
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

const FAILED: &str = "reeve_wal_append_failures_total{what=\"decision\"}";

/// The status of each of many requests at once, named `<name>-<number>`; 0 for none.
async fn ask_many(address: SocketAddr, name: &str) -> Vec<u16> {
    join_all((0..REQUESTS).map(async |number| {
        let call = get("/").header("x-request-id", &format!("{name}-{number}"));
        call.status(address).await.unwrap_or(0)
    }))
    .await
}

async fn passes_again(address: SocketAddr) {
    eventually("requests pass again", LIMIT, async || {
        match get("/").status(address).await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Every request under `fault` is denied and counted by `metric`, the application sees none of them; then it heals.
async fn denies_and_heals(mesh: &Mesh, disk: &Disk, name: &str, fault: &str, metric: &str) {
    let address = to_echo(mesh);
    passes_again(address).await;
    let before = (counted(mesh, FAILED).await, counted(mesh, metric).await);
    disk.fail(fault);
    let statuses = ask_many(address, name).await;
    let after = (counted(mesh, FAILED).await, counted(mesh, metric).await);
    disk.heal();
    assert_eq!(statuses, [503; REQUESTS], "{name}: {fault}");
    assert!(
        !disk.seen().contains(&format!("{name}-")),
        "{name}: a request passed without a record"
    );
    assert!(
        after.0 > before.0 && after.1 > before.1,
        "{name}: {after:?}"
    );
    passes_again(address).await;
}

/// All that the application saw is on record, in a log without a gap.
async fn all_is_recorded(mesh: &Mesh, disk: &Disk) {
    let seen = disk.seen();
    let ids = || {
        seen.split_whitespace()
            .filter(|word| word.contains("slow-"))
    };
    eventually("the log has them", LIMIT, async || {
        let records = mesh.records(&[]).await;
        let recorded = reeve_tests::request_ids(&records, "echo-v1-0");
        match ids().find(|id| !recorded.contains(*id)) {
            Some(id) => Err(format!("{id} was seen and is not recorded")),
            None => {
                assert_gapless(&records);
                Ok(())
            }
        }
    })
    .await;
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_level_os_a_write_that_fails_denies_and_a_slow_one_sheds() {
    let disk = Disk::new("faulty-os");
    let mesh = start(&disk, "os").await;
    let address = to_echo(&mesh);
    denies_and_heals(&mesh, &disk, "eio", "write 5", FAILED).await;
    denies_and_heals(&mesh, &disk, "enospc", "write 28", FAILED).await;

    // Nothing waits for the disk at this level.
    disk.fail("sync -60000");
    assert_eq!(ask_many(address, "slow-sync").await, [200; REQUESTS]);
    disk.heal();

    // A write that hangs holds its worker up; the requests behind it are shed, and none passes before its record.
    let metric = "reeve_limit_hits_total{limit=\"overload_delay\"}";
    let before = counted(&mesh, metric).await;
    let target = Target {
        address,
        protocol: Protocol::Http1,
        call: get("/"),
        bad_text: None,
    };
    let load = Load::start("slow-write", vec![target; 16], Duration::from_millis(1));
    disk.fail("write -300");
    eventually("requests are shed", LIMIT, async || {
        // How many of them is the machine's affair: each shed request was refused on all of its tries.
        let ((served, _), shed) = (load.so_far(), load.shed_so_far());
        match shed > 0 && counted(&mesh, metric).await > before {
            true => Ok(()),
            false => Err(format!("{shed} shed, {served} served")),
        }
    })
    .await;
    disk.heal();
    let (shed, seen) = (load.stop().await.shed, disk.seen());
    for id in shed {
        let forwarded = seen.contains(&format!("{id} "));
        assert!(!forwarded, "a shed request was forwarded: {id}");
    }
    passes_again(address).await;
    all_is_recorded(&mesh, &disk).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_level_disk_a_sync_that_fails_or_is_slow_denies() {
    let disk = Disk::new("faulty-disk");
    let mesh = start(&disk, "disk").await;
    let address = to_echo(&mesh);
    denies_and_heals(&mesh, &disk, "eio", "write 5", FAILED).await;
    denies_and_heals(&mesh, &disk, "enospc", "write 28", FAILED).await;
    denies_and_heals(&mesh, &disk, "sync-eio", "sync 5", FAILED).await;
    let late = "reeve_limit_hits_total{limit=\"record_timeout\"}";
    denies_and_heals(&mesh, &disk, "sync-late", "sync -6000", late).await;

    // Slow, and not too slow: all pass, and wait for it together.
    disk.fail("sync -300");
    let began = std::time::Instant::now();
    assert_eq!(ask_many(address, "slow-sync").await, [200; REQUESTS]);
    let took = began.elapsed();
    disk.heal();
    assert!(
        took < Duration::from_secs(5),
        "one after the other: {took:?}"
    );
    all_is_recorded(&mesh, &disk).await;
}
