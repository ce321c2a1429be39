//! `reeve policy new`: what it writes for every intent passes `check`, `fmt` and `test`, against the demo's folder.

#[cfg(test)]
mod new {
    use std::{
        collections::BTreeSet,
        path::Path,
        process::{Command, Output},
    };

    use serde_json::Value;

    const BOOKINFO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/bookinfo/mesh");

    /// An example of every intent; several for those that come in shapes.
    const EXAMPLES: &[(&str, &[&str])] = &[
        (
            "allow-callers",
            &["service=reviews", "callers=bookinfo-productpage"],
        ),
        (
            "allow-callers",
            &[
                "service=reviews",
                "callers=bookinfo-productpage,bookinfo-details,spiffe://partner.example/ns/a/sa/b",
                "methods=get,head",
                "path=/reviews/*",
            ],
        ),
        (
            "allow-callers",
            &[
                "service=details",
                "callers=namespace:default",
                "path=/details/0",
            ],
        ),
        (
            "allow-callers",
            &["service=store", "callers=default/bookinfo-ratings-v2"],
        ),
        (
            "allow-grpc",
            &[
                "service=ratings",
                "callers=bookinfo-reviews",
                "methods=shop.Ratings/Get,shop.Health",
            ],
        ),
        (
            "only-role-may-write",
            &[
                "service=ratings",
                "issuer=https://issuer.example",
                "role=editor",
            ],
        ),
        (
            "only-role-may-write",
            &[
                "namespace=default",
                "issuer=https://i.example",
                "claim=realm.roles",
                "role=shop \"admin\"",
            ],
        ),
        (
            "require-scope",
            &[
                "service=reviews",
                "issuer=https://issuer.example",
                "scope=reviews:read",
            ],
        ),
        ("block-path", &["service=productpage", "path=/admin"]),
        (
            "block-path",
            &[
                "namespace=default",
                "path=/admin/*",
                "except=ingress,bookinfo-details",
            ],
        ),
        ("business-hours", &["service=store"]),
        (
            "business-hours",
            &[
                "service=reviews",
                "from=22:30",
                "to=06:00",
                "utc-offset=-05:30",
            ],
        ),
        (
            "business-hours",
            &["namespace=default", "utc-offset=+02:00"],
        ),
        ("isolate-namespace", &["namespace=default"]),
        (
            "isolate-namespace",
            &[
                "namespace=default",
                "allow=spiffe://partner.example/ns/a/sa/b",
            ],
        ),
        ("require-mtls", &["service=store"]),
        ("require-mtls", &["namespace=default"]),
        ("freeze", &["namespace=default", "until=2030-12-31"]),
        ("freeze", &["service=reviews", "until=2030-12-31T18:00:00Z"]),
    ];

    fn reeve(args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reeve"));
        command.args(args).output().expect("`reeve` runs")
    }

