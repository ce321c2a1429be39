use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use rcgen::CertificateParams;
use reeve_core::{Clock, SpiffeId, UnixTime, clock::ManualClock};
use reeve_svid::{Purpose, SvidError, TrustBundle, verify_svid};

use super::*;
use crate::{
    Attested, CertificateAuthority, Holding, IdentityEvents, IssueError, IssuedIdentity,
    IssuedSvid, MemberName, RefusedIdentity, RevokeError, RevokeTarget, Rotate, RotateError,
    RotationEvent, SealKey, Store, members::Session,
};

const START: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const WAIT: Duration = Duration::from_secs(30);

/// A mesh of one authority and the members that a test makes.
struct World {
    clock: Arc<ManualClock>,
    folder: tempfile::TempDir,
    ca: Arc<CertificateAuthority>,
    events: Told,
}

#[derive(Debug, Default)]
struct Told(Mutex<Vec<RotationEvent>>);

impl IdentityEvents for Told {
    fn revoked(&self, _event: &crate::RevocationEvent) {}

    fn refused(&self, _event: RefusedIdentity) {}

    fn issued(&self, _event: IssuedIdentity) {}

    fn rotated(&self, event: &RotationEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

/// A member as its proxy would be: a certificate, and the bundle that it knows.
struct Member {
    session: Session,
    svid: IssuedSvid,
    bundle: Arc<TrustBundle>,
}

fn open(folder: &Path, clock: &Arc<ManualClock>) -> Arc<CertificateAuthority> {
    let file = folder.join("seal.key");
    let options = CaOptions {
        trust_domain: "mesh.local".parse().unwrap(),
        root_ttl: HOUR * 24 * 365,
        intermediate_ttl: HOUR * 24 * 30,
        svid_ttl: HOUR * 4,
        consumer_wait: WAIT,
        store: Store::Sealed {
            dir: folder.join("ca"),
            key: SealKey::from_file_or_new(&file).unwrap(),
        },
        vault: None,
        upstream: None,
    };
    CertificateAuthority::open(options, Arc::clone(clock) as _).unwrap()
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(START));
        let ca = open(folder.path(), &clock);
        let events = Told::default();
        Self {
            clock,
            folder,
            ca,
            events,
        }
    }

    fn issue(&self) -> IssuedSvid {
        let id = "spiffe://mesh.local/ns/default/sa/reviews".parse().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        self.ca.issue(&Attested::by_itself(id), csr.der()).unwrap()
    }

    fn member(&self, instance: &str) -> Member {
        let (svid, bundle) = (self.issue(), Arc::clone(&self.ca.bundle().borrow()));
        let name = MemberName {
            id: "spiffe://mesh.local/ns/default/sa/reviews".parse().unwrap(),
            instance: instance.parse().unwrap(),
        };
        let session = self.ca.join(name, holding(&svid, &bundle)).unwrap();
        Member {
            session,
            svid,
            bundle,
        }
    }

    /// What the authority does every second, after `pause`.
    fn tick(&self, pause: Duration) -> Option<RotationStep> {
        self.clock.advance(pause);
        self.ca.maintain(&self.events).unwrap();
        self.step()
    }

    fn step(&self) -> Option<RotationStep> {
        let rotation = self.ca.status().rotation;
        rotation.map(|now| now.rotation.step)
    }

    fn waiting(&self) -> Waiting {
        self.ca.status().rotation.unwrap().waiting
    }

    fn restart(&mut self) {
        self.ca = open(self.folder.path(), &self.clock);
    }
}

fn holding(svid: &IssuedSvid, bundle: &TrustBundle) -> Holding {
    Holding {
        bundle_sequence: bundle.sequence(),
        serial: svid.serial.clone(),
        renewal: svid.renewal,
        not_after: svid.not_after,
    }
}

impl Member {
    fn take_bundle(&mut self, world: &World) {
        self.bundle = Arc::clone(&world.ca.bundle().borrow());
        self.session.report(holding(&self.svid, &self.bundle));
    }

    fn renew(&mut self, world: &World) {
        self.svid = world.issue();
        self.session.report(holding(&self.svid, &self.bundle));
    }

    /// Whether a connection between the two comes about, seen from both ends.
    fn talks_to(&self, other: &Self, now: UnixTime) -> bool {
        let trusts = |bundle: &TrustBundle, svid: &IssuedSvid| {
            verify_svid(&svid.chain_der, bundle, now, Purpose::Server).is_ok()
        };
        trusts(&self.bundle, &other.svid) && trusts(&other.bundle, &self.svid)
    }
}

