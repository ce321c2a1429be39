use super::*;

fn policy(name: &str, cedar: &str) -> String {
    format!(
        "apiVersion: reeve.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  cedar: |\n    {cedar}\n"
    )
}

const ALL: &str = "permit (principal, action, resource);";
const NONE: &str = "forbid (principal, action, resource);";

fn folder(files: &[(&str, String)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn mixed() -> tempfile::TempDir {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";
    folder(&[
        (
            "a.yaml",
            format!(
                "# who\n{}---\n{namespace}--- # b\n{}",
                policy("a", ALL),
                policy("b", ALL)
            ),
        ),
        ("c.yaml", policy("c", ALL)),
    ])
}

fn object(name: &str, cedar: &str, file: &str) -> PolicyObject {
    PolicyObject {
        kind: PolicyKind::Policy,
        namespace: "default".into(),
        name: name.into(),
        file: file.into(),
        text: policy(name, cedar),
    }
}

fn written(before: &PolicyFolder, folder: &Path, after: &PolicyFolder) {
    before.replace(folder, after, "").unwrap().finish().unwrap();
}

#[test]
fn objects_are_replaced_where_they_stand_and_all_else_stays() {
    let folder = mixed();
    let before = PolicyFolder::read(folder.path()).unwrap();
    let names: Vec<_> = before
        .objects()
        .unwrap()
        .into_iter()
        .map(|o| o.name)
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(before.others(), 1);
    let wanted = [object("b", NONE, "other.yaml"), object("d", ALL, "a.yaml")];
    let after = before.with(&wanted, Only::AndOthers).unwrap();
    assert_eq!(before.differing(&after), ["a.yaml"]);
    written(&before, folder.path(), &after);
    let text = fs::read_to_string(folder.path().join("a.yaml")).unwrap();
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";
    assert_eq!(
        text,
        format!(
            "# who\n{}---\n{namespace}--- # b\n{}---\n{}",
            policy("a", ALL),
            policy("b", NONE),
            policy("d", ALL)
        )
    );
    assert_eq!(PolicyFolder::read(folder.path()).unwrap(), after);
}

#[test]
fn with_these_alone_the_others_go_and_empty_files_too() {
    let folder = mixed();
    let before = PolicyFolder::read(folder.path()).unwrap();
    let after = before
        .with(&[object("b", ALL, "x.yaml")], Only::These)
        .unwrap();
    written(&before, folder.path(), &after);
    assert!(!folder.path().join("c.yaml").exists());
    let left = crate::load(folder.path()).unwrap();
    let ids: Vec<_> = left.policies.iter().map(|p| p.id.to_string()).collect();
    assert_eq!(ids, ["default/b"]);
    // And back again.
    let back = after.with(&before.objects().unwrap(), Only::These).unwrap();
    written(&after, folder.path(), &back);
    assert_eq!(
        crate::load(folder.path()).unwrap().policy_hash,
        before.mesh().unwrap().policy_hash
    );
}

#[test]
fn what_somebody_else_changed_is_not_overwritten() {
    let folder = mixed();
    let before = PolicyFolder::read(folder.path()).unwrap();
    let after = before
        .with(&[object("a", NONE, "a.yaml")], Only::AndOthers)
        .unwrap();
    fs::write(folder.path().join("c.yaml"), policy("c", NONE)).unwrap();
    let refused = before.replace(folder.path(), &after, "").unwrap_err();
    assert!(matches!(refused, PolicyFolderError::Changed(file) if file == "c.yaml"));
    let text = fs::read_to_string(folder.path().join("a.yaml")).unwrap();
    assert!(!text.contains("forbid"), "{text}");
}

#[test]
fn a_folder_that_is_written_is_not_read_meanwhile() {
    let folder = mixed();
    let lock = FolderLock::alone(folder.path()).unwrap();
    let (_, faults) = Source::texts(folder.path());
    assert!(faults[0].text.contains("is being changed"), "{faults:?}");
    drop(lock);
    assert!(crate::load(folder.path()).is_ok());
    // Readers do not keep each other out.
    let _one = FolderLock::shared(folder.path()).unwrap();
    assert!(FolderLock::shared(folder.path()).is_some());
}

#[test]
fn two_of_one_name_are_refused() {
    let folder = folder(&[("a.yaml", policy("a", ALL)), ("b.yaml", policy("a", NONE))]);
    let read = PolicyFolder::read(folder.path()).unwrap();
    assert!(
        matches!(read.objects(), Err(PolicyFolderError::Twice(name)) if name == "AccessPolicy default/a")
    );
    assert!(
        read.with(&[object("a", ALL, "a.yaml")], Only::AndOthers)
            .is_err()
    );
}

const SCHEMA: &str = "apiVersion: reeve.dev/v1alpha1\nkind: AccessSchema\nmetadata: {name: org, namespace: reeve-system}\n\
                      spec:\n  cedar: |\n    entity Team;\n    entity Workload in [Team];\n";

fn entities(team: &str) -> String {
    format!(
        "apiVersion: reeve.dev/v1alpha1\nkind: AccessEntities\nmetadata: {{name: org, namespace: reeve-system}}\n\
         spec:\n  entities:\n  - uid: Workload::\"spiffe://mesh.local/ns/default/sa/a\"\n    parents: [Team::\"{team}\"]\n"
    )
}

/// A set with a schema, entities and a policy that reads them.
fn by_team(team: &str) -> tempfile::TempDir {
    let asks = r#"permit (principal in Team::"web", action, resource);"#;
    folder(&[
        ("org.yaml", format!("{SCHEMA}---\n{}", entities(team))),
        ("a.yaml", policy("a", asks)),
    ])
}

#[test]
fn schema_and_entities_are_part_of_the_set() {
    let (one, other) = (by_team("web"), by_team("books"));
    let before = PolicyFolder::read(one.path()).unwrap();
    let kinds = |folder: &PolicyFolder| -> Vec<_> {
        let objects = folder.objects().unwrap();
        objects.iter().map(|o| (o.kind, o.name.clone())).collect()
    };
    let org = || "org".to_owned();
    let all = [
        (PolicyKind::Policy, "a".to_owned()),
        (PolicyKind::Schema, org()),
        (PolicyKind::Entities, org()),
    ];
    assert_eq!(
        kinds(&before),
        all,
        "a schema and entities of one name are two"
    );
    assert_eq!(before.others(), 0);
    let wanted = PolicyFolder::read(other.path()).unwrap().objects().unwrap();
    let after = before.with(&wanted, Only::AndOthers).unwrap();
    assert_eq!(before.differing(&after), ["org.yaml"]);
    written(&before, one.path(), &after);
    let in_force = crate::load(one.path()).unwrap();
    assert_eq!(
        in_force.policy_hash,
        crate::load(other.path()).unwrap().policy_hash
    );
    let back = after.with(&before.objects().unwrap(), Only::These).unwrap();
    assert_eq!(back, before);
}

#[test]
fn with_these_alone_other_kinds_stay_unless_they_are_given_too() {
    let folder = by_team("web");
    let before = PolicyFolder::read(folder.path()).unwrap();
    let new = [object("b", ALL, "b.yaml")];
    let after = before.with(&new, Only::OfTheirKinds).unwrap();
    let kinds: Vec<_> = after.objects().unwrap().iter().map(|o| o.kind).collect();
    assert_eq!(
        kinds,
        [PolicyKind::Policy, PolicyKind::Schema, PolicyKind::Entities]
    );
    let bare = before.with(&new, Only::These).unwrap();
    assert_eq!(bare.objects().unwrap().len(), 1);
}
