use serde_json::json;

use super::*;

const SCHEMA: &str = "
    entity Department;
    entity Team in [Team, Department] { budget?: Long, lead?: ServiceAccount };
    entity Workload in [Team] { tier?: String };
    entity Namespace in [Team];
    @claim(\"groups\") @issuer(\"https://issuer.example\") entity Group in [Department];
    entity User in [Group];
    entity Service in [Group];
";
const REVIEWS: &str = "spiffe://mesh.local/ns/default/sa/reviews";

fn store(records: serde_json::Value) -> Result<Store, Vec<String>> {
    let mesh = MeshSchema::extended(&[SCHEMA.to_owned()]).unwrap();
    let records: Vec<EntityRecord> = serde_json::from_value(records).unwrap();
    let told = |faults: Vec<EntityFault>| faults.into_iter().map(|f| f.message).collect();
    Store::new(&mesh, &Arc::new(records)).map_err(told)
}

fn team(id: &str) -> serde_json::Value {
    json!({"type": "Team", "id": id})
}

#[test]
fn groups_of_groups_are_found_and_labels_kept() {
    let known = store(json!([
        {"uid": team("ledger"), "parents": [team("payments")], "attrs": {"budget": 7}},
        {"uid": team("payments"), "parents": [{"type": "Department", "id": "finance"}]},
        {"uid": {"type": "Workload", "id": REVIEWS}, "parents": [team("ledger")],
         "attrs": {"tier": "gold"}, "tags": {"app": ["reviews", "r2"]}},
    ]))
    .unwrap();
    let node = known.node("Workload", REVIEWS).unwrap();
    let mut above: Vec<_> = node.ancestors.iter().map(ToString::to_string).collect();
    above.sort();
    assert_eq!(
        above,
        [
            "Department::\"finance\"",
            "Team::\"ledger\"",
            "Team::\"payments\""
        ]
    );
    assert_eq!(known.most_ancestors, 3);
    assert_eq!(known.labels("Workload", REVIEWS).unwrap()["app"].len(), 2);
    assert!(known.node("Workload", "spiffe://mesh.local/x").is_none());
}

#[test]
fn what_the_schema_does_not_allow_is_refused() {
    let table = [
        (
            json!({"uid": {"type": "Taem", "id": "a"}}),
            "there is no type Taem to say something of; did you mean Team?",
        ),
        (
            json!({"uid": {"type": "User", "id": "a"}}),
            "there is no type User",
        ),
        (
            json!({"uid": {"type": "Action", "id": "GET"}}),
            "there is no type Action",
        ),
        (
            json!({"uid": team("a"), "attrs": {"budget": "much"}}),
            "budget",
        ),
        (
            json!({"uid": team("a"), "attrs": {"color": "red"}}),
            "color",
        ),
        (
            json!({"uid": team("a"), "parents": [{"type": "Namespace", "id": "mesh.local/ns/a"}]}),
            "Namespace",
        ),
        (
            json!({"uid": team("a"), "parents": [team("a")]}),
            "Team::\"a\" is in itself",
        ),
        (
            json!({"uid": {"type": "Workload", "id": "reviews"}}),
            "can never be met",
        ),
        (
            json!({"uid": {"type": "Service", "id": "a.default.svc.cluster.local"}, "parents": [{"type": "Group", "id": "g"}]}),
            "whose members are told by their tokens alone",
        ),
        (json!({"uid": team("a"), "tags": {"x": ["y"]}}), "tag"),
    ];
    for (record, said) in table {
        let found = store(json!([record])).unwrap_err();
        assert!(found[0].contains(said), "{record}: {found:?}");
    }
    let circle = json!([
        {"uid": team("a"), "parents": [team("b")]},
        {"uid": team("b"), "parents": [team("a")]},
    ]);
    assert_eq!(store(circle).unwrap_err().len(), 2);
    let twice = json!([{"uid": team("a")}, {"uid": team("a")}]);
    assert_eq!(store(twice).unwrap_err(), ["Team::\"a\" is there twice"]);
}

#[test]
fn sizes_are_bounded() {
    let chain: Vec<_> = (0..300)
        .map(|n| json!({"uid": team(&format!("t{n}")), "parents": [team(&format!("t{}", n + 1))]}))
        .collect();
    let found = store(json!(chain)).unwrap_err();
    assert!(found[0].contains("more than 256 groups"), "{found:?}");
    let long = json!([{"uid": team("a"), "tags": {}, "attrs": {"budget": 1}, "parents":
        (0..2000).map(|n| team(&format!("team-{n}"))).collect::<Vec<_>>()}]);
    assert!(store(long).unwrap_err()[0].contains("longer than"));
}