#[test]
fn each_step_waits_for_every_member_by_name_and_nobody_loses_anybody() {
    let world = World::new();
    let (mut a, mut b) = (world.member("a-0"), world.member("b-0"));
    let old = a.svid.clone();
    let talk = |a: &Member, b: &Member| a.talks_to(b, world.clock.now());
    world.ca.rotate(Rotate::Root, &world.events).unwrap();
    assert_eq!(world.step(), Some(RotationStep::Spread));
    a.take_bundle(&world);
    assert_eq!(
        world.tick(WAIT),
        Some(RotationStep::Spread),
        "b has not followed"
    );
    assert_eq!(
        world.waiting().members,
        ["b-0 (spiffe://mesh.local/ns/default/sa/reviews)"]
    );
    assert!(talk(&a, &b));
    b.take_bundle(&world);
    assert_eq!(world.tick(Duration::ZERO), Some(RotationStep::Renew));
    a.renew(&world);
    assert!(
        talk(&a, &b),
        "one under the new root, one under the old one"
    );
    assert_eq!(world.tick(WAIT), Some(RotationStep::Renew));
    b.renew(&world);
    assert_eq!(
        world.tick(HOUR),
        Some(RotationStep::Renew),
        "connections that were made before live as long as their certificates"
    );
    assert_eq!(world.tick(HOUR * 3), Some(RotationStep::Retire));
    (a.svid, b.svid) = (world.issue(), world.issue());
    a.take_bundle(&world);
    assert!(talk(&a, &b));
    assert_eq!(world.tick(WAIT), Some(RotationStep::Retire));
    assert!(
        verify_svid(&old.chain_der, &b.bundle, START, Purpose::Client).is_ok(),
        "b still trusts the old root, and so it is not over"
    );
    b.take_bundle(&world);
    assert_eq!(world.tick(Duration::ZERO), None);
    assert!(talk(&a, &b));
    assert!(verify_svid(&old.chain_der, &b.bundle, START, Purpose::Client).is_err());
    let told = world.events.0.lock().unwrap();
    let steps: Vec<_> = told
        .iter()
        .map(|t| t.rotation.as_ref().map(|r| r.step))
        .collect();
    let all = [
        RotationStep::Spread,
        RotationStep::Renew,
        RotationStep::Retire,
    ]
    .map(Some);
    assert_eq!(steps, [&all[..], &[None]].concat());
}

#[test]
fn those_who_cannot_acknowledge_get_their_time() {
    let world = World::new();
    world.ca.rotate(Rotate::Root, &world.events).unwrap();
    assert_eq!(
        world.tick(WAIT - Duration::from_millis(1)),
        Some(RotationStep::Spread)
    );
    assert_eq!(world.waiting().until, Some(START.plus(WAIT)));
    assert_eq!(
        world.tick(Duration::from_millis(1)),
        Some(RotationStep::Renew)
    );
}

#[test]
fn the_old_root_stays_until_the_last_certificate_under_it_has_ended() {
    let world = World::new();
    let strangers = world.issue();
    world.ca.rotate(Rotate::Root, &world.events).unwrap();
    assert_eq!(world.tick(WAIT), Some(RotationStep::Renew));
    assert_eq!(world.tick(HOUR * 3), Some(RotationStep::Renew));
    assert_eq!(world.waiting().until, Some(strangers.not_after));
    let bundle = Arc::clone(&world.ca.bundle().borrow());
    assert!(
        verify_svid(
            &strangers.chain_der,
            &bundle,
            world.clock.now(),
            Purpose::Client
        )
        .is_ok()
    );
    world.tick(HOUR);
    assert_eq!(world.step(), Some(RotationStep::Retire));
}

#[test]
fn force_ends_a_step_and_names_who_had_not_followed() {
    let world = World::new();
    let _a = world.member("a-0");
    let refused = world.ca.rotate(Rotate::Force, &world.events).unwrap_err();
    assert!(matches!(refused, RotateError::NotUnderWay));
    world.ca.rotate(Rotate::Root, &world.events).unwrap();
    let refused = world.ca.rotate(Rotate::Root, &world.events).unwrap_err();
    assert!(matches!(
        refused,
        RotateError::UnderWay(RotationStep::Spread)
    ));
    world.ca.rotate(Rotate::Force, &world.events).unwrap();
    assert_eq!(world.step(), Some(RotationStep::Renew));
    let told = world.events.0.lock().unwrap();
    let last = told.last().unwrap();
    assert_eq!(last.asked, Some(Rotate::Force));
    assert_eq!(last.not_waited_for.count, 1);
}

