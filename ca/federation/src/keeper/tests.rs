use reeve_core::model::BundleEndpoint;

use super::*;
use crate::tests::{Publisher, domain};

const START: UnixTime = UnixTime::from_secs(1_800_000_000);

fn at(seconds: u64) -> UnixTime {
    START.plus(Duration::from_secs(seconds))
}

fn wanted(publisher: &Publisher, bundle: Option<String>) -> FederatedDomain {
    FederatedDomain {
        trust_domain: publisher.domain.clone(),
        endpoint: Some(BundleEndpoint {
            url: "https://bundle.other.org/".to_owned(),
            profile: EndpointProfile::Spiffe(publisher.endpoint_id()),
        }),
        bundle: bundle.map(Arc::from),
    }
}

fn due(keeper: &mut Keeper, now: UnixTime) -> Vec<Question> {
    let own = Publisher::new("mesh.local").bundle(1);
    let due = keeper.due((now, 8), &Arc::new(own), &FederationSettings::default());
    due.into_iter().map(|(_, question)| question).collect()
}

/// Answers the last question.
fn settle(
    keeper: &mut Keeper,
    publisher: &Publisher,
    fetched: Result<BundleDocument, String>,
    now: UnixTime,
) -> Option<FederationChange> {
    let number = keeper.asked;
    keeper.settle((&publisher.domain, number), fetched, now)
}

fn sequence(keeper: &Keeper, publisher: &Publisher) -> Option<u64> {
    let federated = keeper.federated();
    Some(federated.get(&publisher.domain)?.sequence())
}

fn status(keeper: &Keeper) -> DomainStatus {
    keeper.status().remove(0)
}

/// A keeper that holds bundle 5 of other.org, as it is configured.
fn holding() -> (Keeper, Publisher) {
    let other = Publisher::new("other.org");
    let mut keeper = Keeper::new(Vec::new());
    let wanted = wanted(&other, Some(other.document(5, Some(60)).to_json()));
    let changes = keeper.follow(&[wanted], START);
    let what = ChangeKind::Bundle {
        sequence: 5,
        authorities: 1,
    };
    let trust_domain = other.domain.clone();
    assert_eq!(changes, [FederationChange { trust_domain, what }]);
    (keeper, other)
}

#[test]
fn a_bundle_is_fetched_at_once_and_then_by_its_hint() {
    let (mut keeper, other) = holding();
    assert_eq!(due(&mut keeper, START).len(), 1);
    assert!(due(&mut keeper, at(1)).is_empty(), "it is being fetched");
    let change = settle(&mut keeper, &other, Ok(other.document(6, Some(60))), at(1));
    assert!(change.is_some());
    assert_eq!(sequence(&keeper, &other), Some(6));
    assert_eq!(status(&keeper).source, Some(BundleSource::Fetched));
    assert!(due(&mut keeper, at(60)).is_empty());
    assert_eq!(due(&mut keeper, at(61)).len(), 1);
    let again = settle(&mut keeper, &other, Ok(other.document(6, Some(60))), at(61));
    assert_eq!(again, None, "the same again is no change");
    assert_eq!(status(&keeper).as_of, Some(at(61)), "but it is fresh");
}

#[test]
fn the_hint_is_bounded_below_and_above() {
    for (hint, refresh) in [
        (None, 300),
        (Some(0), 1),
        (Some(1), 1),
        (Some(86_400), 3600),
        (Some(u64::MAX), 3600),
    ] {
        let (mut keeper, other) = holding();
        due(&mut keeper, START);
        settle(&mut keeper, &other, Ok(other.document(6, hint)), START);
        assert_eq!(status(&keeper).refresh_ms, refresh * 1000, "{hint:?}");
        assert!(due(&mut keeper, at(refresh - 1)).is_empty(), "{hint:?}");
        assert_eq!(due(&mut keeper, at(refresh)).len(), 1, "{hint:?}");
    }
}

#[test]
fn a_sequence_never_goes_back() {
    let (mut keeper, other) = holding();
    due(&mut keeper, START);
    settle(&mut keeper, &other, Ok(other.document(7, Some(60))), START);
    let newer = Publisher::new("other.org");
    for (older, now) in [(6, at(10_000)), (0, at(15_000))] {
        assert_eq!(due(&mut keeper, now).len(), 1);
        let change = settle(&mut keeper, &other, Ok(newer.document(older, None)), now);
        assert_eq!(change, None);
        assert_eq!(sequence(&keeper, &other), Some(7));
        let status = status(&keeper);
        let error = status.error.unwrap();
        assert!(
            error.contains(&format!("went back from 7 to {older}")),
            "{error}"
        );
        assert_eq!(status.as_of, Some(START), "its age grows");
    }
    // What the operator gives anew takes its place, whatever its sequence.
    let anew = wanted(&newer, Some(newer.document(1, None).to_json()));
    assert_eq!(keeper.follow(&[anew], at(20_000)).len(), 1);
    assert_eq!(sequence(&keeper, &newer), Some(1));
    assert_eq!(status(&keeper).error, None);
}

