use std::time::Duration;

use super::{proto::Circuit, *};

fn name(text: &str) -> InstanceName {
    text.parse().unwrap()
}

fn circuit(endpoint: &str, left_ms: u64) -> OpenCircuit {
    OpenCircuit {
        service: "reviews.default.svc.cluster.local".parse().unwrap(),
        subset: None,
        port: 9080,
        endpoint: Some(endpoint.parse().unwrap()),
        cause: "consecutive_5xx".to_owned(),
        left_ms,
        held_by: vec![],
    }
}

#[tokio::test(start_paused = true)]
async fn what_several_hold_open_is_told_once_and_nobody_is_told_their_own() {
    let hub = CircuitHub::default();
    let (a, b) = (name("a-0"), name("b-0"));
    hub.hold(
        &a,
        1,
        vec![circuit("127.0.0.1:1", 1000), circuit("127.0.0.2:1", 500)],
    );
    hub.hold(&b, 2, vec![circuit("127.0.0.1:1", 3000)]);
    let open = hub.open();
    assert_eq!(open.len(), 2);
    assert_eq!(
        (open[0].left_ms, &open[0].held_by),
        (3000, &vec![a.clone(), b.clone()])
    );
    let told_a = hub.open_but(Some(&a));
    assert_eq!((told_a.len(), &told_a[0].held_by), (1, &vec![b.clone()]));

    tokio::time::advance(Duration::from_millis(600)).await;
    assert_eq!(hub.open_but(Some(&b)).len(), 1, "one is over by itself");
    assert_eq!(hub.open()[0].left_ms, 2400);
    hub.forget(&b, 1);
    assert_eq!(
        hub.open()[0].left_ms,
        2400,
        "an older stream's end is none of the newer's"
    );
    hub.forget(&b, 2);
    assert_eq!(hub.open()[0].left_ms, 400);
    let changes = *hub.changes().borrow();
    hub.hold(&a, 1, vec![]);
    assert!(hub.open().is_empty() && *hub.changes().borrow() != changes);
}

#[test]
fn circuits_travel_and_nonsense_does_not() {
    let mut sent = circuit("[::1]:80", 7);
    sent.subset = Some("v1".to_owned());
    sent.held_by = vec![name("a-0")];
    assert_eq!(from_wire(to_wire(&sent)), Some(sent.clone()));
    let tripped = OpenCircuit {
        endpoint: None,
        ..sent.clone()
    };
    assert_eq!(from_wire(to_wire(&tripped)), Some(tripped));
    let spoiled = |change: fn(&mut Circuit)| {
        let mut circuit = to_wire(&sent);
        change(&mut circuit);
        from_wire(circuit)
    };
    assert_eq!(spoiled(|c| c.service = "Not a host".to_owned()), None);
    assert_eq!(spoiled(|c| c.port = 70_000), None);
    assert_eq!(spoiled(|c| c.endpoint = "here".to_owned()), None);
    assert_eq!(spoiled(|c| c.cause = "x".repeat(65)), None);
    assert_eq!(spoiled(|c| c.cause = "a b".to_owned()), None);
    assert_eq!(
        spoiled(|c| c.left_ms = u64::MAX).unwrap().left_ms,
        MAX_LEFT_MS
    );
    let many = vec![to_wire(&sent); MAX_CIRCUITS + 1];
    assert_eq!(all_from_wire(many).len(), MAX_CIRCUITS);
}
