use super::*;
use crate::fixtures::namespace;

const ALL: &str = "permit (principal, action, resource);";

fn parse(text: &str) -> Result<Vec<PolicySource>, Vec<PolicyFault>> {
    let default = namespace("default");
    parse_access_policy(Some(&default), &default, "reviews", text)
}

fn ids(text: &str) -> Vec<String> {
    let sources = parse(text).unwrap();
    sources.iter().map(|s| s.id.to_string()).collect()
}

fn faults(text: &str) -> Vec<String> {
    let faults = parse(text).unwrap_err();
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn policies_are_named_after_their_object() {
    assert_eq!(ids(ALL), ["default/reviews"]);
    assert_eq!(ids(&format!("@id(\"get\") {ALL}")), ["default/reviews#get"]);
    let many = format!("@id(\"get\") {ALL}\n{}", format!("{ALL}\n").repeat(11));
    let expected: Vec<_> = std::iter::once("default/reviews#get".to_owned())
        .chain((2..=12).map(|n| format!("default/reviews#{n}")))
        .collect();
    assert_eq!(
        ids(&many),
        expected,
        "in the order of the text, also beyond ten"
    );
}

#[test]
fn names_cannot_clash() {
    for bad in ["2", "a/b", "a#b"] {
        assert_eq!(
            faults(&format!("{ALL}\n@id(\"{bad}\") {ALL}")).len(),
            1,
            "{bad}"
        );
    }
    let twice = faults(&format!("@id(\"a\") {ALL}\n@id(\"a\") {ALL}"));
    assert_eq!(
        twice,
        ["default/reviews:2:1: default/reviews#a is there twice"]
    );
}

#[test]
fn sources_keep_their_text_scope_and_mode() {
    let text = "// why\n@mode(\"shadow\")\nforbid (principal, action, resource)\n  when { context.port == 1 }; // end\n";
    let [source] = &parse(text).unwrap()[..] else {
        panic!("one policy")
    };
    assert_eq!(source.mode, PolicyMode::Shadow);
    assert_eq!(
        source.scope.as_ref().map(Namespace::as_str),
        Some("default")
    );
    assert!(
        source.text.starts_with("@mode(\"shadow\")\nforbid"),
        "{}",
        source.text
    );
    assert!(source.text.ends_with("== 1 };"), "{}", source.text);
    let root = parse_access_policy(None, &namespace("reeve-system"), "all", ALL).unwrap();
    assert_eq!(
        (root[0].scope.clone(), root[0].id.as_str()),
        (None, "reeve-system/all")
    );
}

#[test]
fn faults_are_placed_in_the_document() {
    let text = format!(
        "{ALL}\n\n{ALL}\npermit (principal, action, resource)\n  when {{ context.prot == 1 }};\n"
    );
    let found = parse(&text).unwrap_err();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].policy.as_str(), "default/reviews#3");
    assert_eq!((found[0].line, found[0].column), (5, 10));
    assert!(
        !found[0].message.contains("policy2"),
        "{}",
        found[0].message
    );
    assert_eq!(found[0].help.as_deref(), Some("did you mean `port`?"));
    assert_eq!(
        found[0].snippet.as_deref(),
        Some("  when { context.prot == 1 };")
    );
}

#[test]
fn every_fault_is_reported() {
    let text = "@colour(\"red\") permit (principal, action, resource);\n\
                permit (principal in Namespace::\"default\", action, resource);\n\
                permit (principal == ?principal, action, resource);\n\
                permit (principal, action, resource) when { context.port == \"80\" };";
    let found = faults(text);
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(
        found[0].contains("unknown annotation @colour"),
        "{found:#?}"
    );
    assert!(found[1].contains("can never be met"), "{found:#?}");
    assert!(found[2].contains("belongs in an AccessRole"), "{found:#?}");
    assert!(found[3].starts_with("default/reviews#"), "{found:#?}");
}

/// Each row: a text that is refused, and what the refusal says.
#[test]
fn what_strict_validation_refuses() {
    let table = [
        ("permit (principal, action resource);", "unexpected token"),
        (
            "permit (principal, action == Action::\"get\", resource);",
            "unrecognized action",
        ),
        (
            "permit (principal is User, action, resource);",
            "unable to find an applicable action",
        ),
        (
            "permit (principal, action, resource) when { context.path == \"/\" };",
            "path",
        ),
        (
            "permit (principal, action in Action::\"read\", resource) when { context.grpc.method == \"a\" };",
            "grpc",
        ),
        (
            "permit (principal, action in Action::\"read\", resource) when { context.headers.getTag(\"a\").contains(\"b\") };",
            "tag",
        ),
        (
            "permit (principal, action, resource) when { false };",
            "impossible",
        ),
        (
            "permit (principal == Unauthenticated::\"anyone\", action, resource);",
            "anyone",
        ),
        (
            "permit (principal, action, resource) when { ip(context.host).isIpv4() };",
            "host",
        ),
        (
            "permit (principal, action, resource) when { context.source_ip.isInRange(ip(\"10.0.0.0/40\")) };",
            "10.0.0.0/40",
        ),
        ("", "no policy"),
        ("// nothing\n", "no policy"),
    ];
    for (text, says) in table {
        let found = faults(text);
        assert!(found.iter().any(|f| f.contains(says)), "{text}\n{found:#?}");
    }
}

#[test]
fn a_policy_on_http_must_leave_connections_out() {
    let text = "permit (principal, action, resource)\nwhen { context.path == \"/\" };";
    let found = parse(text).unwrap_err();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(
        found[0].message,
        "attribute `path` in context not found for Action::\"connect\""
    );
    assert!(
        found[0]
            .help
            .as_deref()
            .unwrap()
            .contains("action in Action::\"http\"")
    );
    let http = text.replace("action,", "action in Action::\"http\",");
    assert_eq!(ids(&http), ["default/reviews"]);
}

#[test]
fn documents_are_bounded() {
    assert!(faults(&" ".repeat(MAX_DOCUMENT_BYTES + 1))[0].contains("bytes long"));
    assert!(faults(&format!("{ALL}\n").repeat(MAX_DOCUMENT_POLICIES + 1))[0].contains("at most"));
}

#[test]
fn the_hash_sees_content_and_not_order() {
    let a = parse(&format!("@id(\"a\") {ALL}")).unwrap();
    let b = parse(&format!("@id(\"b\") {ALL}")).unwrap();
    let both = [a.clone(), b.clone()].concat();
    let turned = [b.clone(), a.clone()].concat();
    assert_eq!(mesh_hash(&both), mesh_hash(&turned));
    assert_eq!(mesh_hash(&both).len(), 64);
    let changed = |change: fn(&mut PolicySource)| {
        let mut other = both.clone();
        change(&mut other[0]);
        mesh_hash(&other)
    };
    let different = [
        mesh_hash(&both),
        mesh_hash(&a),
        mesh_hash(&b),
        mesh_hash(&[]),
        changed(|p| p.text.push(' ')),
        changed(|p| p.scope = None),
        changed(|p| p.mode = PolicyMode::Shadow),
        changed(|p| p.id = PolicyId::parse("default/c").unwrap()),
    ];
    let distinct: std::collections::BTreeSet<_> = different.iter().collect();
    assert_eq!(distinct.len(), different.len());
    assert_eq!(
        mesh_hash(&[]),
        "e4d1c8b6e98cb799d9853c8bd8fce98039978f9e892f14ee2236c75bf2b03c02",
        "the canonical form is fixed: records refer to it"
    );
}
