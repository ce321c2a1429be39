//! `reeve config check` and `reeve up` on a broken folder, as a user calls them.

use std::{fs, process::Command};

const BROKEN: &str = "\
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec:
  selector: {app: reviews}
  ports: [{port: 9080, name: http}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http:
    - rout:
        - destination: {host: reviews}
";

#[test]
fn a_broken_folder_is_refused_with_file_line_and_key_path() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("broken.yaml"), BROKEN).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_reeve"))
        .args(["config", "check", "-f"])
        .arg(folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("broken.yaml:14"), "{text}");
    assert!(text.contains("spec.http[0].rout"), "{text}");

    let state = folder.path().join("state");
    let output = Command::new(env!("CARGO_BIN_EXE_reeve"))
        .args(["up", "-f"])
        .arg(folder.path())
        .arg("--state")
        .arg(&state)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("broken.yaml:14"), "{text}");
    assert!(!state.exists(), "nothing is started or made");
}

#[test]
fn a_folder_that_is_not_there_could_not_be_checked() {
    let output = Command::new(env!("CARGO_BIN_EXE_reeve"))
        .args(["config", "check", "-f", "/nowhere/at/all"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in ["error:", "at: /nowhere/at/all", "fix:"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
}
