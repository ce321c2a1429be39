//! No private key touches a disk, and nobody looks into the processes that hold one (issue 8, must show 5).

use std::{
    fs,
    io::{self, Read as _, Seek as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use reeve_tests::{
    Call, Folder, Load, Mesh, Protocol, Scratch, Start, Target, eventually, local_mesh, permit,
    run, service, sidecar, strict, test_tool,
};
use rustix::process::geteuid;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::TcpListener};

use crate::{fixture::settings, tamper::files_below};

pub(crate) mod scanner;

use scanner::{Key, Scanner};

const KEEPER: &str = r#"permit (
  principal == Workload::"spiffe://mesh.local/ns/default/sa/client",
  action,
  resource in Service::"keeper.default.svc.cluster.local"
);"#;
const LIMIT: Duration = Duration::from_secs(90);

/// Without the privileges to look into other processes (ptrace(2); CAP_PERFMON and what holds it read environments), which
/// root would have: what any process of the mesh's user has.
fn unprivileged() -> Vec<String> {
    let words: &[&str] = match geteuid().is_root() {
        true => &["setpriv", "--bounding-set=-sys_ptrace,-perfmon,-sys_admin"],
        false => &[],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Keys that come over TCP, as PEM.
async fn receive(listener: TcpListener, keys: Arc<Mutex<Vec<Key>>>) -> io::Result<()> {
    let (mut stream, _) = listener.accept().await?;
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        *keys.lock().expect("keys") = Key::all_of_pem(&text);
    }
}

/// Every file of the folders and every open file of the processes, searched.
pub(crate) fn scan(
    scanner: &Scanner,
    folders: &[&Path],
    pids: &[(String, i32)],
) -> (Vec<String>, usize) {
    let (mut found, mut count) = (Vec::new(), 0);
    for path in folders.iter().flat_map(|folder| files_below(folder)) {
        if let Ok(bytes) = fs::read(&path) {
            count += 1;
            let kinds = scanner.search(&bytes);
            found.extend(
                kinds
                    .iter()
                    .map(|kind| format!("{}: {kind}", path.display())),
            );
        }
    }
    for (name, pid) in pids {
        for (what, bytes) in open_files(*pid) {
            count += 1;
            let kinds = scanner.search(&bytes);
            found.extend(kinds.iter().map(|kind| format!("{name} {what}: {kind}")));
        }
    }
    (found, count)
}

/// What a process has open and says of itself: files, unlinked ones too, its command line and its environment.
fn open_files(pid: i32) -> Vec<(String, Vec<u8>)> {
    let of = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    let said = ["cmdline", "environ"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), fs::read(of(name)).ok()?)));
    let descriptors = fs::read_dir(of("fd")).into_iter().flatten().flatten();
    let open = descriptors.filter_map(|entry| {
        let path = entry.path();
        // Sockets, pipes and devices have no content to keep.
        if !fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        Some((path.display().to_string(), fs::read(&path).ok()?))
    });
    said.chain(open).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_private_key_of_a_workload_is_on_a_disk_and_nobody_looks_into_who_holds_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let given = Arc::new(Mutex::new(Vec::new()));
    let temporary = Scratch::new("tmpdir");
    let mut wrapper = unprivileged();
    wrapper.extend([
        "env".to_owned(),
        format!("TMPDIR={}", temporary.path().display()),
    ]);
    let how = Start {
        wrapper,
        ..Start::default()
    };
    let mut mesh = Mesh::start_with(folder(listener.local_addr().expect("an address")), &how).await;
    let receiving = tokio::spawn(receive(listener, Arc::clone(&given)));
    let load = Load::start(
        "keys",
        vec![Target {
            address: mesh.outbound("client-0", "keeper", 9080),
            protocol: Protocol::Http2,
            call: Call::get("keeper:9080", "/"),
            bad_text: None,
        }],
        Duration::from_millis(20),
    );
    // Certificates of 15 s: some are renewed meanwhile, each with a key of its own.
    let keys = eventually("three keys have been in use", LIMIT, async || {
        let mut keys = given.lock().expect("keys").clone();
        // The same may be pushed again, with another bundle.
        keys.sort_by(|a, b| a.scalar.cmp(&b.scalar));
        keys.dedup_by(|a, b| a.scalar == b.scalar);
        match keys.len() {
            0..3 => Err(format!(
                "{} keys; {}",
                keys.len(),
                mesh.log("keeper-0.app.log")
            )),
            _ => Ok(keys),
        }
    })
    .await;
    mesh.reeve_ok(&["audit", "verify"]).await;

    let scanner = Scanner::new(keys.clone());
    let (state, configuration) = (mesh.state.clone(), mesh.folder.path().to_owned());
    let folders = [state.as_path(), &configuration, temporary.path()];
    let (found, count) = scan(&scanner, &folders, &mesh.pids());
    assert!(found.is_empty(), "{found:#?}");
    assert!(count > 20, "only {count} files were searched");
    planted_keys_are_found(&scanner, &keys[1], &state.join("logs"));
    nobody_looks_into(&mesh).await;

    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:#?}", report.failures);
    mesh.stop().await;
    let (found, _) = scan(&scanner, &folders, &[]);
    assert!(found.is_empty(), "after the end: {found:#?}");
    receiving.abort();
}

