//! `reeve policy diff`, `apply`, `history` and `rollback` on a copy of the demo's folder, on which no mesh runs.

#[cfg(test)]
mod apply {
    use std::{fs, path::Path, process::Command};

    use serde_json::Value;
    use tempfile::TempDir;

    const BOOKINFO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/bookinfo/mesh");
    /// The product page may ask ratings.
    const RATINGS: &str = "permit (\n  principal == Workload::\"spiffe://mesh.local/ns/default/sa/bookinfo-productpage\",\n  \
                           action == Action::\"GET\",\n  resource in Service::\"ratings.default.svc.cluster.local\"\n);";

    struct Mesh {
        folder: TempDir,
        /// Where no mesh's state is.
        state: TempDir,
    }

    struct Ran {
        code: Option<i32>,
        text: String,
    }

    impl Mesh {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            for file in fs::read_dir(BOOKINFO).expect("the demo's folder") {
                let file = file.expect("a file").path();
                let name = file.file_name().expect("a name");
                fs::copy(&file, folder.path().join(name)).expect("a copy");
            }
            let state = tempfile::tempdir().expect("a folder");
            Self { folder, state }
        }

        fn path(&self) -> &Path {
            self.folder.path()
        }

        /// `reeve policy VERB … --to FOLDER`.
        fn policy(&self, args: &[&str]) -> Ran {
            let mut command = Command::new(env!("CARGO_BIN_EXE_reeve"));
            command
                .arg("policy")
                .args(args)
                .arg("--to")
                .arg(self.path());
            command.env("USER", "alice").env_remove("SUDO_USER");
            let output = command.arg("--state").arg(self.state.path()).output();
            let output = output.expect("`reeve` runs");
            let text = [output.stdout, output.stderr].concat();
            Ran {
                code: output.status.code(),
                text: String::from_utf8_lossy(&text).into_owned(),
            }
        }

