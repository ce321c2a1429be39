use reeve_core::{UnixTime, clock::ManualClock};

use super::*;
use crate::{Caller, RefusalReason};

fn events() -> ToldEvents {
    ToldEvents::new(Arc::new(ManualClock::at(UnixTime::from_secs(7))))
}

fn refuse(events: &ToldEvents, pid: u32) {
    let caller = Caller::Process { pid, uid: 5 };
    let reason = RefusalReason::NotEntitled;
    events.refused(RefusedIdentity::new(caller, None, reason));
}

fn callers(refusals: &[Refusal]) -> Vec<&str> {
    refusals.iter().map(|one| one.caller.as_str()).collect()
}

#[test]
fn what_was_not_acknowledged_is_told_again_and_nothing_twice_that_was() {
    let events = events();
    assert_eq!(events.next(), None);
    refuse(&events, 1);
    let (first, _) = events.next().unwrap();
    assert_eq!(callers(&first), ["process 1 of user 5"]);
    assert_eq!((first[0].at_ms, &*first[0].reason), (7_000, "not_entitled"));
    refuse(&events, 2);
    let (again, left_out) = events.next().unwrap();
    assert_eq!(
        callers(&again),
        ["process 1 of user 5", "process 2 of user 5"]
    );
    // Only the first was told before the second came.
    events.told(1, left_out);
    let (rest, _) = events.next().unwrap();
    assert_eq!(callers(&rest), ["process 2 of user 5"]);
    events.told(1, 0);
    assert_eq!(events.next(), None);
}

#[test]
fn more_than_may_wait_are_counted() {
    let events = events();
    let beyond = 44;
    for pid in 0..u32::try_from(MAX_WAITING).unwrap() + beyond {
        refuse(&events, pid);
    }
    let mut told = 0;
    let mut counted = 0;
    while let Some((some, left_out)) = events.next() {
        assert!(some.len() <= MAX_TOLD_AT_ONCE);
        told += some.len();
        counted += left_out;
        events.told(some.len(), left_out);
    }
    assert_eq!((told, counted), (MAX_WAITING, u64::from(beyond)));
}