/// The twin: the same search finds the key in every form, in a file among the mesh's and in an open one without a name.
fn planted_keys_are_found(scanner: &Scanner, key: &Key, folder: &Path) {
    let own = i32::try_from(std::process::id()).expect("a process id");
    for (form, bytes) in key.forms() {
        let path = folder.join("planted");
        fs::write(&path, [b"before it ", &*bytes, b" and after"].concat()).expect("a file");
        let (found, _) = scan(scanner, &[folder], &[]);
        assert!(
            found.iter().any(|f| f.contains("planted")),
            "{form} is not found: {found:?}"
        );
        fs::remove_file(&path).expect("the file");
        let mut unnamed = fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .expect("a file");
        fs::remove_file(&path).expect("the file");
        unnamed.write_all(&bytes).expect("to write");
        let (found, _) = scan(scanner, &[], &[("test".to_owned(), own)]);
        assert!(!found.is_empty(), "{form} in an unlinked file is not found");
        unnamed.rewind().expect("to rewind");
        let mut back = Vec::new();
        unnamed.read_to_end(&mut back).expect("to read");
        assert_eq!(back.len(), bytes.len());
    }
}

/// Sidecars and the mesh process let no process of the same user in, and dump no core; an application does.
async fn nobody_looks_into(mesh: &Mesh) {
    let secret = |name: &str| name == "mesh" || name.ends_with("sidecar");
    let (closed, open): (Vec<_>, Vec<_>) = mesh
        .pids()
        .into_iter()
        .filter(|(name, _)| name != "supervisor")
        .partition(|(name, _)| secret(name));
    assert!(closed.len() >= 3 && !open.is_empty(), "{closed:?} {open:?}");
    let mut words = unprivileged();
    words.push(test_tool("python3").display().to_string());
    words.push(
        mesh.folder
            .path()
            .join("look_into.py")
            .display()
            .to_string(),
    );
    words.extend(closed.iter().chain(&open).map(|(_, pid)| pid.to_string()));
    let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
    let outcome = run(Path::new(&words[0]), &args, &[], LIMIT).await;
    let seen = outcome.json();
    for (name, pid) in &closed {
        let ways = &seen[pid.to_string()];
        for way in ["attach", "memory", "environment"] {
            assert!(
                matches!(
                    ways[way].as_str(),
                    Some("Permission denied" | "Operation not permitted")
                ),
                "{name}: {way} is {}",
                ways[way]
            );
        }
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let words: Vec<_> = core.unwrap_or_default().split_whitespace().collect();
        assert_eq!(words.get(4..6), Some(&["0", "0"][..]), "{name}: {limits}");
    }
    // The twins: what is not protected is open by the same ways (an attach may be the kernel's to refuse but for a child).
    for (name, pid) in &open {
        assert_eq!(
            seen[pid.to_string()]["environment"],
            "let in",
            "{name}: {seen}"
        );
    }
    for way in ["attach", "memory", "environment"] {
        assert_eq!(seen["child"][way], "let in", "{seen}");
    }
}

fn folder(keys_to: SocketAddr) -> Folder {
    let keeper = json!({
        "name": "keeper", "serviceAccount": "keeper", "labels": {"app": "keeper"},
        "command": [test_tool("python3"), "${folder}/sds_keys.py"],
        "env": {"KEYS": keys_to.to_string()},
        "ports": [{"port": 9080, "name": "http"}],
        "health": {"httpGet": {"path": "/", "port": 9080}},
    });
    let workloads: [Value; 2] = [sidecar("client"), keeper];
    Folder::new()
        .with("mesh.yaml", settings(json!({"certificateTtl": "15s"})))
        .with("strict.yaml", strict())
        .with("sds_keys.py", include_str!("peers/sds_keys.py"))
        .with("look_into.py", include_str!("peers/look_into.py"))
        .with("workloads.yaml", local_mesh(&workloads))
        .with("keeper.yaml", service("keeper", 9080, "http"))
        .with("access.yaml", permit("keeper", KEEPER))
}