        fn hash(&self) -> String {
            let ran = self.policy(&["diff", text(self.path()), text(self.path()), "-o", "json"]);
            ran.json()["after"].as_str().expect("a hash").to_owned()
        }
    }

    impl Ran {
        fn json(&self) -> Value {
            serde_json::from_str(&self.text)
                .unwrap_or_else(|error| panic!("{error}: {}", self.text))
        }
    }

    /// So much of a hash names it.
    fn short(hash: &str) -> &str {
        hash.get(..8).expect("a hash")
    }

    fn text(path: &Path) -> &str {
        path.to_str().expect("a path of UTF-8")
    }

    fn access_policy(name: &str, cedar: &str) -> String {
        let lines: Vec<_> = cedar.lines().map(|line| format!("    {line}")).collect();
        format!(
            "apiVersion: reeve.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
             spec:\n  cedar: |\n{}\n",
            lines.join("\n")
        )
    }

    /// A folder with one file.
    fn candidate(name: &str, cedar: &str) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(
            folder.path().join(format!("{name}.yaml")),
            access_policy(name, cedar),
        )
        .expect("to write");
        folder
    }

    #[test]
    fn what_would_change_is_shown_and_nothing_is_written_unasked() {
        let mesh = Mesh::new();
        let before = mesh.hash();
        let new = candidate("page-to-ratings", RATINGS);
        let new = text(new.path());
        let shown = mesh.policy(&["apply", new, "--dry-run"]);
        assert_eq!(shown.code, Some(0), "{}", shown.text);
        for part in [
            "added: default/page-to-ratings\n  +permit (",
            "+ spiffe://mesh.local/ns/default/sa/bookinfo-productpage -> ratings.default.svc.cluster.local (spiffe://mesh.local/ns/default/sa/bookinfo-ratings) GET: no -> yes",
            "would change: page-to-ratings.yaml",
        ] {
            assert!(
                shown.text.contains(part),
                "{part} is not in\n{}",
                shown.text
            );
        }
        assert_eq!(mesh.hash(), before, "nothing was written");
        let unasked = mesh.policy(&["apply", new]);
        assert_eq!(unasked.code, Some(2), "{}", unasked.text);
        assert!(unasked.text.contains("--yes"), "{}", unasked.text);
        assert_eq!(mesh.hash(), before, "nothing was written");
    }

    #[test]
    fn what_was_applied_is_kept_with_who_and_what_for() {
        let mesh = Mesh::new();
        let before = mesh.hash();
        let new = candidate("page-to-ratings", RATINGS);
        let new = text(new.path());
        let applied = mesh.policy(&["apply", new, "--yes", "--note", "review 42"]);
        assert_eq!(applied.code, Some(0), "{}", applied.text);
        assert!(
            applied.text.contains("no mesh runs on this folder"),
            "{}",
            applied.text
        );
        let after = mesh.hash();
        assert_ne!(after, before);
        let again = mesh.policy(&["apply", new, "--yes"]);
        assert_eq!(again.code, Some(0), "{}", again.text);
        assert!(again.text.contains("nothing to change"), "{}", again.text);

        let history = mesh.policy(&["history", "-o", "json"]).json();
        let told: Vec<_> = history
            .as_array()
            .expect("entries")
            .iter()
            .map(|e| {
                (
                    e["what"].as_str(),
                    e["hash"].as_str(),
                    e["by"].as_str(),
                    e["note"].as_str(),
                )
            })
            .collect();
        let alice = Some("alice");
        assert_eq!(
            told,
            [
                (Some("found"), Some(before.as_str()), alice, None),
                (
                    Some("apply"),
                    Some(after.as_str()),
                    alice,
                    Some("review 42")
                ),
            ]
        );
        let table = mesh.policy(&["history"]);
        assert!(table.text.contains("review 42"), "{}", table.text);
    }

    #[test]
    fn a_rollback_leaves_the_folder_as_it_was_before() {
        let mesh = Mesh::new();
        let before = mesh.hash();
        let new = candidate("page-to-ratings", RATINGS);
        let applied = mesh.policy(&["apply", text(new.path()), "--yes"]);
        assert_eq!(applied.code, Some(0), "{}", applied.text);
        let after = mesh.hash();
        let back = mesh.policy(&["rollback", "--yes"]);
        assert_eq!(back.code, Some(0), "{}", back.text);
        assert!(
            back.text.contains("removed: default/page-to-ratings"),
            "{}",
            back.text
        );
        assert_eq!(mesh.hash(), before);
        for file in fs::read_dir(BOOKINFO).expect("the demo's folder") {
            let file = file.expect("a file").path();
            let copy = mesh.path().join(file.file_name().expect("a name"));
            assert_eq!(
                fs::read(&file).ok(),
                fs::read(&copy).ok(),
                "{}",
                copy.display()
            );
        }
        assert!(!mesh.path().join("page-to-ratings.yaml").exists());
        let forth = mesh.policy(&["rollback", short(&after), "--yes"]);
        assert_eq!(forth.code, Some(0), "{}", forth.text);
        assert_eq!(mesh.hash(), after);
        let differ = mesh.policy(&["diff", short(&before), short(&after)]);
        assert_eq!(differ.code, Some(1), "{}", differ.text);
        assert!(
            differ.text.contains("added: default/page-to-ratings"),
            "{}",
            differ.text
        );
    }

    #[test]
    fn what_is_wrong_or_fails_a_case_is_refused_and_nothing_is_written() {
        let mesh = Mesh::new();
        let before = mesh.hash();
        let broken = candidate(
            "broken",
            "permit (principal, action, resource) when { context.prot == 1 };",
        );
        let refused = mesh.policy(&["apply", text(broken.path()), "--yes"]);
        assert_eq!(refused.code, Some(1), "{}", refused.text);
        assert!(refused.text.contains("prot"), "{}", refused.text);

        // The demo's cases say that the product page does not ask ratings itself.
        let new = candidate("page-to-ratings", RATINGS);
        let cases = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/bookinfo/cases.yaml");
        let failed = mesh.policy(&["apply", text(new.path()), "--yes", "--tests", cases]);
        assert_eq!(failed.code, Some(1), "{}", failed.text);
        for part in [
            "FAIL",
            "it does not ask ratings itself",
            "refused: nothing was changed",
        ] {
            assert!(
                failed.text.contains(part),
                "{part} is not in\n{}",
                failed.text
            );
        }
        assert_eq!(mesh.hash(), before);
        assert!(!mesh.path().join("page-to-ratings.yaml").exists());
        assert_eq!(
            mesh.policy(&["history"]).code,
            Some(1),
            "nothing was applied"
        );
        let nowhere = mesh.policy(&["rollback", "--yes"]);
        assert_eq!(nowhere.code, Some(2), "{}", nowhere.text);
        let left: Vec<_> = fs::read_dir(mesh.path().join(".reeve"))
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn cases_of_the_folder_are_tried_on_what_will_be_in_it() {
        let mesh = Mesh::new();
        let out = mesh.path().join("block.yaml");
        let mut new = Command::new(env!("CARGO_BIN_EXE_reeve"));
        new.args([
            "policy",
            "new",
            "block-path",
            "--name",
            "block",
            "-p",
            "service=productpage",
            "-p",
            "path=/admin",
        ]);
        let made = new
            .arg("-f")
            .arg(mesh.path())
            .arg("--out")
            .arg(&out)
            .output();
        assert!(made.expect("`reeve` runs").status.success());
        // Another path: the policy's own cases, which stand in the folder, fail.
        let written = fs::read_to_string(&out)
            .expect("the policy")
            .replace("/admin", "/other");
        let other = tempfile::tempdir().expect("a folder");
        fs::write(other.path().join("block.yaml"), written).expect("to write");
        let failed = mesh.policy(&["apply", text(other.path()), "--yes"]);
        assert_eq!(failed.code, Some(1), "{}", failed.text);
        assert!(
            failed.text.contains("FAIL .reeve/policy-tests/block.yaml"),
            "{}",
            failed.text
        );
        // The same with another description passes.
        let good = fs::read_to_string(&out)
            .expect("the policy")
            .replace("nobody asks", "nobody may ask");
        fs::write(other.path().join("block.yaml"), good).expect("to write");
        let applied = mesh.policy(&["apply", text(other.path()), "--yes", "-o", "json"]);
        assert_eq!(applied.code, Some(0), "{}", applied.text);
        let outcome = applied.json();
        assert_eq!(
            (&outcome["applied"], &outcome["rehearsal"]["cases"]),
            (&true.into(), &2.into())
        );
        assert_eq!(outcome["files"], serde_json::json!(["block.yaml"]));
    }

    #[test]
    fn with_only_these_the_others_go() {
        let mesh = Mesh::new();
        let new = candidate("page-to-ratings", RATINGS);
        let applied = mesh.policy(&["apply", text(new.path()), "--only", "--yes", "-o", "json"]);
        assert_eq!(applied.code, Some(0), "{}", applied.text);
        let policies = applied.json()["difference"]["policies"]
            .as_array()
            .expect("changes")
            .len();
        assert_eq!(policies, 7, "six went, and one came");
        assert!(!mesh.path().join("access.yaml").exists());
        assert!(mesh.path().join("services.yaml").exists());
    }

    const SCHEMA: &str = "apiVersion: reeve.dev/v1alpha1\nkind: AccessSchema\nmetadata: {name: org, namespace: reeve-system}\n\
                          spec:\n  cedar: |\n    entity Team;\n    entity Workload in [Team] { tier?: String };\n";

    /// Who is in the team.
    fn team(account: &str, tier: &str) -> String {
        format!(
            "apiVersion: reeve.dev/v1alpha1\nkind: AccessEntities\nmetadata: {{name: org, namespace: reeve-system}}\nspec:\n  entities:\n\
             \x20 - uid: 'Workload::\"spiffe://mesh.local/ns/default/sa/{account}\"'\n    parents: ['Team::\"books\"']\n\
             \x20   attrs: {{tier: {tier}}}\n"
        )
    }

    #[test]
    fn schema_and_entities_are_applied_and_taken_back_with_the_policies() {
        let mesh = Mesh::new();
        let first = mesh.hash();
        let permit = r#"permit (principal in Team::"books", action == Action::"GET", resource in Service::"ratings.default.svc.cluster.local");"#;
        let new = candidate("books", permit);
        fs::write(
            new.path().join("org.yaml"),
            format!("{SCHEMA}---\n{}", team("bookinfo-productpage", "gold")),
        )
        .expect("to write");
        let ran = mesh.policy(&["apply", text(new.path()), "--yes"]);
        assert_eq!(ran.code, Some(0), "{}", ran.text);
        for told in [
            "added: default/books",
            "changed: the schema",
            "+entity Team;",
            "changed: Workload::\"spiffe://mesh.local/ns/default/sa/bookinfo-productpage\"",
            "+in Team::\"books\"",
            "+tier: \"gold\"",
            "+ spiffe://mesh.local/ns/default/sa/bookinfo-productpage -> ratings",
        ] {
            assert!(ran.text.contains(told), "{told}: {}", ran.text);
        }
        assert!(mesh.path().join("org.yaml").is_file());
        let second = mesh.hash();

        // Who is in a team, alone: another set, with what it means.
        let moved = tempfile::tempdir().expect("a folder");
        fs::write(
            moved.path().join("teams.yaml"),
            team("bookinfo-details", "iron"),
        )
        .expect("to write");
        let ran = mesh.policy(&["apply", text(moved.path()), "--dry-run", "-o", "json"]);
        let json = ran.json();
        assert_eq!(json["files"], serde_json::json!(["org.yaml"]), "{json}");
        assert_eq!(json["difference"]["policies"], serde_json::json!([]));
        let changed: Vec<_> = json["difference"]["entities"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|e| e["change"].clone())
            .collect();
        assert_eq!(changed, ["changed", "changed"]);
        let ran = mesh.policy(&["apply", text(moved.path()), "--yes"]);
        assert_eq!(ran.code, Some(0), "{}", ran.text);
        assert!(
            ran.text
                .contains("- spiffe://mesh.local/ns/default/sa/bookinfo-productpage -> ratings"),
            "{}",
            ran.text
        );
        let third = mesh.hash();
        assert!(third != second && second != first);
        let ran = mesh.policy(&["diff", &second, &third]);
        assert_eq!(ran.code, Some(1), "{}", ran.text);
        assert!(ran.text.contains("-in Team::\"books\""), "{}", ran.text);

        // Back, one set at a time: to the letter.
        let ran = mesh.policy(&["rollback", "--yes"]);
        assert_eq!((ran.code, mesh.hash()), (Some(0), second), "{}", ran.text);
        let ran = mesh.policy(&["rollback", "--yes", first.as_str()]);
        assert_eq!((ran.code, mesh.hash()), (Some(0), first), "{}", ran.text);
        assert!(!mesh.path().join("org.yaml").exists());
        let ran = mesh.policy(&["rollback", "--yes", third.as_str()]);
        assert_eq!((ran.code, mesh.hash()), (Some(0), third), "{}", ran.text);
    }

    #[test]
    fn entities_that_do_not_fit_are_refused_and_other_kinds_stay() {
        let mesh = Mesh::new();
        let permit = r#"permit (principal in Team::"books", action == Action::"GET", resource in Service::"ratings.default.svc.cluster.local");"#;
        let new = candidate("books", permit);
        let org = format!("{SCHEMA}---\n{}", team("bookinfo-productpage", "gold"));
        fs::write(new.path().join("org.yaml"), org).expect("to write");
        let ran = mesh.policy(&["apply", text(new.path()), "--yes"]);
        assert_eq!(ran.code, Some(0), "{}", ran.text);
        let moved = tempfile::tempdir().expect("a folder");

        // What does not fit is refused with its place, and nothing changes.
        fs::write(
            moved.path().join("teams.yaml"),
            team("bookinfo-details", "[iron]"),
        )
        .expect("to write");
        let before = fs::read_to_string(mesh.path().join("org.yaml")).expect("the file");
        let ran = mesh.policy(&["apply", text(moved.path()), "--yes"]);
        assert_eq!(ran.code, Some(1), "{}", ran.text);
        assert!(
            ran.text.contains("org.yaml:") && ran.text.contains("tier"),
            "{}",
            ran.text
        );
        assert_eq!(
            fs::read_to_string(mesh.path().join("org.yaml")).expect("the file"),
            before
        );

        // Only these: of the kinds that are given, no others stay.
        let other = candidate("other", RATINGS);
        let ran = mesh.policy(&["apply", text(other.path()), "--only", "--yes"]);
        assert_eq!(ran.code, Some(0), "{}", ran.text);
        assert!(mesh.path().join("org.yaml").is_file(), "the schema stays");
        assert!(ran.text.contains("removed: default/books"), "{}", ran.text);
    }
}
