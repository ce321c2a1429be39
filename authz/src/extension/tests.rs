use super::*;
use crate::mesh_schema::MeshSchema;

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// Text, line and message of each fault.
fn faults(all: &[&str]) -> Vec<(usize, usize, String)> {
    let faults = MeshSchema::extended(&texts(all)).map(drop).unwrap_err();
    let told = |f: SchemaFault| (f.text, f.line, f.message);
    faults.into_iter().map(told).collect()
}

#[test]
fn types_and_what_built_in_types_are_in_are_added() {
    let all = [
        "entity Department;\nentity Team in [Department] { lead?: String };\nentity Workload in [Team] { tier?: Level };\ntype Level = String;",
        "@label(\"tenant\") entity Tenant;\nentity Namespace in [Tenant];\nentity Workload in [Tenant];\n\
         @claim(\"groups\") @issuer(\"https://issuer.example\") entity Group;\nentity User in [Group];",
    ];
    let mesh = MeshSchema::extended(&texts(&all)).unwrap();
    let named: Vec<_> = mesh.added.keys().map(String::as_str).collect();
    assert_eq!(named, ["Department", "Group", "Team", "Tenant"]);
    let claim = Claim {
        issuer: "https://issuer.example".into(),
        name: "groups".into(),
    };
    assert_eq!(mesh.added["Group"].claim, Some(claim));
    assert!(!mesh.added["Group"].has_members);
    assert!(mesh.added["Department"].has_members);
    assert_eq!(mesh.added["Tenant"].label.as_deref(), Some("tenant"));
    let same = MeshSchema::extended(&texts(&all)).unwrap();
    assert!(std::sync::Arc::ptr_eq(&mesh, &same), "compiled once");
    assert_eq!(MeshSchema::extended(&[]).unwrap().added.len(), 0);
}

/// Schema texts, and the line and message of a fault.
const REFUSED: &[(&str, usize, &str)] = &[
    (
        "entity A;\naction \"read\" appliesTo { principal: A, resource: A };",
        2,
        "action \"read\" cannot be declared here",
    ),
    (
        "namespace Shop {\n entity Team;\n}",
        1,
        "namespace Shop cannot be declared here",
    ),
    (
        "\nentity Team in [Namespace];",
        2,
        "Team cannot be in Namespace, which is built in",
    ),
    (
        "entity Workload in [Namespace];",
        1,
        "Workload cannot be in Namespace, which is built in",
    ),
    ("entity Headers { a?: String };", 1, "Headers is built in"),
    (
        "entity Unauthenticated enum [\"x\"];",
        1,
        "Unauthenticated is built in",
    ),
    (
        "entity Workload tags String;",
        1,
        "Workload is built in: it has no other tags, and no list of ids",
    ),
    (
        "\n\nentity Workload {\n  tier: String };",
        4,
        "attribute tier of Workload may be absent, where nothing is known of one",
    ),
    (
        "entity User { age?: Long };",
        1,
        "User has no other attributes",
    ),
    (
        "type PathSegments = String;",
        1,
        "there is a type PathSegments already",
    ),
    (
        "entity GrpcMethod;",
        1,
        "there is a type GrpcMethod already",
    ),
    (
        "@owner(\"me\") entity Team;",
        1,
        "unknown annotation @owner",
    ),
    ("@label entity Team;", 1, "@label needs a value"),
    (
        "@claim(\"groups\") entity Team;\nentity User in [Team];",
        1,
        "@claim on Team needs an @issuer",
    ),
    (
        "@label(\"a\") entity Workload;",
        1,
        "@label says nothing of a built-in type",
    ),
    (
        "@claim(\"a\") @issuer(\"b\") entity Team;",
        1,
        "@claim: nothing would be in Team",
    ),
    (
        "entity Team;\nentity User in [Team];",
        1,
        "User: nothing would be in Team",
    ),
    (
        "@label(\"team\") entity Team;",
        1,
        "@label: nothing would be in Team",
    ),
];

#[test]
fn what_would_change_the_built_in_schema_is_refused_with_its_line() {
    for &(text, line, message) in REFUSED {
        let found = faults(&[text]);
        assert!(
            found.contains(&(0, line, message.to_owned())),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn faults_of_several_texts_name_the_text() {
    let twice = faults(&["entity Team;", "\nentity Team;"]);
    assert_eq!(twice, [(1, 2, "there is a type Team already".to_owned())]);
    let attribute = faults(&[
        "entity Workload { tier?: String };",
        "entity Workload { tier?: Long };",
    ]);
    assert_eq!(attribute[0].0, 1);
    let unknown = faults(&["entity Team;", "entity Team2;\nentity Workload in [Taem];"]);
    assert_eq!((unknown[0].0, unknown[0].1), (1, 2), "{unknown:?}");
    let syntax = faults(&["entity Team;", "entity Team2;\nentity"]);
    assert_eq!(syntax[0].0, 1, "{syntax:?}");
}

#[test]
fn sizes_are_bounded() {
    let many: String = (0..=MAX_ADDED_TYPES)
        .map(|n| format!("entity T{n};\n"))
        .collect();
    let found = faults(&[&many]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].2.contains("at most 64 types"), "{found:?}");
    let deep = format!(
        "entity T {{ a?: {}Long{} }};",
        "Set<".repeat(20_000),
        ">".repeat(20_000)
    );
    assert!(faults(&[&deep])[0].2.contains("bytes long"));
    let deep = format!(
        "entity T {{ a?: {}Long{} }};",
        "Set<".repeat(5_000),
        ">".repeat(5_000)
    );
    assert!(faults(&[&deep])[0].2.contains("nested"));
    let wide: String = (0..=MAX_TYPE_ATTRIBUTES)
        .map(|n| format!("a{n}?: Long,"))
        .collect();
    let found = faults(&[&format!("entity T {{ {wide} }};")]);
    assert!(found[0].2.contains("64 attributes"), "{found:?}");
}