#[test]
fn an_emergency_voids_everything_at_once() {
    let world = World::new();
    let (mut a, mut b) = (world.member("a-0"), world.member("b-0"));
    let stolen = a.svid.clone();
    world.ca.rotate(Rotate::Emergency, &world.events).unwrap();
    for member in [&mut a, &mut b] {
        member.take_bundle(&world);
        let stolen = verify_svid(&stolen.chain_der, &member.bundle, START, Purpose::Client);
        assert!(stolen.is_err());
    }
    assert_eq!(
        world.tick(WAIT),
        Some(RotationStep::Retire),
        "nobody has renewed"
    );
    a.renew(&world);
    b.renew(&world);
    assert!(a.talks_to(&b, world.clock.now()));
    assert_eq!(world.tick(Duration::ZERO), None);
}

#[test]
fn certificates_and_intermediates_are_renewed_when_the_operator_says_so() {
    let world = World::new();
    let (mut a, mut b) = (world.member("a-0"), world.member("b-0"));
    let sequence = world.ca.status().bundle_sequence;
    for (what, renewal) in [(Rotate::Workloads, 1), (Rotate::Intermediate, 2)] {
        let before = a.svid.chain_der[1].clone();
        world.ca.rotate(what, &world.events).unwrap();
        assert_eq!(*world.ca.renewal().borrow(), renewal);
        a.renew(&world);
        assert!(a.talks_to(&b, START), "one has renewed, one has not");
        b.renew(&world);
        assert_eq!(a.svid.chain_der[1] == before, what == Rotate::Workloads);
    }
    assert_eq!(
        world.ca.status().bundle_sequence,
        sequence,
        "no root has changed"
    );
}

/// The authority is killed after every step, and before the next one: what it kept is where it goes on, it waits for
/// the same members, and every certificate in use verifies throughout.
#[test]
fn killed_at_any_step_it_goes_on_where_it_stood() {
    for kill_at in 0..6 {
        let mut world = World::new();
        let (mut a, mut b) = (world.member("a-0"), world.member("b-0"));
        world.tick(Duration::from_secs(5));
        world.ca.rotate(Rotate::Root, &world.events).unwrap();
        for at in 0.. {
            if at == kill_at {
                let before = (world.step(), world.ca.status().bundle_sequence);
                world.restart();
                let after = (world.step(), world.ca.status().bundle_sequence);
                assert_eq!(before, after, "killed at {kill_at}");
                let missing = world.ca.members();
                assert_eq!(missing.len(), 2, "it knows whom to wait for");
                assert_ne!(
                    world.tick(Duration::ZERO),
                    None,
                    "not before all had time to come back"
                );
                (a, b) = (back(&world, a, "a-0"), back(&world, b, "b-0"));
            }
            for member in [&mut a, &mut b] {
                member.take_bundle(&world);
                let left = member.svid.not_after.since(world.clock.now());
                if member.svid.renewal < *world.ca.renewal().borrow() || left <= HOUR * 2 {
                    member.renew(&world);
                }
            }
            assert!(
                a.talks_to(&b, world.clock.now()),
                "killed at {kill_at}, step {at}"
            );
            if world.tick(HOUR).is_none() {
                break;
            }
            assert!(at < 20, "it does not end: {:?}", world.waiting());
        }
        assert_eq!(world.ca.bundle().borrow().authorities().len(), 1);
    }
}

fn back(world: &World, member: Member, instance: &str) -> Member {
    let name = MemberName {
        id: "spiffe://mesh.local/ns/default/sa/reviews".parse().unwrap(),
        instance: instance.parse().unwrap(),
    };
    let held = holding(&member.svid, &member.bundle);
    let session = world.ca.join(name, held).unwrap();
    Member { session, ..member }
}

#[test]
fn a_rotation_goes_back_before_its_last_step_and_nobody_loses_anybody() {
    let world = World::new();
    let refused = world.ca.rotate(Rotate::Back, &world.events).unwrap_err();
    assert!(matches!(refused, RotateError::NotUnderWay));
    let (mut a, mut b) = (world.member("a-0"), world.member("b-0"));
    let first = a.svid.chain_der[1].clone();
    world.ca.rotate(Rotate::Root, &world.events).unwrap();
    a.take_bundle(&world);
    b.take_bundle(&world);
    assert_eq!(world.tick(WAIT), Some(RotationStep::Renew));
    a.renew(&world);
    world.ca.rotate(Rotate::Back, &world.events).unwrap();
    let refused = world.ca.rotate(Rotate::Back, &world.events).unwrap_err();
    assert!(matches!(refused, RotateError::NoWayBack), "not to and fro");
    assert!(a.talks_to(&b, world.clock.now()));
    b.renew(&world);
    assert!(a.talks_to(&b, world.clock.now()));
    a.renew(&world);
    assert_eq!(world.tick(WAIT), Some(RotationStep::Renew));
    assert_eq!(world.tick(HOUR * 4), Some(RotationStep::Retire));
    a.renew(&world);
    b.renew(&world);
    a.take_bundle(&world);
    b.take_bundle(&world);
    assert_eq!(world.tick(Duration::ZERO), None);
    assert!(a.talks_to(&b, world.clock.now()));
    let bundle = Arc::clone(&world.ca.bundle().borrow());
    assert_eq!(bundle.authorities().len(), 1);
    assert!(
        verify_svid(
            &[a.svid.chain_der[0].clone(), first],
            &bundle,
            START,
            Purpose::Client
        )
        .is_err(),
        "another intermediate"
    );
}

