use std::sync::Arc;

use reeve_core::clock::ManualClock;
use reeve_svid::{Purpose, verify_svid};

use super::*;
use crate::{
    LogEvents, RevokeTarget,
    authority::{
        CertificateAuthority, IssueError, IssuedSvid, Recheck,
        fixture::{HOUR, START, authority, issue},
    },
};

struct Scene {
    clock: Arc<ManualClock>,
    ca: Arc<CertificateAuthority>,
}

impl Scene {
    fn new() -> Self {
        let (clock, ca) = authority();
        Self { clock, ca }
    }

    fn ahead(&self, by: Duration) {
        self.clock.set(self.clock.now().plus(by));
        self.maintain();
    }

    fn back(&self, by: Duration) {
        self.clock.set(self.clock.now().minus(by));
        self.maintain();
    }

    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.maintain();
    }

    fn maintain(&self) {
        self.ca.maintain(&LogEvents).unwrap();
    }

    fn issue(&self) -> Result<IssuedSvid, IssueError> {
        issue(&self.ca)
    }

    fn roots(&self) -> Vec<rustls_pki_types::CertificateDer<'static>> {
        self.ca.bundle().borrow().authorities().to_vec()
    }

    fn step(&self) -> Option<ClockStep> {
        self.ca.status().clock_step
    }
}

#[test]
fn steps_are_told_from_time_that_passes() {
    let clock = ManualClock::at(START);
    let mut steps = Steps::of(&clock);
    clock.advance(HOUR * 24 * 400);
    assert!(!steps.look(&clock), "that was time");
    clock.set(clock.now().plus(STEP));
    assert!(!steps.look(&clock), "clocks are corrected");
    clock.set(clock.now().plus(HOUR));
    assert!(steps.look(&clock));
    let told = steps.status().unwrap();
    assert_eq!(told.ahead_ms, 3_600_000);
    assert_eq!(told.held_until, clock.now().plus(HOLD));
    clock.set(clock.now().minus(HOUR));
    assert!(!steps.look(&clock), "it is right again");
    assert_eq!(steps.status(), None);
    clock.set(clock.now().minus(HOUR));
    assert!(steps.look(&clock), "back is a step as well");
    assert_eq!(steps.status().unwrap().ahead_ms, -3_600_000);
    clock.advance(HOLD - Duration::from_secs(1));
    assert!(steps.look(&clock));
    clock.advance(Duration::from_secs(1));
    assert!(!steps.look(&clock), "it has kept its pace");
}

#[test]
fn a_clock_that_stood_years_ahead_for_a_minute_costs_no_root() {
    let scene = Scene::new();
    let before = scene.roots();
    scene.ahead(HOUR * 24 * 700);
    let refused = scene.issue();
    let closed = matches!(refused, Err(IssueError::Recheck(Recheck::Verify(_))));
    assert!(closed, "nothing that has ended vouches: {refused:?}");
    scene.pass(Duration::from_secs(60));
    assert_eq!(scene.roots(), before);
    scene.back(HOUR * 24 * 700);
    assert_eq!((scene.roots(), scene.step()), (before, None));
    let issued = scene.issue().unwrap();
    assert!(issued.not_after <= scene.clock.now().plus(HOUR * 4));
}

#[test]
fn a_clock_that_stays_ahead_is_believed_in_the_end() {
    let scene = Scene::new();
    let before = scene.roots();
    scene.ahead(HOUR * 24 * 700);
    scene.pass(HOLD);
    assert!(scene.issue().is_ok());
    assert!(!scene.roots().contains(&before[0]), "it began anew");
}

#[test]
fn a_root_that_is_due_by_a_step_is_not_replaced_at_once() {
    let scene = Scene::new();
    scene.ahead(HOUR * 24 * 200);
    assert!(scene.issue().is_ok(), "the root is good for long");
    assert_eq!(scene.ca.status().rotation, None);
    scene.pass(HOLD);
    assert!(scene.ca.status().rotation.is_some() || scene.roots().len() > 1);
}

#[test]
fn no_revocation_is_forgotten_by_a_step() {
    let scene = Scene::new();
    let issued = scene.issue().unwrap();
    let target = RevokeTarget::Serial(issued.serial.clone());
    scene.ca.revoke(target, "lost", None, &LogEvents).unwrap();
    scene.ahead(HOUR * 24);
    scene.back(HOUR * 24);
    let bundle = Arc::clone(&scene.ca.bundle().borrow());
    let verdict = verify_svid(
        &issued.chain_der,
        &bundle,
        scene.clock.now(),
        Purpose::Client,
    );
    assert!(verdict.is_err(), "{verdict:?}");
}

#[test]
fn an_intermediate_of_the_future_is_replaced_when_the_clock_is_set_back() {
    let scene = Scene::new();
    scene.pass(HOUR * 13);
    let of_the_future = scene.issue().unwrap();
    scene.back(HOUR);
    let issued = scene.issue().unwrap();
    assert_ne!(issued.chain_der[1], of_the_future.chain_der[1]);
    let bundle = Arc::clone(&scene.ca.bundle().borrow());
    let now = scene.clock.now();
    assert!(verify_svid(&issued.chain_der, &bundle, now, Purpose::Client).is_ok());
    let again = scene.issue().unwrap();
    assert_eq!(again.chain_der[1], issued.chain_der[1], "once");
}
