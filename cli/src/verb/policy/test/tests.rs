use std::fs;

use serde_json::{Value, json};

use super::*;

const POLICIES: &str = r#"
documents:
- object: rules
  scope: default
  text: |
    @id("read")
    permit (principal in Namespace::"mesh.local/ns/default", action == Action::"GET", resource)
    when { context.path like "/a/*" };
    @id("never")
    forbid (principal is Unauthenticated, action, resource);
request:
  principal: spiffe://mesh.local/ns/default/sa/web
  resource: {namespace: default, services: [a.default.svc.cluster.local]}
"#;

fn tried(cases: &str, coverage_min: Option<u8>) -> Result<Value, Problem> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cases.yaml");
    fs::write(&path, format!("{POLICIES}{cases}")).unwrap();
    let file = CaseFile::read(&path)?;
    let tried = Tried::of_documents(&file, &path, None)?;
    let (mut report, mut uses) = (Report::default(), Uses::default());
    uses.know(&tried);
    let runner = Runner {
        tried: &tried,
        mesh: None,
        file: Path::new("cases.yaml"),
        base: &file,
    };
    for case in &file.cases {
        report.cases.push(runner.case(case, &mut uses)?);
    }
    let minima = Minima {
        policies: coverage_min,
        conditions: None,
    };
    report.finish(uses, minima);
    let mut value = serde_json::to_value(&report).unwrap();
    value["text"] = json!(report.to_string());
    Ok(value)
}

#[test]
fn a_case_passes_when_decision_and_policies_are_as_expected() {
    let report = tried(
        "cases:
- name: reads
  change: {context: {http: {path: /a/1}}}
  expect: {decision: allow, reason: permitted, policies: [default/rules#read]}
  twins:
  - {change: {action: POST}, expect: {decision: deny}}
",
        Some(50),
    );
    let report = report.unwrap();
    assert_eq!(report["passed"], true, "{report}");
    assert_eq!(report["coverage"]["percent"], 50);
    let text = report["text"].as_str().unwrap();
    assert!(
        text.starts_with("ok   cases.yaml: reads\n1 cases, 0 failed\n1 of 2 outcomes"),
        "{text}"
    );
    assert!(text.contains("in no case: default/rules#never"), "{text}");
}

#[test]
fn a_failure_says_what_was_answered_and_which_permit_came_closest() {
    let report = tried(
        "cases:
- name: reads
  change: {context: {http: {path: /b}}}
  expect: {decision: allow}
- name: strangers
  change: {principal: unauthenticated}
  expect: {decision: deny, policies: [default/rules#read]}
",
        None,
    );
    let report = report.unwrap();
    assert_eq!(report["passed"], false);
    let text = report["text"].as_str().unwrap();
    for part in [
        "FAIL cases.yaml: reads\n  expected: allow\n  actual:   deny no_permit\n",
        "permit default/rules#read: 3 of 4 parts hold, not: when",
        "FAIL cases.yaml: strangers\n  expected: deny default/rules#read\n  actual:   deny forbidden default/rules#never",
        "forbid default/rules#never: applies",
        "2 cases, 2 failed",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn too_little_coverage_fails_and_so_do_twins_that_do_not_differ() {
    let cases = "cases:
- name: reads
  change: {context: {http: {path: /a/1}}}
  expect: {decision: allow}
";
    assert_eq!(tried(cases, None).unwrap()["passed"], true);
    assert_eq!(tried(cases, Some(51)).unwrap()["passed"], false);
    let twins = format!(
        "{cases}  twins: [{{change: {{context: {{port: 81}}}}, expect: {{decision: allow}}}}]\n"
    );
    let report = tried(&twins, None).unwrap();
    assert_eq!(report["passed"], false);
    assert!(
        report["text"]
            .as_str()
            .unwrap()
            .contains("no twin comes out the other way")
    );
}

#[test]
fn what_would_pass_without_being_looked_at_is_refused() {
    for (cases, fault) in [
        ("cases: [{name: a}]", "expects nothing"),
        (
            "cases: [{name: a, expect: {policies: [default/x]}}]",
            "expects nothing",
        ),
        ("cases: [{expect: {decision: deny}}]", "no name"),
        ("cases: [{name: a, expect: {decison: deny}}]", "decison"),
        (
            "cases: [{name: a, expect: {decision: deny}, change: {contxt: {port: 1}}}]",
            "no contxt",
        ),
        (
            "cases: [{name: a, expect: {decision: deny}, change: {context: {http: {pth: /}}}}]",
            "no context.http.pth",
        ),
        (
            "cases: [{name: a, expect: {decision: deny}, change: {action: FETCH}}]",
            "unknown action",
        ),
        (
            "cases: [{name: a, expect: {decision: deny}, change: {resource: reviews}}]",
            "-f",
        ),
        (
            "cases: [{name: a, expect: {decision: maybe}}]",
            "cases.yaml: a",
        ),
        ("cases: []\n---\ncases: []", "2 YAML documents"),
    ] {
        let problem = tried(cases, None).unwrap_err().to_string();
        assert!(problem.contains(fault), "{cases}: {problem}");
    }
}

#[test]
fn the_librarys_cases_pass_and_cover_every_policy() {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/cases");
    for path in files::cases(&[policies]).unwrap() {
        let file = CaseFile::read(&path).unwrap();
        let tried = Tried::of_documents(&file, &path, None).unwrap();
        let mut uses = Uses::default();
        uses.know(&tried);
        let runner = Runner {
            tried: &tried,
            mesh: None,
            file: &path,
            base: &file,
        };
        for case in &file.cases {
            let outcome = runner.case(case, &mut uses).unwrap();
            assert!(outcome.passed, "{outcome}");
        }
        let unused: Vec<_> = uses
            .0
            .iter()
            .filter(|(_, cases)| cases.cases == 0)
            .collect();
        let unused: Vec<_> = unused.iter().map(|(policy, _)| policy).collect();
        assert!(unused.is_empty(), "{unused:?}");
    }
}

#[test]
fn a_condition_is_covered_once_it_held_and_once_it_failed() {
    let holds = "cases:
- name: reads
  change: {context: {http: {path: /a/1}}}
  expect: {decision: allow}
";
    let report = tried(holds, None).unwrap();
    let conditions = &report["coverage"]["conditions"];
    assert_eq!(
        (&conditions["seen"], &conditions["outcomes"]),
        (&json!(1), &json!(2))
    );
    let text = report["text"].as_str().unwrap();
    let told = "  never failed: default/rules#read: when { context.path like \"/a/*\" }";
    assert!(text.contains(told), "{text}");
    // What another method asks does not look at the path: the scope does not fit.
    let other = format!(
        "{holds}  twins: [{{change: {{action: POST, context: {{http: {{path: /b}}}}}}, expect: {{decision: deny}}}}]\n"
    );
    let report = tried(&other, None).unwrap();
    assert_eq!(report["coverage"]["conditions"]["percent"], 50, "{report}");
    let both = format!(
        "{holds}  twins: [{{change: {{context: {{http: {{path: /b}}}}}}, expect: {{decision: deny}}}}]\n"
    );
    let report = tried(&both, None).unwrap();
    assert_eq!(report["coverage"]["conditions"]["percent"], 100, "{report}");
    assert!(
        !report["text"].as_str().unwrap().contains("never failed"),
        "{report}"
    );
}
