use reeve_core::clock::ManualClock;

use super::*;

const START: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn name(instance: &str) -> MemberName {
    MemberName {
        id: "spiffe://mesh.local/ns/default/sa/reviews".parse().unwrap(),
        instance: instance.parse().unwrap(),
    }
}

fn holding(bundle_sequence: u64, renewal: u64, serial: &str) -> Holding {
    Holding {
        bundle_sequence,
        serial: serial.to_owned(),
        renewal,
        not_after: START.plus(HOUR),
    }
}

fn members() -> (Arc<ManualClock>, Arc<Members>) {
    let clock = Arc::new(ManualClock::at(START));
    let members = Members::new(Arc::clone(&clock) as _, Vec::new(), START);
    (clock, Arc::new(members))
}

#[test]
fn who_has_not_followed_is_named_and_who_has_is_not() {
    let (_, members) = members();
    let one = members.join(name("one-0"), holding(1, 0, "a")).unwrap();
    let _two = members.join(name("two-0"), holding(2, 1, "b")).unwrap();
    let lagging = |want| members.lagging(want, START);
    let behind = vec!["one-0 (spiffe://mesh.local/ns/default/sa/reviews)".to_owned()];
    assert_eq!(lagging(Want::Bundle(2)).named, behind);
    assert_eq!(lagging(Want::Renewal(1)).named, behind);
    one.report(holding(2, 0, "a"));
    assert_eq!(lagging(Want::Bundle(2)).count, 0);
    assert_eq!(lagging(Want::Renewal(1)).count, 1);
}

#[test]
fn who_is_away_is_waited_for_until_its_certificate_ends() {
    let (clock, members) = members();
    drop(members.join(name("one-0"), holding(1, 0, "a")).unwrap());
    assert!(!members.list()[0].connected);
    assert_eq!(members.lagging(Want::Bundle(2), clock.now()).count, 1);
    clock.advance(HOUR);
    assert_eq!(members.lagging(Want::Bundle(2), clock.now()).count, 0);
    assert!(members.list().is_empty());
}

#[test]
fn who_leaves_is_not_waited_for() {
    let (_, members) = members();
    members
        .join(name("one-0"), holding(1, 0, "a"))
        .unwrap()
        .leave();
    assert_eq!(members.lagging(Want::Bundle(2), START).count, 0);
}

#[test]
fn a_process_that_was_replaced_cannot_speak_for_its_successor() {
    let (_, members) = members();
    let before = members.join(name("one-0"), holding(1, 0, "a")).unwrap();
    let _after = members.join(name("one-0"), holding(2, 1, "b")).unwrap();
    before.report(holding(1, 0, "a"));
    assert_eq!(members.lagging(Want::Bundle(2), START).count, 0);
    before.leave();
    let left = members.list();
    assert!(left.len() == 1 && left[0].connected && left[0].holding.serial == "b");
}

#[test]
fn certificates_of_earlier_renewals_are_waited_for_until_they_end() {
    let (_, members) = members();
    members.issued(0, START.plus(HOUR * 2));
    members.issued(0, START.plus(HOUR));
    members.issued(1, START.plus(HOUR * 3));
    assert_eq!(members.ended_at(0), START, "none is older than that");
    assert_eq!(members.ended_at(1), START.plus(HOUR * 2));
    assert_eq!(members.ended_at(2), START.plus(HOUR * 3));
}

#[test]
fn of_too_many_renewals_the_oldest_are_waited_for_together() {
    let (_, members) = members();
    members.issued(0, START.plus(HOUR * 4));
    for renewal in 1..=64 {
        members.issued(renewal, START.plus(HOUR));
    }
    assert_eq!(members.lock().ends.len(), MAX_RENEWALS);
    assert_eq!(members.ended_at(1), START.plus(HOUR * 4));
}

#[test]
fn there_is_a_bound_on_members_and_the_dead_make_room() {
    let (clock, members) = members();
    for n in 0..MAX_MEMBERS {
        drop(
            members
                .join(name(&format!("a-{n}")), holding(1, 0, "a"))
                .unwrap(),
        );
    }
    assert_eq!(
        members.join(name("b-0"), holding(1, 0, "b")).unwrap_err(),
        TooManyMembers
    );
    assert!(
        members.join(name("a-0"), holding(1, 0, "b")).is_ok(),
        "it is one of them"
    );
    clock.advance(HOUR);
    assert!(members.join(name("b-0"), holding(1, 0, "b")).is_ok());
}

#[test]
fn after_a_restart_those_of_before_are_waited_for_and_all_have_time_to_come_back() {
    let (clock, before) = members();
    let _one = before.join(name("one-0"), holding(1, 0, "a")).unwrap();
    let after = Members::new(Arc::clone(&clock) as _, before.list(), START.plus(HOUR));
    assert_eq!(after.settled_at(), START.plus(SETTLING));
    assert_eq!(after.lagging(Want::Bundle(2), START).count, 1);
    assert_eq!(after.ended_at(0), START.plus(HOUR));
    assert_eq!(
        before.settled_at(),
        START,
        "a new authority has nobody to wait for"
    );
}