#[test]
fn a_root_that_was_only_spread_is_taken_back_at_once() {
    let mut world = World::new();
    let before = world.ca.bundle().borrow().authorities().to_vec();
    let mut a = world.member("a-0");
    world.ca.rotate(Rotate::Root, &world.events).unwrap();
    a.take_bundle(&world);
    world.ca.rotate(Rotate::Back, &world.events).unwrap();
    world.restart();
    assert_eq!(world.ca.bundle().borrow().authorities(), before);
    assert_eq!(world.step(), Some(RotationStep::Retire));
    assert!(a.svid.chain_der.len() == 2 && world.ca.bundle().borrow().sequence() == 3);
}

#[test]
fn what_is_revoked_is_refused_by_everybody_who_has_the_bundle_and_that_outlives_a_restart() {
    let mut world = World::new();
    let (a, mut b) = (world.member("a-0"), world.member("b-0"));
    let serial = RevokeTarget::Serial(a.svid.serial.to_uppercase());
    let now = world.clock.now();
    world
        .ca
        .revoke(serial.clone(), "lost", None, &world.events)
        .unwrap();
    let again = world
        .ca
        .revoke(serial, "lost", None, &world.events)
        .unwrap_err();
    assert!(matches!(again, RevokeError::Already));
    assert!(a.talks_to(&b, now), "it has not been told");
    b.take_bundle(&world);
    let refused = verify_svid(&a.svid.chain_der, &b.bundle, now, Purpose::Client).unwrap_err();
    assert!(matches!(refused, SvidError::RevokedCertificate { .. }));
    assert!(verify_svid(&b.svid.chain_der, &b.bundle, now, Purpose::Client).is_ok());

    let id: SpiffeId = "spiffe://mesh.local/ns/default/sa/reviews".parse().unwrap();
    let target = RevokeTarget::Id(id.clone());
    let until = Some(now.plus(HOUR));
    world
        .ca
        .revoke(target.clone(), "", until, &world.events)
        .unwrap();
    world.restart();
    assert_eq!(world.ca.revoked().len(), 2);
    let bundle = Arc::clone(&world.ca.bundle().borrow());
    let refused = verify_svid(&b.svid.chain_der, &bundle, now, Purpose::Server).unwrap_err();
    assert!(matches!(refused, SvidError::RevokedId(_)));
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let issued = world.ca.issue(&Attested::by_itself(id), csr.der());
    assert!(matches!(issued, Err(IssueError::Revoked(_))));

    world.tick(HOUR);
    assert_eq!(world.ca.revoked().len(), 1, "its time is over");
    world.issue();
    let none = world.ca.unrevoke(target, &world.events).unwrap_err();
    assert!(matches!(none, RevokeError::NotRevoked));
}

#[test]
fn what_is_revoked_has_bounds() {
    let world = World::new();
    let revoke = |target, why: &str, until| world.ca.revoke(target, why, until, &world.events);
    let ours = || RevokeTarget::Id("spiffe://mesh.local/ns/default/sa/x".parse().unwrap());
    let other = RevokeTarget::Id("spiffe://other.org/x".parse().unwrap());
    assert!(matches!(
        revoke(other, "", None),
        Err(RevokeError::NotOurs(_))
    ));
    assert!(matches!(
        revoke(ours(), &"x".repeat(257), None),
        Err(RevokeError::Why)
    ));
    assert!(matches!(
        revoke(ours(), "", Some(START)),
        Err(RevokeError::Past)
    ));
    let bad = RevokeTarget::Serial("no".to_owned());
    assert!(matches!(revoke(bad, "", None), Err(RevokeError::Serial)));
    let sequence = world.ca.bundle().borrow().sequence();
    assert_eq!(
        (world.ca.revoked().len(), sequence),
        (0, 1),
        "nothing has changed"
    );
}
