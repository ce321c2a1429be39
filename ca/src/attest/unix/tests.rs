use std::{fs, os::unix::fs::symlink, process::Stdio, time::Duration};

use reeve_core::Selector;
use tokio::{
    net::{UnixListener, UnixStream},
    process::{Child, Command},
};

use super::*;

fn has(known: &Selectors, text: &str) -> bool {
    let asked: Selectors = [Selector::parse(text).unwrap()].into_iter().collect();
    known.have_all_of(&asked)
}

/// A process that has connected to us and does nothing further.
async fn child() -> (UnixPeer, UnixStream, Child, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let script =
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)";
    let child = Command::new("python3")
        .args(["-c", script])
        .arg(&path)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    (UnixPeer::of(&stream).unwrap(), stream, child, folder)
}

/// A `/proc` that says of `pid` what somebody else is.
fn forged(pid: u32) -> tempfile::TempDir {
    let proc = tempfile::tempdir().unwrap();
    let folder = proc.path().join(pid.to_string());
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("status"), "Name:\tx\nGroups:\t7 4242 \n").unwrap();
    fs::write(folder.join("cgroup"), "0::/system.slice/vault.service\n").unwrap();
    symlink("/bin/sh", folder.join("exe")).unwrap();
    proc
}

#[tokio::test]
async fn a_process_is_known_by_what_the_kernel_says() {
    let (near, _far) = UnixStream::pair().unwrap();
    let peer = UnixPeer::of(&near).unwrap();
    let evidence = Evidence::Process {
        peer: &peer,
        hashed: true,
    };
    let known = UnixAttestor::default().attest(evidence).await.unwrap();
    let known = known.unwrap();
    assert!(known.identities.is_empty());
    let executable = std::env::current_exe().unwrap();
    let bytes = fs::read(&executable).unwrap();
    let digest = aws_lc_rs::digest::digest(&SHA256, &bytes);
    for fact in [
        format!("unix:uid:{}", peer.uid),
        format!("unix:gid:{}", peer.gid),
        format!("unix:path:{}", executable.display()),
        format!("unix:sha256:{}", hex::encode(digest)),
    ] {
        assert!(has(&known.selectors, &fact), "{fact}: {known:?}");
    }
    for fiction in [
        format!("unix:uid:{}", peer.uid + 1),
        "unix:path:/bin/sh".to_owned(),
        format!("unix:sha256:{}", "0".repeat(64)),
    ] {
        assert!(!has(&known.selectors, &fiction), "{fiction}");
    }
    let unhashed = Evidence::Process {
        peer: &peer,
        hashed: false,
    };
    let known = UnixAttestor::default().attest(unhashed).await.unwrap();
    let kinds: Vec<_> = known
        .unwrap()
        .selectors
        .iter()
        .map(Selector::kind)
        .collect();
    assert!(!kinds.contains(&"unix:sha256"), "{kinds:?}");
    let token = Evidence::KubernetesToken("t");
    assert_eq!(UnixAttestor::default().attest(token).await, Ok(None));
}

#[tokio::test]
async fn groups_and_the_unit_are_read_while_the_process_lives() {
    let (peer, _stream, _child, _folder) = child().await;
    let proc = forged(peer.pid);
    let known = facts(proc.path(), &peer, false).unwrap();
    for fact in [
        "unix:supplementary_gid:7",
        "unix:supplementary_gid:4242",
        "unix:cgroup:/system.slice/vault.service",
        "systemd:id:vault.service",
    ] {
        assert!(has(&known, fact), "{fact}: {known:?}");
    }
}

/// The process has ended, and what `/proc` has under its number is another one.
#[tokio::test]
async fn a_reused_process_id_proves_nothing() {
    let (peer, stream, mut child, _folder) = child().await;
    let proc = forged(peer.pid);
    drop(stream);
    child.wait().await.unwrap();
    assert_eq!(facts(proc.path(), &peer, false), Err(AttestError::Gone));
}

/// The process ends while it is looked at: here, while its control group is read, from a pipe that the test fills late.
#[tokio::test]
async fn a_process_that_ends_while_it_is_looked_at_is_refused() {
    let (peer, stream, mut child, _folder) = child().await;
    let proc = forged(peer.pid);
    let pipe = proc.path().join(peer.pid.to_string()).join("cgroup");
    fs::remove_file(&pipe).unwrap();
    let made = Command::new("mkfifo").arg(&pipe).status().await.unwrap();
    assert!(made.success());
    let looked = tokio::task::spawn_blocking({
        let (proc, peer) = (proc.path().to_owned(), peer.clone());
        move || facts(&proc, &peer, false)
    });
    // Opening it for writing waits until it is read, which is after the first look at the process.
    let mut writer = tokio::task::spawn_blocking(move || {
        let file = File::options().write(true).open(&pipe).unwrap();
        (file, b"0::/system.slice/vault.service\n")
    })
    .await
    .unwrap();
    drop(stream);
    tokio::time::timeout(Duration::from_secs(60), child.wait())
        .await
        .unwrap()
        .unwrap();
    io::Write::write_all(&mut writer.0, writer.1).unwrap();
    drop(writer);
    assert_eq!(looked.await.unwrap(), Err(AttestError::Gone));
}

#[test]
fn a_unit_is_what_the_system_named() {
    for (path, expected) in [
        ("/system.slice/nginx.service", Some("nginx.service")),
        (
            "/system.slice/system-x.slice/x@1.service/sub",
            Some("x@1.service"),
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/vault.service",
            Some("user@1000.service"),
        ),
        (
            "/user.slice/user-1000.slice/session-3.scope",
            Some("session-3.scope"),
        ),
        ("/kubepods/pod1/vault.service", None),
        ("/", None),
        ("/../../x.service", None),
    ] {
        assert_eq!(unit(path), expected, "{path}");
    }
    assert_eq!(
        control_group("12:pids:/x\n1:name=systemd:/a.slice\n").as_deref(),
        Some("/a.slice")
    );
    assert_eq!(
        control_group("1:name=systemd:/a\n0::/b\n").as_deref(),
        Some("/b")
    );
    assert_eq!(control_group("12:pids:/x\n"), None);
}

#[test]
fn what_is_not_a_group_is_none() {
    assert_eq!(groups("Groups:\t1 x 2\n").collect::<Vec<_>>(), [1, 2]);
    assert_eq!(groups("Name:\tGroups: 1\n").count(), 0);
}
