//! `reeve policy check`: errors and warnings, each at its line and column, on a copy of the demo's folder.

#[cfg(test)]
mod check {
    use std::{fs, path::Path, process::Command};

    use serde_json::Value;

    const BOOKINFO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/bookinfo/mesh");

    fn bookinfo() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for file in fs::read_dir(BOOKINFO).expect("the demo's folder") {
            let file = file.expect("a file").path();
            let name = file.file_name().expect("a name");
            fs::copy(&file, folder.path().join(name)).expect("a copy");
        }
        folder
    }

    fn check(folder: &Path, more: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reeve"));
        command
            .args(["policy", "check", "-f"])
            .arg(folder)
            .args(more);
        let output = command.output().expect("`reeve` runs");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    fn access_policy(name: &str, cedar: &str) -> String {
        let lines: Vec<_> = cedar.lines().map(|line| format!("    {line}")).collect();
        format!(
            "apiVersion: reeve.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
             spec:\n  cedar: |\n{}\n",
            lines.join("\n")
        )
    }

    #[test]
    fn the_demos_policies_are_beyond_reproach() {
        let (code, text) = check(Path::new(BOOKINFO), &["--deny-warnings"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(
            text.contains("valid (default/ingress#ingress-public,"),
            "{text}"
        );
    }

    #[test]
    fn warnings_name_file_line_and_column_and_show_the_line() {
        let folder = bookinfo();
        let cedar = "permit (\n  principal in ServiceAccount::\"mesh.local/ns/default/sa/bookinfo-productpge\",\n  \
                     action == Action::\"GET\",\n  resource in Service::\"reviews.default.svc.cluster.local\"\n);";
        fs::write(folder.path().join("new.yaml"), access_policy("new", cedar)).expect("to write");
        let (code, text) = check(folder.path(), &[]);
        assert_eq!(code, Some(0), "{text}");
        let at = folder.path().join("new.yaml");
        for part in [
            &format!(
                "{}:7:20: warning[unknown_entity]: default/new: the mesh has no service account mesh.local/ns/default/sa/bookinfo-productpge",
                at.display()
            ),
            "  7 |   principal in ServiceAccount::\"mesh.local/ns/default/sa/bookinfo-productpge\",\n    |                ^\n",
            "fix: did you mean mesh.local/ns/default/sa/bookinfo-productpage?",
            "0 errors, 1 warnings",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let (code, text) = check(folder.path(), &["--deny-warnings"]);
        assert_eq!(code, Some(1), "{text}");
        // Only what is asked about is told, and read beside the folder's own.
        let covered = "permit (\n  principal == Workload::\"spiffe://mesh.local/ns/default/sa/ingress\",\n  \
                       action == Action::\"GET\",\n  resource in Service::\"productpage.default.svc.cluster.local\"\n);";
        let extra = tempfile::tempdir().expect("a folder");
        let extra = extra.path().join("extra.yaml");
        fs::create_dir_all(extra.parent().expect("a folder")).expect("the folder");
        fs::write(&extra, access_policy("extra", covered)).expect("to write");
        let (code, text) = check(
            folder.path(),
            &[extra.to_str().expect("UTF-8"), "-o", "json"],
        );
        assert_eq!(code, Some(0), "{text}");
        let verdict: Value = serde_json::from_str(text.trim()).expect("one file's verdict");
        assert_eq!(verdict["warnings"][0]["code"], "shadowed", "{verdict}");
        assert_eq!(
            verdict["warnings"][0]["message"],
            "it adds nothing: default/productpage#ingress-to-productpage permits all of it"
        );
        assert_eq!(verdict["warnings"][0]["line"], 6);
        assert_eq!(verdict["warnings"][0]["column"], 5);
    }

    #[test]
    fn errors_come_before_all_else() {
        let folder = bookinfo();
        let cedar = "permit (principal, action, resource)\nwhen { context.prot == 80 };";
        fs::write(folder.path().join("new.yaml"), access_policy("new", cedar)).expect("to write");
        let (code, text) = check(folder.path(), &[]);
        assert_eq!(code, Some(1), "{text}");
        let place = format!("{}:7:", folder.path().join("new.yaml").display());
        assert!(text.contains(&place), "{text}");
        assert!(text.contains("error: default/new: "), "{text}");
        assert!(
            text.contains("\n  7 | when { context.prot == 80 };\n"),
            "{text}"
        );
        assert!(text.contains("1 errors, 0 warnings"), "{text}");
    }

    #[test]
    fn a_folder_without_policies_is_no_success() {
        let folder = tempfile::tempdir().expect("a folder");
        let (code, text) = check(folder.path(), &[]);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("there are no policies here"), "{text}");
    }
}
