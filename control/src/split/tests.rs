use super::*;

const MESH: &str = "\
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
    - match: [{headers: {end-user: {exact: jason}}}]
      route: [{destination: {host: reviews, subset: v2}}]
    - name: main
      route:
        - destination: {host: reviews, subset: v1}
          weight: 100 # all of it, for now
        - {destination: {host: reviews.default.svc.cluster.local, subset: v2}, weight: 0}
";

fn query() -> SplitQuery {
    SplitQuery {
        namespace: Namespace::parse("default").unwrap(),
        host: "reviews".to_owned(),
        from: "v1".to_owned(),
        to: "v2".to_owned(),
        rule: None,
    }
}

fn folder(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mesh.yaml"), text).unwrap();
    folder
}

#[test]
fn two_numbers_change_and_nothing_else() {
    let folder = folder(MESH);
    let mut split = Split::find(folder.path(), &query()).unwrap();
    assert_eq!((split.from.weight, split.to.weight), (100, 0));
    assert_eq!(split.to.labels["version"], "v2");
    assert_eq!(split.place, "mesh.yaml:23 spec.http[1]");
    split.set(75, 25).unwrap();
    let text = fs::read_to_string(folder.path().join("mesh.yaml")).unwrap();
    let expected = MESH
        .replace("weight: 100 #", "weight: 75 #")
        .replace("weight: 0}", "weight: 25}");
    assert_eq!(text, expected);
    split.set(0, 100).unwrap();
    let again = Split::find(folder.path(), &query()).unwrap();
    assert_eq!((again.from.weight, again.to.weight), (0, 100));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn weights_written_as_json_change_too() {
    let json = MESH
        .replace("weight: 100 #", "\"weight\": 100 #")
        .replace("weight: 0}", "'weight' : 0}");
    let folder = folder(&json);
    let mut split = Split::find(folder.path(), &query()).unwrap();
    split.set(75, 25).unwrap();
    let text = fs::read_to_string(folder.path().join("mesh.yaml")).unwrap();
    let expected = json
        .replace("\"weight\": 100 #", "\"weight\": 75 #")
        .replace("'weight' : 0}", "'weight' : 25}");
    assert_eq!(text, expected);
}

#[test]
fn what_somebody_else_wrote_is_not_overwritten() {
    let folder = folder(MESH);
    let mut split = Split::find(folder.path(), &query()).unwrap();
    let theirs = MESH.replace("weight: 100", "weight: 90");
    fs::write(folder.path().join("mesh.yaml"), &theirs).unwrap();
    assert!(matches!(split.set(50, 50), Err(SplitError::Changed { .. })));
    let text = fs::read_to_string(folder.path().join("mesh.yaml")).unwrap();
    assert_eq!(text, theirs);
}

#[test]
fn what_is_not_there_or_not_one_is_told() {
    let wrong = |text: &str, query: SplitQuery| Split::find(folder(text).path(), &query);
    let no_weight = MESH
        .replace("          weight: 100 # all of it, for now\n", "")
        .replace("weight: 0}", "weight: 10}");
    assert!(matches!(
        wrong(&no_weight, query()),
        Err(SplitError::Missing { .. })
    ));
    let other = SplitQuery {
        rule: Some("other".to_owned()),
        ..query()
    };
    assert!(matches!(
        wrong(MESH, other),
        Err(SplitError::Missing { .. })
    ));
    let main = SplitQuery {
        rule: Some("main".to_owned()),
        ..query()
    };
    assert!(wrong(MESH, main.clone()).is_ok());
    let rule = MESH.split_once("    - name: main\n").unwrap().1;
    let twice = format!("{MESH}    - name: second\n{rule}");
    let several = wrong(&twice, query());
    assert!(
        matches!(&several, Err(SplitError::Several(places)) if places.len() == 2),
        "{several:?}"
    );
    assert!(wrong(&twice, main).is_ok());
    assert!(matches!(
        wrong("kind: Nonsense\n", query()),
        Err(SplitError::Invalid(_))
    ));
}

#[test]
fn two_weights_on_one_line_are_not_told_apart() {
    let crowded = MESH.replace(
        "          weight: 100 # all of it, for now\n",
        "          weight: 100 # weight: much\n",
    );
    let folder = folder(&crowded);
    let mut split = Split::find(folder.path(), &query()).unwrap();
    assert!(matches!(split.set(50, 50), Err(SplitError::Crowded { .. })));
    let text = fs::read_to_string(folder.path().join("mesh.yaml")).unwrap();
    assert_eq!(text, crowded);
}