#[test]
fn what_cannot_be_fetched_leaves_the_last_good_one_and_is_tried_again_ever_later() {
    let (mut keeper, other) = holding();
    let mut now = 0;
    for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(due(&mut keeper, at(now)).len(), 1, "at {now}");
        let failed = Err("the endpoint cannot be reached".to_owned());
        assert_eq!(settle(&mut keeper, &other, failed, at(now)), None);
        assert_eq!(sequence(&keeper, &other), Some(5));
        assert!(due(&mut keeper, at(now + wait - 1)).is_empty(), "{wait}");
        now += wait;
    }
    let told = status(&keeper);
    assert_eq!((told.failures, told.as_of), (8, Some(START)));
    due(&mut keeper, at(now));
    settle(
        &mut keeper,
        &other,
        Ok(other.document(5, Some(60))),
        at(now),
    );
    assert_eq!((status(&keeper).failures, status(&keeper).error), (0, None));
}

#[test]
fn what_is_wanted_no_longer_is_given_up_at_once() {
    let (mut keeper, other) = holding();
    due(&mut keeper, START);
    let changes = keeper.follow(&[], at(1));
    let trust_domain = other.domain.clone();
    let what = ChangeKind::Withdrawn;
    assert_eq!(changes, [FederationChange { trust_domain, what }]);
    assert!(keeper.federated().is_empty() && keeper.kept().is_empty());
    let late = settle(&mut keeper, &other, Ok(other.document(9, None)), at(2));
    assert_eq!(late, None, "an answer that comes too late");
    assert!(keeper.federated().is_empty());
}

#[test]
fn a_restart_keeps_what_was_fetched_unless_it_is_wanted_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    assert!(crate::kept::read(folder.path()).is_empty());
    let (mut keeper, other) = holding();
    due(&mut keeper, START);
    settle(&mut keeper, &other, Ok(other.document(8, Some(60))), START);
    crate::kept::write(folder.path(), &keeper.kept());
    let again = || Keeper::new(crate::kept::read(folder.path()));
    // Nothing is known of what is wanted: what was in force is.
    assert_eq!(sequence(&again(), &other), Some(8));
    let same = wanted(&other, Some(other.document(5, Some(60)).to_json()));
    let mut kept = again();
    assert!(kept.follow(&[same], at(10)).is_empty());
    assert_eq!(sequence(&kept, &other), Some(8), "not the configured one");
    assert_eq!(status(&kept).as_of, Some(START));
    let mut withdrawn = again();
    assert_eq!(withdrawn.follow(&[], at(10)).len(), 1);
    assert!(withdrawn.federated().is_empty());
    std::fs::write(folder.path().join("federation.json"), "[{").unwrap();
    assert!(
        again().federated().is_empty(),
        "a damaged file is as good as none"
    );
}

#[test]
fn an_endpoint_is_known_by_the_bundle_of_its_own_trust_domain() {
    let other = Publisher::new("other.org");
    let mut keeper = Keeper::new(Vec::new());
    let mut wanted = wanted(&other, None);
    keeper.follow(std::slice::from_ref(&wanted), START);
    assert!(due(&mut keeper, START).is_empty());
    let error = status(&keeper).error.unwrap();
    assert!(error.contains("there is no bundle to know"), "{error}");
    // Ours vouches for an endpoint of our own that serves another's bundle.
    let relay = "spiffe://mesh.local/relay".parse().unwrap();
    wanted.endpoint.as_mut().unwrap().profile = EndpointProfile::Spiffe(relay);
    keeper.follow(&[wanted], at(1));
    let questions = due(&mut keeper, at(1));
    let Judge::Svid(bundle, _) = &questions[0].judge else {
        panic!("by its SVID");
    };
    assert_eq!(*bundle.trust_domain(), domain("mesh.local"));
}

#[test]
fn an_answer_to_what_was_asked_before_the_operator_changed_it_is_passed_over() {
    let (mut keeper, other) = holding();
    due(&mut keeper, START);
    // The root is in other hands: the operator gives a new bundle while an answer by the old one is on its way.
    let anew = Publisher::new("other.org");
    let wanted = wanted(&anew, Some(anew.document(1, None).to_json()));
    keeper.follow(std::slice::from_ref(&wanted), at(1));
    let late = settle(&mut keeper, &other, Ok(other.document(9, None)), at(2));
    assert_eq!(late, None);
    assert_eq!(sequence(&keeper, &anew), Some(1));
    assert_eq!(due(&mut keeper, at(2)).len(), 1, "it is asked anew");
    // The same of a domain that was withdrawn and is wanted again.
    let old = keeper.asked;
    keeper.follow(&[], at(3));
    keeper.follow(&[wanted], at(4));
    let fetched = Ok(other.document(9, None));
    let late = keeper.settle((&other.domain, old), fetched, at(5));
    assert_eq!(late, None);
    assert_eq!(sequence(&keeper, &anew), Some(1));
}
