use super::*;

fn formatted(text: &str) -> Result<String, Vec<PolicyTextFault>> {
    map_policy_texts(text, |id, cedar| {
        reeve_authz::format_policies(id, cedar, 80)
    })
}

const FILE: &str = "\
# Who may.
apiVersion: reeve.dev/v1alpha1
kind: AccessPolicy   # ours
metadata: { name: a, namespace: shop }
spec:
  cedar: |  # Cedar
      permit(principal,action,resource); // all

  # after
---
kind: Service
spec: { cedar: 'permit(principal,action,resource);' }
---
kind: AccessPolicy
metadata: {name: b}
spec:
  cedar: |-
    forbid(principal,action,resource)
      when{context.path==\"/x\"};
";

#[test]
fn only_the_cedar_text_changes() {
    let expected = FILE
        .replace(
            "permit(principal,action,resource); // all",
            "permit (principal, action, resource); // all",
        )
        .replace(
            "forbid(principal,action,resource)\n      when{context.path==\"/x\"};",
            "forbid (principal, action, resource)\n    when { context.path == \"/x\" };",
        );
    let once = formatted(FILE).unwrap();
    assert_eq!(once, expected);
    assert_eq!(formatted(&once).unwrap(), once);
}

#[test]
fn line_breaks_and_a_missing_last_one_are_kept() {
    let windows = FILE.replace('\n', "\r\n");
    let expected = formatted(FILE).unwrap().replace('\n', "\r\n");
    assert_eq!(formatted(&windows).unwrap(), expected);
    let cut = FILE.trim_end();
    assert_eq!(formatted(cut).unwrap(), formatted(FILE).unwrap().trim_end());
    let marked = format!("\u{feff}{FILE}");
    assert!(formatted(&marked).unwrap().starts_with('\u{feff}'));
}

#[test]
fn faults_are_placed_in_the_file() {
    let bad = FILE.replace("when{context.path==", "when{context.path=");
    let faults = formatted(&bad).unwrap_err();
    assert_eq!((faults[0].line, faults[0].column), (19, 12), "{faults:?}");
    assert_eq!(formatted("a: [").unwrap_err()[0].line, 2);
}

#[test]
fn what_is_no_block_is_refused() {
    for form in [
        "cedar: permit(principal,action,resource);",
        "cedar: \"permit(principal,action,resource);\"",
        "cedar: >\n    permit(principal,action,resource);",
        "cedar:\n    |\n    permit(principal,action,resource);",
    ] {
        let text = format!("kind: AccessPolicy\nmetadata: {{name: a}}\nspec:\n  {form}\n");
        let faults = formatted(&text).unwrap_err();
        assert!(
            faults[0].message.contains("not a literal block"),
            "{form}: {faults:?}"
        );
        assert!(faults[0].line >= 4, "{form}: {faults:?}");
    }
    let alias = "kind: AccessPolicy\nmetadata: {name: a}\nx: &p |\n  permit(principal,action,resource);\nspec:\n  cedar: *p\n";
    assert_eq!(formatted(alias).unwrap_err()[0].line, 6);
}

#[test]
fn an_anchored_block_that_is_used_elsewhere_is_left_alone() {
    let text = "kind: AccessPolicy\nmetadata: {name: a}\nspec:\n  cedar: &p |\n    permit(principal,action,resource);\ncopy: *p\n";
    let faults = formatted(text).unwrap_err();
    assert!(faults[0].message.contains("something else"), "{faults:?}");
}

#[test]
fn an_explicit_indentation_is_kept() {
    let text = "kind: AccessPolicy\nmetadata: {name: a}\nspec:\n  cedar: |2\n\n      permit(principal,action,resource);\n";
    let written = formatted(text).unwrap();
    assert!(
        written.ends_with("cedar: |2\n    permit (principal, action, resource);\n"),
        "{written}"
    );
}

#[test]
fn a_string_of_several_lines_keeps_them_all() {
    let text = "kind: AccessPolicy\nmetadata: {name: a}\nspec:\n  cedar: |\n    permit(principal,action,resource) when { context.path == \"a\n\n      b\" };\n";
    let written = formatted(text).unwrap();
    assert!(written.contains("\"a\n\n      b\""), "{written}");
}
