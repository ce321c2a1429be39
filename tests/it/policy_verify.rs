//! `reeve policy verify` on the demo's folder, with the real solver.

use std::{fs, process::Command};

use reeve_tests::{Folder, binary};
use serde_json::{Value, json};

const ADMITTED: &str = r#"
---
apiVersion: reeve.dev/v1alpha1
kind: AccessPolicy
metadata: {name: sloppy, namespace: default}
spec:
  cedar: |
    permit (principal, action in Action::"http", resource in Namespace::"mesh.local/ns/default")
    when { context.path like "/ratings/*" && context.port == 9080 };
"#;

fn properties() -> String {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/bookinfo/properties.yaml"
    );
    file.to_owned()
}

/// The exit code and what was said; anything on standard error fails the test.
fn verify(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary("reeve"))
        .args(["policy", "verify"])
        .args(args)
        .output()
        .expect("reeve runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.is_empty(), "{complaint}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), said)
}

fn answers(said: &str) -> Vec<Value> {
    let report: Value = serde_json::from_str(said).expect("a report");
    let properties = report["properties"].as_array().expect("properties");
    properties.iter().map(|p| p["answer"].clone()).collect()
}

#[test]
fn the_demos_properties_are_proved() {
    let folder = Folder::bookinfo();
    let mesh = folder.path().to_str().expect("a path");
    let (code, said) = verify(&["-f", mesh, &properties(), "-o", "json"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(answers(&said), ["holds", "holds", "holds", "holds"]);
    let (code, said) = verify(&["-f", mesh]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("holds    default/ratings#reviews-to-ratings changes some answer"));
}

#[test]
fn a_sloppy_policy_is_refuted_by_a_request_that_the_engine_allows() {
    let (old, new) = (Folder::bookinfo(), Folder::bookinfo());
    let access = new.path().join("access.yaml");
    let text = fs::read_to_string(&access).expect("the policies");
    fs::write(&access, text + ADMITTED).expect("the policies are written");
    let (old, mesh) = (old.path(), new.path().to_str().expect("a path"));
    let old = old.to_str().expect("a path");

    let (code, said) = verify(&[
        "-f",
        mesh,
        "--no-more-than",
        old,
        &properties(),
        "-o",
        "json",
    ]);
    assert_eq!(code, Some(1), "{said}");
    // Reviews are asked by others now, ratings are written, and by who has no identity; the gateway lets in as before.
    assert_eq!(
        answers(&said),
        ["fails", "fails", "fails", "holds", "fails"]
    );
    let report: Value = serde_json::from_str(&said).expect("a report");
    let example = &report["properties"][1]["counterexample"];
    let request = &example["request"];
    let path = request["context"]["http"]["path"].as_str().expect("a path");
    assert!(path.starts_with("/ratings/"), "{path}");
    assert_eq!(request["context"]["port"], json!(9080));
    assert_eq!(example["decision"]["policies"], json!(["default/sloppy"]));

    // The command that is shown asks the same, and gets the same answer.
    let (code, said) = verify(&["-f", mesh, &properties()]);
    assert_eq!(code, Some(1), "{said}");
    let mut commands = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("try: "));
    let command = commands.next().expect("a command to try");
    let path = binary("reeve");
    let folder = path.parent().expect("a folder").display();
    let explained = Command::new("sh")
        .args(["-c", &format!("PATH={folder}:$PATH; {command}")])
        .output()
        .expect("sh runs");
    let explained = String::from_utf8_lossy(&explained.stdout);
    assert!(explained.contains("default/sloppy"), "{explained}");

    let (code, said) = verify(&["-f", old, "--no-more-than", mesh]);
    assert_eq!(code, Some(0), "what was permitted still is: {said}");
}