    fn said(output: &Output) -> String {
        let text = [output.stdout.as_slice(), &output.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn passes(args: &[&str], what: &str) -> String {
        let output = reeve(args);
        assert!(
            output.status.success(),
            "{what}: {args:?}: {}",
            said(&output)
        );
        said(&output)
    }

    fn new<'a>(intent: &'a str, params: &'a [&str], more: &[&'a str]) -> Vec<&'a str> {
        let params = params.iter().flat_map(|param| ["--param", *param]);
        let verb = ["policy", "new", intent].into_iter();
        verb.chain(params).chain(more.iter().copied()).collect()
    }

    fn text(path: &Path) -> &str {
        path.to_str().expect("a path of UTF-8")
    }

    #[test]
    fn what_is_written_for_every_intent_passes_check_fmt_and_test() {
        for (number, (intent, params)) in EXAMPLES.iter().enumerate() {
            let what = format!("{intent} {params:?}");
            let folder = tempfile::tempdir().expect("a folder");
            for file in std::fs::read_dir(BOOKINFO).expect("the demo's folder") {
                let file = file.expect("a file").path();
                let name = file.file_name().expect("a name");
                std::fs::copy(&file, folder.path().join(name)).expect("a copy");
            }
            let mesh = text(folder.path());
            let out = folder.path().join("new.yaml");
            let cases = folder.path().join(".reeve/policy-tests/new.yaml");
            passes(
                &new(intent, params, &["-f", mesh, "--out", text(&out)]),
                &what,
            );
            passes(&["policy", "fmt", "--check", text(&out)], &what);
            passes(&["policy", "check", "-f", mesh, text(&out)], &what);
            passes(&["config", "check", "-f", mesh], &what);
            let told = passes(&["policy", "test", text(&cases)], &what);
            assert!(!told.contains("in no case: default/new"), "{what}: {told}");

            // Without a folder and files, both come to standard output, and say the same.
            let again = passes(&new(intent, params, &["-o", "json"]), &what);
            let made: Value = serde_json::from_str(&again).expect("JSON");
            let alone = folder.path().join(format!("cases-{number}.yaml"));
            let cases = made["cases"].as_str().expect("cases");
            std::fs::write(&alone, cases).expect("to write");
            passes(&["policy", "test", text(&alone)], &what);
        }
    }

    #[test]
    fn every_intent_is_listed_and_has_an_example() {
        let listed = passes(&["policy", "new"], "list");
        let json = passes(&["policy", "new", "-o", "json"], "list");
        let json: Value = serde_json::from_str(&json).expect("JSON");
        let names: BTreeSet<_> = json
            .as_array()
            .expect("a list")
            .iter()
            .map(|intent| intent["name"].as_str().expect("a name"))
            .collect();
        let tried = EXAMPLES.iter().map(|(intent, _)| *intent);
        let tried: BTreeSet<_> = tried.chain(["break-glass"]).collect();
        assert_eq!(names, tried);
        for name in names {
            assert!(listed.contains(&format!("{name}: ")), "{name}: {listed}");
        }
    }

    #[test]
    fn wrong_parameters_are_refused_with_what_was_likely_meant() {
        let callers = "callers=bookinfo-productpage";
        for (intent, params, told) in [
            ("alow-callers", &[][..], "did you mean allow-callers?"),
            ("allow-callers", &[callers], "needs service"),
            (
                "allow-callers",
                &["service=reveiws", callers],
                "did you mean reviews.default",
            ),
            (
                "allow-callers",
                &["service=reviews", "callers=bookinfo-productpge"],
                "did you mean mesh.local/ns/default/sa/bookinfo-productpage?",
            ),
            (
                "allow-callers",
                &["service=reviews", "caller=x"],
                "did you mean callers?",
            ),
            (
                "allow-callers",
                &["service=reviews", callers, "methods=FETCH"],
                "no method",
            ),
            (
                "allow-callers",
                &["service=reviews", callers, callers],
                "given twice",
            ),
            (
                "allow-callers",
                &["service=store", callers, "path=/x"],
                "no path",
            ),
            ("block-path", &["path=/a"], "either service or namespace"),
            (
                "block-path",
                &["service=reviews", "path=admin"],
                "write /admin",
            ),
            (
                "block-path",
                &["service=store", "path=/admin"],
                "speaks no HTTP",
            ),
            (
                "freeze",
                &["namespace=defualt", "until=2030-01-01"],
                "did you mean mesh.local/ns/default?",
            ),
            ("freeze", &["namespace=default", "until=soon"], "not a date"),
            (
                "business-hours",
                &["service=reviews", "from=25:00"],
                "no time of day",
            ),
            (
                "isolate-namespace",
                &["namespace=default", "allow=a b"],
                "no caller",
            ),
        ] {
            let output = reeve(&new(intent, params, &["-f", BOOKINFO]));
            let said = said(&output);
            assert_eq!(output.status.code(), Some(1), "{intent} {params:?}: {said}");
            assert!(said.contains(told), "{told} is not in {said}");
        }
    }

    const ORG: &str = r#"apiVersion: reeve.dev/v1alpha1
kind: AccessSchema
metadata: {name: org, namespace: reeve-system}
spec:
  cedar: |
    entity Department;
    entity Team in [Department];
    entity Workload in [Team];
    @claim("groups") @issuer("https://issuer.example") entity Group;
    entity User in [Group];
---
apiVersion: reeve.dev/v1alpha1
kind: AccessEntities
metadata: {name: org, namespace: reeve-system}
spec:
  entities:
  - uid: 'Team::"books"'
    parents: ['Department::"shop"']
  - uid: 'Workload::"spiffe://mesh.local/ns/default/sa/bookinfo-productpage"'
    parents: ['Team::"books"']
