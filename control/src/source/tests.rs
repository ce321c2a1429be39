use super::*;

fn faults(text: &str) -> Vec<(usize, Code)> {
    let mut source = Source::default();
    source.add("a.yaml", text);
    source.faults.iter().map(|f| (f.line, f.code)).collect()
}

#[test]
fn values_know_their_lines() {
    let mut source = Source::default();
    source.add("a.yaml", "a:\n  b:\n    - c: 1\n    - d: 2\n---\nkind: X\n");
    let [first, second] = source.documents.as_slice() else {
        panic!("two documents, not {}", source.documents.len());
    };
    let path = Path::of(&["a", "b"]).index(1).key("d");
    assert_eq!(
        (path.to_string().as_str(), first.line_of(&path)),
        ("a.b[1].d", 4)
    );
    assert_eq!(
        first.line_of(&Path::of(&["a", "b"]).index(7)),
        2,
        "what is missing: its parent"
    );
    assert_eq!((second.root.line, second.kind.as_deref()), (6, Some("X")));
}

#[test]
fn faults_of_the_text_name_their_line() {
    for (text, line, code) in [
        ("a: 1\na: 2\n", 2, Code::DuplicateKey),
        ("a: [1, 2\nb: 3\n", 2, Code::Syntax),
        ("a: 1\n b: 2\n", 2, Code::Syntax),
        ("a: *nothing\n", 1, Code::Syntax),
        ("a: !secret x\n", 1, Code::Unsupported),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, Code::Unsupported),
        ("? [a]\n: 1\n", 1, Code::Syntax),
    ] {
        let found = faults(text);
        assert_eq!(
            found.first().map(|f| f.1),
            Some(code),
            "{text:?}: {found:?}"
        );
        assert!(found[0].0.abs_diff(line) <= 1, "{text:?}: {found:?}");
    }
    assert_eq!(faults("a: &x 1\nb: *x\n"), [], "plain aliases are fine");
}

#[test]
fn an_alias_bomb_is_refused_at_once() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
        text.push_str(&format!("a{n}: &a{n} [{aliases}]\n"));
    }
    assert_eq!(faults(&text).first().map(|f| f.1), Some(Code::TooLarge));
}

#[test]
fn deep_nesting_is_refused_without_recursion() {
    for text in [
        "[".repeat(100_000),
        "- ".repeat(20_000),
        "{a: ".repeat(50_000),
    ] {
        let found = faults(&text);
        let code = found.first().map(|f| f.1);
        assert!(
            matches!(code, Some(Code::TooLarge | Code::Syntax)),
            "{found:?}"
        );
    }
}

#[test]
fn lines_of_literal_text_are_lines_of_the_file() {
    let mut source = Source::default();
    source.add("a.yaml", "spec:\n  cedar: |\n    one\n    two\n");
    let node = source.documents[0]
        .at(&Path::of(&["spec", "cedar"]))
        .expect("there");
    assert_eq!((node.text(), node.line_of_text(2)), (Some("one\ntwo\n"), 4));
}

#[test]
fn a_broken_file_does_not_hide_faults_of_others() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), "a: [\n").unwrap();
    fs::write(folder.path().join("b.yml"), "x: 1\nx: 2\n").unwrap();
    fs::write(folder.path().join("c.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    fs::write(folder.path().join("d.txt"), "a: [\n").unwrap();
    let found = Source::read(folder.path()).faults;
    let files: Vec<_> = found.iter().map(|f| f.file.as_str()).collect();
    assert_eq!(files, ["a.yaml", "b.yml", "c.yaml"]);
}

#[test]
fn the_objects_of_a_list_are_documents_with_their_own_lines() {
    let list = "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: ''}\nitems:\n";
    let items =
        "- kind: A\n  metadata: {name: a}\n- kind: B\n  metadata: {name: b}\n---\nkind: C\n";
    let kinds = |text: &str| {
        let mut source = Source::default();
        source.add("a.yaml", text);
        let all = source.documents.iter();
        all.map(|d| (d.root.line, d.kind.clone().unwrap_or_default()))
            .collect::<Vec<_>>()
    };
    let found = kinds(&format!("{list}{items}"));
    let expected = [(5, "A"), (7, "B"), (10, "C")].map(|(line, kind)| (line, kind.to_owned()));
    assert_eq!(found, expected);
    assert_eq!(kinds("apiVersion: v1\nkind: List\nitems: []\n"), []);
    // No list of objects, or one within one: refused as a kind, like any other that is not known.
    let stays = |text: &str| assert_eq!(kinds(text), [(1, "List".to_owned())], "{text}");
    stays("apiVersion: v1\nkind: List\n");
    stays("apiVersion: v1\nkind: List\nitems: {a: b}\n");
    stays("apiVersion: v2\nkind: List\nitems: []\n");
    let nested = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: List, items: []}\n";
    assert_eq!(kinds(nested), [(4, "List".to_owned())]);
}
