//! What a proxy puts together from differences is what the control plane has.

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use proptest::prelude::*;
use reeve_core::model::{ProxyConfig, ResourceKind};

use super::fixture::{config, instance};
use crate::{
    client::collected::{Collected, Next, answer},
    server::session::Session,
    type_url,
};

/// Delivers the responses and answers the generation; the configuration that they made.
fn deliver(
    session: &mut Session,
    collected: &mut Collected,
    responses: Vec<DeltaDiscoveryResponse>,
) -> ProxyConfig {
    let mut switched = None;
    for response in responses {
        assert!(switched.is_none(), "the generation comes last");
        let reply = match collected.receive(response).unwrap() {
            Next::Answer(reply) => *reply,
            Next::Apply { config, nonce } => {
                switched = Some(config.unwrap());
                answer(ResourceKind::Generation, nonce, None)
            }
        };
        session.receive(reply).unwrap();
    }
    (*switched.unwrap()).clone()
}

fn open(collected: &Collected) -> Session {
    let mut session = Session::default();
    for request in collected.subscriptions(&instance("reviews-v1-0")) {
        assert!(!session.is_ready());
        assert!(session.receive(request).unwrap().is_none());
    }
    assert!(session.is_ready());
    session
}

#[derive(Clone, Debug)]
struct Step {
    services: Vec<usize>,
    hash: u8,
    reconnect: bool,
    /// Responses lost with the connection, before this step.
    cut_after: usize,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let services = prop::collection::btree_set(0..12_usize, 0..8);
    let step = (services, 0..3_u8, any::<bool>(), 0..6_usize);
    let step = step.prop_map(|(services, hash, reconnect, cut_after)| Step {
        services: services.into_iter().collect(),
        hash,
        reconnect,
        cut_after,
    });
    prop::collection::vec(step, 1..12)
}

proptest! {
    #[test]
    fn differences_add_up_to_the_whole(steps in steps()) {
        let mut collected = Collected::default();
        let mut session = open(&collected);
        for (generation, step) in (1..).zip(steps) {
            let names: Vec<String> = step.services.iter().map(|n| format!("s{n}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let whole = config(generation, &step.hash.to_string(), &names);
            if step.reconnect {
                // The connection breaks in the middle of an update.
                let lost = session.update(&whole).unwrap();
                for response in lost.into_iter().take(step.cut_after) {
                    collected.receive(response).unwrap();
                }
                session = open(&collected);
            }
            let responses = session.update(&whole).unwrap();
            prop_assert!(!session.is_ready(), "one generation is in flight");
            prop_assert_eq!(deliver(&mut session, &mut collected, responses), whole);
            prop_assert!(session.is_ready());
        }
    }
}

#[test]
fn only_changes_travel() {
    let mut collected = Collected::default();
    let mut session = open(&collected);
    let all = session.update(&config(1, "h", &["a", "b"])).unwrap();
    deliver(&mut session, &mut collected, all);
    let some = session.update(&config(2, "h", &["a", "c"])).unwrap();
    let kinds: Vec<&str> = some.iter().map(|r| r.type_url.as_str()).collect();
    let expected = [
        ResourceKind::Service,
        ResourceKind::Endpoints,
        ResourceKind::VirtualHost,
        ResourceKind::Generation,
    ];
    assert_eq!(kinds, expected.map(type_url));
    assert_eq!(some[0].resources.len(), 1);
    assert_eq!(some[0].resources[0].name, "c");
    assert_eq!(some[0].removed_resources, ["b"]);
}

#[test]
fn large_updates_are_split() {
    let names: Vec<String> = (0..6000).map(|n| format!("service-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let whole = config(1, "h", &names);
    let mut collected = Collected::default();
    let mut session = open(&collected);
    let responses = session.update(&whole).unwrap();
    assert!(responses.len() > 5, "{}", responses.len());
    assert_eq!(deliver(&mut session, &mut collected, responses), whole);
}

#[test]
fn a_resource_that_does_not_parse_refuses_its_generation() {
    let mut collected = Collected::default();
    let mut session = open(&collected);
    let mut responses = session.update(&config(1, "h", &["a"])).unwrap();
    let body = responses[0].resources[0].resource.as_mut().unwrap();
    body.value = b"{\"service\":{}}".to_vec();
    let generation = responses.pop().unwrap();
    for response in responses {
        assert!(matches!(
            collected.receive(response).unwrap(),
            Next::Answer(_)
        ));
    }
    let Next::Apply { config, nonce } = collected.receive(generation).unwrap() else {
        panic!("the generation was there");
    };
    let error = config.unwrap_err();
    assert!(error.starts_with("Service a does not parse"), "{error}");
    let nack = answer(ResourceKind::Generation, nonce, Some(error.clone()));
    let report = session.receive(nack).unwrap().unwrap();
    assert_eq!(report.error, Some(error));
    assert!(session.is_ready());
}

#[test]
fn stale_answers_count_for_nothing() {
    let collected = Collected::default();
    let mut session = open(&collected);
    session.update(&config(1, "h", &[])).unwrap();
    let stale = answer(ResourceKind::Generation, "999".into(), None);
    assert!(session.receive(stale).unwrap().is_none());
    assert!(!session.is_ready());
}

#[test]
fn long_refusals_are_cut() {
    let collected = Collected::default();
    let mut session = open(&collected);
    let responses = session.update(&config(1, "h", &[])).unwrap();
    let nonce = responses.last().unwrap().nonce.clone();
    let nack = answer(ResourceKind::Generation, nonce, Some("é".repeat(4000)));
    let report = session.receive(nack).unwrap().unwrap();
    assert_eq!(report.error.unwrap().len(), 4096);
}