"#;

    /// The demo's folder with teams.
    fn with_teams() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for file in std::fs::read_dir(BOOKINFO).expect("the demo's folder") {
            let file = file.expect("a file").path();
            let name = file.file_name().expect("a name");
            std::fs::copy(&file, folder.path().join(name)).expect("a copy");
        }
        std::fs::write(folder.path().join("org.yaml"), ORG).expect("to write");
        folder
    }

    #[test]
    fn groups_and_labels_stand_where_callers_do() {
        for (intent, params, written) in [
            (
                "allow-callers",
                &["service=ratings", "callers=Team::books"][..],
                "principal in Team::\"books\"",
            ),
            (
                "allow-callers",
                &["service=ratings", "callers=Department::\"shop\""],
                "principal in Department::\"shop\"",
            ),
            (
                "allow-callers",
                &[
                    "service=ratings",
                    "callers=label:app=productpage",
                    "path=/ratings/*",
                ],
                "principal is Workload,",
            ),
            (
                "allow-callers",
                &[
                    "service=ratings",
                    "callers=Team::books,label:app=reviews,bookinfo-details",
                ],
                "principal is Workload &&",
            ),
            (
                "isolate-namespace",
                &["namespace=default", "allow=Team::books"],
                "principal in Team::\"books\"",
            ),
            (
                "only-role-may-write",
                &["service=ratings", "role=Group::editors"],
                "context.user in Group::\"editors\"",
            ),
        ] {
            let what = format!("{intent} {params:?}");
            let folder = with_teams();
            let mesh = text(folder.path());
            let out = folder.path().join("new.yaml");
            let cases = folder.path().join(".reeve/policy-tests/new.yaml");
            let made = new(intent, params, &["-f", mesh, "--out", text(&out)]);
            let told = passes(&made, &what);
            let hint = format!("reeve policy test -f {mesh} ");
            assert!(told.contains(&hint), "{what}: {told}");
            let yaml = std::fs::read_to_string(&out).expect("the policy");
            assert!(yaml.contains(written), "{what}: {yaml}");
            passes(&["policy", "fmt", "--check", text(&out)], &what);
            passes(&["policy", "check", "-f", mesh, text(&out)], &what);
            passes(&["config", "check", "-f", mesh], &what);
            passes(&["policy", "test", "-f", mesh, text(&cases)], &what);
        }
        let folder = with_teams();
        let mesh = text(folder.path());
        for (value, told) in [
            ("Taem::books", "did you mean Team?"),
            ("Team::boks", "did you mean books?"),
            ("Group::editors", "workloads are in no Group"),
            ("label:app=nobody", "app is one of: "),
            ("label:app", "no label"),
        ] {
            let callers = format!("callers={value}");
            let params = ["service=ratings", callers.as_str()];
            let output = reeve(&new("allow-callers", &params, &["-f", mesh]));
            let said = said(&output);
            assert_eq!(output.status.code(), Some(1), "{value}: {said}");
            assert!(said.contains(told), "{told} is not in {said}");
        }
        let params = ["service=ratings", "callers=Team::books"];
        let output = reeve(&new("allow-callers", &params, &[]));
        assert!(said(&output).contains("--folder"), "{}", said(&output));
    }

    #[test]
    fn a_grants_policy_is_written_to_be_signed() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| text(&folder.path().join(name)).to_owned();
        let (out, key, grant) = (at("admin.cedar"), at("signer.key"), at("admin.grant"));
        let params = [
            "service=ratings",
            "callers=bookinfo-productpage",
            "methods=GET,POST",
            "path=/admin/*",
        ];
        let made = new("break-glass", &params, &["-f", BOOKINFO, "--out", &out]);
        let told = passes(&made, "break-glass");
        assert!(told.contains("reeve break-glass sign --policy"), "{told}");
        passes(
            &["policy", "test", &at(".reeve/policy-tests/admin.yaml")],
            "its cases",
        );
        passes(&["break-glass", "keygen", "--out", &key], "a key");
        let sign = [
            "break-glass",
            "sign",
            "--policy",
            &out,
            "--namespace",
            "default",
            "--key",
            &key,
            "--id",
            "admin",
            "--issuer",
            "on-call lead",
            "--reason",
            "try",
            "--out",
            &grant,
        ];
        passes(&sign, "signed");
        let yaml = at("admin.yaml");
        let output = reeve(&new(
            "break-glass",
            &params,
            &["-f", BOOKINFO, "--out", &yaml],
        ));
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(
            said(&output).contains("ends in .cedar"),
            "{}",
            said(&output)
        );
    }

    #[test]
    fn a_file_that_is_there_is_not_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("policy.yaml");
        std::fs::write(&out, "mine").expect("to write");
        let params = ["namespace=default", "until=2030-01-01"];
        let output = reeve(&new("freeze", &params, &["--out", text(&out)]));
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert_eq!(std::fs::read_to_string(&out).expect("the file"), "mine");
    }
}
