//! The offline verbs of `reeve policy` on the demo's folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use reeve_tests::{Folder, binary};
use serde_json::Value;

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn reeve(args: &[&str]) -> Ran {
    let output = Command::new(binary("reeve"))
        .args(args)
        .output()
        .expect("reeve runs");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The answer of `reeve policy explain`-like verbs, one value per line.
fn lines(text: &str) -> Vec<Value> {
    let values = text.lines().map(serde_json::from_str);
    values.collect::<Result<_, _>>().expect("lines of JSON")
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of UTF-8")
}

#[test]
fn what_we_ship_is_formatted() {
    let (demo, library) = (project("deploy"), project("policies"));
    let ran = reeve(&["policy", "fmt", "--check", text(&demo), text(&library)]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
}

#[test]
fn the_demos_policies_are_formatted_in_place_and_stay_the_same() {
    let folder = Folder::bookinfo();
    let access = folder.path().join("access.yaml");
    let good = fs::read_to_string(&access).expect("the policies");
    let messy = good
        .replace("    permit (\n", "    permit(\n")
        .replace("    when { context.path", "    when{context.path")
        .replace("spec:\n", "spec:   # the Cedar text\n");
    assert_ne!(good, messy);
    fs::write(&access, &messy).expect("to write");
    let at = text(folder.path());

    let checked = reeve(&["policy", "fmt", "--check", at]);
    assert_eq!(checked.code, Some(1));
    let told = format!("{}: not formatted\n", access.display());
    assert_eq!(
        checked.stdout, told,
        "only that file, and it is not touched"
    );
    assert_eq!(fs::read_to_string(&access).expect("the file"), messy);

    let written = reeve(&["policy", "fmt", "-o", "json", at]);
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    let changed: Vec<_> = lines(&written.stdout)
        .into_iter()
        .filter(|file| file["outcome"] != "unchanged")
        .collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
    assert_eq!(changed[0]["outcome"], "formatted");
    let expected = good.replace("spec:\n", "spec:   # the Cedar text\n");
    assert_eq!(fs::read_to_string(&access).expect("the file"), expected);
    assert_eq!(reeve(&["config", "check", "-f", at]).code, Some(0));

    // A fault leaves the file as it is, and is named.
    let broken = messy.replacen("permit(", "permitt(", 1);
    fs::write(&access, &broken).expect("to write");
    let refused = reeve(&["policy", "fmt", at]);
    assert_eq!(refused.code, Some(1));
    let line = broken
        .lines()
        .position(|l| l.contains("permitt"))
        .expect("the fault")
        + 1;
    let place = format!("{}:{line}:5: ", access.display());
    assert!(refused.stdout.starts_with(&place), "{}", refused.stdout);
    assert_eq!(fs::read_to_string(&access).expect("the file"), broken);

    let nowhere = reeve(&["policy", "fmt", "/nowhere/at/all.cedar"]);
    assert_eq!(nowhere.code, Some(2), "{}", nowhere.stdout);
}

#[test]
fn the_demos_cases_pass_and_cover_all_its_policies() {
    let (mesh, cases) = (
        project("deploy/bookinfo/mesh"),
        project("deploy/bookinfo/cases.yaml"),
    );
    let args = [
        "policy",
        "test",
        "-f",
        text(&mesh),
        text(&cases),
        "--coverage-min",
        "100",
    ];
    let ran = reeve(&args);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert!(
        ran.stdout
            .ends_with("6 of 6 policies decided a case (100 %)\n"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_case_that_a_change_of_policy_breaks_is_told_with_its_nearest_miss() {
    let folder = Folder::bookinfo();
    let narrowed = folder
        .read("access.yaml")
        .replace("/reviews/*", "/reviews/7/*");
    folder.write("access.yaml", narrowed);
    let cases = project("deploy/bookinfo/cases.yaml");
    let args = ["policy", "test", "-f", text(folder.path()), text(&cases)];
    let ran = reeve(&args);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    for part in [
        "FAIL",
        "expected: allow default/reviews#productpage-to-reviews",
        "actual:   deny no_permit",
        "permit default/reviews#productpage-to-reviews: 3 of 4 parts hold, not: when",
        "6 cases, 1 failed",
        "in no case: default/reviews#productpage-to-reviews",
    ] {
        assert!(ran.stdout.contains(part), "{part} is not in {}", ran.stdout);
    }

    let report = reeve(&[&args[..], &["-o", "json"]].concat());
    assert_eq!(report.code, Some(1));
    let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
    assert_eq!(report["passed"], false);
    assert_eq!(report["coverage"]["decided"], 5);
    let failed = &report["cases"][0];
    assert_eq!(failed["misses"][0]["actual"]["reason"], "no_permit");

    let nothing = reeve(&["policy", "test", text(&cases)]);
    assert_eq!(
        nothing.code,
        Some(2),
        "without a folder there are no policies"
    );
}

const DEMO: &str = "spiffe://mesh.local/ns/default/sa/";

/// The answer in JSON, as (caller or target, methods, answer).
fn access(args: &[&str], column: &str) -> Vec<(String, usize, String)> {
    let mesh = project("deploy/bookinfo/mesh");
    let ran = reeve(&[&["policy"], args, &["-f", text(&mesh), "-o", "json"]].concat());
    let rows: Value = serde_json::from_str(&ran.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", ran.stdout, ran.stderr));
    let rows = rows.as_array().expect("a list");
    assert_eq!(ran.code, Some(i32::from(rows.is_empty())), "{}", ran.stderr);
    let short = |id: &Value| id.as_str().expect("an identity").replace(DEMO, "");
    let row = |row: &Value| {
        let methods = row["methods"].as_array().expect("methods").len();
        (short(&row[column]), methods, short(&row["answer"]))
    };
    rows.iter().map(row).collect()
}

fn row(who: &str, methods: usize, answer: &str) -> (String, usize, String) {
    (who.to_owned(), methods, answer.to_owned())
}

#[test]
fn who_can_call_a_service_of_the_demo() {
    let reviews = access(&["who-can", "reviews", "--path", "/reviews/0"], "caller");
    assert_eq!(reviews, [row("bookinfo-productpage", 1, "yes")]);
    // The root path is none of those that the policy permits.
    let elsewhere = access(&["who-can", "reviews"], "caller");
    assert_eq!(elsewhere, [row("bookinfo-productpage", 1, "if")]);
    let posted = access(&["who-can", "reviews", "--method", "POST"], "caller");
    assert_eq!(posted, []);
    let store = access(&["who-can", "store"], "caller");
    assert_eq!(store, [row("bookinfo-ratings-v2", 1, "yes")]);
    let gateway = format!("{DEMO}ingress");
    let shop = access(&["who-can", &gateway, "--path", "/productpage"], "caller");
    assert!(shop.contains(&row("unauthenticated", 3, "yes")), "{shop:?}");

    let mesh = project("deploy/bookinfo/mesh");
    let table = reeve(&["policy", "who-can", "reviews", "-f", text(&mesh)]);
    assert_eq!(table.code, Some(0), "{}", table.stderr);
    let told = "default/reviews#productpage-to-reviews: where the path is like /reviews/*";
    assert!(table.stdout.contains(told), "{}", table.stdout);
    let nobody = reeve(&["policy", "who-can", "nowhere", "-f", text(&mesh)]);
    assert_eq!(nobody.code, Some(2), "{}", nobody.stdout);
}

#[test]
fn what_an_identity_of_the_demo_can_reach() {
    let productpage = format!("{DEMO}bookinfo-productpage");
    let mut reached = access(
        &["can-reach", &productpage, "--path", "/details/0"],
        "workload",
    );
    reached.sort();
    let expected = [
        row("bookinfo-details", 1, "yes"),
        row("bookinfo-reviews", 1, "if"),
        row("ingress", 3, "if"),
    ];
    assert_eq!(reached, expected);
    let stranger = access(
        &["can-reach", "unauthenticated", "--path", "/login"],
        "workload",
    );
    assert_eq!(stranger, [row("ingress", 3, "yes")]);
}

#[test]
fn istios_policies_are_imported_and_what_cannot_be_is_named() {
    let policies = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: details, namespace: default}
spec:
  selector: {matchLabels: {app: details}}
  rules: [{to: [{operation: {methods: [GET]}}]}]
";
    let folder = Folder::new().with("istio.yaml", policies);
    let mesh = project("deploy/bookinfo/mesh");
    let file = folder.path().join("istio.yaml");
    let ran = reeve(&["policy", "import", text(&file), "-f", text(&mesh)]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("kind: AccessPolicy"), "{}", ran.stdout);
    assert!(
        ran.stdout
            .contains(r#"resource in Service::"details.default.svc.cluster.local""#),
        "{}",
        ran.stdout
    );
    let shop = Folder::bookinfo();
    shop.write("access.yaml", &ran.stdout);
    let checked = reeve(&["config", "check", "-f", text(shop.path())]);
    assert_eq!(
        checked.code,
        Some(0),
        "{}{}",
        checked.stdout,
        checked.stderr
    );

    folder.write("istio.yaml", policies.replace("methods", "method"));
    let refused = reeve(&["policy", "import", text(&file), "-f", text(&mesh)]);
    assert_eq!(refused.code, Some(1));
    assert_eq!(refused.stdout, "");
    let place = "istio.yaml:6: error[unknown-field] AuthorizationPolicy default/details";
    assert!(refused.stderr.contains(place), "{}", refused.stderr);
    let nowhere = reeve(&["policy", "import", "/nowhere/at/all"]);
    assert_eq!(nowhere.code, Some(2));
}
