//! The hidden verbs that keep processes from outliving a mesh.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const REEVE: &str = env!("CARGO_BIN_EXE_reeve");

/// Waits until `pid` is gone or dead and not yet waited for.
fn ends(pid: u32) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(8) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().next());
        if matches!(state, None | Some("Z" | "X")) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn sleeper(mark: Option<&str>) -> std::io::Result<Child> {
    let mut command = Command::new("sleep");
    command.arg("300").process_group(0);
    if let Some(mark) = mark {
        command.env("REEVE_MESH_ID", mark);
    }
    command.spawn()
}

#[test]
fn a_process_dies_with_the_one_that_started_it() {
    let script = format!("{REEVE} run --parent $$ -- sleep 300 & echo $!; wait");
    let mut shell = Command::new("sh")
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(shell.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let pid = line.trim().parse().unwrap();
    // Until it has become `sleep`, the parent's death would be noticed by `reeve run` itself; both are fine.
    std::thread::sleep(Duration::from_millis(300));
    shell.kill().unwrap();
    shell.wait().unwrap();
    assert!(ends(pid), "process {pid} outlived its parent");
}

#[test]
fn a_process_whose_parent_is_gone_does_not_start() {
    let output = Command::new(REEVE)
        .args(["run", "--parent", "1", "--", "echo", "started"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
}

#[test]
fn a_missing_command_is_named_with_what_to_do() {
    let parent = std::process::id().to_string();
    let output = Command::new(REEVE)
        .args(["run", "--parent", &parent, "--", "/no/such/program"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("/no/such/program") && text.contains("fix:"),
        "{text}"
    );
}

#[test]
fn the_guard_ends_groups_and_what_left_them_and_nothing_else() {
    let mark = format!("guard-test-{}", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let (ended, mut forgotten, escaped) = (
        sleeper(None).unwrap(),
        sleeper(None).unwrap(),
        sleeper(Some(&mark)).unwrap(),
    );
    let mut guard = Command::new(REEVE)
        .args(["guard", "--marker", &mark, "--remove"])
        .arg(&state)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = guard.stdin.take().unwrap();
    writeln!(
        pipe,
        "+{}\n+{}\n-{}",
        ended.id(),
        forgotten.id(),
        forgotten.id()
    )
    .unwrap();
    // The supervisor is killed.
    drop(pipe);
    assert!(guard.wait().unwrap().success());
    assert!(ends(ended.id()) && ends(escaped.id()));
    assert_eq!(forgotten.try_wait().unwrap(), None, "it was no longer ours");
    assert!(!state.exists());
    forgotten.kill().unwrap();
    for mut child in [ended, forgotten, escaped] {
        child.wait().unwrap();
    }
}
